"""OGPO (2605.03065): an actor's chunks at states of replay, judged by a critic against each other, move it by PPO's ratio of their paths.

Its code clones successes only (weight 0.1), bounds ten critics' disagreement in its variant "+", and samples with noise of 0.005 (``--noise``, here 0.05) in all steps but the last;
here every window is cloned, the critics' opinion is ``--critic.aggregate``'s, the last step has the noise, too, and target networks follow at 0.005 (0.05). There the slow copy makes
the chunk of the critic's target, here the actor does.
"""

from __future__ import annotations

from typing import Annotated

from qchunk.actor_configs import FlowConfig
from qchunk.actors import tuned_actor
from qchunk.actors.paths import with_min_std
from qchunk.compose import lagging, learner, warm_started
from qchunk.config import ActorConfig, ChunkConfig, CriticConfig, OptimConfig, Stands, config
from qchunk.critics.chunk_q import chunk_q
from qchunk.improve import best_of_n
from qchunk.losses.cloning import bc
from qchunk.losses.group_ratio import climb_among
from qchunk.losses.td import td
from qchunk.losses.terms import module_names, weighed
from qchunk.ranges import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Range
from qchunk.sampling import sample
from qchunk.target_networks import slow_copy
from qchunk.types import Algorithm


@config
class OGPO:
    """Off-policy group policy optimisation."""

    chunk: ChunkConfig = ChunkConfig(4)
    tuned: Annotated[ActorConfig, Stands.WARM_STARTED] = FlowConfig()
    """The actor; --prior RUN fills it in, and its weights are where training starts. Its target network is the slow copy."""
    critic: CriticConfig = CriticConfig()
    optim: OptimConfig = OptimConfig()
    """Of the critic."""
    actor_optim: OptimConfig = OptimConfig(4.5e-5)
    group: Annotated[int, Range(2)] = 32
    """G, chunks at each state."""
    clip: PositiveFloat = 0.01
    """Bound of a ratio's distance from 1. Ratios are per number of a path: roots of the true ones."""
    noise: Annotated[float, Range(1e-3, 1)] = 0.05
    """Standard deviation of a step, at least, in units of action."""
    bc_alpha: NonNegativeFloat = 0.1
    """Weight of imitation."""
    n: PositiveInt = 8
    """N, candidates per decision when acting; none in the target."""
    slice_rows: NonNegativeInt = 0
    """Candidates evaluated at once (bounds memory); 0 chooses by backend."""


def ogpo(c: OGPO) -> Algorithm:
    """OGPO: the critic learns from one sample of the actor, which climbs it without its gradient."""
    pi = slow_copy(tuned_actor(c.tuned), c.critic.tau)
    walk = with_min_std(pi._replace(noisy=True), c.noise)
    q, one = chunk_q(c.critic), sample(pi)
    climb = climb_among(walk, lagging(walk), lagging(q).score, c.group, c.clip)
    act = best_of_n(one, q.score, c.n, c.slice_rows)
    optim = {q.modules[0].name: c.optim, "": c.actor_optim}
    return warm_started(
        learner([pi, q], act, [climb, weighed(bc(pi), c.bc_alpha), td(q, one)], optim), *module_names(pi)
    )
