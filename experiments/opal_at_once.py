"""OPAL without a first stage: skills and the policy over them are learned in the same updates, each on what the other is by then.

The catch that two stages avoid, for ``qchunk reproduce catches``; also a method of one's own: ``qchunk train experiments/opal_at_once.py:opal_at_once``.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from qchunk.actor_configs import SkillConfig
from qchunk.actors import actor
from qchunk.algorithms.iql import IQL, iql
from qchunk.algorithms.opal import OPAL
from qchunk.compose import learner
from qchunk.config import ActorConfig, config
from qchunk.losses.cloning import bc
from qchunk.recode import in_skills
from qchunk.sampling import sample
from qchunk.types import Algorithm, Chunk, Key, Learner, Metrics, Spec


@config
class OPALAtOnce(OPAL):
    """OPAL, both levels at once."""

    given: ActorConfig = SkillConfig()
    """The skills, learned beside the policy over them; no prior's."""


def opal_at_once(c: OPALAtOnce) -> Algorithm:
    """Each update clones skills from the windows of a batch, then reads skills off these windows and makes an update of IQL over them."""
    skills = actor(c.given, "skills")
    below = learner([skills], sample(skills), [bc(skills)], c.optim)
    above = in_skills(iql(IQL(c.chunk, c.policy, c.critic, c.optim, c.expectile, c.alpha)), skills)

    def init(key: Key, spec: Spec, given: dict | None = None) -> Learner:
        keys = jax.random.split(key)
        low, high = below.init(keys[0], spec, given), above.init(keys[1], spec, given)
        return Learner({**low.params, **high.params}, high.targets, {}, (low.opt, high.opt), jnp.zeros((), jnp.int32))

    def update(state: Learner, given: dict, key: Key, chunk: Chunk) -> tuple[Learner, Metrics]:
        keys, names = jax.random.split(key, 3), {m.name for m in skills.modules}
        low = state._replace(params={n: p for n, p in state.params.items() if n in names}, targets={}, opt=state.opt[0])
        high = state._replace(params={n: p for n, p in state.params.items() if n not in names}, opt=state.opt[1])
        low, learned = below.update(low, given, keys[0], chunk)
        both = state._replace(params={**low.params, **high.params})
        _, recoded = above.prepare(both, given, keys[1], chunk)
        high, more = above.update(high, given, keys[2], recoded)
        metrics = {**more, **{n: x for n, x in learned.items() if n != "loss"}}
        return high._replace(params={**low.params, **high.params}, opt=(low.opt, high.opt)), metrics

    return above._replace(
        init=init,
        update=update,
        prepare=below.prepare,
        freeze=lambda state: dict(state.params),
    )
