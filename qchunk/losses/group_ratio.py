"""Policy gradients against a critic, at states of replay (2605.03065, OGPO): an actor's own chunks, judged among each other."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from qchunk.improve import repeated
from qchunk.losses.ppo_path import surrogate
from qchunk.losses.terms import module_names, own_key
from qchunk.sampling import act, log_prob, sample_path
from qchunk.types import Array, Chunk, Kernel, Key, Metrics, Term, ValueFn, Vars


def climb_among(kernel: Kernel, slow: Kernel, score: ValueFn, n: int, clip: float, name: str = "policy") -> Term:
    """PPO's surrogate on paths of the actor's slow copy: n chunks at each state, whose advantage is Q less the group's mean.

    One ratio for each chunk, of the path's log-probability per number and step, new actor against slow copy.

    Args:
        kernel: its steps are Gaussian, such as ``with_min_std`` of a flow.
        slow: the same as its target network has it.
        score: Q, such as that of the target networks.
        n: G, chunks at each state.
        clip: bound of a ratio's distance from 1.
    """
    policy = sample_path(slow)

    def fn(vars: Vars, key: Key, chunk: Chunk) -> tuple[Array, Metrics]:
        fixed, many = jax.lax.stop_gradient(vars), repeated(chunk.obs, n)
        plan = act(policy, fixed, key, many)
        path, mask = plan.extras["path"], jnp.ones(plan.action.shape[:-1])
        old, new = (
            jnp.mean(log_prob(k, v, many, path, mask, bounds=None), axis=-1) for k, v in ((slow, fixed), (kernel, vars))
        )
        q = score(fixed, many, plan.action)  # [*B, G]
        advantage = q - jnp.mean(q, axis=-1, keepdims=True)
        loss, metrics = surrogate(new, old, advantage, clip)
        return loss, {**metrics, "q": jnp.mean(q)}

    return Term(name, module_names(kernel), own_key, fn)
