"""Value-guided sampling: a frozen prior, steered by a value while it denoises (2205.09991, 2304.12824)."""

from __future__ import annotations

from typing import Annotated, Literal

from qchunk.actor_configs import FlowConfig
from qchunk.actors import actor
from qchunk.actors.paths import count_steps, stochastic
from qchunk.compose import frozen, learner
from qchunk.config import ActorConfig, ChunkConfig, CriticConfig, OptimConfig, Stands, config, refuse_unread
from qchunk.critics.chunk_q import chunk_q
from qchunk.critics.noisy_value import noisy_value
from qchunk.critics.state_v import state_v
from qchunk.improve import diffuser, guide
from qchunk.losses.implicit_q import implicit_q
from qchunk.losses.noise_value import noise_value
from qchunk.losses.td import td
from qchunk.ranges import NonNegativeFloat, Range
from qchunk.sampling import sample
from qchunk.system.errors import UserError
from qchunk.types import Algorithm


@config
class ValueGuided:
    """Value-guided sampling."""

    given: Annotated[ActorConfig, Stands.FROZEN] = FlowConfig()
    """The frozen prior, as it was trained; --prior RUN fills it in."""
    chunk: ChunkConfig = ChunkConfig()
    critic: CriticConfig = CriticConfig()
    value: CriticConfig = CriticConfig(members=1)
    """The network that values noisy chunks."""
    optim: OptimConfig = OptimConfig()
    guidance: Literal["log-expectation", "mean", "clean", "diffuser"] = "log-expectation"
    """What steers: log E[exp(w Q) | noisy chunk] / w (exact), E[Q | noisy chunk], Q of the noisy chunk itself, or Diffuser's
    rule with the mean."""
    weight: NonNegativeFloat = 0.3
    """w, in 1 / units of return: the target is the prior times exp(w Q). With diffuser, its scale."""
    backup: Literal["guided", "prior", "iql"] = "guided"
    """Whose next chunk the critic's target values: the guided policy's, the prior's, or (IQL) the better ones of the data."""
    expectile: Annotated[float, Range(0.5, below=1)] = 0.7
    """IQL's, in [0.5, 1)."""

    def check_read(self, where: str) -> None:
        """Raises UserError where an expectile is given, and no value is one."""
        if self.backup != "iql":
            why, fix = f"targets are of the {self.backup} policy", f"leave it out, or give --{where}backup iql"
            refuse_unread(self, ValueGuided, ("expectile",), where, why, fix)


def value_guided(c: ValueGuided) -> Algorithm:
    """Value guidance: the prior is read and never trained; the value of noisy chunks, which steers, learns from the critic.

    Raises:
        UserError: a prior of one denoising step, which guidance leaves as it is.
    """
    pi, q, v, s = frozen(actor(c.given)), chunk_q(c.critic), noisy_value(c.value), state_v(c.critic)
    if count_steps(pi) == 1:  # from pure noise to the chunk: there is no noisy chunk to steer
        raise UserError(
            f"a prior of one denoising step ({c.given.kind}) cannot be guided", "take v-gps or qc-frozen, or a flow"
        )
    if c.guidance == "diffuser":
        steered = diffuser(pi if pi.noisy else stochastic(pi), v.score, c.weight)
    else:
        steered = guide(pi, q.score if c.guidance == "clean" else v.score, c.weight)
    act = sample(steered)
    terms = implicit_q(q, s, c.expectile) if c.backup == "iql" else [td(q, act if c.backup == "guided" else sample(pi))]
    parts = [q, *([s] if c.backup == "iql" else [])]
    if c.guidance != "clean":
        parts.append(v)
        terms.append(noise_value(v, q.score, pi, c.weight if c.guidance == "log-expectation" else None))
    return learner(parts, act, terms, c.optim)
