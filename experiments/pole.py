"""probe/pole with chunks of 16: regression averages left and right and crashes, generative actors pass on both sides.

Prints, beside success, how many episodes crash and on which side the others pass; what looking up neighbours in the data
would do (their mean, or one of them); and draws chunks of the prior, their values, and guided chunks.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from _suite import OPTIM, SMALL, TAU, opened

from qchunk import envs, sampling
from qchunk.actor_configs import DiffusionConfig, FlowConfig, GaussianConfig, RegressionConfig
from qchunk.algorithms.bc import BC
from qchunk.algorithms.value_guided import ValueGuided
from qchunk.comparison.suite import Data, Run, Suite, folder_of
from qchunk.config import ChunkConfig, CriticConfig
from qchunk.critics.chunk_q import chunk_q
from qchunk.data import formats
from qchunk.drivers.online import OnlineSettings
from qchunk.envs.base import wrap
from qchunk.envs.probes.averaging import GOAL, POLE, SPEED
from qchunk.play.execute import receding
from qchunk.play.on_device import rollout
from qchunk.play.rollout import Steps
from qchunk.runs.opened import vars_of

ENV, DATA, H = "probe/pole", Data("probe/pole", 100_000), 16
ACTORS = {
    "regression": RegressionConfig(SMALL),
    "gaussian": GaussianConfig(SMALL),
    "mixture of 5": GaussianConfig(SMALL, components=5),
    "flow": FlowConfig(SMALL, ema=True),
    "diffusion": DiffusionConfig(SMALL, ema=True),
}
EPISODES = 256


def suite(scale: str) -> list[Run]:
    """Five ways to imitate, and the flow guided by the critic of its own behaviour, 4 seeds."""
    settings = OnlineSettings(seeds=4, offline_steps=30_000, eval_every=5_000, episodes=EPISODES)
    cloned = [Run("bc", ENV, DATA, BC(ChunkConfig(H), c, OPTIM), settings, name) for name, c in ACTORS.items()]
    small = CriticConfig(SMALL, tau=TAU)
    value = CriticConfig(SMALL, members=1, tau=TAU)
    guided = ValueGuided(ACTORS["flow"], ChunkConfig(H), small, value, OPTIM, weight=1.0)
    return [*cloned, Run("value-guided", ENV, DATA, guided, settings, "guided flow", prior=f"{ENV}/flow")]


def played(folder: Path) -> list[Steps]:
    """What each seed's policy does in 256 episodes."""
    p, learner = opened(folder)
    found = []
    for i in range(p.settings.seeds):
        vars, scheme, env = vars_of(p, learner, i), receding(p.algorithm.act, H, H), wrap(envs.make(ENV))
        _, steps = rollout(env, scheme, vars, jax.random.key(100 + i), -(-100 // H), envs=EPISODES)
        found.append(jax.tree.map(np.asarray, steps))
    return found


def sides(steps: Steps) -> dict[str, float]:
    """Shares of first episodes: reached the goal on the left, on the right, or hit the pole."""
    done = np.maximum(steps.terminal, steps.truncation) * steps.alive
    first = (np.cumsum(done, axis=0) - done == 0) & (steps.alive > 0)  # [n, E]
    crash = ((steps.reward == -100) & first).any(axis=0)
    success = ((steps.reward == 0) & first).any(axis=0)
    middle = np.argmin(np.where(first, np.abs(steps.obs[..., 0]), np.inf), axis=0)
    left = steps.obs[middle, np.arange(steps.obs.shape[1]), 1] > 0
    return {"left": np.mean(success & left), "right": np.mean(success & ~left), "crash": np.mean(crash)}


def neighbours(path: Path, horizon: int, count: int, average: bool, seed: int = 0) -> float:
    """Success of looking up the ``count`` nearest observations in the data: playing the mean of their chunks, or one."""
    rows, _ = formats.load(path)
    data = formats.to_device(rows)
    start = np.asarray(data.starts)[np.asarray(data.left[data.starts]) >= horizon]
    known = jnp.asarray(rows.obs[start])
    chunk = jnp.asarray(np.stack([rows.action[start + i] for i in range(horizon)], axis=1))  # [M, H, A]
    env = wrap(envs.make(ENV))

    @jax.jit
    def decide(key, obs):
        _, near = jax.lax.top_k(-jnp.sum((obs[:, None] - known) ** 2, -1), count)  # [E, count]
        one = jax.random.randint(key, (len(obs),), 0, count)
        return jnp.mean(chunk[near], 1) if average else chunk[near[jnp.arange(len(obs)), one]]

    key = jax.random.key(seed)
    state, ended, success = env.env.reset(jax.random.split(key, 200)), np.zeros(200, bool), np.zeros(200, bool)
    step = jax.jit(env.env.step)
    for i in range(-(-100 // horizon)):
        plan = decide(jax.random.fold_in(key, i), state.obs)
        for j in range(horizon):
            state = step(state, plan[:, j])
            success |= ~ended & (np.asarray(state.metrics["success"]) > 0)
            ended |= np.asarray(state.done) > 0
    return float(success.mean())


def draw(root: Path, out: Path) -> None:
    """Chunks from the start: of the prior, the same coloured by the critic, and guided ones."""
    folder = root / "runs" / ENV / "guided flow"
    p, learner = opened(folder)
    vars = vars_of(p, learner)
    obs = jnp.broadcast_to(jnp.asarray([-1.0, 0.0]), (200, 2))
    policies = {w: p.program.build(dataclasses.replace(p.config, weight=w)).act for w in (0.0, 1.0)}
    chunks = {w: sampling.act(q, vars, jax.random.key(0), obs).action for w, q in policies.items()}
    value = chunk_q(p.config.critic).score(vars, obs, chunks[0.0])
    figure, axes = plt.subplots(1, 3, figsize=(12, 4), sharey=True, layout="constrained")
    shown = [(chunks[0.0], None, "prior"), (chunks[0.0], value, "prior, by value"), (chunks[1.0], None, "guided")]
    for axis, (actions, colour, title) in zip(axes, shown, strict=True):
        path = np.asarray(obs[:, None] + SPEED * jnp.cumsum(actions, axis=1))
        hit = (np.linalg.norm(path, axis=-1) < POLE).any(axis=1).mean()
        ranks = None if colour is None else np.argsort(np.argsort(np.asarray(colour))) / len(colour)
        for i, line in enumerate(path):
            axis.plot(*line.T, lw=0.6, alpha=0.5, color="C0" if ranks is None else plt.cm.viridis(ranks[i]))
        axis.add_patch(plt.Circle((0, 0), POLE, color="0.3"))
        axis.add_patch(plt.Circle(GOAL, 0.1, color="C2"))
        axis.plot(-1.0, 0.0, "k.")
        axis.set(title=f"{title}: {100 * hit:.0f} % hit the pole", aspect="equal", xlim=(-1.1, 1.15), ylim=(-0.9, 0.9))
    figure.savefig(out, dpi=110)


def look(root: Path, todo: list[Run]) -> None:
    """Sides, neighbours and the picture, into the report's folder."""
    lines = ["| actor | seed | left % | right % | crash % |", "| --- | --- | --- | --- | --- |"]
    for run in todo:
        for seed, steps in enumerate(played(folder_of(run, root))):
            s = sides(steps)
            lines.append(f"| {run.label} | {seed} | " + " | ".join(f"{100 * s[n]:.1f}" for n in s) + " |")
    lines += [
        "",
        "| chunk | neighbours | their mean, success % | one of them, success % |",
        "| --- | --- | --- | --- |",
    ]
    data = next((root / "data").glob("probe-pole-*.npz"))
    for horizon in (16, 4, 1):
        for count in (32, 512):
            mean, one = (neighbours(data, horizon, count, average) for average in (True, False))
            lines.append(f"| {horizon} | {count} | {100 * mean:.1f} | {100 * one:.1f} |")
    (root / "report" / "sides.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    if any(run.algorithm == "value-guided" for run in todo):
        draw(root, root / "report" / "pole.png")


SUITE = Suite(suite, after=look)
