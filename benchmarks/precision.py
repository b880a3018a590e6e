"""How products are rounded: the error of each way on arrays of the published Q-chunking code, and on a GPU its time and its success, too.

An error is the greatest distance to the published array over that array's greatest number. On a CPU products are in float32 whatever is asked.
Needs the test extra: the arrays are read by tests/test_parity.py.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _accelerator import ASKED, SMOKE, on_cpu, rounded
from _methods import configured
from _timing import tell
from roofline import SIZE, STEPS, TITLE, measured

import qchunk
from qchunk.algorithms.qc import QC, qc
from qchunk.data.formats import to_device
from qchunk.play import collecting

ENV = "tabletop/cube-single-task1"
DATA, ENVS, UPDATES, SEEDS, EPISODES, WIDTHS = (
    (400, 4, 4, 2, 2, (16,)) if SMOKE else (200_000, 200, 3_000, 4, 50, (128,) * 3)
)


def cases() -> Iterator[tuple[str, Any, Any]]:
    """(what, ours, the published array)."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    import test_parity as parity

    g = parity.load("net_flow_field")
    params = parity.mlp_params(g, "params/mlp", (4, parity.A))
    v = (
        parity.flow(parity.ACTOR)
        .modules[0]
        .apply(params, jnp.asarray(g["observations"]), parity.unflat(g["x"]), jnp.asarray(g["t"]))
    )
    yield "velocity", v, g["out/mlp/velocity"]

    g = parity.load("net_value_ensemble")
    vars = parity.Vars({"critic": parity.mlp_params(g, "params/critic", ())}, {}, {}, {})
    q = parity.chunk_q(parity.CRITIC)
    yield "value", q.values(vars, jnp.asarray(g["observations"]), parity.unflat(g["actions"])), g["out/critic"]

    g = parity.load("qc_euler")
    vars = parity.Vars({"actor": parity.mlp_params(g, "params/actor_bc_flow", (4, parity.A))}, {}, {}, {})
    plan = parity.sample(parity.flow(parity.ACTOR)).plan(
        vars, parity.unflat(g["noises"]), jnp.asarray(g["observations"]), None
    )
    yield "chunk of 4 steps", plan.action, g["out/actions"]

    g = parity.load("qc_update")
    algorithm, _ = parity.assemble(g, "draws0")
    state = parity.begin(algorithm, parity.read_vars(g, "params0", 4), 4)
    _, metrics = jax.jit(algorithm.update)(state, {}, jax.random.key(0), parity.chunk_of(g, "batch0", 4))
    yield "loss of an update", metrics["loss"], g["out0/total_loss"]


def error(ours: Any, published: Any) -> float:
    return float(np.abs(np.ravel(ours) - np.ravel(published)).max() / np.abs(published).max())


def success() -> list[float]:
    """Of each seed, after a short run of Q-chunking on scripted data."""
    env = qchunk.make(ENV)
    scheme = collecting.scheme_of(env.scene, None)
    play = collecting.collect(env.scene, scheme, collecting.NO_VARS, jax.random.key(0), steps=DATA, envs=ENVS)
    c = QC(
        actor=qchunk.FlowConfig(WIDTHS, steps=5),
        critic=qchunk.CriticConfig(WIDTHS, tau=0.01),
        optim=qchunk.OptimConfig(1e-3),
        n=8,
    )
    settings = qchunk.OnlineSettings(offline_steps=UPDATES, eval_every=UPDATES, episodes=EPISODES, seeds=SEEDS)
    told = [e.values for e in qchunk.train(qc, c, env=env, data=to_device(play), settings=settings) if e.kind == "eval"]
    return [float(x) for x in told[-1]["success"]]


def main() -> None:
    asked = ASKED[: 1 if on_cpu() and not SMOKE else None]
    for rounding in asked:
        with rounded(rounding):
            for case, ours, published in cases():
                tell(f"{case}, {rounding}", error=error(ours, published))
    if on_cpu():
        print(
            "on a CPU products are in float32, whatever is asked: the other ways have the same errors", file=sys.stderr
        )
        if not SMOKE:
            return
    build, c = configured("qc", SIZE, steps=STEPS)
    plain = 0.0
    for rounding in asked:
        with rounded(rounding):
            ms = measured(build, c)
        plain = plain or ms
        tell(f"{TITLE}, {rounding}", ms=ms, ratio=ms / plain, better="lower")
    for rounding in asked:
        with rounded(rounding):
            found = success()
        tell(f"success on cube-single, {rounding}", success=sum(found) / len(found), seeds=found)


if __name__ == "__main__":
    main()
