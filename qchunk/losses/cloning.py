"""Behaviour cloning with an iterative actor."""

from __future__ import annotations

import jax.numpy as jnp

from qchunk.types import Array, Chunk, Kernel, Metrics, Term, Vars


def bc(kernel: Kernel) -> Term:
    """The Kernel's own denoising loss, averaged over every step of every chunk that lies inside its episode.

    The published code divides by all steps, also by the masked ones; we divide by those that count.
    """

    def fn(vars: Vars, noise, chunk: Chunk) -> tuple[Array, Metrics]:
        loss = jnp.sum(kernel.loss(vars, noise, chunk)) / jnp.maximum(jnp.sum(jnp.mean(chunk.mask, axis=-1)), 1e-8)
        return loss, {"bc_loss": loss}

    return Term(tuple(m.name for m in kernel.modules), kernel.draw, fn)
