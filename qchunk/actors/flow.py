"""The flow-matching actor: a velocity field v(s, x, t) over chunks, t = 0 noise, t = 1 data (2507.07969, section 3)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from qchunk.actor_configs import FlowConfig
from qchunk.actors import paths
from qchunk.actors.perceptron import perceptron
from qchunk.system.errors import UserError
from qchunk.types import Array, Chunk, Kernel, Key, LossFn, Module, Spec, Vars


def flow(c: FlowConfig, name: str = "actor") -> Kernel:
    """The flow-matching actor, an ODE Kernel: x_{k+1} = x_k + v(s, x_k, k/K) / K.

    Loss: z ~ N(0, I), t ~ U[0, 1), x_t = (1 - t) z + t a; regress v(s, x_t, t) on a - z, per step of the chunk.
    The time enters raw, as one number; observation, chunk and time are joined in this order. With ``c.committed`` D > 0 the first d
    actions are those of the data in each loss, d ~ U{0 .. D}, which the network is told and learns nothing about (2512.05964).
    """

    def told(spec: Spec) -> tuple[int, ...]:
        if c.committed >= spec.horizon:
            problem = f"--actor.committed {c.committed} leaves nothing of chunks of {spec.horizon} actions to learn"
            raise UserError(problem, f"give {spec.horizon - 1} or less")
        return (1, spec.horizon) if c.committed else (1,)

    return flow_kernel(perceptron(c, name, told), c.steps, c.committed)


def flow_kernel(module: Module, steps: int, committed: int = 0) -> Kernel:
    """The flow-matching Kernel of a network.

    Args:
        module: (params, obs, x [*B, H, A], t [*B, 1]) -> velocity [*B, H, A]; with ``committed`` it is told, too, which actions are given
            [*B, H].
    """
    name, apply, levels = module.name, module.apply, paths.linear(steps)

    def infill(vars: Vars, obs, x: Array, k, given: Array) -> Array:
        t, rest = paths.numbers(levels, k)
        return x + rest * apply(vars.params[name], obs, x, t[..., 0], *([given] if committed else []))

    def denoise(vars: Vars, obs, x: Array, k) -> Array:
        return infill(vars, obs, x, k, jnp.zeros(x.shape[-2]))

    def velocity(vars: Vars, obs, x: Array, t: Array) -> Array:
        return apply(vars.params[name], obs, x, t, *([jnp.zeros(x.shape[-2])] if committed else []))

    def draw(key: Key, chunk: Chunk) -> tuple[Array, ...]:
        if not committed:
            return paths.drawing(jax.random.uniform)(key, chunk)
        key, count_key = jax.random.split(key)
        count = jax.random.randint(count_key, chunk.mask.shape[:-1], 0, committed + 1)
        given = (jnp.arange(chunk.mask.shape[-1]) < count[..., None]).astype(jnp.float32)
        return *paths.drawing(jax.random.uniform)(key, chunk), given

    def loss(vars: Vars, noise: tuple[Array, ...], chunk: Chunk) -> Array:
        z, t, *given = noise  # [*B, H, A], [*B, 1] and where there is any [*B, H]
        along, mask = t[..., None], chunk.mask
        x = (1 - along) * z + along * chunk.action
        if given:
            x, mask = jnp.where(given[0][..., None] > 0, chunk.action, x), mask * (1 - given[0])
        error = apply(vars.params[name], chunk.obs, x, t, *given) - (chunk.action - z)
        return jnp.mean(jnp.square(error) * mask[..., None], axis=(-2, -1))

    def follow(teacher: Kernel) -> LossFn:
        """Reflow (2209.03003): the data's chunk is the one that the teacher makes of the same noise."""
        end = paths.end_of(teacher)
        return lambda vars, noise, chunk: loss(vars, noise, chunk._replace(action=end(vars, chunk.obs, noise[0])))

    kernel = paths.denoiser_kernel(module, levels, 0.0, denoise, draw, loss)
    kernel = kernel._replace(velocity=velocity, follow=follow)
    return kernel._replace(infill=infill, committed=committed) if committed else kernel
