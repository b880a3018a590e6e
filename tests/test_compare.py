"""qchunk compare: what is held equal, what it leaves behind, mistakes; and qchunk render."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from PIL import Image
from test_report import make

from qchunk import cli, envs, names, registry
from qchunk.actor_configs import DiffusionConfig, FlowConfig
from qchunk.commands.compare import asked_for, offline_part
from qchunk.comparison import arms, handed, literature, refusals, tables, trials
from qchunk.comparison.arms import Sizes
from qchunk.comparison.lineup import CompareFlags, by_batches, ends_of, online_steps, plan
from qchunk.comparison.suite import Data, Leeway, Run, claim, train_all
from qchunk.config import CriticConfig, Stands, stands_on, validate
from qchunk.improve import smoothed
from qchunk.play import collecting
from qchunk.play.execute import receding
from qchunk.reporting import film as rendering
from qchunk.reporting import records
from qchunk.reporting.film import Frame
from qchunk.runs import training
from qchunk.sampling import from_zero, is_from_zero
from qchunk.system.errors import UserError
from qchunk.system.files import atomic_write
from qchunk.types import Plan, Policy, Spec

TASK1, TASK2 = "tabletop/cube-single-task1", "tabletop/cube-single-task2"
ALL = CompareFlags((TASK1, TASK2), seeds=3, offline_steps=70, online_steps=1000, online_updates=30)


def command(capsys, *argv):
    with pytest.raises(SystemExit) if "bad" in argv else _nothing():
        cli.main([str(a) for a in argv if a != "bad"])
    return capsys.readouterr()


class _nothing:
    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False


def test_the_page_says_how_the_papers_arms_act_clone_and_begin():
    """ReBRAC explores with noise and is evaluated without; RLPD clones nothing, and begins in the environment."""
    f = dataclasses.replace(ALL, env=(TASK1,), algos=("qc", "rebrac", "rlpd", "dacer"))
    suite, _ = plan(f, Sizes(hidden=(16,), horizon=4, n=3, steps=2))
    rows = {row["arm"]: row for row in tables.unequal(suite)}
    assert rows["qc"]["acts, when evaluated"] == rows["rlpd"]["acts, when evaluated"] == "as it learns"
    assert rows["rebrac"]["acts, when evaluated"] == "without the noise that it explores with"
    cloning = {arm: row["updates that clone its actor"] for arm, row in rows.items()}
    assert cloning == {"qc": "100, its own", "rebrac": "100, its own", "rlpd": "none", "dacer": "none"}
    held = {row["what"]: row["how"] for row in tables.equal(suite, Sizes(), {})}
    assert "rlpd, dacer learn from the first environment step on" in held["protocol"]
    assert {r.config.optim for r in suite} == {arms.LR}, "one learning rate"
    settings = {r.label: r.settings for r in suite}
    assert settings["rlpd"].offline_steps == 0 and settings["rlpd"].online_steps == settings["qc"].online_steps


def test_everything_is_held_equal():
    """One prior of each kind for both tasks of a scene; the same data, sizes, seeds, episodes, steps and evaluations."""
    suite, left_out = plan(ALL, Sizes(hidden=(16,), horizon=4, n=3, steps=2))
    assert not left_out
    priors = [r for r in suite if r.label.startswith("prior")]
    assert [r.label for r in priors] == ["prior (flow)", "prior (diffusion)", "prior (gaussian)"]
    assert {r.env for r in priors} == {TASK1} and {r.settings.seeds for r in priors} == {3}
    found = [r for r in suite if r not in priors]
    assert [(r.env, r.label) for r in found] == [(env, a) for env in ALL.env for a in arms.DEFAULT]
    assert {r.data for r in found} == {Data("tabletop/cube-single", 200_000), None}
    steps = set()
    for r in found:
        assert (r.settings.seeds, r.settings.seed, r.settings.episodes) == (3, 0, 50)
        assert r.config.chunk.horizon == 4
        on = not r.driver.takes_data
        assert (r.data is None) == on
        every = r.settings.eval_every if on else r.settings.online_eval_every
        steps.add((r.settings.online_steps, every))
        for field in dataclasses.fields(r.config):
            value = getattr(r.config, field.name)
            assert getattr(value, "hidden", (16,)) == (16,), (r.label, field.name)
            assert getattr(value, "steps", 2) == (20 if getattr(value, "kind", "") == "diffusion" else 2)
        if r.label in ("qc", "qc-frozen", "v-gps"):
            assert r.config.n == 3
        kind = {"ppo": "gaussian", "dppo@diffusion": "diffusion"}.get(r.label, "flow")
        assert r.prior == ("" if r.label in ("bc", "qc") else f"{TASK1}/prior ({kind})")
    assert len(steps) == 1, "as many environment steps, evaluated as often"
    ((total, _),) = steps
    assert total == online_steps(ALL, Sizes(horizon=4)) and total >= 1000 and total % (512 * 4) == 0


def test_offline_data_alone_leave_out_who_must_play():
    suite, left_out = plan(dataclasses.replace(ALL, online_steps=0), Sizes())
    play = ["dppo", "dppo@diffusion", "ppo"]
    assert left_out == {TASK1: play, TASK2: play} and not {r.label for r in suite} & set(play)
    assert all(r.settings.online_steps == 0 for r in suite)


def test_the_offline_part_of_b_is_a():
    """Only when it is evaluated and what follows differ: updates are keyed by seed and step, so their bits are equal."""

    def trained(online_steps):
        suite, _ = plan(dataclasses.replace(ALL, online_steps=online_steps), Sizes())
        offline = ("seed", "seeds", "offline_steps", "batch", "normalise_obs", "normalise_action")
        once = [{n: getattr(r.settings, n) for n in offline} if r.data else None for r in suite]
        return [r._replace(settings=s) for r, s in zip(suite, once, strict=True) if s]

    a = trained(0)
    priors = [r.label for r in a if r.label.startswith("prior")]
    assert priors == ["prior (flow)"], "the others are of arms that must play"
    assert a == [r for r in trained(1000) if r.label not in ("prior (diffusion)", "prior (gaussian)")]


def test_every_algorithm_is_an_arm():
    """A new method needs no edit here, and its configuration takes the sizes."""
    for name in names.ALGORITHMS:
        assert arms.config_of(name, Sizes(horizon=3)).chunk.horizon == 3
    assert set(arms.TUNED) <= set(names.ALGORITHMS) | set(arms.DEFAULT)


def test_suites_of_arms(capsys):
    """Every arm of every suite can be made, and a suite and --algos are not both taken."""
    for suite in arms.SUITES.values():
        assert refusals.without(suite, (TASK1,), Sizes(hidden=(16,), n=2, steps=2)) == (suite, {})
    f, sizes, _ = asked_for(["--env", TASK1, "--suite", "seed", "--hidden", "16"])
    suite, left_out = plan(f, sizes)
    told = {row["arm"]: row for row in tables.unequal([r for r in suite if not r.label.startswith("prior")], suite)}
    assert not left_out and tuple(told) == arms.SEED and tables.settings(suite) and tables.caveats(suite)
    assert told["cqn-as"]["critic"] == "1 of its own kind" and told["dppo"]["critic"] == "1 of states, no LayerNorm"
    assert f.algos == arms.SEED and asked_for(["--env", TASK1])[0].algos == arms.DEFAULT
    with pytest.raises(UserError, match="both name the arms"):
        asked_for(["--env", TASK1, "--suite", "seed", "--algos", "bc"])


OWN = """
from __future__ import annotations

