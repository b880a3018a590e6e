"""What a policy would earn, from data alone: fitted Q evaluation (Le, Voloshin and Yue, 1903.08738), of chunks.

A critic of chunks learns by temporal differences whose next chunk is the policy's own; its value at the first states of episodes is the
estimate. It ranks policies that stay near to the data, and nothing tells from data alone which policies do: a critic invents values elsewhere.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qchunk import normalise, sampling
from qchunk.compose import learner
from qchunk.config import ChunkConfig, CriticConfig, OptimConfig, config
from qchunk.critics.chunk_q import chunk_q
from qchunk.data import formats
from qchunk.data.description import apart
from qchunk.drivers import offline
from qchunk.drivers.common import assemble, init
from qchunk.drivers.offline import OfflineSettings
from qchunk.envs.base import obs_like
from qchunk.envs.held_out import HeldOut
from qchunk.losses.td import td
from qchunk.play.on_data import to_go
from qchunk.play.program import Inputs, Program, depends, each_seed, reads
from qchunk.reporting import records
from qchunk.reporting.records import Rows
from qchunk.reporting.stats import interval, paired_difference
from qchunk.runs import run_folder
from qchunk.runs.opened import Opened, learner_of, rebuild, vars_of
from qchunk.runs.progress import Bar
from qchunk.seeds import for_each, spread, stream
from qchunk.system import stopping
from qchunk.system.errors import UserError
from qchunk.target_networks import target_view
from qchunk.types import CLEAN, Algorithm, Array, Critic, Learner, Plan, Policy, Vars

JUDGED, UNITS = (
    "judged",
    "obs units",
)  # what a critic is given: all that the policy reads, and its own view of observations
FIX = "judge runs whose chunks are played as they were planned, open-loop or receding:K, without delay"
SAMPLES, PART = 8, 500  # chunks valued at each first state; updates between two looks at Ctrl-C
CAVEAT = (
    "Fitted Q evaluation ranks policies that stay near to the data. Of one that leaves them the values are the critic's invention, and no "
    "figure of these data says so; intervals are over seeds, and know nothing of that either."
)
SETTLED = "Last change: how far an estimate went in the last tenth of its updates. Where that is not small beside the differences, give more --updates."

NOTHING = "The data earn nothing from their first states: the critics had nothing to learn, and the estimates are their errors."


@config
class FittedQ:
    """The critic of a fitted Q evaluation."""

    chunk: ChunkConfig = ChunkConfig()
    critic: CriticConfig = CriticConfig((256, 256), tau=0.05)
    optim: OptimConfig = OptimConfig(3e-4)


class Estimated(NamedTuple):
    """A run's policy and what data say of it."""

    folder: Path
    label: str
    values: np.ndarray  # [S] discounted return from the first states of episodes, estimated
    moved: np.ndarray  # [S] how far that went in the last tenth of the updates
    data: float  # the same of those who recorded the data, from the same states
    played: float  # the last evaluation of the run in its environment, undiscounted; NaN where there is none


def judge(folder: Path, path: Path, updates: int, batch: int, c: FittedQ | None = None) -> Estimated:
    """Fits a critic to each seed's policy of a run, with the seeds of the run.

    Args:
        path: the data set, of the run's environment; without a simulator the last episodes are held out and give the first states.
        c: the critic; its chunks are those that the run plays.

    Raises:
        UserError: a run whose chunks cannot be valued, or data that do not fit.
    """
    kept = run_folder.read_config(folder)["config"]
    p = rebuild(kept, folder)
    trained, _ = learner_of(folder, p)
    c = dataclasses.replace(c or FittedQ(), chunk=chunk_of(p, folder))
    if c.chunk.horizon > 1 and looks_on(p.algorithm.act, vars_of(p, trained), p.program.env):
        raise UserError(
            f"{folder} decides each action of a plan at its own step, and here whole chunks are valued", FIX
        )
    env = p.program.env
    data, about = formats.for_env(path, env, kept["env"])
    say_apart(folder, kept["data"], path, about)
    held = env.held if isinstance(env, HeldOut) else data
    s = OfflineSettings(seed=p.settings.seed, seeds=p.settings.seeds, batch=batch, offline_steps=updates)
    units = normalise.as_dict({"obs": normalise.of_data(data, "standard", "none")["obs"]})
    given = {JUDGED: reads(trained, p.inputs)._asdict(), UNITS: for_each(s.seeds, units)}
    build = functools.partial(fitted_q, policy=p.algorithm.act)
    program, x = assemble(build, c, env, s, given, data)
    offline.check(program, x, s)
    given, data = spread(s.seeds, (x.given, x.data))
    x = x._replace(given=given, data=data)
    assert held is not None  # for_env has held them out
    before, values = fit(program, x, s, x._replace(data=spread(s.seeds, held)), kept["label"])
    back = float(jnp.mean(to_go(held, c.chunk)[held.episodes]))
    return Estimated(folder, kept["label"], values, values - before, back, played(folder))


