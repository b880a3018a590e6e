"""FASTER (2604.19730): Q-chunking whose N candidates are noises, judged before they are denoised: one is.

There it wraps ``expo``, chunks are clipped after every denoising step (here at the end, as any flow's), a target network of its critic of noises chooses, and that critic learns from the target's sample (``--learns kept``), at next states alone, which starts of episodes are not among; by default
it is DSRL's: each member learns what its critic says of a random noise's chunk at the window's own state, for one more sample in an update.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from qchunk.actor_configs import FlowConfig
from qchunk.actors import actor
from qchunk.compose import acting, learner
from qchunk.config import ActorConfig, ChunkConfig, CriticConfig, OptimConfig, Stands, config
from qchunk.critics.chunk_q import chunk_q
from qchunk.critics.ensemble import as_one
from qchunk.improve import best_start
from qchunk.losses.cloning import bc
from qchunk.losses.start_value import start_value, td_and_start_value
from qchunk.losses.td import td
from qchunk.ranges import NonNegativeFloat, PositiveInt
from qchunk.sampling import sample_from_start
from qchunk.types import Algorithm, Term, Together


@config
class FASTER:
    """Best of N at the price of one sample."""

    chunk: ChunkConfig = ChunkConfig()
    actor: Annotated[ActorConfig, Stands.CLONED] = FlowConfig()
    """By behaviour cloning, or the prior's."""
    critic: CriticConfig = CriticConfig(aggregate="min")
    """Of chunks, and another one alike of the noise that they are made of."""
    optim: OptimConfig = OptimConfig()
    n: PositiveInt = 32
    """N, noises per decision; also in the target."""
    temperature: NonNegativeFloat = 1.0
    """beta, in units of return: exploring, and in the target, noise i is kept with probability softmax(F / beta)_i; evaluation keeps the best."""
    start_members: PositiveInt | None = None
    """Members of the critic of noises, each of which learns the aggregated opinion; without it, one for each of the critic's, which learns that one's."""
    learns: Literal["random", "kept"] = "random"
    """What noise its critic learns from: a random one in each window's own state, or that of the target's chunk, which costs no sample of its own (the paper)."""


def faster(c: FASTER) -> Algorithm:
    """FASTER: the kept noise's chunk acts and is backed up; the critic of noises learns what the critic of chunks thinks of theirs."""
    pi, q = actor(c.actor), chunk_q(c.critic)
    told, judges = q, c.critic
    if c.start_members is not None:
        told, judges = as_one(q), dataclasses.replace(c.critic, members=c.start_members)
    f = chunk_q(judges, "start_critic", target=False)
    flow = sample_from_start(acting(pi))
    act, explore = best_start(flow, f.score, c.n), best_start(flow, f.score, c.n, c.temperature)
    terms: list[Term | Together] = [bc(pi)]
    if c.learns == "random":
        terms += [td(q, explore), start_value(f, told, flow)]
    else:
        terms.append(td_and_start_value(f, q, best_start(flow, f.score, c.n, c.temperature, tell=True)))
    return learner([pi, q, f], act, terms, c.optim, explore=explore, prior=pi)