from qchunk import nets
from qchunk.actors import actor
from qchunk.actor_configs import DiffusionConfig, FlowConfig
from qchunk.config import ActorConfig, ChunkConfig, CriticConfig, OptimConfig, config
from qchunk.compose import learner
from qchunk.losses.cloning import bc
from qchunk.sampling import sample
from qchunk.types import Algorithm, Module

@config
class Body:
    hidden: tuple[int, ...] = (512, 512)
    dropout: float = 0.25

@config
class StudentConfig:
    body: Body = Body()
    teacher: FlowConfig = FlowConfig((64, 64), steps=7)
    judges: tuple[CriticConfig, ...] = (CriticConfig(members=3),)

@config
class Config:
    chunk: ChunkConfig = ChunkConfig()
    actor: ActorConfig = FlowConfig()
    student: StudentConfig = StudentConfig()
    noiser: DiffusionConfig = DiffusionConfig(steps=12, ddim=3)
    optim: OptimConfig = OptimConfig()

def mine(c: Config) -> Algorithm:
    pi = actor(c.actor)
    net = nets.MLP(c.student.body.hidden, (1,))
    student = Module("student", lambda key, spec: nets.init(net, key, spec.obs), lambda params, obs: nets.apply(net, params, obs))
    return learner([pi, student], sample(pi), [bc(pi)], c.optim)

@config
class Odd:
    chunk: ChunkConfig = ChunkConfig()
    hidden: int = 512

def odd(c: Odd) -> Algorithm:
    raise NotImplementedError
"""


@pytest.mark.parametrize("widths", [(16,), (16, 16)])
def test_every_network_of_an_own_arm_has_the_sizes(tmp_path, widths):
    """By type, not by name: at any depth, of whatever class, whatever the file says itself; the rest stays as it is."""
    (tmp_path / "own.py").write_text(OWN)
    flags, sizes = dataclasses.replace(ALL, algos=(f"{tmp_path}/own.py:mine",)), Sizes(widths, horizon=4, n=3, steps=2)
    (run, _), _ = plan(flags, sizes)
    c = run.config
    assert c.actor == FlowConfig(widths, steps=2, ema=True)
    assert c.student.teacher == FlowConfig(widths, steps=2)
    assert c.student.judges == (CriticConfig(widths, members=3, tau=0.01),)
    assert (c.student.body.hidden, c.student.body.dropout) == (widths, 0.25)
    assert c.noiser == DiffusionConfig(widths, residual=widths == (16,), steps=12, ddim=3)
    validate(c)
    made = registry.builder(run.algorithm)[0](c).init(jax.random.key(0), Spec(3, 2, 4)).params
    assert {x.shape[-1] for n, x in flatten_dict(made["student"]).items() if "head" not in n[-1]} == {16}
    with pytest.raises(UserError, match="hidden of Odd is no tuple of widths"):
        plan(dataclasses.replace(flags, algos=(f"{tmp_path}/own.py:odd",)), sizes)


SAME = """
from qchunk.algorithms.dppo import PPO, ppo
from qchunk.algorithms.qc import QC, qc
from qchunk.algorithms.value_guided import ValueGuided, value_guided
from qchunk.config import OptimConfig, config

def same(c: QC):
    return qc(c)

def same_guided(c: ValueGuided):
    return value_guided(c)

def same_ppo(c: PPO):
    return ppo(c)

@config
class QC32(QC):
    n: int = 32

def qc32(c: QC32):
    return qc(c)

@config
class Slow(QC):
    optim: OptimConfig = OptimConfig(5e-5)

def slow(c: Slow):
    return qc(c)
"""


def test_the_same_method_twice_is_the_same(tmp_path):
    """A function of the user's own with a configuration of ours has what the comparison gives ours: rate, N, tuned settings, kind."""
    (tmp_path / "same.py").write_text(SAME)
    sizes = Sizes(hidden=(16,), n=3, steps=2)
    for ours, own in (("qc", "same"), ("value-guided", "same_guided"), ("ppo", "same_ppo")):
        assert arms.config_of(f"{tmp_path}/same.py:{own}", sizes) == arms.config_of(ours, sizes), own
    assert arms.config_of("qc@diffusion", sizes) == arms.config_of(f"{tmp_path}/same.py:same@diffusion", sizes)


def test_what_an_own_configuration_says_stays(tmp_path):
    """Its n and its learning rate, which the page then shows; a rate left at the default of all is the comparison's."""
    (tmp_path / "same.py").write_text(SAME)
    (tmp_path / "own.py").write_text(OWN)
    sizes = Sizes(hidden=(16,), n=3, steps=2)
    many, slow = (arms.config_of(f"{tmp_path}/same.py:{name}", sizes) for name in ("qc32", "slow"))
    assert (many.n, many.optim.lr) == (32, 1e-3) and (slow.n, slow.optim.lr) == (3, 5e-5)
    assert arms.config_of(f"{tmp_path}/own.py:mine", sizes).optim.lr == 1e-3
    wanted = ("qc", f"{tmp_path}/same.py:qc32", f"{tmp_path}/same.py:slow")
    suite, _ = plan(dataclasses.replace(ALL, env=(TASK1,), algos=wanted), sizes)
    rows = tables.unequal(suite)
    assert [row["N"] for row in rows] == ["3", "32", "3"]
    assert [row["learning rate"] for row in rows] == ["0.001", "0.001", "5e-05"]
    differing = {row.pop("setting"): tuple(row.values()) for row in tables.settings(suite)}
    assert differing == {"n": ("3", "32", "3"), "optim.lr": ("0.001", "0.001", "5e-05")}, "and nothing else differs"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"algos": ("dppo",), "online_steps": 0}, "learn online only"),
        ({"algos": ("fpo@regression",)}, "no velocity at any time"),
        ({"algos": ("value-guided@gaussian",)}, "one denoising step"),
        ({"online_steps": -1}, "--online-steps -1 is out of range. give a whole number from 0 on"),
        ({"seeds": 0}, "--seeds 0 is out of range. give a whole number from 1 on"),
        ({"data": "nowhere.npz"}, "no data set nowhere.npz"),
        ({"algos": ("bc", "bc")}, "named twice"),
        ({"algos": ("qd",)}, "unknown algorithm .qd"),
        ({"algos": ("bc@gausian",)}, "gaussian"),
        ({"env": ("tabletop/cube-single-task9",)}, "unknown task 9"),
        ({"execute": ("open-loop", "receding:9")}, "give receding:1 to receding:5"),
    ],
)
def test_mistakes(change, told):
    with pytest.raises(UserError, match=told):
        if "data" in change:
            change = {"data": Path(change["data"])}
        plan(dataclasses.replace(ALL, **change), Sizes())
    with pytest.raises(UserError, match="--hidden is empty. give one number or more"):
        plan(ALL, Sizes(hidden=()))


