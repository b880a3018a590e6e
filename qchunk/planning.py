"""Policies that plan in a model of latent states: all options to a depth (1707.03497), or a search that spends its looks where they pay (1911.08265).

An option is a chunk that a policy proposes. Proposals of an actor that clones the data keep the search where the model has seen data.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import mctx

from qchunk.config import config
from qchunk.improve import picked, repeated, samples
from qchunk.ranges import PositiveFloat, PositiveInt
from qchunk.types import Array, Key, Old, Plan, Policy, PyTree, Vars
from qchunk.world_model import LatentModel


@config
class SearchConfig:
    """Gumbel MuZero's search (Danihelka et al. 2022, "Policy improvement by planning with Gumbel")."""

    simulations: PositiveInt = 16
    """Looks of the model per decision; at least twice the options, or some of them are never looked at."""
    policy: Literal["uniform", "learned"] = "uniform"
    """What the search thinks of options before it looks: all alike, as they are samples (2104.06303), or a network that learns what it chose."""
    value_scale: PositiveFloat = 0.1
    """What values weigh beside that, as they are rescaled."""
    rescale: bool = True
    """Whether the values of a state's options are moved to [0, 1]: then the least difference decides, also among equals."""


class Options(NamedTuple):
    """What is chosen among: at every state N chunks of a policy, one behind the other."""

    root: Policy  # sees observations
    below: Policy  # sees latent states; its noise is one array
    n: int  # N
    depth: int  # D, chunks that are planned


class Found(NamedTuple):
    """What planning found at observations [*B, O]."""

    plan: Plan
    value: Array  # [*B]
    action: Array  # [*B, N, H, A] the options there
    weight: Array  # [*B, N] how much of each the improved policy has


class Planner(NamedTuple):
    """A way of planning; deterministic, given its noise."""

    draw: Callable[[Vars, Key, PyTree], Any]  # (vars, key, obs [*B, O]) -> noise, whose leaves lead with *B
    look: Callable[[Vars, Any, PyTree, Old | None], Found]


def planning(planner: Planner, options: Options) -> Policy:
    """The policy that plays what a planner finds."""

    def plan(vars: Vars, noise: Any, obs: PyTree, old: Old | None = None) -> Plan:
        return planner.look(vars, noise, obs, old).plan

    return options.root._replace(draw=planner.draw, plan=plan)


def predicted(model: LatentModel, options: Options, discount: Any, keep: int) -> Planner:
    """Value prediction: the option of the highest Q^D (1707.03497, eq. 2 and algorithm 1); its value is that Q.

    Args:
        discount: gamma^h, of a whole chunk.
        keep: b, options at each state that are followed further, the best by Q^1.
    """

    def draw(vars: Vars, key: Key, obs: PyTree) -> tuple[Any, Array]:
        return draw_options(model, options, vars, key, obs)

    def look(vars: Vars, noise: Any, obs: PyTree, old: Old | None = None) -> Found:
        plans, state = samples(options.root, vars, noise[0], obs, old), model.encode(vars, obs)
        deep = functools.partial(deepened, model, options.below, vars, discount, keep)
        for _ in state.shape[:-1]:
            deep = jax.vmap(deep)
        q, kept = deep(state, plans.action, noise[1])
        best = jnp.take_along_axis(kept, jnp.argmax(q, axis=-1)[..., None], axis=-1)[..., 0]
        return Found(picked(plans, best), jnp.max(q, axis=-1), plans.action, jax.nn.one_hot(best, options.n))

    return Planner(draw, look)


def deepened(
    model: LatentModel, below: Policy, vars: Vars, discount: Any, keep: int, state: Array, action: Array, noise: Array
) -> tuple[Array, Array]:
    """(Q^d of the options that are followed from ONE state, which of them these are), each [b], or [N] where d is 1.

    Q^d = r + gamma^h m V^d(x') with V^d = (V(x') + (d - 1) max Q^{d-1}) / d, and V^1 = V (1707.03497, eq. 2). m is the chance
    that the episode goes on, in place of the paper's duration.

    Args:
        state: [F].
        action: [N, H, A], the options there.
        noise: [d - 1, N, H, A], of the options below.
    """
    found = model.ahead(vars, state, action)
    through, value = discount * jax.nn.sigmoid(found.going), model.value(vars, found.state)
    q, deeper = found.reward + through * value, noise.shape[0]
    if deeper == 0:
        return q, jnp.arange(q.shape[0])
    kept = jax.lax.top_k(q, min(keep, q.shape[0]))[1]

    def best_below(state: Array) -> Array:
        options = samples(below, vars, noise[0], state, None).action
        return jnp.max(deepened(model, below, vars, discount, keep, state, options, noise[1:])[0])

    later = jax.vmap(best_below)(found.state[kept])
    planned = (value[kept] + deeper * later) / (deeper + 1)
    return found.reward[kept] + through[kept] * planned, kept


