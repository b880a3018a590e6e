"""A model of latent states learns along consecutive chunks of the data, and values from what planning in it finds (1707.03497, 1911.08265)."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from qchunk.actors.paths import decode
from qchunk.critics import categorical
from qchunk.losses.gae import gae
from qchunk.losses.proposals import Proposal, distil
from qchunk.losses.terms import module_names, no_noise, together, weighed, weighted_mean
from qchunk.planning import Found, Planner
from qchunk.sampling import normal
from qchunk.target_networks import target_view
from qchunk.types import Array, Chunk, Kernel, Key, Metrics, Policy, Term, Together, Vars
from qchunk.world_model import Ahead, LatentModel


class Unrolled(NamedTuple):
    """What the terms share."""

    state: Array  # [B, U, F] latent states before each chunk, all but the first of them the model's own
    outputs: Ahead  # [B, U, ...] of the data's chunks, see ``LatentModel.outputs``
    proposal: Proposal  # [B, U, ...] of the student, one in each state
    later: Array  # [B, U] planned values behind each chunk
    found: Found  # [B, U, ...] what planning found before each chunk; without a learned policy, behind it


def unrolled(
    model: LatentModel,
    student: Kernel,
    teacher: Policy,
    planner: Planner,
    *,
    lam: Any,
    share: float = 1.0,
    value: float = 1.0,
    choosing: bool = False,
) -> Together:
    """From the first observation of U consecutive chunks [B, U] through the model: reward, end, value, proposals (and choices) in every state.

    Planning happens anew for every batch, by target networks (all of the batch is reanalysed, 1911.08265, appendix H). Chunks behind
    an end or a time-out are left out (the papers' absorbing states have value 0; here the end itself is learned).

    Args:
        student: proposes in latent states, and is trained to do as the teacher does where they are; the latents learn from that, too.
        teacher: sees observations.
        lam: of the returns that values learn, in [0, 1]: 0 is one chunk and the planned value behind it, 1 all U.
        share: of the gradient that goes through a chunk to the state before it (1911.08265, appendix G: 0.5).
        value: weight of the values' loss.
        choosing: ``model.choice`` learns what planning chose.
    """

    def draw(key: Key, chunk: Chunk) -> tuple[Key, Array]:
        key, noise_key = jax.random.split(key)
        return key, normal(noise_key, chunk.action.shape)

    def shared(vars: Vars, noise: tuple[Key, Array], chunk: Chunk) -> Unrolled:
        found, later = planned(planner, vars, noise[0], chunk, choosing)
        state, outputs = unroll(model, vars, chunk, share)
        proposal = Proposal(noise[1], decode(student, vars, state, noise[1]), state)
        return Unrolled(state, outputs, proposal, later, found)

    copy = distil(student, teacher, weight=counting)
    terms = [
        Term("model", (), no_noise, lambda vars, made, chunk: outcome_loss(model, made, chunk)),
        weighed(
            Term("value", (), no_noise, lambda vars, made, chunk: value_loss(model, vars, made, chunk, lam)), value
        ),
        copy._replace(fn=lambda vars, made, chunk: copy.fn(vars, made.proposal, chunk)),
    ]
    if choosing:
        terms.append(Term("policy", (), no_noise, lambda vars, made, chunk: choice_loss(model, vars, made, chunk)))
    every = (*module_names(model), *module_names(student))
    return together(draw, [t._replace(wrt=every) for t in terms], shared)


def unroll(model: LatentModel, vars: Vars, chunk: Chunk, share: float) -> tuple[Array, Ahead]:
    """(states before each of the chunks [B, U, F], what the model says of each)."""

    def further(state: Array, action: Array) -> tuple[Array, tuple[Array, Ahead]]:
        found = model.outputs(vars, share * state + (1.0 - share) * jax.lax.stop_gradient(state), action)
        return found.state, (state, found)

    first = model.encode(vars, jax.tree.map(lambda o: o[:, 0], chunk.obs))
    along = jax.lax.scan(further, first, jnp.moveaxis(chunk.action, 1, 0))[1]
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), along)


def planned(planner: Planner, vars: Vars, key: Key, chunk: Chunk, choosing: bool) -> tuple[Found, Array]:
    """What target networks find by planning anew, and the values that they find behind each chunk."""
    fixed = target_view(jax.lax.stop_gradient(vars))
    obs = jax.tree.map(lambda o: o[..., -1, :], chunk.next_obs)
    if choosing:  # the observations before the chunks are those behind the last ones, but for the first
        obs = jax.tree.map(lambda first, o: jnp.concatenate([first[:, :1], o], axis=1), chunk.obs, obs)
    found = planner.look(fixed, planner.draw(fixed, key, obs), obs, None)
    if not choosing:
        return found, found.value
    return jax.tree.map(lambda x: x[:, :-1], found), found.value[:, 1:]


def counting(chunk: Chunk) -> Array:
    """Which of U consecutive chunks [B, U] count: those that are whole, or end by a success, and that no end stands before."""
    whole = chunk.weight[..., -1]
    going = jnp.cumprod(whole * (chunk.discount[..., -1] > 0), axis=1)
    return whole * jnp.concatenate([jnp.ones_like(going[:, :1]), going[:, :-1]], axis=1)


def returns(chunk: Chunk, later: Array, lam: Any) -> Array:
    """The lambda-returns [B, U] along the data's chunks, from the planned values ``later`` [B, U] behind each."""
    before = jnp.concatenate([jnp.zeros_like(later[:, :1]), later[:, :-1]], axis=1)  # the first one is of no account
    counts = counting(chunk)
    last = 1.0 - jnp.concatenate([counts[:, 1:], jnp.zeros_like(counts[:, :1])], axis=1)
    reward, discount = chunk.reward[..., -1], chunk.discount[..., -1]
    return gae(reward.T, discount.T, before.T, later.T, last.T, lam)[1].T


def outcome_loss(model: LatentModel, made: Unrolled, chunk: Chunk) -> tuple[Array, Metrics]:
    """The error of rewards, and the cross-entropy of ends."""
    goes_on = (chunk.discount[..., -1] > 0).astype(jnp.float32)
    errors = {
        "reward": categorical.error(made.outputs.reward, chunk.reward[..., -1], model.c.support),
        "end": optax.sigmoid_binary_cross_entropy(made.outputs.going, goes_on),
    }
    each = {part: weighted_mean(counting(chunk), error) for part, error in errors.items()}
    return sum(each.values(), jnp.zeros(())), each


def value_loss(model: LatentModel, vars: Vars, made: Unrolled, chunk: Chunk, lam: Any) -> tuple[Array, Metrics]:
    """The error of the values of all states beside the ``returns``."""
    counts, aim = counting(chunk), returns(chunk, made.later, lam)
    out = model.value_outputs(vars, made.state)
    found = {"v": categorical.read(out, model.c.support), "target": aim}
    loss = weighted_mean(counts, categorical.error(out, aim, model.c.support))
    return loss, {n: weighted_mean(counts, x) for n, x in found.items()}


def choice_loss(model: LatentModel, vars: Vars, made: Unrolled, chunk: Chunk) -> tuple[Array, Metrics]:
    """Cross-entropy of the learned choice among the options with the improved policy over them (2104.06303, eq. 5)."""
    logits = model.choice(vars, made.state[..., None, :], made.found.action)
    each = -jnp.sum(made.found.weight * jax.nn.log_softmax(logits), axis=-1)
    return weighted_mean(counting(chunk), each), {}