def test_what_differs_all_the_same():
    """Nothing that a reader would take for equal is told as equal."""
    suite, _ = plan(ALL, Sizes(hidden=(16,), steps=4))
    rows = {row["arm"]: row for row in tables.unequal([r for r in suite if r.label in arms.DEFAULT])}
    assert list(rows) == list(arms.DEFAULT)
    found = {arm: (r["denoising steps"], r["discount"], r["rewards of the data"]) for arm, r in rows.items()}
    assert found["qc"] == ("4", "0.99 per environment step", "used")
    assert found["bc"][2] == "not used" and rows["bc"]["critic"] == "none"
    assert found["dppo"] == ("4", "0.99 per decision", "not used")
    assert found["dppo@diffusion"][0] == "20" and found["ppo"][0] == "1"
    assert rows["qc"]["updates"] == "100" and rows["dppo"]["updates"] == "20"


def test_what_is_not_equal_is_told():
    """Who clones for how long, what an update sees, how an arm acts when it is evaluated; every field that differs."""
    flags = dataclasses.replace(ALL, env=(TASK1,))
    for given, cloned in ((None, "70"), (100, "100")):
        suite, _ = plan(dataclasses.replace(flags, prior_steps=given), Sizes(hidden=(16,), steps=4))
        priors, shown = ([r for r in suite if r.label.startswith("prior") == p] for p in (True, False))
        rows = {row["arm"]: row for row in tables.unequal(shown, priors)}
        told = {arm: row["updates that clone its actor"] for arm, row in rows.items()}
        assert told["qc"] == told["bc"] == "100, its own"
        assert told["qc-frozen"] == told["dppo"] == told["ppo"] == f"{cloned}, its prior's"
    assert {arm: row["an update sees"] for arm, row in rows.items()} == {
        **dict.fromkeys(("bc", "qc", "qc-frozen", "value-guided", "v-gps"), "256 windows"),
        **dict.fromkeys(("dppo", "dppo@diffusion", "ppo"), "5,120 decisions"),
    }
    acts = {arm: row["acts, when evaluated"] for arm, row in rows.items()}
    assert "its mean" in acts["ppo"] and "ODE" in acts["dppo"] and "with the noise" in acts["dppo@diffusion"]
    assert rows["dppo"]["learning rate"] == "0.0001 (optim), 0.001 (critic optim)"
    fields = {row["setting"]: row for row in tables.settings(shown)}
    assert fields["tuned_steps"]["dppo"] == "4" and fields["tuned_steps"]["qc"] == "-"
    assert "chunk.horizon" not in fields and "settings.seeds" not in fields, "what is equal is not listed"
    assert {"data", "environment steps", "cloning", "noise"} == {row["what"] for row in tables.caveats(shown)}


def test_who_is_judged_without_noise_beside_others_is_named():
    f = dataclasses.replace(ALL, env=(TASK1,), online_steps=1000)
    for algos, who in [
        (("dppo", "reinflow"), None),
        (("dppo", "fpo++", "ppo"), "fpo++, ppo"),
        (("ppo", "fpo++"), None),
    ]:
        suite = [
            r for r in plan(dataclasses.replace(f, algos=algos), Sizes(hidden=(16,), steps=2))[0] if r.label in algos
        ]
        told = {row["what"]: row["how"] for row in tables.caveats(suite)}
        assert told.get("noise", "").startswith(f"{who} are evaluated without noise") if who else "noise" not in told
    assert tables.unequal(suite)[1]["acts, when evaluated"] == "from noise 0; it explores with noise"
    plain = Policy(lambda *a: 0.0, lambda *a: None, lambda *a: None)
    assert is_from_zero(from_zero(plain)) and not is_from_zero(plain)
    assert not is_from_zero(smoothed(from_zero(plain), 0.1)), "whatever is around it"


def test_one_frozen_prior_for_all_who_only_read_what_they_clone():
    """--share-prior: they stand on the prior that others stand on, whose actor is theirs; the page says so."""
    f = dataclasses.replace(ALL, env=(TASK1,), algos=("qc-frozen@diffusion", "cgql@diffusion", "dql@diffusion"))
    for shared, frozen in ((False, ["qc-frozen@diffusion"]), (True, ["qc-frozen@diffusion", "cgql@diffusion"])):
        suite, _ = plan(dataclasses.replace(f, share_prior=shared), Sizes((16,)))
        prior, *shown = suite
        assert [r.label for r in shown if r.prior] == frozen and {r.prior for r in shown} - {""} == {prior.name}
        row = next(r for r in tables.unequal(shown, [prior]) if r["arm"] == "cgql@diffusion")
        assert row["updates that clone its actor"] == ("70, its prior's" if shared else "100, its own")
    cloning = [n for n in names.ALGORITHMS if (s := stands_on(registry.builder(n)[1]())) and s[1] is Stands.CLONED]
    assert len(cloning) > 10
    for name in cloning:
        c = arms.config_of(name, Sizes((16,)))
        assert arms.prior_of(name, Sizes((16,))) is None
        assert arms.prior_of(name, Sizes((16,)), shared=True)[1].actor == getattr(c, stands_on(c)[0]), name


@pytest.mark.parametrize("shared", [False, True])
def test_what_an_arm_stands_on_is_trained_before_it(shared):
    """Also where its own actor is of another kind, as that of ``distil`` is."""
    algos = (*names.ALGORITHMS, "distil@flow", "dppo@diffusion", "qc-frozen@diffusion")
    suite, _ = plan(dataclasses.replace(ALL, env=(TASK1,), algos=algos, share_prior=shared), Sizes((16,)))
    place = {r.name: i for i, r in enumerate(suite)}
    standing = [(i, r) for i, r in enumerate(suite) if r.prior]
    assert {"distil", "distil@flow", "qc-frozen"} < {r.label for _, r in standing}
    for i, run in standing:
        assert run.prior in place and place[run.prior] < i, run.label
        assert suite[place[run.prior]].config.actor.kind == getattr(run.config, stands_on(run.config)[0]).kind, (
            run.label
        )


