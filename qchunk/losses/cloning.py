"""Behaviour cloning with an iterative actor."""

from __future__ import annotations

import jax.numpy as jnp

from qchunk.losses.terms import module_names
from qchunk.types import Array, Chunk, Kernel, Metrics, Term, Vars


def bc(kernel: Kernel, name: str = "bc") -> Term:
    """Imitation by the Kernel's own denoising loss, averaged over every step of every chunk that lies inside its episode.

    The published code divides by all steps, also by the masked ones; we divide by those that count.
    """

    def fn(vars: Vars, noise, chunk: Chunk) -> tuple[Array, Metrics]:
        loss = jnp.sum(kernel.loss(vars, noise, chunk)) / jnp.maximum(jnp.sum(jnp.mean(chunk.mask, axis=-1)), 1e-8)
        return loss, {}

    return Term(name, module_names(kernel), kernel.draw, fn)
