"""What is not a number is never good: in environments, in success that is reported late, in data, in runs that diverge."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from driven import random_rows
from test_cli import run
from tiers import slow_but

from qchunk import cli, drivers, envs, improve
from qchunk.actor_configs import FlowConfig
from qchunk.algorithms.bc import BC, bc
from qchunk.config import ChunkConfig, OptimConfig
from qchunk.data import formats
from qchunk.drivers.common import assemble, evaluate, init
from qchunk.drivers.events import Event
from qchunk.drivers.online import OnlineSettings
from qchunk.envs.base import wrap
from qchunk.envs.host.pool import Pool
from qchunk.play import collecting
from qchunk.reporting import executions, exports, headline, page, pooled, records
from qchunk.runs import checkpoint, opened, run_folder, training
from qchunk.sampling import emit_step
from qchunk.system.errors import UserError
from qchunk.types import Plan, Policy

B = BC(ChunkConfig(2), FlowConfig((16,), steps=2), OptimConfig(1e-3))
TASK = "tabletop/cube-single-task1"


@pytest.fixture(autouse=True)
def path(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


@pytest.fixture
def host():
    pytest.importorskip("gymnasium")
    made = []

    def make(name):
        made.append(envs.make(f"gymnasium/host_envs:{name}-v0"))
        return made[-1]

    yield make
    for env in made:
        env.close()


# ------------------------------------------------------------------------------------------- actions


def test_a_cube_that_is_nowhere_is_not_at_its_goal():
    env = envs.make(TASK)
    state = env.step(env.reset(jax.random.key(0)), jnp.full(5, jnp.nan))
    assert (state.metrics["success"], state.reward, state.done) == (0, -1, 0)


@pytest.mark.parametrize("bad", slow_but([np.nan], [np.nan, np.inf]))
@pytest.mark.parametrize(
    "name",
    [
        *(TASK, "gymnax/MountainCarContinuous-v0", "gymnax/PointRobot-misc", "brax/inverted_pendulum@spring"),
        *("probe/pole", "probe/fork", "probe/two-step", "probe/flag"),
    ],
)
def test_an_action_that_is_no_number_is_never_good(name, bad):
    """Against actions of zeros from the same start: never a success, no reward that is better, an end at the limit."""
    inner = envs.make(name)
    env = wrap(inner, min(4, inner.episode_length))
    start, step = jax.jit(env.env.reset)(jax.random.split(jax.random.key(0), 2)), jax.jit(env.env.step)
    lost = calm = start
    for _ in range(min(4, inner.episode_length)):
        lost = step(lost, jnp.full((2, inner.action_size), bad))
        calm = step(calm, jnp.zeros((2, inner.action_size)))
        assert not (np.asarray(lost.metrics.get("success", 0)) > 0).any()
        assert not (lost.reward >= calm.reward).any() and not np.isfinite(lost.reward).any()
    assert (lost.done == 1).all()


def test_a_simulator_is_never_given_what_is_no_number(host):
    """The second slot's NaN and the third's infinity are steps of zeros without a finite reward; the first one's step is what it was."""
    pool = Pool(host("Told"), 3, workers=1)
    state = pool.begin(pool.nothing(), np.ones(3, bool), np.arange(3))
    for _ in range(6):
        state = pool.step(state, np.asarray([[0.5], [np.nan], [np.inf]]), state.done == 0)
        assert state.reward[0] == -1 and np.isnan(state.reward[1:]).all() and np.isfinite(state.obs).all()
    assert state.done.all()
    pool.close()


@pytest.mark.parametrize("where", ["device", "host"])
def test_a_policy_of_nan_succeeds_nowhere(where, host):
    """The flag probe's success, and an environment that reports success whatever is done."""
    env = host("ToldLast") if where == "host" else envs.make("probe/two-step")
    s = OnlineSettings(episodes=3)
    program, x = assemble(bc, B, env, s)
    learner = init(program, x)
    sound = evaluate(program, x, s, learner)
    assert np.isfinite(sound["return"]).all() and (where == "device" or sound["success"] == 1)
    lost = evaluate(program, x, s, learner._replace(params=jax.tree.map(lambda p: p * jnp.nan, learner.params)))
    assert lost["success"] == 0 and np.isnan(lost["return"]).all()