def test_an_arm_of_other_sizes_is_named_where_sizes_are_held_equal():
    """By the settings in its name; no arm as it comes has others, whatever its kind of actor."""
    sizes = Sizes(hidden=(16, 16), n=3, steps=7)
    usual = "16 x 16 for every network; flows of 7 steps, N = 3 in our methods, chunks of 5"
    held = lambda *algos: {  # noqa: E731
        row["what"]: row["how"]
        for row in tables.equal(plan(dataclasses.replace(ALL, env=(TASK1,), algos=algos), sizes)[0], sizes, {})
    }["networks"]
    assert held(*dict.fromkeys((*arms.DEFAULT, *arms.SEED, "bc@diffusion", "consistency-ac"))) == usual
    own, more = "qc:critic.hidden=8x8:chunk.horizon=2", "qc:n=5:actor.steps=2"
    told = f"{usual}; but for: {own} (chunk.horizon 2, critic.hidden 8 x 8); {more} (actor.steps 2, n 5)"
    assert held(own, "qc", more) == told


def test_tuning_is_told_as_it_was():
    """Every figure stands in docs/results/tuning.md, the setting in use is the best of its arm, and its own name is no lie."""
    table = (Path(__file__).parents[1] / "docs/results/tuning.md").read_text()
    for arm, runs in arms.TRIALS.items():
        assert len(runs) == 3
        for setting, found in runs.items():
            (row,) = [line for line in table.splitlines() if f"| {arm}, {setting} |" in line]
            assert f"| {found}.0 % |" in row
    assert "a first round" in arms.trials("value-guided")
    assert arms.trials("v-gps@diffusion").startswith("none: the settings of v-gps")
    assert arms.trials("mine.py:mine").startswith("none: its own settings")
    suite, left_out = plan(ALL, Sizes())
    (told,) = [
        row["how"]
        for row in tables.equal([r for r in suite if r.label in arms.DEFAULT], Sizes(), left_out)
        if row["what"] == "tuning"
    ]
    assert "That task is compared here, too" in told, "task 2 is the one that arms were tuned on"


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Two arms on the pole, and the arguments."""
    out = tmp_path_factory.mktemp("compare") / "c"
    argv = ["compare", "--env", "probe/pole", "--algos", "bc@gaussian", "dppo", "--seeds", "2", "--offline-steps", "20"]
    argv += ["--online-steps", "1", "--online-updates", "2", "--evaluations", "2", "--episodes", "4"]
    argv += ["--data-steps", "300", "--hidden", "16", "--steps", "2", "--quiet", "--out", str(out)]
    cli.main(argv)
    return out, argv


def test_report_and_looks(compared):
    out, _ = compared
    rows = (out / "report" / "table.md").read_text().splitlines()[2:]
    assert [r.split(" | ")[1] for r in rows] == ["bc@gaussian", "dppo"]
    assert "points" in rows[1], "the same environment steps are compared"
    offline = (out / "report" / "report.md").read_text().split("## Offline part (protocol A)")[1].splitlines()[4]
    assert offline.startswith("| probe/pole | bc@gaussian | 2 | 20 | success |"), "what it was before it played"
    page = (out / "report" / "report.html").read_text()
    for word in (
        "Held equal",
        "Offline part (protocol A)",
        "protocol",
        "102,400 environment steps",
        "Cost of acting",
        "data:image/gif",
        "offline rewards",
        "The catch of each",
    ):
        assert word in page, word
    costs = {a: json.loads((out / "runs/probe/pole" / a / "cost.json").read_text()) for a in ("bc@gaussian", "dppo")}
    # bc: 2 -> 16 -> 5 x 2 x 3 numbers; dppo: 2 steps of 12 (the time is a plain factor) -> 16 -> 10; five actions a decision
    assert costs["bc@gaussian"]["multiplications"] == (2 * 16 + 16 * 30) / 5
    assert costs["dppo"]["multiplications"] == 2 * (12 * 16 + 16 * 10) / 5
    assert costs["dppo"]["offline_rewards"] == "not used"
    assert len(costs["bc@gaussian"]["error"]) == 2 and "error" not in costs["dppo"], "which has no data"


def test_goes_on_where_it_was(compared, capsys):
    """Finished runs stay as they are; another comparison is refused, and loses nothing."""
    out, argv = compared
    finished = {p: p.stat().st_mtime_ns for p in out.rglob("summary.json")}
    assert len(finished) == 3
    asked = json.loads((out / "comparison.json").read_text())
    assert asked.pop("prior_steps") is None, "as a comparison has it that is older than the flag"
    (out / "comparison.json").write_text(json.dumps(asked))
    began = time.time()
    cli.main(argv)
    assert {p: p.stat().st_mtime_ns for p in out.rglob("summary.json")} == finished
    assert (out / "report" / "report.html").stat().st_mtime > began - 1
    assert "is damaged" in damaged(out, capsys, argv)
    err = command(capsys, *argv, "--n", "4", "bad").err
    line = err.splitlines()[-1]
    assert line.startswith("error: ") and "another --n" in line and "--n 8" in line


@pytest.mark.slow
def test_the_baseline_can_be_chosen(compared, tmp_path):
    """By compare, which trains nothing for it, and by report."""
    out, argv = compared
    cli.main([*argv, "--baseline", "dppo", "--no-look"])
    first = json.loads((out / "report" / "table.json").read_text())["runs"]
    assert [(r["method"], r["baseline"]) for r in first] == [("dppo", ""), ("bc@gaussian", "dppo")]
    folders = [str(out / "runs/probe/pole" / arm) for arm in ("bc@gaussian", "dppo")]
    cli.main(["report", *folders, "--out", str(tmp_path / "r"), "--baseline", "dppo"])
    assert "(baseline: dppo)" in (tmp_path / "r" / "table.md").read_text()
    with pytest.raises(UserError, match="unknown --baseline 'qc'"):
        records.load([Path(f) for f in folders], baseline="qc")


@pytest.mark.slow
def test_a_page_of_what_is_finished_so_far(compared, capsys):
    """An arm that is not trained yet is named; nothing is trained or written but the page. Before anything is finished there is none."""
    out, argv = compared
    kept = (out / "comparison.json").read_bytes(), sorted(out.rglob("summary.json"))
    longer = [*argv[:5], "dppo", "ppo", *argv[6:], "--so-far"]
    cli.main(longer)
    assert "3 of 5 runs are finished" in capsys.readouterr().err  # ppo's prior is another one
    text = (out / "report" / "report.md").read_text()
    assert "| probe/pole | ppo |" in text.split("## Not trained yet")[1]
    assert "ppo" not in {r.split(" | ")[1] for r in (out / "report" / "table.md").read_text().splitlines()[2:]}
    assert "| ppo |" not in text.split("## Not equal")[1].split("## ")[0], "what it would get is not on the page"
    assert kept == ((out / "comparison.json").read_bytes(), sorted(out.rglob("summary.json")))
    for arm in ("bc@gaussian", "dppo"):  # as while the first arm trains on its prior
        (out / "runs/probe/pole" / arm / "summary.json").rename(out / f"{arm}.kept")
    assert "is finished yet" in command(capsys, *argv, "--so-far", "bad").err
    for arm in ("bc@gaussian", "dppo"):
        (out / f"{arm}.kept").rename(out / "runs/probe/pole" / arm / "summary.json")
    elsewhere = out.parent / "elsewhere"
    err = command(capsys, *argv[:-1], str(elsewhere), "--so-far", "bad").err
    assert "is finished yet" in err and not elsewhere.exists()
    cli.main([*argv, "--no-look"])  # as it was
    assert "Not trained yet" not in (out / "report" / "report.md").read_text()


def damaged(out, capsys, argv):
    """What the command says when its folder's own record is no JSON; the record is put back."""
    record = out / "comparison.json"
    kept = record.read_bytes()
    record.write_text("{")
    told = command(capsys, *argv, "bad").err
    record.write_bytes(kept)
    return told


