"""``qchunk bench``: what its check finds, what it writes, that benchmarks keep to the rules. Nothing is timed here."""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from test_cli import run as command
from tiers import slow_but

from qchunk import cli, envs, names
from qchunk.commands import bench
from qchunk.reporting import cost
from qchunk.system.errors import UserError

BENCHMARKS = {
    "backward",
    "candidates",
    "compile",
    "deployed",
    "dppo_iteration",
    "environments",
    "host",
    "host_steps",
    "latency",
    "looking",
    "many_environments",
    "many_seeds",
    "memory",
    "on_policy",
    "online",
    "precision",
    "roofline",
    "sampling",
    "seeds",
    "sharding",
    "start_up",
    "streaming",
    "sweep",
    "update",
}
STUB = """
'''A stub. It times nothing.'''
import json
assert __name__ == "__main__"
print("a library says something")
print(json.dumps({"benchmark": "stub a", "ms": 2.0, "ratio": RATIO, "better": "lower", "asked": 1.3}), flush=True)
print(json.dumps({"benchmark": "stub b", "gib": 0.5, "device": "cpu"}), flush=True)
"""


def result(benchmark: str, ratio: float | None, better: str = "lower", file: str = "f"):
    figures = {} if ratio is None else {"ratio": ratio, "better": better}
    return {"file": file, "benchmark": benchmark, "ms": 1.0, **figures}


def test_only_a_ratio_that_is_worse_by_more_than_the_tolerance_fails():
    old = [result("x", 2.0)]
    for ratio in (0.1, 2.0, 2.5):
        assert bench.compare([result("x", ratio)], old, 0.25) == []
    (line,) = bench.compare([result("x", 2.51)], old, 0.25)
    assert "f: x" in line and "2.51" in line and "2.5 " in line and "baseline 2" in line
    assert bench.compare([result("x", 2.51)], old, 0.3) == []
    assert bench.compare([{**result("x", 2.0), "ms": 100.0}], old) == [], "seconds are not compared"


def test_where_higher_is_better_a_lower_ratio_fails():
    old = [result("x", 5.0, "higher")]
    for ratio in (4.0, 5.0, 50.0):
        assert bench.compare([result("x", ratio, "higher")], old, 0.25) == []
    assert len(bench.compare([result("x", 3.99, "higher")], old, 0.25)) == 1
    (line,) = bench.compare([result("x", 5.0, "lower")], old)
    assert "a new one" in line, "a direction that changed is told, whatever the ratio"


def test_no_number_and_no_result_fail():
    assert len(bench.compare([result("x", float("nan"))], [result("x", 1.0)])) == 1
    assert len(bench.compare([result("x", None)], [result("x", 1.0)])) == 1
    (line,) = bench.compare([result("y", 1.0), result("x", 1.0, file="other")], [result("x", 1.0)])
    assert "f: x" in line and "missing" in line
    assert len(bench.compare([], [result("x", None)])) == 1, "a result without a ratio can be missing, too"
    assert bench.compare([result("x", 1.0), result("new", 9.0)], [result("x", 1.0)]) == []


def test_notes_tell_another_machine_and_what_the_baseline_lacks():
    here = bench.machine()
    assert bench.notes(here, [result("x", 1.0)], here, [result("x", 1.0)]) == []
    told = bench.notes(here, [result("x", 1.0), result("new", 1.0)], {**here, "cores": 0}, [result("x", 1.0)])
    assert len(told) == 2 and "cores" in told[0] and "f: new" in told[1]


def test_lines_show_figures_and_bound():
    line = bench.line({**result("x", 1.5), "asked": 1.3})
    assert line.split() == ["x", "ms", "1", "ratio", "1.5", "(bound:", "at", "most", "1.3)"]
    assert "at least 1.3" in bench.line({**result("x", 1.5, "higher"), "asked": 1.3})


@pytest.fixture
def stubs(tmp_path, monkeypatch):
    """(folder, run): a folder of benchmarks in place of the repository's; a command in it: (code, stdout, stderr)."""
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    monkeypatch.setattr(bench, "FOLDER", folder)
    monkeypatch.chdir(tmp_path)
    (folder / "_shared.py").write_text("")

    return folder, lambda capsys, *argv: command(capsys, "bench", *argv)


def write_stub(folder: Path, ratio: float, name: str = "stub", more: str = "") -> None:
    (folder / f"{name}.py").write_text(STUB.replace("RATIO", str(ratio)) + more)


