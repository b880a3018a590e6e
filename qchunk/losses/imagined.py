"""A model of whole chunks learns from windows, and values from what it imagines (MAC, 2512.08108)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from qchunk import nets
from qchunk.losses.gae import gae
from qchunk.losses.terms import module_names, no_noise, own_key, weighted_mean
from qchunk.target_networks import target_view
from qchunk.types import Array, Chunk, Critic, Metrics, Policy, Term, Vars
from qchunk.world_model import WorldModel, imagine


def fitted(model: WorldModel, name: str = "model") -> Term:
    """Squared errors of observation and return, and the cross-entropy of the end, of the data's whole windows.

    The return is the SUM of a window's discounted rewards (the published single-task code learns their mean).
    """

    def fn(vars: Vars, noise, chunk: Chunk) -> tuple[Array, Metrics]:
        del noise
        found, weight = model.ahead(vars, chunk.obs, chunk.action), chunk.weight[..., -1]
        next_obs = nets.flatten_obs(jax.tree.map(lambda o: o[..., -1, :], chunk.next_obs))
        goes_on = (chunk.discount[..., -1] > 0).astype(jnp.float32)
        errors = {
            "obs": jnp.mean(jnp.square(found.state - next_obs), axis=-1),
            "reward": jnp.square(found.reward - chunk.reward[..., -1]),
            "end": optax.sigmoid_binary_cross_entropy(found.going, goes_on),
        }
        each = {part: weighted_mean(weight, error) for part, error in errors.items()}
        return sum(each.values(), jnp.zeros(())), each

    return Term(name, module_names(model), no_noise, fn)


def expansion(
    model: WorldModel,
    critic: Critic,
    state: Critic,
    policy: Policy,
    discount: Any,
    depth: int,
    lam: Any,
    name: str = "expansion",
) -> Term:
    """Value expansion: from every state of the data ``depth`` imagined chunks of the policy; trains V and Q, and nothing else.

    V regresses on the lambda-return of V's target network at every imagined state; Q of the FIRST chunk on r + discount m V'(s').
    (The published code takes the online V there.) Q never sees a chunk of the data.

    Args:
        state: V, with a target network.
        policy: what is imagined, and acts.
        discount: gamma^h, of a whole chunk.
        lam: of the returns, in [0, 1]; 1 reaches to the last chunk.
    """

    def fn(vars: Vars, key, chunk: Chunk) -> tuple[Array, Metrics]:
        fixed = jax.lax.stop_gradient(vars)
        path = imagine(model, policy, fixed, key, chunk.obs, depth)
        value, next_value = (state.score(target_view(fixed), obs) for obs in (path.obs, path.next_obs))
        through = discount * path.going
        _, target = gae(path.reward, through, value, next_value, jnp.zeros_like(value), lam)
        v = state.values(vars, path.obs)
        q = critic.values(vars, path.obs[0], path.action[0])
        aim = path.reward[0] + through[0] * next_value[0]
        loss = jnp.mean(jnp.square(v - target)) + jnp.mean(jnp.square(q - aim))
        return loss, {"v": jnp.mean(v), "q": jnp.mean(q), "target": jnp.mean(target), "going": jnp.mean(path.going)}

    return Term(name, (*module_names(state), *module_names(critic)), own_key, fn)