@pytest.mark.parametrize("temperature", [None, 0.5])
def test_a_chunk_whose_value_is_no_number_is_not_the_best(temperature):
    """The second of three is worth NaN; of those of a start alone likewise, and a climb ends before its value does."""
    values = jnp.asarray([1.0, jnp.nan, 2.0])
    policy = Policy(lambda vars, key, obs: None, lambda vars, z, obs, old: Plan(z), emit_step)
    noise, obs = jnp.asarray([[1.0, 7.0, 2.0]])[..., None, None], jnp.zeros((1, 1))
    worth = lambda vars, obs, a, *level: jnp.where(a[..., 0, 0] > 5, jnp.nan, a[..., 0, 0])  # noqa: E731
    gumbel = jnp.zeros((1, 3))
    draws = noise if temperature is None else (noise, gumbel)
    assert improve.chosen(values, 0.0, None) == 2
    for rule in (improve.best_of_n, improve.best_start):
        assert rule(policy, worth, 3, temperature=temperature).plan(None, draws, obs, None).action == 2
    climbed = lambda vars, obs, a, *level: jnp.where(a[..., 0, 0] > 0.5, jnp.nan, a[..., 0, 0])  # noqa: E731
    draws = 0.2 * noise if temperature is None else (0.2 * noise, gumbel)
    up = improve.best_climbed(policy, climbed, 3, 2, 2, 0.2, temperature)
    np.testing.assert_allclose(up.plan(None, draws, obs, None).action, 0.4, atol=1e-6)


# ------------------------------------------------------------------------------------------- success on the host


@pytest.mark.parametrize(
    "name, success", [("ToldLast", 1), ("ToldWithGap", 1), ("ToldAsIs", 1), ("ToldFalse", 0), ("Told", None)]
)
def test_success_is_whether_any_step_reported_it(name, success, host):
    env, s = host(name), OnlineSettings(episodes=3)
    program, x = assemble(bc, B, env, s)
    assert evaluate(program, x, s, init(program, x)).get("success") == success


def test_an_evaluation_without_a_report_is_one_without_success():
    """An environment may report success only where it is reached; then no figure of another evaluation stands in."""
    line = lambda **values: {"kind": "eval", "step": 1, "seconds": 1, "values": {"return": [1, 2], **values}}  # noqa: E731
    assert run_folder.judged([line(), line()]) == [line(), line()]
    told = run_folder.judged([line(success=[0.5, 1]), line()])
    assert [t["values"]["success"] for t in told] == [[0.5, 1], [0, 0]]


def saved(folder, evals):
    """Evaluations and their checkpoints, one after the other, as training saves them."""
    for step, values in evals:
        event = Event("eval", step, {k: np.asarray(x) for k, x in values.items()}, {"w": jnp.zeros(2)})
        folder.log("eval", step, values)
        training.save(folder, event, 100, True, step, training.score(event))


ABOUT = {"algorithm": "bc", "env": "e", "seeds": 1, "seed": 0, "config": {}}
LATE = [(20, {"success": [0.9], "return": [28.0]}), (30, {"success": [0.8], "return": [29.0]}), (40, {"return": [31.0]}), (50, {"return": [30.0]})]  # fmt: skip


def test_the_best_checkpoint_has_succeeded_where_success_is_told_only_if_it_is_reached(tmp_path):
    """A return of 31 is no better than a success of 90 %, before the first success or after it, in a run that went on."""
    with run_folder.create(tmp_path / "r", ABOUT) as folder:
        saved(folder, [(10, {"return": [30.0]}), *LATE])
    assert opened.step_of(tmp_path / "r", "best") == 20
    assert sorted(int(p.name) for p in folder.checkpoints.iterdir()) == [20, 40, 50]


