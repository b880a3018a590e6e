"""DACER (2405.15177): an online diffusion climbs a critic of Gaussian returns through its whole chain; the entropy of its actions sets its noise.

Numbers are those of FlowRL's code (2603.27450), which also has ``--optim.lr 1e-4`` and rewards times 0.2, in whose units its ``huber`` is. No loss of imitation
holds the actor. Runs of fewer updates than ``regulate_every`` keep their first noise but for one step of it, in the first update.
"""

from __future__ import annotations

from typing import Annotated

from qchunk.actors import actor
from qchunk.algorithms.online_matching import OnlineDiffusion
from qchunk.compose import acting, learner
from qchunk.config import OptimConfig, config
from qchunk.critics.gaussian_q import gaussian_q
from qchunk.improve import best_of_n, smoothed
from qchunk.losses.gaussian_td import td_gaussian
from qchunk.losses.mixtures import regulate
from qchunk.losses.proposals import ascend, proposing, temperature
from qchunk.ranges import PositiveFloat, PositiveInt, Range
from qchunk.sampling import sample
from qchunk.types import Algorithm, Array, Vars


@config
class DACER(OnlineDiffusion):
    """A diffusion actor-critic with an entropy regulator."""

    noise: Annotated[float, Range(0, 1)] = 0.1
    """Standard deviation of the noise on actions, in units of action, at temperature 1."""
    start_temperature: PositiveFloat = 3.0
    """The temperature before it is learned."""
    target_entropy: float = -0.9
    """What the entropy of the noisy actions is to be, in nats per number."""
    regulator: OptimConfig = OptimConfig(3e-2)
    """Optimiser of the temperature."""
    regulate_every: PositiveInt = 10_000
    """Updates between two of the temperature."""
    samples: PositiveInt = 200
    """Chunks per state from which the entropy is estimated."""
    gaussians: PositiveInt = 3
    """Of the mixture that is fitted to them."""
    every: PositiveInt = 2
    """Updates between two of the actor."""
    huber: PositiveFloat = 50.0
    """Errors of values beyond this, in units of return, count in proportion, not squared."""
    n: PositiveInt = 1
    """N, samples of which evaluation plays the best by Q."""

    def check(self, where: str) -> None:
        """Raises UserError where an update leaves out target networks that scale it."""
        self.critic.must_read_all(f"{where}critic.", "each member's steps are scaled by its own")


def dacer(c: DACER) -> Algorithm:
    """DACER: the chain climbs the lowest member's mean; exploring and targets add noise, evaluation none."""
    pi, heat = actor(c.actor), temperature(first=c.start_temperature)
    q, outlook = gaussian_q(c.critic)
    one = sample(acting(pi))

    def std(vars: Vars) -> Array:
        return c.noise * heat.apply(vars.params[heat.name])

    explore = smoothed(one, std)
    climb = proposing(pi, [ascend(pi, q.score)._replace(every=c.every)])
    warm = regulate(explore, heat, c.target_entropy, c.samples, c.gaussians)._replace(every=c.regulate_every)
    learn, act = td_gaussian(q, outlook, explore, c.huber), best_of_n(one, q.score, c.n)
    optim = {"": c.optim, heat.name: c.regulator}
    return learner([pi, q, heat], act, [climb, warm, learn], optim, explore=explore)
