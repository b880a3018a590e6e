"""CGQL (2601.14234's baseline): a cloned flow, whose velocity the critic's is added to while it denoises; one critic for all noise levels.

Its three forms are ``--guidance clean`` (CGQL), ``mean`` (CGQL-M) and ``log-expectation`` (CGQL-L). Its code has ``--critic.members 10
--critic.aggregate pessimistic:0.5``, weight 10, share 0.01, 0.1 or 1 and noisy 0.1 or 0.001, by domain. Its third loss jumps where the gap is
large; ours goes on as its tangent there.
"""

from __future__ import annotations

from typing import Annotated, Literal

from qchunk.actor_configs import FlowConfig
from qchunk.actors import actor
from qchunk.compose import acting, learner
from qchunk.config import ActorConfig, ChunkConfig, CriticConfig, OptimConfig, Stands, config
from qchunk.critics.ensemble import as_clean, mean, opinion
from qchunk.critics.noisy_value import noisy_value
from qchunk.improve import tilt
from qchunk.losses.cloning import bc
from qchunk.losses.noise_value import noise_value
from qchunk.losses.noised import check_levels
from qchunk.losses.td import td
from qchunk.losses.terms import weighed
from qchunk.ranges import NonNegativeFloat
from qchunk.sampling import sample
from qchunk.target_networks import slow_copy
from qchunk.types import Algorithm


@config
class CGQL:
    """Critic-guided Q-learning."""

    chunk: ChunkConfig = ChunkConfig()
    actor: Annotated[ActorConfig, Stands.CLONED] = FlowConfig()
    """The actor that is guided, by behaviour cloning, or the prior's; its target network stands in the place of a moving average."""
    critic: CriticConfig = CriticConfig()
    optim: OptimConfig = OptimConfig()
    guidance: Literal["clean", "mean", "log-expectation"] = "log-expectation"
    """What steers: Q of the noisy chunk as if it were clean, E[Q | noisy chunk], or log E[exp(weight Q) | noisy chunk] / weight."""
    weight: NonNegativeFloat = 10.0
    """Of the critic in its own velocity, in 1 / units of return."""
    share: NonNegativeFloat = 0.1
    """How much of that velocity is added."""
    noisy: NonNegativeFloat = 0.1
    """Weight of the loss at noisy chunks, beside temporal differences: (Q' - Q)^2, or with D = weight (Q' - Q) exp(D) - D - 1."""

    def check(self, where: str) -> None:
        """Raises UserError where an update leaves out target networks that members learn from."""
        if self.guidance != "clean":
            self.critic.must_read_all(f"{where}critic.", "at noisy chunks each member learns from its own")


def cgql(c: CGQL) -> Algorithm:
    """CGQL: guided chunks act and are backed up.

    Raises:
        UserError: an actor of one step, see ``check_levels``.
    """
    pi, q = slow_copy(actor(c.actor), c.critic.tau, acts=True), noisy_value(c.critic, "critic")
    check_levels(pi)
    steer = opinion(q, mean)
    act = sample(tilt(acting(pi), as_clean(steer) if c.guidance == "clean" else steer, c.weight, c.share))
    terms = [bc(pi), td(q, act)]
    if c.guidance != "clean":
        exact = c.guidance == "log-expectation"
        aim = noise_value(q, q.values, pi, c.weight if exact else None)
        terms.append(weighed(aim, c.noisy * c.weight**2 / 2 if exact else c.noisy))
    return learner([pi, q], act, terms, c.optim, prior=pi)
