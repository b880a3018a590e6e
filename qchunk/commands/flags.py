"""Command-line flags from dataclasses (tyro); each mistake is one line."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import typing
from typing import Annotated, Any

from qchunk.config import has_kinds, members, of_kind, validate
from qchunk.system.errors import UserError, unknown

ELSEWHERE = {  # what other libraries call a flag, and its last part here
    **dict.fromkeys(("learning-rate", "step-size"), "lr"),
    **dict.fromkeys(("discount-factor", "discount"), "gamma"),
    **dict.fromkeys(("polyak", "target-rate"), "tau"),
    **dict.fromkeys(("hidden-dims", "hidden-sizes", "net-arch"), "hidden"),
    **dict.fromkeys(("num-qs", "n-critics", "ensemble-size"), "members"),
    **dict.fromkeys(("num-envs", "n-envs"), "envs"),
    **dict.fromkeys(("total-timesteps", "num-timesteps"), "online-steps"),
    **dict.fromkeys(("chunk-size", "action-horizon", "horizon-length"), "horizon"),
    **dict.fromkeys(("num-samples", "best-of-n"), "n"),
    **{"batch-size": "batch", "buffer-size": "capacity", "num-seeds": "seeds", "output": "out"},
}


def parse(command: str, argv: list[str], *parts: Any, text: str = "") -> list[Any]:
    """One instance of every dataclass of ``parts``, whose fields are flags side by side.

    A part may be an instance: then its values are the defaults. A field that holds one of several configurations is
    switched by ``--FIELD.kind KIND``, and has the flags of that kind.

    Raises:
        UserError: an unknown flag (the nearest ones are offered) or a value of the wrong type.
    """
    import tyro

    parts = tuple(part if isinstance(part, type) else switched(part, argv) for part in parts)
    fields = []
    for i, part in enumerate(parts):
        hint: Any = Annotated[part if isinstance(part, type) else type(part), tyro.conf.arg(name="")]
        fields.append((f"part{i}", hint, *([] if isinstance(part, type) else [dataclasses.field(default=part)])))
    fields.sort(key=len)  # those with defaults come last
    whole = dataclasses.make_dataclass("Flags", fields, frozen=True)
    whole.__doc__ = text
    one_kind = (tyro.conf.AvoidSubcommands,)  # a union is of the kind that its default is of
    known = [f"--{n}" for part in parts for n in flag_names(part)]
    if twice := sorted({n for n in known if known.count(n) > 1}):
        raise UserError(
            f"{twice[0]} is a flag of every run, and a field of your configuration", "call the field otherwise"
        )
    if "--help" in argv or "-h" in argv:
        tyro.cli(whole, prog=f"qchunk {command}", args=["--help"], description=text, config=one_kind)
    for arg in argv:
        name = arg.split("=")[0].replace("_", "-")
        if arg.startswith("--") and name not in known and re.sub(r"(--|\.)no-", r"\1", name) not in known:
            here = ELSEWHERE.get(last_part(name))
            same = [n for n in known if last_part(n) == here]
            raise unknown("flag", arg, known, f"qchunk {command} --help shows all", same)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            parsed: Any = tyro.cli(whole, prog=f"qchunk {command}", args=argv, config=one_kind)
    except SystemExit as e:
        plain = re.sub(r"\x1b\[[0-9;]*m", "", said.getvalue())
        inside = re.sub(r"^.*\n[ -]+\n", "", plain)  # without a box's title, which says it twice
        told = " ".join(re.sub(r"[^\x20-\x7e]|[-=]{5,}", " ", inside).split())
        told = told.split("For full helptext")[0].strip()
        told = told[:1].upper() + told[1:]
        raise UserError(told or "wrong flags", f"qchunk {command} --help shows every flag") from e
    found = [getattr(parsed, f"part{i}") for i in range(len(parts))]
    for part in found:
        validate(part)
    return found


def last_part(flag: str) -> str:
    """A flag without its dashes and the configurations that it lies in: "lr" of --optim.lr."""
    return flag.lstrip("-").rpartition(".")[2]


def switched(c: Any, argv: list[str]) -> Any:
    """The configuration with every field that holds one of several of the kind that ``--FIELD.kind`` asks for.

    Raises:
        UserError: no such kind.
    """
    for name, hint in typing.get_type_hints(type(c)).items():
        wanted = has_kinds(hint) and value_of(argv, f"--{name.replace('_', '-')}.kind")
        if wanted and wanted != getattr(c, name).kind:
            c = dataclasses.replace(c, **{name: of_kind(hint, wanted)})
    return c


def value_of(argv: list[str], flag: str) -> str:
    """The value of a flag (written with dashes; the user may write underscores), "" where it is absent."""
    for i, arg in enumerate(argv):
        name, equals, value = arg.partition("=")
        if name.replace("_", "-") == flag:
            return value if equals else argv[i + 1] if i + 1 < len(argv) else ""
    return ""


def flag_names(part: Any, prefix: str = "") -> list[str]:
    """Every flag of a dataclass or of an instance of one, without dashes in front, nested ones joined by dots."""
    found = []
    for name, hint in typing.get_type_hints(part if isinstance(part, type) else type(part)).items():
        if members(hint):
            found += flag_names(hint if isinstance(part, type) else getattr(part, name), f"{prefix}{name}.")
        else:
            found.append(f"{prefix}{name}".replace("_", "-"))
    return found
