"""Actors that jump along a flow: their network says the mean velocity from a time t to a later one, so that a step or two generate a chunk.

The time runs from 0 (noise) to 1 (data), as in every flow here; the MeanFlow papers' runs the other way.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from qchunk.actor_configs import MeanFlowConfig, ShortcutConfig
from qchunk.actors import paths
from qchunk.actors.paths import velocity_of
from qchunk.actors.perceptron import perceptron
from qchunk.types import Array, Chunk, DrawFn, Kernel, Key, LossFn, Module, PyTree, Vars

Aim = Callable[[Vars, PyTree, Array, Array, Array], Array]
"""(vars, obs, x [*B, H, A], t [*B, 1], a - z [*B, H, A]) -> what the velocity at x is to be [*B, H, A]."""


def shortcut(c: ShortcutConfig, name: str = "actor") -> Kernel:
    """A shortcut model s(x, t, d) (2410.12557): a jump of d is to end where two of d / 2 do.

    Every fourth row regresses s(x_t, t, d) on the mean of s(x_t, t, d / 2) and s(x_t + d / 2 s, t + d / 2, d / 2), which get no gradient:
    d = 1, 1/2 ... 2 / ``c.grid``, t a multiple of d; of the shortest d the halves are asked for as a flow's, s(x_t, t, 0). The other rows regress
    s(x_t, t, 0) on a - z at t ~ U[0, 1), as a flow does.
    """
    return shortcut_kernel(_network(c, name), c.steps, c.grid)


def shortcut_kernel(module: Module, steps: int, grid: int) -> Kernel:
    """The shortcut Kernel of a network (params, obs, x [*B, H, A], t [*B, 1], jump [*B, 1]) -> velocity [*B, H, A]."""
    name = module.name

    def draw(key: Key, chunk: Chunk) -> tuple[Array, ...]:
        noise_key, time_key, jump_key, start_key = jax.random.split(key, 4)
        lead = (*chunk.action.shape[:-2], 1)
        jump = 0.5 ** jax.random.randint(jump_key, lead, 0, grid.bit_length() - 1).astype(jnp.float32)
        start = jnp.floor(jax.random.uniform(start_key, lead) / jump) * jump
        return jax.random.normal(noise_key, chunk.action.shape), jax.random.uniform(time_key, lead), start, jump

    def learning(aim: Aim) -> LossFn:
        def loss(vars: Vars, noise: tuple[Array, ...], chunk: Chunk) -> Array:
            rows = noise[0].shape[0]
            # every fourth row first: spread over a batch, whose first part may be a data set's
            order = np.argsort(np.arange(rows) % 4 != 3, kind="stable")
            seen = chunk.obs, chunk.action, *noise
            obs, action, z, t, start, jump = jax.tree.map(lambda x: x[order], seen)
            few = rows // 4  # that jump
            first, rest = (lambda tree: jax.tree.map(lambda x: x[:few], tree)), (lambda x: x[few:])
            t = jnp.concatenate([first(start), rest(t)])
            x, held, half = _between(z, t, action), jax.lax.stop_gradient(vars.params[name]), first(jump) / 2
            asked = jnp.where(half <= 1 / grid, 0.0, half)
            once = module.apply(held, first(obs), first(x), first(t), asked)
            middle = first(x) + half[..., None] * once
            twice = module.apply(held, first(obs), middle, first(t) + half, asked)
            now = aim(vars, jax.tree.map(rest, obs), rest(x), rest(t), rest(action - z))
            jump = jnp.concatenate([first(jump), jnp.zeros_like(rest(jump))])
            error = module.apply(vars.params[name], obs, x, t, jump) - jnp.concatenate([(once + twice) / 2, now])
            return jnp.mean(jnp.square(error[np.argsort(order)]) * chunk.mask[..., None], axis=(-2, -1))

        return loss

    return _kernel(module, steps, draw, learning)


def mean_flow(c: MeanFlowConfig, name: str = "actor") -> Kernel:
    """MeanFlow (2505.13447): the mean velocity u from t to r regresses on v + (r - t) du/dt, one Jacobian-vector product.

    v = a - z, and du/dt is along the path, (x, t, r) moving by (v, 1, 0); the target gets no gradient. t and r are the lesser and the greater
    of two uniform draws, equal for a share ``c.same`` of the batch, which is a flow's regression. A chunk's squared error e, a mean over its
    numbers, counts e / (e + 1e-3)^power. With ``c.instant`` the square of u(x, t, t) - v is added, whose minimum is unique (MVP, 2602.13810).
    """
    module = _network(c, name)

    def draw(key: Key, chunk: Chunk) -> tuple[Array, Array, Array]:
        noise_key, time_key, same_key = jax.random.split(key, 3)
        lead = chunk.action.shape[:-2]
        ends = jnp.sort(jax.random.uniform(time_key, (*lead, 2)), axis=-1)
        jump = jnp.where(jax.random.bernoulli(same_key, c.same, (*lead, 1)), 0.0, ends[..., 1:] - ends[..., :1])
        return jax.random.normal(noise_key, chunk.action.shape), ends[..., :1], jump

    def learning(aim: Aim) -> LossFn:
        def loss(vars: Vars, noise: tuple[Array, ...], chunk: Chunk) -> Array:
            z, t, jump = noise
            x, params = _between(z, t, chunk.action), vars.params[name]
            v = aim(vars, chunk.obs, x, t, chunk.action - z)

            def size(error: Array) -> Array:
                return jnp.mean(jnp.square(error) * chunk.mask[..., None], axis=(-2, -1))

            def mean_velocity(x: Array, t: Array, jump: Array) -> Array:
                return module.apply(params, chunk.obs, x, t, jump)

            u, change = jax.jvp(mean_velocity, (x, t, jump), (v, jnp.ones_like(t), -jnp.ones_like(t)))
            each = size(u - jax.lax.stop_gradient(v + jump[..., None] * change))
            inside = jnp.maximum(jnp.mean(chunk.mask, axis=-1), 1e-8)  # an error is that of the steps that count
            each = each * jax.lax.stop_gradient((each / inside + 1e-3) ** -c.power)
            return each + size(mean_velocity(x, t, jnp.zeros_like(t)) - v) if c.instant else each

        return loss

    return _kernel(module, c.steps, draw, learning)


def _network(c: ShortcutConfig | MeanFlowConfig, name: str) -> Module:
    """(params, obs, x [*B, H, A], t [*B, 1], jump [*B, 1]) -> mean velocity from t to t + jump [*B, H, A]."""
    return perceptron(c, name, lambda spec: (1, 1))


def _kernel(module: Module, steps: int, draw: DrawFn, learning: Callable[[Aim], LossFn]) -> Kernel:
    """K jumps of 1 / K. ``denoise`` is where the jump's velocity would lead in all the time that is left.

    Such a Kernel has no ``velocity``: that of its network at a time itself is not what it acts by.
    """
    levels = paths.linear(steps)

    def denoise(vars: Vars, obs, x: Array, k) -> Array:
        t, rest = paths.numbers(levels, k)
        t = t[..., 0]
        return x + rest * module.apply(vars.params[module.name], obs, x, t, jnp.full_like(t, 1 / steps))

    def follow(teacher: Kernel) -> LossFn:
        toward = velocity_of(teacher)
        return learning(lambda vars, obs, x, t, straight: jax.lax.stop_gradient(toward(vars, obs, x, t)))

    of_data = learning(lambda vars, obs, x, t, straight: straight)
    return paths.denoiser_kernel(module, levels, 0.0, denoise, draw, of_data)._replace(follow=follow)


def _between(z: Array, t: Array, action: Array) -> Array:
    return (1 - t[..., None]) * z + t[..., None] * action
