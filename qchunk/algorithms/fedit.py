"""FEdit (2601.14234's baseline): an actor edits the chunks of a cloned flow, and climbs the critic.

Its code has ``--critic.members 10 --critic.aggregate pessimistic:0.5``; its scale is tuned by domain, from 0.1 to 0.8.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from qchunk.actor_configs import FlowConfig, TanhGaussianConfig
from qchunk.actors import actor
from qchunk.actors.editor import editor
from qchunk.compose import acting, learner
from qchunk.config import ActorConfig, ChunkConfig, CriticConfig, OptimConfig, Stands, config
from qchunk.critics.chunk_q import chunk_q
from qchunk.critics.ensemble import mean, opinion
from qchunk.improve import edited
from qchunk.losses.cloning import bc
from qchunk.losses.proposals import ascend_softly, editing, temperature
from qchunk.losses.td import td
from qchunk.ranges import NonNegativeFloat
from qchunk.sampling import sample
from qchunk.types import Algorithm, Critic, Kernel, Policy


@config
class FEdit:
    """Edits of a cloned flow."""

    chunk: ChunkConfig = ChunkConfig()
    actor: Annotated[ActorConfig, Stands.CLONED] = FlowConfig()
    """The actor whose chunks are edited, by behaviour cloning, or the prior's."""
    editor: TanhGaussianConfig = TanhGaussianConfig()
    """The actor that edits them."""
    critic: CriticConfig = CriticConfig()
    optim: OptimConfig = OptimConfig()
    scale: NonNegativeFloat = 0.2
    """The largest edit of a number, in units of action."""


def fedit(c: FEdit, play: Callable[[Policy, Kernel, Critic], Policy] | None = None) -> Algorithm:
    """FEdit: edited chunks act and are backed up; the editor climbs the critic under an entropy bonus, the flow does not.

    Args:
        play: what acts and is backed up, from the flow's policy, the editor and the critic; by default each chunk's edit.
    """
    pi, e, q, heat = actor(c.actor), editor(c.editor), chunk_q(c.critic), temperature()
    base = sample(acting(pi))
    climb = editing(e, base, c.scale, ascend_softly(e, opinion(q, mean), heat))
    act = play(base, acting(e), q) if play else edited(base, acting(e), c.scale)
    return learner([pi, e, q, heat], act, [bc(pi), climb, td(q, act)], c.optim, prior=pi)
