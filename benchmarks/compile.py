"""Tracing and compiling one dispatch of every method's driver, from empty caches, over the same for plain products.

The reference is the floor of an update of Q-chunking (update.py): its products and one Adam step, in a loop. ``python benchmarks/compile.py --only qc``
measures some methods alone.
"""

from __future__ import annotations

from typing import Any

import jax
from _methods import BATCH, SIZES, SPEC, asked, configured, data_set, given_of, offline_run, on_policy, updating
from _products import arrays, with_adam
from _timing import medians, tell

from qchunk import envs
from qchunk.drivers import offline
from qchunk.drivers import on_policy as driver
from qchunk.drivers.common import assemble, init
from qchunk.seeds import for_each
from qchunk.types import Spec

REPEATS, ENV = 3, "tabletop/cube-single-task1"


def afresh(lower):
    """Seconds from nothing to a program."""

    def run():
        jax.clear_caches()
        lower().compile()

    return run


def plain():
    """The reference."""
    build, c = configured("qc", SIZES["3x128"])
    products = updating(build, c)
    start, step = with_adam(products, arrays(products))
    loop = start(build(c).init(jax.random.key(0), SPEC, {}).params)
    return lambda: jax.jit(lambda loop: jax.lax.fori_loop(0, 10, step, loop)).lower(loop)


def dispatch(name: str, data: Any):
    """What a method's driver calls over and over, ready to be lowered: a block of updates, or an iteration."""
    build, c = configured(name, SIZES["3x128"])
    if not on_policy(c):
        program, x = offline_run(build, c, data)
        learner = init(program, x)
        return lambda: offline.updates.lower(program, BATCH, learner, x, 1)
    env = envs.make(ENV)
    spec = Spec(env.observation_size, env.action_size, c.chunk.horizon)
    program, x = assemble(build, c, env, driver.OnPolicySettings(), for_each(1, given_of(c, spec)))
    learner = init(program, x)
    loop = driver.start(program, x, learner)
    return lambda: driver.iterate.lower(program, learner, loop, x, 1)


if __name__ == "__main__":
    jax.config.update("jax_enable_compilation_cache", False)  # a program kept on disk would not be compiled
    data = data_set()
    for name in asked():
        t = medians(REPEATS, plain=afresh(plain()), method=afresh(dispatch(name, data)))
        tell(
            f"compile {name}",
            seconds=t["method"],
            plain_seconds=t["plain"],
            ratio=t["method"] / t["plain"],
            better="lower",
        )