def test_what_is_written_is_a_baseline(stubs, capsys):
    folder, run = stubs
    write_stub(folder, 1.2)
    code, out, err = run(capsys, "--out", "first")
    assert code == 0 and out.splitlines()[0].startswith("stub a") and "library" not in out, err
    kept = json.loads(Path("first/bench.json").read_text())
    assert [r["benchmark"] for r in kept["results"]] == ["stub a", "stub b"]
    assert kept["results"][0] == {"file": "stub", "benchmark": "stub a", "ms": 2.0, "ratio": 1.2, "better": "lower", "asked": 1.3}  # fmt: skip
    assert {"platform", "python", "jax", "cores", "date"} <= set(kept["machine"])
    assert Path("first/bench.png").read_bytes().startswith(b"\x89PNG")

    code, _, err = run(capsys, "--check")
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1 and "--out" in err
    (folder / "baseline.json").write_text(Path("first/bench.json").read_text())
    assert run(capsys, "--check")[0] == 0
    write_stub(folder, 1.51)
    code, out, err = run(capsys, "--check", "stub")
    assert code == 1 and out.count("failed: ") == 1 and "failed: stub: stub a: ratio 1.51" in out
    code, out, err = run(capsys, "stub", "--check", "first/bench.json", "--json")
    assert code == 1 and [json.loads(text)["file"] for text in out.splitlines()] == ["stub"] * 2 and "failed: " in err


def test_a_part_is_checked_against_its_part_and_all_against_all(stubs, capsys):
    folder, run = stubs
    for name in ("one", "two"):
        write_stub(folder, 1.0, name)
    assert run(capsys, "--out", "first")[0] == 0
    (folder / "two.py").unlink()
    assert run(capsys, "one", "--check", "first/bench.json")[0] == 0
    code, out, _ = run(capsys, "--check", "first/bench.json")
    assert code == 1 and out.count("two: ") == 2 and "missing" in out
    write_stub(folder, 1.0, "three")
    code, out, _ = run(capsys, "three", "--check", "first/bench.json")
    assert code == 1 and "three: nothing of it is in" in out, "a check against nothing is no check"
    write_stub(folder, 1.0, "two")
    code, _, err = run(capsys, "--check", "first/bench.json")
    assert code == 0 and err.count("three: ") == 2 and "not in the baseline" in err, (
        "a new benchmark fails no check of all"
    )


def test_a_benchmark_that_crashes_is_told_and_the_others_run(stubs, capsys):
    folder, run = stubs
    write_stub(folder, 1.0, "broken", "raise RuntimeError('no such luck')\n")
    write_stub(folder, 1.0, "fine")
    code, out, err = run(capsys, "--out", "o")
    assert code == 1 and "failed: broken" in out and "no such luck" in err
    files = [r["file"] for r in json.loads(Path("o/bench.json").read_text())["results"]]
    assert files == ["broken", "broken", "fine", "fine"], "what it told before it crashed is kept"
    (folder / "broken.py").write_text("import sys; print('error: needs more', file=sys.stderr); sys.exit(2)")
    code, out, err = run(capsys, "--out", "o")
    assert code == 0 and "broken: left out: error: needs more" in err, "something that is not installed is no crash"


MISTAKES = [
    (["stubb"], "stub"),
    (["--chek"], "--check"),
    (["--out"], "--out"),
    (["--check", "nowhere.json"], "nowhere.json"),
    (["--check", "benchmarks/stub.py"], "no baseline"),
]


@pytest.mark.parametrize("argv, names_it", MISTAKES)
def test_a_mistake_is_one_line_and_runs_nothing(argv, names_it, stubs, capsys):
    folder, run = stubs
    write_stub(folder, 1.0)
    code, out, err = run(capsys, *argv)
    assert code == 2 and not out and err.startswith("error: ") and err.count("\n") == 1 and names_it in err
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    "kept",
    [
        [],
        {"results": []},
        {"machine": {}, "results": [{"file": "f"}]},
        {"machine": {}, "results": [{"file": "f", "benchmark": "x", "ratio": 1.0}]},
        {"machine": {}, "results": [{"file": "f", "benchmark": "x", "ratio": "1", "better": "lower"}]},
    ],
)
def test_what_is_no_baseline_is_refused(kept, tmp_path):
    path = tmp_path / "b.json"
    path.write_text(json.dumps(kept))
    with pytest.raises(UserError, match="no baseline"):
        bench.read(path)


def test_a_benchmark_has_its_flags_and_its_time(tmp_path):
    """What it told before its time was over stays."""
    path, results = tmp_path / "slow.py", []
    told = '{"benchmark": "told"}'
    path.write_text(
        f"import sys, time\nassert sys.argv[1:] == ['--json', '--tiny']\nprint('{told}', flush=True)\ntime.sleep(60)\n"
    )
    with pytest.raises(subprocess.CalledProcessError) as end:
        bench.run("slow", path, results, lambda r: None, ["--tiny"], 0.5)
    assert end.value.returncode < 0 and results == [{"file": "slow", "benchmark": "told"}]