def test_a_comparison_grows_by_arms_and_environments(tmp_path):
    """What is there stays; fewer of them, or anything else, is another comparison."""
    first, root = {"algos": ["bc"], "env": ["a"], "seeds": 2}, tmp_path / "c"
    claim(root, "comparison", first, Leeway(("algos", "env")))
    (root / "runs").mkdir()
    more = {"algos": ["bc", "qc"], "env": ["a", "b"], "seeds": 2}
    claim(root, "comparison", more, Leeway(("algos", "env")))
    assert json.loads((root / "comparison.json").read_text()) == more
    for change, flag in [({"algos": ["qc"]}, "algos"), ({"env": ["c"]}, "env"), ({"seeds": 3}, "seeds")]:
        with pytest.raises(UserError, match=f"holds a comparison with another --{flag}"):
            claim(root, "comparison", {**more, **change}, Leeway(("algos", "env")))
    assert json.loads((root / "comparison.json").read_text()) == more
    for name, odd in (("algos", 3), ("env", None), ("seeds", "2")):  # by hand
        (root / "comparison.json").write_text(json.dumps({**more, name: odd}))
        with pytest.raises(UserError, match=f"holds a comparison with another --{name}"):
            claim(root, "comparison", more, Leeway(("algos", "env"), rises=("seeds",)))


def test_seeds_added_are_runs_of_their_own(tmp_path):
    """What is there stays as it is; the new seeds stand on priors of their own; fewer, or after trials, are refused."""
    sizes, f = (
        Sizes(hidden=(16,), steps=2),
        dataclasses.replace(ALL, env=(TASK1,), algos=("qc", "v-gps"), out=tmp_path / "c"),
    )
    assert ends_of(f) == (3,), "nothing is there"
    claim(f.out, "comparison", {"seeds": 3})
    assert ends_of(dataclasses.replace(f, seeds=9)) == (9,), "nothing is trained"
    (f.out / "runs").mkdir()
    more = dataclasses.replace(f, seeds=5)
    assert ends_of(more) == (3, 5), "also of a folder that an earlier version made"
    for ends in ([3, 5], [3, 5, 9]):
        leeway = Leeway(("seeds_by_batch",), rises=("seeds",))
        claim(f.out, "comparison", {"seeds": ends[-1], "seeds_by_batch": ends}, leeway)
        assert ends_of(dataclasses.replace(f, seeds=ends[-1])) == tuple(ends)
    with pytest.raises(UserError, match="another --seeds"):
        claim(f.out, "comparison", {"seeds": 4}, Leeway(rises=("seeds",)))
    with pytest.raises(UserError, match="settings that trials chose for 9 seeds"):
        ends_of(dataclasses.replace(f, seeds=10, tune=3))
    record = f.out / "comparison.json"
    for odd in (["3"], [3, 3], 3, [0]):
        damaged_ = {**json.loads(record.read_text()), "seeds_by_batch": odd}
        (tmp_path / "d" / "runs").mkdir(parents=True, exist_ok=True)
        (tmp_path / "d" / "comparison.json").write_text(json.dumps(damaged_))
        with pytest.raises(UserError, match="comparison.json is damaged: seeds_by_batch is"):
            ends_of(dataclasses.replace(f, out=tmp_path / "d"))
    first, later = (by_batches(f, sizes, ends)[0] for ends in ((3,), (3, 5)))
    assert later[: len(first)] == first == plan(f, sizes)[0]
    added = later[len(first) :]
    assert [r.name for r in added] == [f"{r.name} (seeds 3 to 4)" for r in first]
    assert {(r.settings.seed, r.settings.seeds) for r in added} == {(3, 2)}
    assert added[-1].prior == added[0].name and added[1].prior == ""
    told = {row["what"]: row["how"] for row in tables.equal(later, sizes, {})}
    assert told["seeds"] == "0 to 4"
    fewer = [r for r in later if not (r.batch and r.label == first[-1].label)]  # a page of what is finished so far
    found = {row["what"]: row["how"] for row in tables.equal(fewer, sizes, {})}["seeds"]
    assert found.startswith("0 to 4: ") and found.endswith(f"; 0 to 2: {first[-1].label}")


@pytest.mark.slow
def test_a_comparison_grows_by_seeds(compared, tmp_path, capsys):
    """Only the new ones are trained; the page has them all as one run, also where the first are older than a setting."""
    out = shutil.copytree(compared[0], tmp_path / "c")
    argv = [*compared[1][:-1], str(out)]
    for config in out.glob("runs/*/*/*/config.json"):
        about = json.loads(config.read_text())
        assert about["config"]["settings"].pop("devices_per_seed") == 1
        config.write_text(json.dumps({**about, "code": "another"}))
    finished = {p: p.stat().st_mtime_ns for p in out.rglob("summary.json")}
    at = argv.index("--seeds") + 1
    cli.main([*argv[:at], "3", *argv[at + 1 :], "--no-look"])
    assert f"of its {len(finished)} finished runs {len(finished)} have another code: " in capsys.readouterr().err
    assert "not all made alike (code;" in (out / "report" / "report.html").read_text()
    found = {p: p.stat().st_mtime_ns for p in out.rglob("summary.json")}
    assert len(found) == 2 * len(finished) and {p: found[p] for p in finished} == finished
    rows = json.loads((out / "report" / "table.json").read_text())["runs"]
    assert [(r["method"], r["seeds"]) for r in rows] == [("bc@gaussian", 3), ("dppo", 3)]
    assert "another --seeds" in command(capsys, *argv, "bad").err


