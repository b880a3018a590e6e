"""Environment steps per second of E = 1,024 ... 65,536 environments at once on a GPU, under all three wrappers: a step over E / 1,024 times one of 1,024."""

from __future__ import annotations

import concurrent.futures
from typing import Any

import jax
import jax.numpy as jnp
from _accelerator import SMOKE, needed
from _timing import medians, tell

from qchunk import envs
from qchunk.envs.base import wrap
from qchunk.system.processes import cores

BEGUN = 256  # environments that are reset; the others begin as they do
NAMES, SIZES, STEPS, REPEATS = (
    (["probe/two-step"], (8, 16), 4, 1)
    if SMOKE
    else (
        [
            *(f"tabletop/cube-{scene}-task1" for scene in ("single", "double")),
            *(f"brax/{robot}@spring" for robot in ("hopper", "halfcheetah", "ant")),
            "brax/hopper@mjx",
        ],
        (1024, 8192, 65536),
        20,
        5,
    )
)


def stepping(env: Any, start: Any, size: int) -> Any:
    """(compiled program of STEPS steps, its arguments)."""
    wrapped = wrap(env)
    state = jax.tree.map(lambda x: x[jnp.arange(size) % BEGUN], start)
    actions = jax.random.uniform(jax.random.key(1), (STEPS, size, env.action_size), minval=-1.0)
    run = jax.jit(lambda state, actions: jax.lax.scan(lambda s, a: (wrapped.step(s, a), None), state, actions)[0])
    return run.lower(state, actions).compile(), (state, actions)


def main() -> None:
    needed()
    with concurrent.futures.ThreadPoolExecutor(cores()) as pool:  # compilers run beside each other
        made = {name: envs.make(name) for name in NAMES}
        reset = lambda env: jax.jit(wrap(env).reset)(jax.random.split(jax.random.key(0), BEGUN))  # noqa: E731
        begun = {name: pool.submit(reset, env) for name, env in made.items()}
        ready = lambda name, size: stepping(made[name], begun[name].result(), size)  # noqa: E731
        programs = {(name, size): pool.submit(ready, name, size) for name in NAMES for size in SIZES}
        concurrent.futures.wait(programs.values())
    for name in NAMES:
        alone = 0.0
        for size in SIZES:
            program, arguments = programs[name, size].result()
            took = medians(REPEATS, run=lambda: program(*arguments))["run"] / (STEPS * size)
            alone = alone or took
            tell(f"{name} E={size}", million_steps_per_second=1e-6 / took, ratio=took / alone, better="lower")


if __name__ == "__main__":
    main()
