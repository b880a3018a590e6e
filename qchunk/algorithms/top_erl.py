"""TOP-ERL (2410.09536): one decision for a whole trajectory of few weights, learned off-policy by a transformer's values of its segments.

The paper decides once an episode (``--chunk.horizon`` as long as that), and values are 0 behind it; ours are bootstrapped at time limits.
"""

from __future__ import annotations

from typing import Annotated

from qchunk.actor_configs import FullGaussianConfig
from qchunk.actors.full_gaussian import full_gaussian_of, of_gaussian
from qchunk.compose import learner
from qchunk.config import IMITATES_NOTHING, ChunkConfig, OptimConfig, config
from qchunk.critics.prefix import PrefixConfig, prefix_q
from qchunk.data.segments import drawing_segments, published_lengths
from qchunk.losses.episodic import ascend_segments, stay_in_region, td_of_segments, timed
from qchunk.losses.terms import module_names, weighed
from qchunk.primitives import decoded, going_on, in_weights
from qchunk.ranges import NonNegativeInt, PositiveInt, Range
from qchunk.sampling import sample
from qchunk.target_networks import with_target
from qchunk.trust_region import TrustRegionConfig, trusted, with_floor
from qchunk.types import Algorithm


@config
class TOPERL:
    """Transformer-based off-policy episodic reinforcement learning."""

    driver = "from_scratch"
    unread = IMITATES_NOTHING | {"backup": "every prefix of a segment is backed up, as long as --lengths says"}

    chunk: ChunkConfig = ChunkConfig(20, codec="prodmp", starts="decision", replan="smooth")
    actor: FullGaussianConfig = FullGaussianConfig()
    """Its target network is the region's old policy, in the place of a moving average, so that ``ema`` has no effect."""
    critic: PrefixConfig = PrefixConfig(members=1, aggregate="mean", heads=8)
    region: TrustRegionConfig = TrustRegionConfig()
    optim: OptimConfig = OptimConfig(3e-4)
    """Of the actor."""
    critic_optim: OptimConfig = OptimConfig(5e-5, kind="adamw:weight_decay=1e-5")
    lengths: Annotated[tuple[int, ...], Range(1)] = ()
    """L, steps of a segment, one of these by chance; empty: the horizon over 1 to 25, as in the paper."""
    every: PositiveInt = 2
    """The actor moves in every such update."""
    critic_updates: NonNegativeInt = 0
    """Updates before the actor moves."""

    def check(self, where: str) -> None:
        """Raises UserError where segments are not discounted."""
        self.chunk.must_count_steps(f"{where}chunk.")


def top_erl(c: TOPERL) -> Algorithm:
    """TOP-ERL: the actor generates weights of trajectories, its critic sees the actions that these become; it is evaluated at its mean."""
    lengths = c.lengths or published_lengths(c.chunk.horizon)
    points = tuple(range(max(lengths) + 1))
    q, v = (timed(prefix_q(c.critic, points[-1], points, read=read)) for read in (points, (0,)))
    module, free = full_gaussian_of(c.actor)
    near = trusted(free, c.region)
    pi, mean = (in_weights(of_gaussian(module, near, still), c.chunk) for still in (False, True))
    pi = with_target(pi, rate=c.region.follow, lagged=False, every=c.every, acts=False)
    act, explore = (decoded(sample(kernel), c.chunk) for kernel in (mean, pi))
    climb, stay = ascend_segments(q, explore, module_names(pi)), stay_in_region(free, near, module_names(pi))
    moves = [t._replace(every=c.every, start=c.critic_updates) for t in (climb, weighed(stay, c.region.regress))]
    terms = [*moves, td_of_segments(q, v, explore, going_on(c.chunk))]
    optim, draw = {"actor": c.optim, "": c.critic_optim}, drawing_segments(lengths)
    made = learner([pi, q], act, terms, optim, explore=explore, draw=draw)
    return with_floor(made, c.region, c.actor.std)._replace(primitives=True)
