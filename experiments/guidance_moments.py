"""What guidance's targets do to a Gaussian prior with a quadratic value, where the answer is known: docs/guidance.md's table.

``python experiments/guidance_moments.py`` prints it (markdown), a minute on 2 cores.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from qchunk.actors import paths
from qchunk.actors.paths import decode
from qchunk.envs.probes import bandit
from qchunk.improve import diffuser, guide
from qchunk.types import Kernel, Vars

N, WEIGHT, NOTHING = 20_000, 2.0, Vars({}, {}, {}, {})
GRIDS = {
    "flow (Euler)": (paths.linear, 0.0),
    "flow (SDE)": (paths.linear, 1.0),
    "DDPM, cosine": (lambda k: paths.variance_preserving(paths.signal("cosine", k), np.arange(k)[::-1]), 1.0),
    "DDIM, cosine": (lambda k: paths.variance_preserving(paths.signal("cosine", k), np.arange(k)[::-1]), 0.0),
}


def moments(kernel: Kernel) -> tuple[float, float]:
    """Mean and variance of samples of a scalar Kernel."""

    @jax.jit
    def draw(key):
        start_key, step_key = jax.random.split(key)
        steps = jax.random.normal(step_key, (N, len(kernel.levels) - 1, 1, 1)) if kernel.noisy else None
        return decode(kernel, NOTHING, jnp.zeros((N, 1)), jax.random.normal(start_key, (N, 1, 1)), steps)

    out = np.asarray(draw(jax.random.key(0)))
    return float(out.mean()), float(out.var())


def main() -> None:
    p = bandit.SCALAR
    mean, cov = bandit.tilted(p, WEIGHT)
    print(f"prior N(0.3, 0.5), Q = -(a - 1.5)^2 / 2, w = 2: the tilted prior is N({mean[0]:.3f}, {cov[0, 0]:.3f})\n")
    print("| target | " + " | ".join(f"{name}, K = {k}" for name in GRIDS for k in (10, 400)) + " |")
    print("| --- |" + " --- |" * (2 * len(GRIDS)))
    for target in ("log-expectation", "mean", "clean", "diffuser"):
        cells = []
        for grid, eta in GRIDS.values():
            for k in (10, 400):
                kernel = bandit.kernel(p, grid(k), eta)
                value = bandit.value(p, "mean" if target == "diffuser" else target, WEIGHT)
                if target == "diffuser" and not kernel.noisy:
                    cells.append("no variance")
                    continue
                guided = diffuser(kernel, value, WEIGHT, 1, 0) if target == "diffuser" else guide(kernel, value, WEIGHT)
                cells.append("{:.3f}, {:.3f}".format(*moments(guided)))
        print(f"| {target} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