def say_apart(folder: Path, kept: Mapping[str, Any] | None, path: Path, about: Mapping[str, Any]) -> None:
    """Says on stderr where a run was trained on data of another robot than those that judge it, as far as both say.

    Args:
        kept: what the run keeps of its data; ``about`` is what those that judge it say of themselves.
    """
    if kept and kept["fingerprint"] != about["fingerprint"] and (odd := apart(kept, about)):
        fix = "what one robot's numbers mean tells nothing of the other's"
        print(f"warning: {folder} was trained on data of other {' and '.join(odd)} than {path}: {fix}", file=sys.stderr)


def chunk_of(p: Opened, folder: Path) -> ChunkConfig:
    """The chunks that a run plays: whole, or the first actions of each.

    Raises:
        UserError: a scheme of another kind, whose plays are no chunks of one length.
    """
    c, (name, _, steps) = p.config.chunk, p.settings.execute.partition(":")
    if name not in ("open-loop", "receding") or p.settings.delay:
        raise UserError(f"{folder} plays by {p.settings.execute}, whose chunks have no one length", FIX)
    if name == "open-loop" and p.algorithm.act.ends:
        raise UserError(f"{folder} says of each plan how far it plays it, so its chunks have no one length", FIX)
    length = int(steps) if steps else p.algorithm.act.length or c.horizon
    if c.codec != "none" and c.replan == "smooth" and length < c.horizon - 1:
        raise UserError(f"{folder} goes on from its old plans (--chunk.replan smooth), which nobody has here", FIX)
    return dataclasses.replace(c, horizon=length, backup=(), codec="none", starts=ChunkConfig().starts)


def looks_on(policy: Policy, vars: Vars, env: Any) -> bool:
    """Whether an action of a plan depends on what is seen while it is played, as a skill's does: told from ``emit``'s program."""
    obs = jax.tree.map(lambda x: jnp.zeros((1, *x.shape), x.dtype), obs_like(env))
    plan = jax.eval_shape(functools.partial(sampling.act, policy), vars, jax.random.key(0), obs)
    jaxpr = jax.make_jaxpr(lambda obs, plan: policy.emit(vars, plan, 1, obs))(obs, plan).jaxpr
    return depends(jaxpr, 0, len(jax.tree.leaves(obs)))


def fitted_q(c: FittedQ, policy: Policy) -> Algorithm:
    """Temporal differences towards the chunks of a policy whose variables are ``given[JUDGED]``; nothing else is learned."""
    q, judged = seen_in_units(chunk_q(c.critic)), as_given(policy, c.chunk.horizon)
    return learner([q], judged, [td(q, judged)], c.optim)


def as_given(policy: Policy, length: int) -> Policy:
    """The policy with the variables that were given, its chunks as the ``length`` actions that it would play of them."""

    def mine(vars: Any) -> Any:
        return type(vars)(**vars.given[JUDGED])

    def plan(vars: Any, noise: Any, obs: Any, old: Any = None) -> Plan:
        made = policy.plan(mine(vars), noise, obs, None)
        actions = [policy.emit(mine(vars), made, i, obs) for i in range(length)]
        return Plan(jnp.stack(actions, axis=-2))

    return Policy(
        draw=lambda vars, key, obs: policy.draw(mine(vars), key, obs),
        plan=plan,
        emit=lambda vars, plan, i, obs: plan.action[..., i, :],
        length=length,
    )


