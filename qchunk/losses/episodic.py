"""Learning from segments of plans: values of every prefix of a segment, an actor of whole plans that climbs them, and its trust region (2410.09536).

Batches are those of ``data.segments``: [B, 2, ...], a plan of H actions and the segment that begins at its step k. The critics see
when in its plan a state is reached (``timed``); their values are [members, *B, M + 1], of the first 0 .. M actions of a segment.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from qchunk import sampling
from qchunk.data.segments import BEGIN, STEPS
from qchunk.losses.td import toward
from qchunk.losses.terms import no_noise, own_key
from qchunk.target_networks import target_view
from qchunk.trust_region import NormalFn, entropy, kl_parts
from qchunk.types import Array, Chunk, Critic, Key, Metrics, Policy, PyTree, Term, Vars, built_for


class Parts(NamedTuple):
    """A batch, taken apart."""

    plan: Chunk  # [B, ...]
    part: Chunk  # [B, ...] the segment; its obs and next_obs are timed, its M actions as many as its backup points
    begin: Array  # [B] int32, k
    counts: Array  # [B, M] whether the segment has so many steps


def timed(critic: Critic) -> Critic:
    """The same critic, built for observations beside the time of their plan, as ``at_step`` shows them."""
    return built_for(critic, lambda spec: spec._replace(obs={"obs": spec.obs, "time": 1}))


def at_step(obs: PyTree, step: Array, horizon: int) -> PyTree:
    """Observations [*B, O] at steps [*B] of their plan, beside the share of it that is over: 0 where it begins, and again at its end.

    The paper embeds the step of the episode, which is that of its only plan.
    """
    return {"obs": obs, "time": ((step % horizon) / horizon)[..., None]}


def parts_of(chunk: Chunk) -> Parts:
    """The plans of a batch [B, 2, ...], and their segments."""
    held = chunk._replace(extras={n: chunk.extras[n] for n in (BEGIN, STEPS)})
    plan, part = (jax.tree.map(lambda x, i=i: x[:, i], held) for i in range(2))
    horizon, most, begin = plan.action.shape[-2], part.reward.shape[-1], plan.extras[BEGIN]
    after = jnp.arange(1, most + 1)
    seen = part._replace(
        obs=at_step(part.obs, begin, horizon),
        next_obs=at_step(part.next_obs, begin[:, None] + after, horizon),
        action=part.action[:, :most],
    )
    return Parts(plan, seen, begin, after <= plan.extras[STEPS][:, None])


def cut(plan: Array, begin: Array, length: int) -> Array:
    """``length`` actions [B, M, A] of plans [B, H, A] from their steps ``begin`` [B] on; the last one again behind a plan's end."""
    rows = jnp.minimum(begin[:, None] + jnp.arange(length), plan.shape[-2] - 1)
    return jnp.take_along_axis(plan, rows[..., None], axis=-2)


def td_of_segments(critic: Critic, state: Critic, policy: Policy, going_on: Callable, name: str = "td") -> Term:
    """Temporal differences of every prefix of a segment of L steps, in one pass (2410.09536, section 4):

    - V(s_k) on Qtarget(s_k, a'_k .. a'_{k + L - 1}): a' is a plan of the policy for the plan's first observation, which goes on at
      step k from what was played;
    - Q(s_k, a_k .. a_{k + j - 1}) on R_j + gamma^j m_j Vtarget(s_{k + j}) for j = 1 .. L, off-policy without correction.

    Where the paper's values are 0 behind a time limit, ours are bootstrapped there.

    Args:
        critic: of all prefixes.
        state: of the first alone, with the same parameters.
        policy: it plans H actions.
        going_on: see ``primitives.going_on``.
    """

    def aim(vars: Vars, key: Key, chunk: Chunk) -> tuple[Array, Array]:
        plan, part, begin, counts = parts_of(chunk)
        fixed, most = target_view(vars), counts.shape[-1]
        backed_up = part.reward + part.discount * state.score(fixed, part.next_obs, part.action[:, None])
        fresh = going_on(sampling.act(policy, vars, key, plan.obs).action, plan.action, begin)
        values = critic.aggregate(critic.values(fixed, part.obs, cut(fresh, begin, most)))
        whole = jnp.take_along_axis(values, plan.extras[STEPS][:, None], axis=-1)  # [B, 1]
        weight = jnp.concatenate([jnp.ones_like(whole), part.weight * counts], axis=-1)
        return jnp.concatenate([whole, backed_up], axis=-1), weight

    return toward(critic, aim, name, lambda chunk: parts_of(chunk).part)


def ascend_segments(critic: Critic, policy: Policy, trained: tuple[str, ...], name: str = "ascend") -> Term:
    """Ascent of the critic: minus the mean over segments of the SUM of Q(s_k, a_k .. a_{k + j - 1}) over j = 1 .. L, a a plan of the policy.

    The plan is one for the plan's first observation; it does not go on from what was played (2410.09536, section 4).

    Args:
        trained: modules of the policy.
    """

    def fn(vars: Vars, key: Key, chunk: Chunk) -> tuple[Array, Metrics]:
        plan, part, begin, counts = parts_of(chunk)
        action = cut(sampling.act(policy, vars, key, plan.obs).action, begin, counts.shape[-1])
        q = critic.aggregate(critic.values(vars, part.obs, action))[..., 1:]
        return -jnp.mean(jnp.sum(q * counts, axis=-1)), {"q": jnp.sum(q * counts) / jnp.sum(counts)}

    return Term(name, trained, own_key, fn)


def stay_in_region(new: NormalFn, kept: NormalFn, trained: tuple[str, ...], name: str = "trust") -> Term:
    """The regression of a Gaussian on its projection: KL(new || kept) at the plans' observations, ``kept`` without gradient (2101.09207, section 4)."""

    def fn(vars: Vars, noise: tuple, chunk: Chunk) -> tuple[Array, Metrics]:
        del noise
        obs = parts_of(chunk).plan.obs
        aim = jax.lax.stop_gradient(kept(vars, obs))
        return jnp.mean(sum(kl_parts(new(vars, obs), aim))), {"entropy": jnp.mean(entropy(aim.root))}

    return Term(name, trained, no_noise, fn)