def test_an_install_without_benchmarks_says_so(stubs, capsys):
    folder, run = stubs
    (folder / "_shared.py").unlink()
    code, _, err = run(capsys)
    assert code == 2 and "repository" in err
    assert run(capsys, "--help")[0] == 0


def test_help_lists_every_benchmark(capsys):
    cli.main(["bench", "--help"])
    listed = {line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")}
    assert {"--json", "--out", "--check", *BENCHMARKS} <= listed
    assert {p.stem for p in bench.FOLDER.glob("[!_]*.py")} == BENCHMARKS


@pytest.mark.parametrize("name", sorted(BENCHMARKS))
def test_every_ratio_states_its_direction(name):
    """tell() raises without one; but only when a benchmark has run for minutes."""
    tree = ast.parse((bench.FOLDER / f"{name}.py").read_text())
    calls = [
        n for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id == "tell"
    ]
    assert calls and ast.get_docstring(tree)
    told = [{k.arg: k.value for k in call.keywords} for call in calls]
    for figures in told:
        assert ("ratio" in figures) == ("better" in figures)
        assert "ratio" not in figures or figures["better"].value in bench.BETTER
    assert any("ratio" in figures for figures in told), "seconds alone say nothing on another machine"


def test_bench_is_light_to_import():
    script = (
        "import sys; from qchunk.commands import bench; assert not {'jax', 'numpy', 'matplotlib'} & set(sys.modules)"
    )
    root = Path(bench.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def methods():
    """benchmarks/_methods.py and _products.py."""
    sys.path.insert(0, str(Path(bench.__file__).parents[2] / "benchmarks"))
    try:
        import _methods
        import _products

        yield _methods, _products
    finally:
        sys.path.pop(0)


def test_products_of_a_program():
    """In order and with their shapes, loops as loops, the dearest branch of a condition, and what they multiply."""

    def program(a, b):
        a = jax.lax.scan(lambda x, _: (jax.jit(lambda x: x @ b @ b.T)(x), None), a, None, length=5)[0]
        return jax.lax.cond(a[0, 0] > 0, lambda: a @ b @ b.T, lambda: a) @ b

    shape = lambda *axes: jax.ShapeDtypeStruct(axes, "float32")  # noqa: E731
    loop, *rest = cost.products(program, shape(2, 3), shape(3, 4))
    assert isinstance(loop, cost.Repeated) and loop.times == 5
    shapes = [(p.left.shape, p.right.shape, p.out.shape, p.summed) for p in (*loop.products, *rest)]
    there, back = ((2, 3), (3, 4), (2, 4), 3), ((2, 4), (4, 3), (2, 3), 4)
    assert shapes == [there, back, there, back, there]
    assert cost.count([loop, *rest]) == cost.multiplications(program, shape(2, 3), shape(3, 4)) == 24 * (5 * 2 + 3)


def floors(made, name, rows=4):
    """Of a decision and of an update, where there is one."""
    build, c = made.configured(name, made.Size((16,), 2), steps=2)
    return [made.acting(build, c, rows), *([] if made.on_policy(c) else [made.updating(build, c, rows)])]


@pytest.mark.parametrize("name", slow_but(("qc", "top-erl"), (*names.ALGORITHMS, "bc (diffusion)")))
def test_a_floor_multiplies_what_its_method_does(name, methods):
    made, products = methods
    assert name in made.METHODS
    for floor in floors(made, name):
        alone = functools.partial(products.products, floor)
        assert cost.multiplications(alone, products.arrays(floor), jnp.zeros(())) == cost.count(floor) > 0


def right_sides(floor, sides):
    """The right side of every product."""
    for p, own in zip(floor, sides, strict=True):
        yield from right_sides(p.products, own) if isinstance(p, cost.Repeated) else [own[1]]


def test_a_floors_result_needs_every_product(methods, monkeypatch):
    """What nothing depends on would be compiled away."""
    made, products = methods
    monkeypatch.setattr(products, "NEXT_TO_NOTHING", 1.0)  # so that no gradient underflows
    for floor in floors(made, "value-guided"):
        slopes = jax.jit(jax.grad(functools.partial(products.products, floor)))(products.arrays(floor), jnp.zeros(()))
        assert all(float(jnp.abs(slope).max()) > 0 for slope in right_sides(floor, slopes))


def ran_once(repeats, **fns):
    """In the place of ``medians``: everything is called, nothing is timed."""
    assert repeats > 0
    return {name: (jax.block_until_ready(fn()), 1.0)[1] for name, fn in fns.items()}


@pytest.fixture
def part(methods, monkeypatch):
    """A benchmark's module, whose figures are kept in ``told`` and never timed."""

    def load(name):
        module = importlib.import_module(name)
        module.told = []
        monkeypatch.setattr(module, "medians", ran_once)
        monkeypatch.setattr(module, "tell", lambda title, **figures: module.told.append((title, figures)))
        return module

    return load


@pytest.mark.slow
def test_the_benchmarks_still_run(methods, part):
    """At tiny sizes: what drivers, players and methods take may have changed since."""
    with jax.debug_key_reuse(False):  # what is repeated for its time draws the same
        run_parts(methods[0], part)


def run_parts(made, part):
    """What five benchmarks measure, called once."""
    tiny, data = made.Size((16,), 2), made.data_set(1002)
    updates, environments, on_policy, compiling = (part(n) for n in ("update", "environments", "on_policy", "compile"))
    executing = part("looking")
    executing.compared("probe/fog-gust", 8, 16, (16,))
    for name in ("qc", "dqc"):  # one that sees flat observations, and one that sees goals
        updates.measure(f"{name} tiny", *made.configured(name, tiny, steps=2), data, 1, 1.3)
    environments.chunked("tabletop/cube-single-task1", 4, 1)
    small = dataclasses.replace(
        on_policy.C, **{f: made.sized(getattr(on_policy.C, f), (16,), 2) for f in ("tuned", "critic")}
    )
    small = dataclasses.replace(
        small, tuned_steps=1, rollout=dataclasses.replace(small.rollout, envs=4, decisions=2, minibatches=2)
    )
    on_policy.measure("tiny", envs.make("tabletop/cube-single-task1"), small)
    assert [len(m.told) for m in (updates, environments, on_policy, executing)] == [4, 1, 1, 1]
    for name in ("qc", "dqc", "ppo"):
        compiling.dispatch(name, data)()  # lowered, not compiled


QC_FQL = """
import jax
import jax.numpy as jnp
from qchunk.actors import actor
from qchunk.actor_configs import FlowConfig, RegressionConfig
from qchunk.config import ChunkConfig, CriticConfig, OptimConfig, config
from qchunk.critics.chunk_q import chunk_q
from qchunk.compose import learner
from qchunk.losses.cloning import bc
from qchunk.losses.td import td
from qchunk.sampling import sample
from qchunk.types import Algorithm, Term

@config
class QCFQL:
    chunk: ChunkConfig = ChunkConfig()
    teacher: FlowConfig = FlowConfig()
    critic: CriticConfig = CriticConfig()
    student: RegressionConfig = RegressionConfig()
    optim: OptimConfig = OptimConfig()
    taught: bool = True

def qc_fql(c: QCFQL) -> Algorithm:
    pi, q, student = actor(c.teacher, "teacher"), chunk_q(c.critic), actor(c.student, "student")
    act = sample(student)

    def draw(key, chunk):
        return jax.random.split(key)

    def fn(vars, keys, chunk):
        plan = lambda p, key: p.plan(vars, p.draw(vars, key, chunk.obs), chunk.obs, None).action
        made, aim = plan(act, keys[0]), plan(sample(pi), keys[1])
        return jnp.mean((made - aim) ** 2) - jnp.mean(q.score(vars, chunk.obs, made)), {}

    terms = [bc(pi), td(q, act), *([Term("distil", ("student",), draw, fn)] if c.taught else [])]
    return learner([pi, q, student], act, terms, c.optim)
"""


def test_a_method_of_ones_own_has_all_its_networks_in_the_floor(methods, tmp_path, monkeypatch):
    """Whatever it is called. Its third network is taught by K = 2 steps of a flow and by a critic of two members."""
    made, _ = methods
    (tmp_path / "qc_fql.py").write_text(QC_FQL)
    monkeypatch.chdir(tmp_path)
    build, c = made.configured("qc_fql.py:qc_fql", made.Size((16,), 2), steps=2)
    assert c.student.hidden == c.teacher.hidden == c.critic.hidden == (16,) and c.teacher.steps == 2
    o, _, _ = made.SPEC
    a, rows = 25, 4  # a chunk's numbers
    student = o * 16 + 16 * a
    assert cost.count(made.acting(build, c, 1)) == student
    more = cost.count(made.updating(build, c, rows))
    more -= cost.count(made.updating(build, dataclasses.replace(c, taught=False), rows))
    flow, back = (o + a) * 16 + 16 * a, o * 16 + 2 * 16 * a
    critic = (o + a) * 16 + 16 + 16 + 16 * a
    assert more == rows * (2 * flow + student + back + 2 * critic)