def seen_in_units(q: Critic) -> Critic:
    """The critic with observations in the units of ``given[UNITS]``."""

    def see(fn: Any) -> Any:
        def call(vars: Any, obs: Any, action: Array | None = None, level: Any = CLEAN) -> Array:
            units = normalise.of_given({normalise.STATS: vars.given[UNITS]})["obs"]
            return fn(vars, normalise.apply(units, obs), action, level)

        return call

    return q._replace(values=see(q.values), score=see(q.score))


def fit(program: Program, x: Inputs, s: OfflineSettings, held: Inputs, title: str) -> tuple[np.ndarray, np.ndarray]:
    """The updates, in parts between which Ctrl-C is heard: ``first_values`` of the held-out data where nine tenths are done, and at the end."""
    made, done, found = init(program, x), 0, []
    with Bar(s.offline_steps, 0, quiet=False, title=title) as bar:
        for end in (s.offline_steps * 9 // 10, s.offline_steps):
            while done < end:
                stopping.check()
                part = min(PART, end - done)
                made, _ = offline.updates(program, s.batch, made, x, part)
                done += part
                bar.move(done)
            found.append(np.asarray(first_values(program, made, held)))
    return found[0], found[1]


@functools.partial(jax.jit, static_argnums=0)
def first_values(program: Program, learner: Learner, x: Inputs) -> Array:
    """[S]: the target networks' mean value of the policy's chunks at the first states of episodes."""

    def one_seed(learner: Learner, x: Inputs) -> Array:
        vars, algorithm = reads(learner, x), program.algorithm(x.c)
        q, first = seen_in_units(chunk_q(x.c.critic)), jax.tree.map(lambda leaf: leaf[x.data.episodes], x.data.obs)

        def once(key: Array) -> Array:
            action = sampling.act(algorithm.act, vars, key, first).action
            return jnp.mean(q.aggregate(q.values(target_view(vars), first, action)))

        return jnp.mean(jax.lax.map(once, jax.random.split(stream(x.keys, "evaluation"), SAMPLES)))

    return each_seed(one_seed, learner, x)


def played(folder: Path) -> float:
    """The mean return of a run's last evaluation; NaN where it was not played."""
    lines = [line["values"] for line in run_folder.read_metrics(folder) if line["kind"] == "eval"]
    found = lines[-1].get("return") if lines else None
    return float(np.mean([np.nan if v is None else v for v in found])) if found else float("nan")


def table(found: Sequence[Estimated]) -> Rows:
    """A row for each run, the highest estimate first; what is not finite last. Differences are to the first run that was named."""
    order = sorted(found, key=lambda r: (not np.isfinite(r.values).all(), -float(np.mean(r.values))))
    return [row_of(r, found[0]) for r in order]


def as_json(r: Estimated) -> dict[str, Any]:
    """An estimate in JSON's own types."""
    return {**r._asdict(), "folder": str(r.folder), "values": r.values.tolist(), "moved": r.moved.tolist()}


def caveats(found: Sequence[Estimated]) -> list[str]:
    """What a reader must know of the table, in lines."""
    return [SETTLED, CAVEAT] if any(r.data for r in found) else [NOTHING, SETTLED, CAVEAT]


def row_of(r: Estimated, base: Estimated) -> dict[str, str]:
    """A run's estimate, and its difference to another's where they have as many seeds."""
    mean, spread = records.show(interval(r.values), "return")
    row = {
        "run": str(r.folder),
        "method": r.label,
        "seeds": str(len(r.values)),
        "estimate": mean,
        "95 % interval": spread,
        "last change": f"{np.mean(r.moved):+.2g}",
    }
    apart = "" if r is base or len(r.values) != len(base.values) else _apart(r.values, base.values)
    real = "" if np.isnan(r.played) else f"{r.played:.2f}"
    return {**row, "less the first run's": apart, "of the data": f"{r.data:.2f}", "return when played": real}


def _apart(a: np.ndarray, b: np.ndarray) -> str:
    return records.in_words(paired_difference(a, b), "return")