@pytest.mark.parametrize("name", ["²", "-1", "first", True])
def test_what_is_no_checkpoint_is_a_line(name, tmp_path):
    with pytest.raises(UserError, match="is no checkpoint"):
        opened.step_of(tmp_path, name)


@pytest.mark.parametrize("figure, best", [("return", 20), ("success", 10)])
def test_checkpoints_that_do_not_name_their_figure_are_compared_by_what_was_logged(figure, best, tmp_path):
    """Earlier versions kept the number alone."""
    with run_folder.create(tmp_path / "r", ABOUT) as folder:
        folder.log("eval", 10, {figure: [0.95], "return": [0.95]})
        checkpoint.save(folder.checkpoints, 10, {"learner": jnp.zeros(2)}, {"score": 0.95})
        saved(folder, LATE)
    assert opened.step_of(tmp_path / "r", "best") == best


def test_runs_of_one_environment_are_compared_by_success_where_one_of_them_speaks_of_it(tmp_path):
    """Two arms that never succeeded and one that did at last, in an environment that tells only that; another environment keeps its returns."""
    low, four = [-50.0, -51.0, -52.0, -49.0], {"settings": {"episodes": 50}}
    ends = {"bc": {"return": low}, "ppo": {"return": low}, "qc": {"success": [0.9, 0.9, 0.8, 1.0], "return": low}}
    for env, arms in (("e", ends), ("f", {"bc": ends["bc"]})):
        for label, last in arms.items():
            with run_folder.create(tmp_path / env / label, {**ABOUT, **four, "env": env, "label": label, "seeds": 4}) as f:  # fmt: skip
                f.log("eval", 10, {"return": low})
                f.log("eval", 20, last)
    found = records.load([tmp_path / "e" / label for label in ends] + [tmp_path / "f" / "bc"])
    rows = {(row["environment"], row["method"]): row for row in records.table(found)}
    assert [rows["e", label]["mean"] for label in ends] == ["0.0 %", "0.0 %", "90.0 %"]
    assert rows["e", "qc"]["difference to baseline"].startswith("+90.0 points [77.0, 100.0]")
    assert rows["e", "ppo"]["return"].startswith("-50.5") and rows["f", "bc"]["figure"] == "return"
    board = headline.board("e", [r for r in found if r.env == "e"])
    assert (board.unit, board.rows[0].label, board.rows[0].mean) == ("success (%)", "qc", "90.0 %")


@pytest.mark.parametrize("name, what", [("NanReward", "reward"), ("HugeObservation", "obs")])
def test_experience_that_is_no_number_ends_the_run(name, what, host):
    env = host(name)
    with pytest.raises(UserError, match=f"{name}-v0: its {what} is not finite in float32 at step 5"):
        collecting.collect_host(env, collecting.random_player(env, 0), steps=20)
    pool = Pool(env, 2, workers=1, strict=True)
    state = pool.begin(pool.nothing(), np.ones(2, bool), np.asarray([7, 8]))
    with pytest.raises(UserError, match=f"its {what} is not finite in float32 at step 5 of the episode from seed 7"):
        pool.play(state, np.zeros((6, 2, 1)), np.ones(2, bool))


def test_a_last_evaluation_of_nan_is_a_result(tmp_path, capsys, host):
    """Shown as not finite, with a summary and exit code 0."""
    host("NanReward").close()
    name, data, out = "gymnasium/host_envs:NanReward-v0", tmp_path / "d.npz", tmp_path / "run"
    assert run(capsys, "collect", name, "--out", data, "--steps", 20, "--episode-length", 4, "--quiet")[0] == 0
    small = ["--offline-steps", 2, "--eval-every", 2, "--actor.hidden", 8, "--chunk.horizon", 2, "--episodes", 2]
    code, said, _ = run(capsys, "train", "bc", "--env", name, "--data", data, "--out", out, *small)
    assert code == 0 and "not finite" in said
    assert json.loads((out / "summary.json").read_text())["return"] == {"mean": None, "per_seed": [None]}
    code, said, _ = run(capsys, "eval", out, "--episodes", 2, "--json")
    assert code == 0 and json.loads(said, parse_constant=pytest.fail)["return"]["mean"] is None