def test_nothing_trained_is_nothing_claimed(tmp_path, capsys):
    """A folder that only flags were written to takes others; a file in its way is told, not raised."""
    (tmp_path / "c").mkdir()
    claim(tmp_path / "c", "comparison", {"n": 1})
    claim(tmp_path / "c", "comparison", {"n": 2})
    (tmp_path / "c" / "runs").mkdir()
    with pytest.raises(UserError, match="another --n"):
        claim(tmp_path / "c", "comparison", {"n": 1})
    (tmp_path / "file").write_text("")
    for argv in (["compare", "--env", TASK1, "--algos", "bc"], ["reproduce", "reacher"], ["collect", TASK1]):
        told = command(capsys, *argv, "--out", tmp_path / "file" / "x", "bad").err
        assert "cannot write" in told.splitlines()[-1], argv


def test_settings_of_one_arm_stand_in_its_name():
    """By their full name or by an end that one field has; the rest is what the arm has without them."""
    sizes = Sizes(hidden=(16,), n=3, steps=2)
    plain, tuned = (arms.config_of(arm, sizes) for arm in ("qc", "qc:n=4:optim.lr=3e-4"))
    assert tuned == dataclasses.replace(plain, n=4, optim=dataclasses.replace(plain.optim, lr=3e-4))
    assert arms.config_of("bc@diffusion:ddim=1:actor.hidden=8x8:residual=false", sizes).actor == DiffusionConfig(
        (8, 8), residual=False, ddim=1, ema=True
    )
    few, none, many = (arms.config_of(f"bc@diffusion:steps={k}", Sizes()).actor for k in (5, 10, 15))
    assert (
        (few.steps, few.ddim) == (5, 5) and (none.steps, none.ddim) == (10, 10) and (many.steps, many.ddim) == (15, 10)
    )
    assert refusals.without(("bc@diffusion:steps=5",), (TASK1,), Sizes())[1] == {}
    assert arms.named_settings("a=b/own.py:mine:n=4") == ("a=b/own.py:mine", {"n": "4"})
    suite, _ = plan(dataclasses.replace(ALL, env=(TASK1,), algos=("qc", "qc:n=4")), sizes)
    assert [(r.label, r.algorithm, r.config.n) for r in suite] == [("qc", "qc", 3), ("qc:n=4", "qc", 4)]
    assert {row["arm"]: row["N"] for row in tables.unequal(suite)} == {"qc": "3", "qc:n=4": "4"}
    assert arms.trials("qc:n=4") == arms.trials("qc")
    for wrong, told in (("m=4", "unknown setting"), ("hidden=8", "actor.hidden or critic.hidden"), ("n=x", "no value")):
        with pytest.raises(UserError, match=told):
            arms.config_of(f"qc:{wrong}", sizes)


def test_a_refused_arm_says_why_and_the_others_go_on():
    """A name that nobody has is a slip of the pen, and stops before anything is trained."""
    kept, refused = refusals.without(("qc", "fpo@regression", "value-guided@gaussian"), (TASK1,), Sizes())
    assert kept == ("qc",) and list(refused) == [(TASK1, "fpo@regression"), (TASK1, "value-guided@gaussian")]
    assert "no velocity at any time" in refused[TASK1, "fpo@regression"]
    with pytest.raises(UserError, match="no velocity"):
        refusals.without(("fpo@regression", "value-guided@gaussian"), (TASK1,), Sizes())
    with pytest.raises(UserError, match="unknown algorithm .qd"):
        refusals.without(("qc", "qd"), (TASK1,), Sizes())
    for slip, says in (("qc:nn=4", "unknown setting of an arm 'nn'"), ("qc:n=x", "no value")):
        with pytest.raises(UserError, match=says):
            refusals.without(("qc", slip), (TASK1,), Sizes())
    for impossible, says in (
        ("bc@diffusion:steps=5:ddim=8", "--actor.ddim 8 is more than --actor.steps 5"),
        ("qc:gamma=2", "--chunk.gamma 2.0 is out of range"),
    ):
        kept, refused = refusals.without(("qc", impossible), (TASK1,), Sizes())
        assert kept == ("qc",) and says in refused[TASK1, impossible]
    named = "fpo@regression:optim.lr=1e-3"
    assert list(refusals.without(("qc", named), (TASK1,), Sizes())[1]) == [(TASK1, named)]


def test_an_arm_that_sets_what_it_does_not_read_is_refused():
    """Every method that learns from what it just played, before anything is trained; an arm that reads the same setting is none the worse."""
    played = [n for n in names.ALGORITHMS if registry.driver_of(registry.builder(n)[1]).name == "on_policy"]
    assert {"ppo", "dppo", "reinflow", "fpo", "learned-k", "drwr"} <= set(played)
    assert refusals.without(played, (TASK1,), Sizes()) == (tuple(played), {})
    for given in ("chunk.padding=repeated", "chunk.backup=10", "chunk.starts=decision"):
        named, reads = [f"{arm}:{given}" for arm in played], f"qc:{given}"
        kept, refused = refusals.without((*named, reads), (TASK1,), Sizes())
        assert kept == (reads,) and [arm for _, arm in refused] == named
        flag = given.replace("=", " ")
        assert all(f"--{flag} has no effect: no windows are cut" in why for why in refused.values()), refused


def test_a_method_for_goals_is_refused_where_there_are_none(tmp_path, capsys):
    """In that environment alone, before anything is trained; a dry comparison says so."""
    goal, sizes = "tabletop/cube-single-goal", Sizes(hidden=(16,), n=2)
    assert envs.has_goals(goal) and envs.has_goals("ogbench/cube-single-play-oraclerep-v0")
    assert not any(envs.has_goals(env) for env in (TASK1, "ogbench/cube-single-play-singletask-v0", "probe/flag"))
    kept, refused = refusals.without(("bc", "dqc"), (TASK1, goal), sizes)
    assert kept == ("bc", "dqc") and list(refused) == [(TASK1, "dqc")]
    f = dataclasses.replace(ALL, env=(TASK1, goal), algos=kept)
    suite, left_out = plan(f, sizes)
    assert [(r.env, r.label) for r in suite] == [(TASK1, "bc"), (goal, "bc"), (goal, "dqc")] and not left_out
    assert [r.env for r in plan(dataclasses.replace(f, algos=("dqc",)), sizes)[0]] == [goal]
    with pytest.raises(UserError, match=f"DQC learns for goals, and {TASK1} has none. take one with goals"):
        refusals.without(("dqc",), (TASK1,), sizes)
    with pytest.raises(UserError, match="dqc cannot be tuned in"):
        trials.planned(dataclasses.replace(f, tune=2), sizes)
    argv = ["compare", "--env", TASK1, "--algos", "bc", "dqc", "ppo", "--online-steps", "0", "--dry"]
    argv += ["--offline-steps", "2", "--hidden", "16", "--out", str(tmp_path / "c")]
    told = command(capsys, *argv).err
    assert f"left out: ppo on {TASK1}: nothing to learn from without environment steps (--online-steps)" in told
    assert f"refused: dqc: DQC learns for goals, and {TASK1} has none" in told and "1 of 1 runs are to do" in told
    assert "their products take less than 20 seconds" in told


