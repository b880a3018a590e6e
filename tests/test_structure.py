"""What CONTRIBUTING promises about the code as a whole: sizes, which way imports point, one name for one thing."""

from __future__ import annotations

import ast
import collections
import graphlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILE, FUNCTION = 400, 60  # lines; of a function from its def to its end, without its docstring
REGIME = {"rollout", "tuned", "given"}  # fields of a method's configuration that say how it is trained
DRIVERS = {"HostEnv", "OfflineSettings", "OnlineSettings", "OnPolicySettings"}  # classes that say where and by what

ASKING = {"qchunk.play.program": 1}  # Program.on_host, the one place


def modules(root: Path) -> dict[str, ast.Module]:
    """Every module under ``root``/qchunk, by its dotted name."""
    paths = {p.relative_to(root).with_suffix(""): p for p in sorted((root / "qchunk").rglob("*.py"))}
    return {".".join(n.parts).removesuffix(".__init__"): ast.parse(p.read_text()) for n, p in paths.items()}


def imports(code: dict[str, ast.Module]) -> dict[str, set[str]]:
    """The modules of the package that each imports, within functions, too."""

    def of(tree: ast.Module) -> Iterator[str]:
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield from ({f"{node.module}.{a.name}", node.module} & set(code) for a in node.names)
            elif isinstance(node, ast.Import):
                yield from ({a.name} & set(code) for a in node.names)

    longest = lambda found: max(found, key=len)  # noqa: E731
    return {name: {longest(found) for found in of(tree) if found} - {name} for name, tree in code.items()}


def room(module: str) -> str:
    return module.split(".")[min(1, module.count("."))]


def rooms() -> tuple[str, ...]:
    """ARCHITECTURE's table from top to bottom: a room imports from itself and from those above it."""
    table = (ROOT / "ARCHITECTURE.md").read_text().partition("| room |")[2].partition("\n\n")[0]
    first = (line.split("|")[1] for line in table.splitlines()[2:])
    return tuple(name for cell in first for name in re.findall(r"`(\w+)(?:/|\.py)`", cell))


def upward(graph: dict[str, set[str]], rooms: tuple[str, ...]) -> set[str]:
    """Imports of a room from one below it; what is no room, the package's own file, is below all."""
    at = lambda m: rooms.index(room(m)) if room(m) in rooms else len(rooms)  # noqa: E731
    return {f"{m} -> {n}" for m, found in graph.items() for n in found if at(n) > at(m)}


def too_long(root: Path, file: int = FILE, function: int = FUNCTION) -> list[str]:
    """Files and functions over their bounds. What is defined inside a function is part of it."""
    found = []
    for path in sorted((root / "qchunk").rglob("*.py")):
        text = path.read_text()
        where = str(path.relative_to(root))
        if (lines := len(text.splitlines())) > file:
            found.append(f"{where}: {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and (n := lines_of(node)) > function:
                found.append(f"{where}: {node.name} has {n} lines")
    return found


def lines_of(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = node.body[0]
    docstring = first.end_lineno - first.lineno + 1 if ast.get_docstring(node) is not None else 0
    return node.end_lineno - node.lineno + 1 - docstring


def shared_names(code: dict[str, ast.Module]) -> tuple[set[str], set[str]]:
    """Last names of several modules, packages among them; names of several public classes."""
    of_modules = collections.Counter(name.rpartition(".")[2] for name in code)
    nodes = (node for tree in code.values() for node in ast.walk(tree))
    of_classes = collections.Counter(n.name for n in nodes if isinstance(n, ast.ClassDef) and n.name[0] != "_")
    return ({n for n, k in of_modules.items() if k > 1}, {n for n, k in of_classes.items() if k > 1})


def asking(code: dict[str, ast.Module]) -> dict[str, int]:
    """How often each module asks a value by hasattr, getattr or isinstance how it is to be trained, or where."""
    found = {name: sum(asks(s) for s in ast.walk(tree) if isinstance(s, ast.stmt)) for name, tree in code.items()}
    return {name: k for name, k in found.items() if k}


def asks(statement: ast.stmt) -> int:
    """The questions of one statement, those of the statements inside it left out."""
    nodes = list(own_nodes(statement))
    words = {n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    count = 0
    for n in nodes:
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and len(n.args) > 1:
            named = n.args[1].value if isinstance(n.args[1], ast.Constant) else None
            if n.func.id in ("hasattr", "getattr"):
                count += named in REGIME or (named is None and bool(words & REGIME))
            elif n.func.id == "isinstance":
                count += bool(DRIVERS & {getattr(x, "attr", getattr(x, "id", "")) for x in ast.walk(n.args[1])})
    return count


def own_nodes(statement: ast.stmt) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(statement):
        if not isinstance(child, ast.stmt):
            yield child
            yield from own_nodes(child)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def code():
    return modules(ROOT)


def test_no_file_and_no_function_is_too_long():
    assert not too_long(ROOT)


def test_imports_point_upward(code):
    graph = imports(code)
    assert collections.Counter(rooms()) == collections.Counter({room(m) for m in code} - {"qchunk"}), "once each"
    assert not upward(graph, rooms())
    graphlib.TopologicalSorter(graph).prepare()  # modules: no circle


def test_algorithms_are_reached_by_name_only(code):
    """They and the drivers meet at types.Algorithm."""
    graph = imports(code)
    assert graph["qchunk.algorithms.qc"]
    assert not {m for m, found in graph.items() for n in found if room(n) == "algorithms" != room(m)}


def test_one_name_is_one_thing(code):
    assert shared_names(code) == (set(), set())


def test_nothing_asks_a_value_how_it_is_trained(code):
    assert asking(code) == ASKING


BAD = {
    "qchunk/__init__.py": "",
    "qchunk/types.py": "class A: pass\ndef f():\n    from qchunk.data import b\n    return b\n",
    "qchunk/data/__init__.py": "",
    "qchunk/data/b.py": "import qchunk.types\nfrom qchunk import types\nclass A: pass\nclass _B: pass\n",
    "qchunk/odd/__init__.py": "",
    "qchunk/odd/b.py": '''from qchunk import data
class _B: pass
def f(c, e, s):
    """Two lines,
    not counted."""
    if hasattr(c, "rollout"):
        names = [n for n in ("given", "actor") if hasattr(c, n)]
    return isinstance(e, (int, pool.HostEnv)) or isinstance(e, str) or getattr(c, "actor") or {"given": 1}
''',
}


def test_the_rules_are_seen_where_they_are_broken(tmp_path):
    for name, text in BAD.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = modules(tmp_path)
    graph = imports(found)
    assert graph["qchunk.types"] == {"qchunk.data.b"} and graph["qchunk.data.b"] == {"qchunk.types"}
    assert graph["qchunk.odd.b"] == {"qchunk.data"}
    assert upward(graph, ("types", "data")) == {"qchunk.types -> qchunk.data.b"}
    assert upward(graph, ("data", "types")) == {"qchunk.data.b -> qchunk.types"}
    with pytest.raises(graphlib.CycleError):
        graphlib.TopologicalSorter(graph).prepare()
    assert shared_names(found) == ({"b"}, {"A"})
    assert asking(found) == {"qchunk.odd.b": 3}
    assert too_long(tmp_path, 7, 3) == ["qchunk/odd/b.py: 8 lines", "qchunk/odd/b.py: f has 4 lines"]
    assert not too_long(tmp_path, 8, 4)