def test_mujoco_writes_no_log_into_the_folder(tmp_path):
    pytest.importorskip("gymnasium")
    pytest.importorskip("imageio")  # which gymnasium's MuJoCo environments import, and OGBench brings along
    code = (
        "from qchunk.envs.host import worker\nimport numpy as np\n"
        "one = worker.One({'id': 'InvertedPendulum-v5', 'kwargs': {}, 'modules': [], 'sparse': False})\n"
        "one.reset(0); one.env.unwrapped.data.qvel[:] = np.nan; one.step(np.zeros(1))"
    )
    root = str(Path(cli.__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": root}, capture_output=True)
    assert b"MuJoCo: " in done.stderr, "the test must make it warn"
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------- data


@pytest.fixture(scope="module")
def rows():
    env = envs.make("probe/two-step")
    return random_rows(env, 40, 4)


def test_data_are_checked_as_they_are_used(rows):
    """1e39 is finite in float64 and 2^40 a whole number; training computes in 32 bits."""
    obs = rows.obs.astype(float)
    obs[3, 0] = 1e39
    with pytest.raises(UserError, match=r"obs holds NaN or infinite .* first is 3"):
        formats.check(rows._replace(obs=obs), "d")
    with pytest.raises(UserError, match=r"obs holds .* beyond 32 bits"):
        formats.check(rows._replace(obs=np.full(rows.obs.shape, 2**40)), "d")


def test_unused_numbers_of_final_rows_are_ignored(rows):
    spoilt = rows._replace(
        action=np.where(rows.end[:, None], np.nan, rows.action), reward=np.where(rows.end, np.inf, rows.reward)
    )
    formats.check(spoilt, "d")
    for a, b in zip(jax.tree.leaves(formats.to_device(spoilt)), jax.tree.leaves(formats.to_device(rows)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_is_collected_is_checked_as_it_is_played():
    """An environment on the device whose observation overflows in its third step."""

    class Overflows(type(envs.make("probe/two-step"))):
        def step(self, state, action):
            state = super().step(state, action)
            return state.replace(obs=jnp.where(state.obs[0] > 0.25, jnp.inf, state.obs), done=jnp.zeros(()))

    env = Overflows("two-step")
    with pytest.raises(
        UserError, match="probe/two-step: its next obs holds NaN or infinite .* in transition 9, of environment 0"
    ):
        random_rows(env, 40, 4, episode_length=5, dispatch=10)


# ------------------------------------------------------------------------------------------- runs that diverge


def test_a_run_that_diverges_says_so_and_keeps_the_last_finite_checkpoint(tmp_path, capsys):
    """A learning rate of 1e30: the first update leaves huge weights, the second one's loss is infinite. No data holds a success."""
    data, out = tmp_path / "d.npz", tmp_path / "run"
    assert run(capsys, "collect", "tabletop/cube-single", "--out", data, "--steps", 60, "--policy", "random")[0] == 0
    small = ["--actor.hidden", 8, "--critic.hidden", 8, "--actor.steps", 2, "--n", 2, "--chunk.horizon", 2]
    steps = ["--offline-steps", 5, "--eval-every", 1, "--log-every", 1, "--episodes", 2, "--optim.lr", 1e30]
    code, said, err = run(capsys, "train", "qc", "--env", TASK, "--data", data, "--out", out, *small, *steps)
    assert code == 0 and "diverged_at" in said
    assert f"warning: {data} holds no success of {TASK}" in err
    assert "diverged: at update 2 the loss or the parameters of seed 0 are not finite" in err
    assert "the last finite checkpoint, of step 1, is kept" in err
    assert sorted(int(p.name) for p in (out / "checkpoints").iterdir()) == [1, 4, 5]
    summary = json.loads((out / "summary.json").read_text())
    assert summary["diverged_at"]["per_seed"] == [2] and summary["success"]["per_seed"] == [0]
    (row,) = records.table(records.load([out]))
    assert row["note"] == "diverged at update 2"
    assert run(capsys, "eval", out, "--checkpoint", 1, "--episodes", 2)[0] == 0
    code, said, _ = run(
        capsys, "eval", out, "--checkpoint", "best", "--episodes", 2
    )  # what has diverged is never the best
    assert code == 0 and f"step 1 of {out}" in said


def test_only_the_seeds_that_diverge_are_named(tmp_path):
    about = {"algorithm": "bc", "env": TASK, "seeds": 2, "seed": 3}
    with run_folder.create(tmp_path / "r", about) as folder:
        folder.log("diverged", 10, {"diverged": [0.0, 1.0], "diverged_at": [10]})
        folder.log("eval", 20, {"success": [0.5, 0.0], "return": [1.0, np.nan]})
        folder.finish({})
    (row,) = records.table(records.load([tmp_path / "r"]))
    assert row["note"] == "diverged at update 10 (seed 4)"


def test_what_a_seed_that_has_diverged_still_reaches_is_no_figure(tmp_path):
    """Its policy acts, for only its critic is infinite: neither the mean nor a verdict, nor a table for programs, counts that."""
    for label, success in (("bc", [0.1, 0.2]), ("lost", [0.9, 0.9]), ("qc", [0.7, 0.8])):
        about = {**ABOUT, "env": TASK, "label": label, "seeds": 2, "settings": {"episodes": 50}}
        with run_folder.create(tmp_path / label, about) as folder:
            folder.log("eval", 10, {"success": success, "return": [-1.0, -2.0]})
            if label == "lost":
                folder.log("diverged", 20, {"diverged": [0.0, 1.0], "diverged_at": [20]})
            folder.log("eval", 20, {"success": success, "return": [-1.0, -2.0]})
            folder.finish({})
    found = records.load([tmp_path / label for label in ("bc", "lost", "qc")])
    lost = found[1]
    np.testing.assert_array_equal(lost.values(), [[0.9, 0.9], [0.9, np.nan]])
    row = records.table(found)[1]
    assert {row[c] for c in ("mean", "95 % interval", "difference to baseline")} == {"not finite"}
    assert row["return"] == "not finite" and row["note"] == "diverged at update 20 (seed 1)"
    assert [r["success"] for r in exports.seed_rows(found)] == [0.1, 0.2, 0.9, None, 0.7, 0.8]
    assert [r["mean"] for r in exports.rows(found)] == [pytest.approx(0.15), None, pytest.approx(0.75)]
    assert [r["method"] for r in pooled.aggregate(found) if r["runs"]] == ["bc", "qc"]
    told, board = headline.sentences(TASK, found), headline.board(TASK, found)
    assert told.may.startswith("qc is first") and "no figure): lost" in told.open
    assert [(r.label, r.mean) for r in board.rows] == [("qc", "75.0 %"), ("bc", "15.0 %"), ("lost", "none")]
    assert "diverged at update 20" in page.html_page(found, [], {})


def test_a_run_played_by_another_scheme_is_judged_as_it_is(tmp_path):
    """Success is told only where it is reached, so not of a scheme that reaches none; and a seed that has diverged has none."""
    with run_folder.create(tmp_path / "r", {**ABOUT, "env": TASK, "seeds": 2}) as folder:
        folder.log("diverged", 20, {"diverged": [0.0, 1.0], "diverged_at": [20]})
        folder.log("eval", 20, {"success": [0.9, 0.9], "return": [-1.0, -2.0]})
    (r,) = records.load([tmp_path / "r"])
    np.testing.assert_array_equal(executions.values(r, {"figures": {"return": [-3.0, -4.0]}}), [0, np.nan])
    np.testing.assert_array_equal(executions.values(r, {"figures": {"success": [0.5, 0.7]}}), [0.5, np.nan])


def test_a_seed_that_diverged_before_a_run_went_on_is_not_forgotten():
    """What goes on from a checkpoint knows of no loss that was infinite before it, and names others alone."""
    lines = [
        {"kind": "diverged", "values": {"diverged": flags, "diverged_at": [at]}}
        for flags, at in (([0.0, 1.0, 0.0], 10), ([1.0, 0.0, 0.0], 30))
    ]
    assert run_folder.diverged(lines) == {"diverged": [1.0, 1.0, 0.0], "diverged_at": [10]}
    assert run_folder.diverged([]) == {}


# ------------------------------------------------------------------------------------------- random streams


def test_the_first_learner_shares_no_key_with_an_update(rows):
    """The keys that init splits, against those that the first updates are given, of a method that writes them down."""

    def spying(c):
        made, nothing = bc(c), jnp.zeros((3, 4), jnp.uint32)

        def note(learner, at, keys):
            bits = jax.random.key_data(keys).ravel()
            return learner._replace(stats={"keys": learner.stats["keys"].at[at, : bits.size].set(bits)})

        def first(key, spec, given):
            return note(made.init(key, spec, given)._replace(stats={"keys": nothing}), 0, jax.random.split(key, 2))

        def update(learner, given, key, chunk):
            after, metrics = made.update(learner, given, key, chunk)
            return note(after, learner.step + 1, key), metrics

        return made._replace(init=first, update=update)

    s = OnlineSettings(offline_steps=1, batch=4, episodes=2)
    given = {"env": envs.make("probe/two-step"), "settings": s, "data": formats.to_device(rows)}
    with jax.debug_key_reuse(False):
        *_, last = drivers.train(spying, B, **given)
    found = np.asarray(last.learner.stats["keys"])[0]
    root = jax.random.key(0)
    updates = {tuple(np.asarray(jax.random.key_data(jax.random.fold_in(root, i)))) for i in range(4)}
    assert found[1].any() and found[0].any()
    assert not {tuple(found[0, :2]), tuple(found[0, 2:])} & updates


@pytest.mark.parametrize("name", ["probe/two-step", "gymnasium/host_envs:Walk-v0"])
def test_neighbouring_seeds_share_nothing(name, tmp_path, capsys, host):
    """Two policies of seed 0 against two of seed 1: no start state and no action twice."""
    seen = []
    for seed in (0, 1):
        out = tmp_path / f"{seed}.npz"
        flags = ["--steps", 24, "--envs", 2, "--seed", seed, "--policy", "random", "random"]
        assert run(capsys, "collect", name, "--out", out, *flags)[0] == 0
        found, _ = formats.load(out)
        seen.append({tuple(x) for x in found.action[~found.end]})
    assert len(seen[0]) == len(seen[1]) >= 24 and not seen[0] & seen[1]


@pytest.mark.parametrize("seed", [-1, 2**31, 2**32, 10**20])
def test_a_seed_without_a_key_of_its_own_is_refused(seed, tmp_path, capsys):
    code, _, err = run(capsys, "collect", "probe/two-step", "--out", tmp_path / "d.npz", "--seed", seed)
    assert code == 2 and err.count("\n") == 1 and re.search(r"from 0 (on|to 2147483647)", err)


def test_seeds_that_run_out_of_range_are_refused(rows):
    s = OnlineSettings(seed=2**31 - 1, seeds=2, offline_steps=1)
    with pytest.raises(UserError, match="2147483647 to 2147483648 is out of range"):
        next(drivers.train(bc, B, env=envs.make("probe/two-step"), settings=s, data=formats.to_device(rows)))