RAISING = """
from qchunk.algorithms.bc import BC, bc

def raises(c: BC):
    raise ValueError("my bug")

def raises_later(c: BC):
    def update(*args):
        raise RuntimeError("my later bug")
    return bc(c)._replace(update=update)
"""


def test_an_arm_of_ones_own_that_raises_costs_no_other(tmp_path, capsys):
    """Where it is made it is refused, and where it is counted the count says so; both name the place."""
    (tmp_path / "own.py").write_text(RAISING)
    own = [f"{tmp_path / 'own.py'}:{name}" for name in ("raises", "raises_later")]
    argv = ["compare", "--env", "probe/pole", "--algos", "bc@regression", *own, "--online-steps", "0", "--dry"]
    argv += ["--offline-steps", "20", "--seeds", "2", "--hidden", "8", "--out", str(tmp_path / "c")]
    told = command(capsys, *argv).err
    assert f"refused: {own[0]}: your raises failed at " in told and "own.py:5: ValueError: my bug" in told
    assert "2 of 2 runs are to do: 80 updates" in told and "own.py:9: RuntimeError: my later bug" in told


def test_a_dry_comparison_says_its_cost_and_makes_nothing(tmp_path, capsys):
    argv = ["compare", "--env", "probe/pole", "--algos", "bc@regression", "fpo@regression", "--online-steps", "0"]
    argv += ["--offline-steps", "20", "--seeds", "2", "--hidden", "8", "--out", str(tmp_path / "c")]
    told = command(capsys, *argv, "--dry").err
    assert "1 of 1 runs are to do: 40 updates" in told and "probe/pole/bc@regression: 2 seeds, 20 updates" in told
    assert "refused: fpo@regression: " in told and not (tmp_path / "c").exists()
    assert "unknown --baseline 'qc'" in command(capsys, *argv, "--baseline", "qc", "bad").err


def test_the_published_figures_of_the_same_tasks_and_methods():
    """By the method's name and the task, where the reward is theirs: scenes and puzzles are theirs as @sparse."""
    row = {"mean": "1.0 %", "95 % interval": "", "updates": "3"}
    task = "ogbench/cube-double-play-singletask-task1-v0"
    ours = [(task, "qc"), (task, "qam"), (task, "bc"), (TASK1, "qc"), (task.replace("cube-double", "scene"), "qc")]
    found = literature.beside_ours([{**row, "environment": env, "method": m} for env, m in ours])
    assert [(r["environment"], r["method"], r["their name"]) for r in found] == [
        (task, "qc", "QC"),
        (task, "qam", "QAM"),
    ]
    assert found[0]["published"].startswith("82.5 % [81.0, 84.0] at 1.0M") and "2507.07969" in found[0]["source"]
    sparse = literature.beside_ours([{**row, "environment": f"{ours[-1][0]}@sparse", "method": "qc"}])
    assert len(sparse) == 1 and literature.task_of("qc-paper/scene-play-task1") == ""


FAILING = """
from qchunk.algorithms.bc import BC, bc

def bad(c: BC):
    made = bc(c)

    def update(*args, **kwargs):
        raise ArithmeticError("the update of bad broke")

    return made._replace(update=update)
"""


def test_one_bad_arm_costs_no_other(tmp_path, capsys):
    """It has a row with its line, the arms behind it are trained and reported, and the program ends with 1."""
    (tmp_path / "bad.py").write_text(FAILING)
    argv = ["compare", "--env", "probe/pole", "--algos", f"{tmp_path}/bad.py:bad", "bc@regression"]
    argv += ["--seeds", "2", "--offline-steps", "2", "--online-steps", "0", "--evaluations", "1", "--episodes", "2"]
    argv += ["--data-steps", "300", "--hidden", "8", "--n", "2", "--quiet", "--no-look", "--out", str(tmp_path / "c")]
    with pytest.raises(SystemExit) as e:
        cli.main(argv)
    told = capsys.readouterr()
    assert e.value.code == 1 and "the update of bad broke" in told.err.splitlines()[-2]
    report = (tmp_path / "c/report/table.md").read_text().splitlines()[2:]
    assert len(report) == 2 and "failed: ArithmeticError: the update of bad broke" in report[1]
    assert "bc@regression" in report[0]
    assert "the update of bad broke" in (tmp_path / "c/report/report.html").read_text()


def test_one_command_trains_in_a_folder(tmp_path, capsys):
    """The second says so before it does anything; a page of what is finished may be made meanwhile."""
    argv = ["compare", "--env", "probe/pole", "--algos", "bc@regression", "--out", str(tmp_path / "my c")]
    argv += ["--online-steps", "0", "--offline-steps", "20", "--hidden", "8", "--data-steps", "100"]
    with handed.alone(tmp_path / "my c"):
        atomic_write(tmp_path / "my c" / "comparison.json", "{}")
        told = command(capsys, *argv, "bad").err
        assert f"process {os.getpid()} on " in told and "is training in" in told and "--so-far" in told
        assert "nothing in" in command(capsys, *argv, "--so-far", "bad").err
    assert not (tmp_path / "my c" / "runs").exists()


def test_other_flags_are_named_before_what_they_change(compared, capsys):
    """As they are typed: not the setting that follows from them, not a list of Python's."""
    at = compared[1].index("--offline-steps") + 1
    told = command(capsys, *compared[1][:at], "21", *compared[1][at + 1 :], "bad").err
    assert "another --offline-steps" in told and told.endswith("or --offline-steps 20.\n"), told
    told = command(capsys, *compared[1], "--algos", "bc@gaussian", "bad").err
    assert told.endswith("or --algos bc@gaussian dppo.\n"), told
    assert command(capsys, *compared[1], "--share-prior", "bad").err.endswith("or --no-share-prior.\n")
    assert command(capsys, *compared[1], "--prior-steps", "9", "bad").err.endswith("or leave --prior-steps out.\n")


def test_what_stands_on_a_failed_run_fails_with_it(tmp_path, monkeypatch):
    def broken(wanted):
        if wanted.flags.label == "prior (flow)":
            raise UserError("no room", "make some")
        wanted.flags.out.mkdir(parents=True)

    monkeypatch.setattr(training, "run", broken)
    flags = dataclasses.replace(ALL, env=(TASK1,), algos=("qc-frozen", "bc"), data=tmp_path / "d.npz")
    (tmp_path / "d.npz").write_text("")
    suite, _ = plan(flags, Sizes())
    found = train_all("x", suite, tmp_path)
    assert found.failed[f"{TASK1}/prior (flow)"] == "no room. make some."
    assert found.failed[f"{TASK1}/qc-frozen"] == f"it stands on {TASK1}/prior (flow), which failed"
    assert found.of(suite) == [tmp_path / "runs" / TASK1 / "bc"]
    with pytest.raises(SystemExit) as e:
        found.leave()
    assert e.value.code == 1