def searched(model: LatentModel, options: Options, discount: Any, c: SearchConfig, gumbel: Any) -> Planner:
    """Gumbel MuZero's search over the options; its value is the root's mean over all looks.

    Options below the root are made where they are looked at, from noise that belongs to (depth, option): nothing of them is
    stored, and a state that is looked at again has the same.

    Args:
        discount: gamma^h, of a whole chunk.
        gumbel: of the noise by which options at the root are tried; 0 takes the best.
    """

    def draw(vars: Vars, key: Key, obs: PyTree) -> tuple[Any, Array, Array]:
        key, gumbel_key = jax.random.split(key)
        lead = jax.tree.leaves(obs)[0].shape[:-1]
        return *draw_options(model, options, vars, key, obs), jax.random.gumbel(gumbel_key, (*lead, options.n))

    def look(vars: Vars, noise: Any, obs: PyTree, old: Old | None = None) -> Found:
        plans, state = samples(options.root, vars, noise[0], obs, old), model.encode(vars, obs)
        lead, rows = state.shape[:-1], math.prod(state.shape[:-1])
        flat = [x.reshape(rows, *x.shape[len(lead) :]) for x in (state, plans.action, *noise[1:])]
        root, expand = tree_of(model, options.below, vars, discount, c.policy == "learned", *flat[:3])
        # where there are fewer looks than two for each option, fewer are considered
        considered = max(1, min(options.n, c.simulations // 2))
        bounds = (c.simulations, options.depth, considered)
        out = gumbel_search(root, expand, gumbel * flat[3], *bounds, c.value_scale, c.rescale)
        found = (out.action, out.search_tree.node_values[:, 0], out.action_weights)
        best, value, weight = (x.reshape(*lead, *x.shape[1:]) for x in found)
        return Found(picked(plans, best), value, plans.action, weight)

    return Planner(draw, look)


def tree_of(
    model: LatentModel,
    below: Policy,
    vars: Vars,
    discount: Any,
    learned: bool,
    state: Array,
    action: Array,
    noise: Array,
) -> tuple[mctx.RootFnOutput, Callable]:
    """The root [R, ...] of a search, and the function (option [R], node) -> (mctx.RecurrentFnOutput, node) that grows its tree.

    Args:
        learned: whether ``model.choice`` says which options are tried first.
        state: [R, F].
        action: [R, N, H, A], the options there.
        noise: [R, D - 1, N, H, A], of the options below.
    """
    rows, last = jnp.arange(state.shape[0]), noise.shape[1] - 1

    def option(index: Array, node: tuple[Array, Array]) -> Array:
        now, depth = node
        first = action[rows, index]
        if last < 0:
            return first
        later = below.plan(vars, noise[rows, jnp.clip(depth - 1, 0, last), index], now, None).action
        return jnp.where((depth == 0)[:, None, None], first, later)

    def logits(now: Array, depth: Array) -> Array:
        if not learned or last < 0:
            return jnp.zeros(action.shape[:2])
        at = noise[rows, jnp.clip(depth - 1, 0, last)]
        return model.choice(vars, now[:, None], samples(below, vars, at, now, None).action)

    def expand(index: Array, node: tuple[Array, Array]) -> tuple[mctx.RecurrentFnOutput, tuple[Array, Array]]:
        found, depth = model.ahead(vars, node[0], option(index, node)), node[1] + 1
        out = mctx.RecurrentFnOutput(
            reward=found.reward,
            discount=discount * jax.nn.sigmoid(found.going),
            prior_logits=logits(found.state, depth),
            value=model.value(vars, found.state),
        )
        return out, (found.state, depth)

    prior = model.choice(vars, state[:, None], action) if learned else jnp.zeros(action.shape[:2])
    node = (state, jnp.zeros(state.shape[0], jnp.int32))
    return mctx.RootFnOutput(prior_logits=prior, value=model.value(vars, state), embedding=node), expand


def gumbel_search(
    root: mctx.RootFnOutput,
    expand: Callable,
    gumbel: Array,
    simulations: int,
    depth: int,
    considered: int,
    value_scale: Any = 0.1,
    rescale: bool = True,
) -> mctx.PolicyOutput:
    """``mctx.gumbel_muzero_policy`` with its noise given, which is drawn where all noise of a policy is.

    Args:
        expand: (option [R], node) -> (mctx.RecurrentFnOutput, node), without a key: a node is the same whenever it is looked at.
        gumbel: [R, N], scaled.
        considered: options that are looked at from the root.
    """
    values = functools.partial(mctx.qtransform_completed_by_mix_value, value_scale=value_scale, rescale_values=rescale)
    tree = mctx.search(
        params=(),
        rng_key=jax.random.key_data(jax.random.key(0)),  # nothing reads it, and mctx hands it to both sides of a choice
        root=root,
        recurrent_fn=lambda params, key, index, node: expand(index, node),
        root_action_selection_fn=functools.partial(
            mctx.gumbel_muzero_root_action_selection,
            num_simulations=simulations,
            max_num_considered_actions=considered,
            qtransform=values,
        ),
        interior_action_selection_fn=functools.partial(mctx.gumbel_muzero_interior_action_selection, qtransform=values),
        num_simulations=simulations,
        max_depth=depth,
        extra_data=mctx.GumbelMuZeroExtraData(root_gumbel=gumbel),
    )
    visits = tree.summary().visit_counts
    improved = root.prior_logits + jax.vmap(values, (0, None))(tree, tree.ROOT_INDEX)
    most = visits == jnp.max(visits, axis=-1, keepdims=True)
    best = jnp.argmax(jnp.where(most, gumbel + improved, -jnp.inf), axis=-1)
    return mctx.PolicyOutput(action=best, action_weights=jax.nn.softmax(improved), search_tree=tree)


def draw_options(model: LatentModel, options: Options, vars: Vars, key: Key, obs: PyTree) -> tuple[Any, Array]:
    """The noise of N options at observations [*B, O], and that of the options at every depth below, [*B, D - 1, N, H, A]."""
    root_key, below_key = jax.random.split(key)
    lead = jax.tree.leaves(obs)[0].shape[:-1]
    states = jnp.zeros((*lead, options.depth - 1, options.n, model.c.size))
    return options.root.draw(vars, root_key, repeated(obs, options.n)), options.below.draw(vars, below_key, states)
