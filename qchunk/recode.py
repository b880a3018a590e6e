"""Algorithms in another language of chunks, such as skills: wrappers of an ``Algorithm``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from qchunk.data.played import PLAYED, drawing_played
from qchunk.sampling import sample
from qchunk.types import SKILL, Algorithm, Chunk, Decoder, Key, Learner, Policy, Spec, Vars, view


def recoded(
    algorithm: Algorithm,
    sizes: Callable[[Spec], Spec],
    chunk: Callable[[Vars, Chunk], Chunk],
    policy: Callable[[Policy], Policy],
) -> Algorithm:
    """The same algorithm in another language of chunks: it learns from ``chunk(vars, chunk)`` and is built for ``sizes(spec)``.

    Args:
        policy: of its policies, one that speaks actions again.
    """

    def init(key: Key, spec: Spec, given: dict | None = None) -> Learner:
        return algorithm.init(key, sizes(spec), given)

    def prepare(state: Learner, given: dict, key: Key, played: Chunk) -> tuple[Learner, Chunk]:
        return algorithm.prepare(state, given, key, chunk(view(state, given), played))

    act, explore = policy(algorithm.act), policy(algorithm.explore)
    first = algorithm.first and policy(algorithm.first)
    return algorithm._replace(init=init, prepare=prepare, act=act, explore=explore, first=first)


def in_skills(algorithm: Algorithm, kernel: Any) -> Algorithm:
    """The same algorithm over the skills of a Kernel with a decoder: a chunk is ONE action of W numbers, and the return is that of the whole chunk.

    Windows of data are read by the encoder (2010.13611, section 4), for which they have a backup point at every step; windows that were
    played by one skill keep it (2410.18076, section 4.1). Random skills at first are those of the prior.
    """
    decoder: Decoder = kernel.decoder

    def encoded(vars: Vars, chunk: Chunk) -> Chunk:
        whole = {n: getattr(chunk, n)[..., -1:] for n in ("reward", "discount", "weight", "mask")}
        later = jax.tree.map(lambda o: o[..., -1:, :], chunk.next_obs)
        skill = decoder.encode(vars, chunk)
        if PLAYED in chunk.extras:
            was_played = chunk.extras[PLAYED][..., None, None] > 0
            skill = jnp.where(was_played, chunk.extras[SKILL][..., None, :], skill)
        return chunk._replace(action=skill, next_obs=later, **whole)

    def decoded(policy: Policy) -> Policy:
        def plan(vars: Vars, noise: Any, obs: Any, old: Any) -> Any:
            made = policy.plan(vars, noise, obs, None)
            found = decoder.plan(vars, obs, made.action)
            return found._replace(extras={**made.extras, **found.extras})

        return policy._replace(plan=plan, emit=decoder.emit, pulled=False, committed=0, speaks="skills")

    made = recoded(algorithm, lambda spec: spec._replace(horizon=1, action=decoder.size), encoded, decoded)
    return made._replace(draw=drawing_played(SKILL, decoder.size), first=sample(kernel))