def test_an_environment_without_a_painter_shows_its_numbers():
    """A frame for every moment, and what was done is in it."""
    plans = np.zeros((3, 2, 1))
    start = Frame(np.zeros(2), None, None, plans, 0.0)
    low, high = (start._replace(action=np.full(1, a), obs=np.ones(2)) for a in (-1.0, 1.0))
    frames, other = (rendering.pictures(envs.make("probe/fork"), [start, end]) for end in (low, high))
    assert len(frames) == 2 and (frames[0] == other[0]).all() and (frames[1] != other[1]).any()


def test_numbers_of_a_tree_are_drawn_as_those_of_its_leaves_side_by_side():
    """And what is not a number is not drawn: a policy that has diverged has its film, too."""
    plans, env = np.zeros((3, 2, 1)), envs.make("probe/fork")

    def film(*seen):
        steps = [Frame(obs, None, action, plans, 0.0) for obs, action in zip(seen, (None, np.ones(1)), strict=True)]
        return rendering.pictures(env, steps)

    tree, flat = film(*({"a": np.full(1, x), "b": np.full(2, 2 * x)} for x in (0.0, 1.0))), film(np.zeros(3), np.array([1.0, 2.0, 2.0]))  # fmt: skip
    assert all((one == other).all() for one, other in zip(tree, flat, strict=True))
    assert len(film(np.zeros(3), np.full(3, np.nan))) == len(film(*[np.full(3, np.nan)] * 2)) == 2


def test_a_film_plays_as_evaluations_do():
    """An action that is no number is none there, either, and not the bound that it lies beyond."""
    env, key = envs.make("probe/fork"), jax.random.key(0)
    plan = lambda vars, noise, obs, old=None: Plan(np.full((len(noise), 2, env.action_size), np.inf, np.float32))  # noqa: E731
    policy = Policy(lambda vars, key, obs: obs, plan, lambda vars, plan, i, obs: plan.action[:, i])
    moments = rendering.episode(env, policy, receding(policy, 2, 1), collecting.NO_VARS, key)
    assert np.isnan(moments[1].action).all()


def test_the_offline_part_has_the_chosen_baseline_and_survives_a_damaged_run(tmp_path):
    """Differences are to the arm of --baseline there, too; a run that cannot be read costs no other."""
    labels = ("bc", "qc", "lost")
    folders = {make(tmp_path / n, n, [0.5, 0.6], steps=(10, 20)): Run("bc", TASK1, None, None, None, n) for n in labels}
    (tmp_path / "lost" / "metrics.jsonl").write_text("no json\n")
    flags = dataclasses.replace(ALL, baseline="qc", offline_steps=20)
    rows = offline_part(folders, flags)["Offline part (protocol A)"]
    assert [r["difference to baseline"].partition(":")[0] for r in rows] == ["(baseline", "+0.0 points too few seeds"]
    assert rows[0]["method"] == "qc"
    assert offline_part(folders, dataclasses.replace(flags, baseline="dppo"))["Offline part (protocol A)"][0]["method"] == "bc"  # fmt: skip


def test_a_baseline_that_is_damaged_is_told_as_damaged(tmp_path, capsys):
    folders = [make(tmp_path / n, n, [0.5, 0.6]) for n in ("bc", "qc", "lost")]
    (tmp_path / "lost" / "metrics.jsonl").write_text("no json\n")
    err = command(capsys, "report", *folders, "--out", tmp_path / "r", "--baseline", "lost", "bad").err
    assert "--baseline lost is damaged: line 1 of" in err and "give another --baseline" in err and err.count("\n") == 1
    (tmp_path / "lost" / "config.json").write_text("{")  # called by its folder then
    assert "lost is damaged" in command(capsys, "report", *folders, "--out", tmp_path / "r", "--baseline", "lost", "bad").err  # fmt: skip
    assert "unknown --baseline" in command(capsys, "report", *folders, "--out", tmp_path / "r", "--baseline", "x", "bad").err  # fmt: skip


def test_a_report_of_some_runs_does_not_replace_the_page_of_all(tmp_path, capsys):
    """What was held equal, and the published figures, stand on that alone."""
    run = make(tmp_path / "runs" / "bc", "bc", [0.5, 0.6])
    command(capsys, "report", run, "--out", tmp_path / "report")  # nobody's yet
    page = (tmp_path / "report" / "report.html").read_text()
    for owner in ("comparison", "suite", "sweep", "stages"):
        (tmp_path / f"{owner}.json").write_text("{}")
        err = command(capsys, "report", run, "--out", tmp_path / "report", "bad").err
        assert "is the page of the" in err and "pass --out with another folder" in err and err.count("\n") == 1, err
        (tmp_path / f"{owner}.json").unlink()
    assert (tmp_path / "report" / "report.html").read_text() == page


def test_commas_in_the_path_of_a_file_are_no_ends_of_arms(tmp_path, monkeypatch):
    """Where there is such a file, and between numbers that follow an arm; otherwise they stand between arms, as they did."""
    monkeypatch.chdir(tmp_path)
    for name in ("a,b/my,own.py", "my.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for word, found in {
        "a,b/my,own.py:f": ["a,b/my,own.py:f"],
        "bc,a,b/my,own.py:f:n=4,my.py:g,qc:n=4,": ["bc", "a,b/my,own.py:f:n=4", "my.py:g", "qc:n=4"],
        "my.py:f:n=2,bc@diffusion": ["my.py:f:n=2", "bc@diffusion"],
        "a,b/gone.py:f": ["a", "b/gone.py:f"],
        "my.py:f:1,2.5,width=3,bc": ["my.py:f:1,2.5,width=3", "bc"],  # ARGS of a function
    }.items():
        assert list(asked_for(["--env", "probe/pole", "--algos", word])[0].algos) == found


def test_an_episode_as_a_gif(compared, tmp_path, capsys):
    out, _ = compared
    run = out / "runs/probe/pole/dppo"
    cli.main(["render", str(run), "--out", str(tmp_path / "e.gif"), "--seed", "3"])
    image = Image.open(tmp_path / "e.gif")
    assert 1 < image.n_frames <= 100 and image.size[0] == 280
    first = np.asarray(image.convert("RGB")).astype(int)
    image.seek(image.n_frames - 1)
    assert np.abs(np.asarray(image.convert("RGB")).astype(int) - first).max() > 50, "it moves"
    assert "unknown flag" in command(capsys, "render", run, "--frames", "3", "bad").err
    assert "ends in .gif" in command(capsys, "render", run, "--out", "e.mp4", "bad").err
    assert "exists already" in command(capsys, "render", run, "--out", tmp_path / "e.gif", "bad").err
