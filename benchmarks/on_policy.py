"""One iteration of DPPO over what it cannot do without: bare environment stepping, and the products of its networks.

The flow prior walks K - K' of K = 10 steps, K' = 5 are tuned; chunks of 5, 512 environments, 3 x 128, 5 epochs. The floor's
products: deciding, values and probabilities of what was played, forward and backward products and one Adam per update.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import optax
from _methods import shapes
from _products import Products, arrays, products
from _timing import medians, tell

from qchunk import envs, sampling
from qchunk.actor_configs import FlowConfig
from qchunk.algorithms.dppo import DPPO, dppo
from qchunk.config import ChunkConfig, RolloutConfig, ValueConfig
from qchunk.drivers import on_policy
from qchunk.drivers.common import assemble, init
from qchunk.envs.base import Env, wrap
from qchunk.play.execute import Scheme
from qchunk.play.on_device import rollout
from qchunk.play.program import Inputs, Program
from qchunk.reporting import cost
from qchunk.reporting.cost import Repeated
from qchunk.types import Chunk, Spec, Vars, view

WIDTHS, T = (128,) * 3, 8
C = DPPO(
    FlowConfig(WIDTHS),
    ChunkConfig(5, discount="decision"),
    ValueConfig(WIDTHS),
    RolloutConfig(512, T, 5, 4),
    tuned_steps=5,
)
VARIED = {  # on tabletop: what the floor grows with
    "": C,
    "K 20": dataclasses.replace(C, tuned=FlowConfig(WIDTHS, steps=20)),
    "K' 10": dataclasses.replace(C, tuned_steps=10),
    "10 epochs": dataclasses.replace(C, rollout=RolloutConfig(512, T, 10, 4)),
    "4x512": dataclasses.replace(C, tuned=FlowConfig((512,) * 4), rollout=RolloutConfig(512, 2, 5, 4)),
}


def floor_of(c: DPPO, spec: Spec, chunk: Chunk) -> Products:
    """The products of one iteration that leads to decisions of these shapes, [T, E, ...]; the environment's own are not
    among them."""
    learner, given = shapes(dppo, c, spec)
    algorithm, key, r = dppo(c), jax.random.key(0), c.rollout
    explore, look, learn = algorithm.explore, algorithm.prepare, algorithm.update
    decide = lambda vars, obs: sampling.act(explore, vars, key, obs)  # noqa: E731
    ready = jax.eval_shape(look, learner, given, key, chunk)[1]
    size = r.envs * r.decisions // r.minibatches
    some = jax.tree.map(lambda x: jax.ShapeDtypeStruct((size, *x.shape[2:]), x.dtype), ready)
    return (
        Repeated(cost.products(decide, view(learner, given), jnp.zeros(chunk.obs.shape[1:])), r.decisions),
        *cost.products(look, learner, given, key, chunk),
        Repeated(cost.products(learn, learner, given, key, some), r.epochs * r.minibatches),
    )


def run_of(env: Env, c: DPPO) -> tuple[Program, Inputs]:
    """A run of one seed, on a prior of random weights."""
    program, x = assemble(dppo, c, env, on_policy.OnPolicySettings(online_steps=1))
    given = jax.tree.map(jnp.copy, {"actor": init(program, x).params["actor"]})
    return program, x._replace(given=given)


def measure(name: str, env: Env, c: DPPO) -> None:
    """Tells of an iteration in an environment."""
    t = timed(env, c)
    tell(f"iteration {name}", ratio=t.pop("ratio"), better="lower", asked=1.3, **t)


def timed(env: Env, c: DPPO) -> dict[str, float]:
    """An iteration, its environment steps alone, its products alone; ``ratio`` is of the first to the others' sum."""
    spec = Spec(env.observation_size, env.action_size, c.chunk.horizon)
    program, x = run_of(env, c)
    loop = {"learner": init(program, x)}
    loop["state"] = on_policy.start(program, x, loop["learner"])
    begun, tx = (jax.tree.map(lambda x: jnp.copy(x[0]), loop["state"].envs[0]), ()), optax.adam(1e-4)
    played = jax.eval_shape(lambda learner, state: on_policy.play(program, learner, state, x), *loop.values())
    floor = floor_of(c, spec, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), played))
    params = jax.tree.map(lambda x: jnp.copy(x[0]), loop["learner"].params)
    sides, updates = arrays(floor), c.rollout.epochs * c.rollout.minibatches

    def iteration():
        loop["learner"], loop["state"], sums = on_policy.iterate(program, loop["learner"], loop["state"], x, 1)
        return sums

    still = Scheme(
        c.chunk.horizon,
        lambda vars, key, state: (),
        lambda vars, key, state, carry: ((), ()),
        lambda vars, i, state, plan: jnp.zeros((c.rollout.envs, env.action_size)),
    )
    step = jax.jit(lambda start: rollout(wrap(env), still, Vars({}, {}, {}, {}), x.keys[0], c.rollout.decisions, start))

    @jax.jit
    def nets(params):
        used = products(floor, sides, jnp.zeros(()))

        def adam(_, loop):
            params, opt = loop
            moves, opt = tx.update(jax.tree.map(lambda p: p + 1e-9 * used, params), opt, params)
            return optax.apply_updates(params, moves), opt

        return jax.lax.fori_loop(0, updates, adam, (params, tx.init(params)))

    t = medians(7, iteration=iteration, environment=lambda: step(begun), products=lambda: nets(params))
    count = c.rollout.envs * c.rollout.decisions * c.chunk.horizon
    return {
        "ms": t["iteration"] * 1e3,
        "environment_ms": t["environment"] * 1e3,
        "products_ms": t["products"] * 1e3,
        "ratio": t["iteration"] / (t["environment"] + t["products"]),
        "env_steps_per_second": count / t["iteration"],
    }


def main() -> None:
    for name, c in VARIED.items():
        measure(f"tabletop/cube-single {name}".strip(), envs.make("tabletop/cube-single-task1"), c)
    for name in ("brax/halfcheetah@spring", "brax/ant@spring"):
        measure(name, envs.make(name), C)
    memory()


def memory() -> None:
    """Stored chains against the formula decisions x environments x (K' + 1) x H x A x 4 bytes, and all that is stored."""
    env, c = envs.make("tabletop/cube-single-task1"), dataclasses.replace(C, rollout=RolloutConfig(4096, 40, 5, 4))
    program, x = run_of(env, c)
    learner = jax.eval_shape(lambda: init(program, x))
    state = jax.eval_shape(lambda learner: on_policy.start(program, x, learner), learner)
    chunk = jax.eval_shape(lambda learner, state: on_policy.play(program, learner, state, x), learner, state)
    size = lambda tree: sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree)) / 2**20  # noqa: E731
    formula = 40 * 4096 * (c.tuned_steps + 1) * 25 * 4 / 2**20
    lowered = on_policy.iterate.lower(program, learner, state, x, 1).compile().memory_analysis()
    tell(
        "memory of 4096 environments, T 40, K' 5, MiB",
        chains=size(chunk.extras["path"]),
        formula=formula,
        stored=size(chunk),
        program=lowered.temp_size_in_bytes / 2**20 if lowered else float("nan"),
    )


if __name__ == "__main__":
    main()
