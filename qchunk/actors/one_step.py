"""Kernels of one step, from noise to the chunk at once."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from qchunk import nets
from qchunk.actor_configs import OneStepConfig
from qchunk.actors.paths import end_of
from qchunk.actors.perceptron import perceptron
from qchunk.types import Array, Chunk, Kernel, Key, LossFn, Module, PyTree, StepFn, Vars

ONE_STEP = np.asarray([[0.0, 1.0], [1.0, 0.0]])  # (alpha, sigma): noise, then data


def one_step(
    module: Module, shape: Callable[[PyTree], tuple[int, ...]], step: StepFn, noisy: bool, loss: LossFn
) -> Kernel:
    """A Kernel with K = 1: pure noise x, then the chunk. A student that generates in one step is made of it, too.

    Args:
        shape: the module's parameters -> (H, A).
        step: what becomes of the noise x, at k = 0; it may leave x unread.
        noisy: whether ``step`` has a positive standard deviation.
        loss: of imitation, without noise.
    """
    return Kernel(
        modules=(module,),
        levels=ONE_STEP,
        shape=lambda vars: shape(vars.params[module.name]),
        denoise=lambda vars, obs, x, k: step(vars, obs, x, k)[0],
        advance=None,
        step=step,
        noisy=noisy,
        draw=lambda key, chunk: (),
        loss=loss,
    )


def one_step_actor(c: OneStepConfig, name: str = "actor") -> Kernel:
    """The one-step actor mu(s, z): one pass of a network, without a time, turns noise z into the chunk (2507.07969, section 4).

    It is usually distilled (``losses.distil``). Cloned, it learns by the energy score E|mu(z) - a| - E|mu(z) - mu(z')| / 2 of
    two samples, which only the data's distribution makes least (Gneiting and Raftery 2007, eq. 21); |x| is the root mean square over
    a chunk's numbers inside its episode. Observation and noise are joined in this order.
    """

    module = perceptron(c, name)
    apply = module.apply

    def step(vars: Vars, obs, x: Array, k) -> tuple[Array, float]:
        del k
        return apply(vars.params[name], obs, x), 0.0

    def draw(key: Key, chunk: Chunk) -> Array:
        return jax.random.normal(key, (2, *chunk.action.shape))

    def loss(vars: Vars, noise: Array, chunk: Chunk) -> Array:
        one, two = apply(vars.params[name], chunk.obs, noise)

        def size(x: Array) -> Array:  # the small number keeps the gradient of the root finite at 0
            return jnp.sqrt(jnp.mean(jnp.square(x) * chunk.mask[..., None], axis=(-2, -1)) + 1e-12)

        return (size(one - chunk.action) + size(two - chunk.action) - size(one - two)) / 2

    def follow(teacher: Kernel) -> LossFn:
        """Distillation: squared error to the chunk that the teacher makes of the same noise (2502.02538, eq. 8)."""
        end = end_of(teacher)

        def lesson(vars: Vars, noise: Array, chunk: Chunk) -> Array:
            error = apply(vars.params[name], chunk.obs, noise[0]) - end(vars, chunk.obs, noise[0])
            return jnp.mean(jnp.square(error) * chunk.mask[..., None], axis=(-2, -1))

        return lesson

    kernel = one_step(module, nets.output_shape, step, False, loss)
    return kernel._replace(draw=draw, follow=follow)
