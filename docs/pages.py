"""The site's pages that do not lie in docs/ (a hook of mkdocs): those of the repository's root, README first, and the reference.

The reference is the package's docstrings: a page for what ``import qchunk`` offers, one for each room of ARCHITECTURE's table.
"""

from __future__ import annotations

import re
import runpy
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "qchunk"
BESIDE = {"README.md": "index.md", **{name: name for name in ("ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")}}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Names the reference's pages in the site's contents."""
    config.nav.append({"Reference": [{title: name} if title else name for title, name, _ in reference()]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds them."""
    for path, page in BESIDE.items():
        files.append(File.generated(config, page, content=re.sub(r"\]\(docs/", "](", (ROOT / path).read_text())))
    for _, page, content in reference():
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(text: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """A page as it is in the site: links to the root's pages lead to their copies, files that are shown have their names above them."""
    for path, name in BESIDE.items():
        text = text.replace(f"](../{path}", f"]({name}")
    return re.sub(r"^```(\w+) (\S+)$", r'```\1 title="\2"', text, flags=re.M)


def reference() -> Iterator[tuple[str, str, str]]:
    """(title, name, content) of its pages; the first one is that of the whole section."""
    offered = runpy.run_path(str(PACKAGE / "__init__.py"))["_HOMES"]
    links = [(home, ", ".join(f"[`{name}`][{home}.{name}]" for name in names)) for home, names in offered.items()]
    rows = [
        "# What `import qchunk` offers\n",
        "| name | from |",
        "|---|---|",
        *(f"| {x} | `{home}` |" for home, x in links),
    ]
    yield "", "api/index.md", "\n".join(rows)
    for path in sorted(PACKAGE.iterdir()):
        if not path.stem.startswith("_") and (path.is_dir() or path.suffix == ".py"):
            first, *more = (f"::: {name}" for name in modules(path))
            first += "\n    options: {heading_level: 1}"
            yield path.stem, f"api/{path.stem}.md", "\n\n".join([first, *more])


def modules(room: Path) -> Iterator[str]:
    """The modules of a room, by their dotted names."""
    for path in sorted(room.rglob("*.py")) if room.is_dir() else [room]:
        yield ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
