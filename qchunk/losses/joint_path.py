"""Policy gradients on whole paths (2505.22094, ReinFlow): one ratio for all denoising steps of a decision."""

from __future__ import annotations

import distrax
import jax
import jax.numpy as jnp

from qchunk.actors.paths import count_steps
from qchunk.losses.ppo_path import Likelihood
from qchunk.losses.terms import no_noise
from qchunk.sampling import log_prob, mean_inside
from qchunk.types import Chunk, Kernel, Metrics, Module, Term, Vars

BOUND = 1.0  # of a path's log-probability per number (code)


def of_path(kernel: Kernel) -> Likelihood:
    """Log-probability of a played path [*B, 1], the start's and all K steps', per number of its K + 1 chunks, within [-1, 1].

    Sampling and probability share one grid of times; in the published code of commit aed28193 they do not where K > 1. With little noise and many
    steps paths lie outside of the bound, and have no gradient: 20 steps with deviations of 0.05 to 0.12 begin at 1.02.
    """

    def likelihood(vars: Vars, chunk: Chunk):
        path = chunk.extras["path"]
        steps = log_prob(kernel, vars, chunk.obs, path, chunk.mask, bounds=None)
        start = mean_inside(distrax.Normal(0.0, 1.0).log_prob(path[..., 0, :, :]), chunk.mask)
        total = (start + jnp.sum(steps, axis=-1)) / (steps.shape[-1] + 1)
        return jnp.clip(total, -BOUND, BOUND)[..., None]

    return likelihood


def path_entropy(kernel: Kernel, noise: Module, weight: float, start: int = 0, name: str = "entropy") -> Term:
    """Minus ``weight`` times the entropy of the played paths, per number of their K + 1 chunks, in nats. It moves the noise alone."""
    steps = count_steps(kernel)

    def fn(vars: Vars, no, chunk: Chunk) -> tuple[jax.Array, Metrics]:
        del no
        k = jnp.arange(steps).reshape(-1, *(1,) * (chunk.mask.ndim - 1))
        obs = jax.tree.map(lambda o: jnp.broadcast_to(o, (steps, *o.shape)), chunk.obs)
        x = jnp.moveaxis(chunk.extras["path"][..., :-1, :, :], -3, 0)
        std = kernel.step(vars, obs, x, k)[1]
        of_steps = jnp.sum(mean_inside(distrax.Normal(0.0, std).entropy(), chunk.mask), axis=0)
        found = jnp.mean(of_steps + distrax.Normal(0.0, 1.0).entropy()) / (steps + 1)
        return -weight * found, {"entropy": found, "std": jnp.mean(std)}

    return Term(name, (noise.name,), no_noise, fn, start=start)
