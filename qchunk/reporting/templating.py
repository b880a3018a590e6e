"""Where all markup comes from: Jinja2's templates of this folder. Whatever they are given is text of somebody's, and escaped."""

from __future__ import annotations

import functools
import re
from typing import Any

import jinja2

COMMON: dict[str, Any] = {
    **{"undefined": jinja2.StrictUndefined, "trim_blocks": True, "lstrip_blocks": True, "keep_trailing_newline": True}
}
# of LaTeX's own characters, each as LaTeX writes it
LATEX = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}"},
    **{">": r"\textgreater{}", "|": r"\textbar{}", "[": "{[}", "]": "{]}", "\u2212": "$-$"},
}


@functools.cache
def _environment(kind: str) -> jinja2.Environment:
    loader = jinja2.PackageLoader("qchunk.reporting", "templates")
    if kind == "latex":
        return jinja2.Environment(loader=loader, autoescape=False, finalize=in_latex, **COMMON)
    return jinja2.Environment(loader=loader, autoescape=kind == "html", **COMMON)


def html(name: str, **given: Any) -> str:
    """A template filled in; every value is escaped but those that are Markup."""
    return _environment("html").get_template(name).render(**given)


def latex(name: str, **given: Any) -> str:
    """The same for LaTeX."""
    return _environment("latex").get_template(name).render(**given)


def plain(name: str, **given: Any) -> str:
    """The same for markdown, where nothing is escaped: for what is escaped already."""
    return _environment("plain").get_template(name).render(**given)


def in_latex(value: Any) -> Any:
    """Text as LaTeX prints it letter by letter; numbers stay."""
    if not isinstance(value, str):
        return value
    return re.sub(r"[&%$#_{}\\~^<>|\[\]\u2212]", lambda m: LATEX[m[0]], value)
