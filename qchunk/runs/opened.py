"""What several commands need: a run rebuilt from its folder, figures printed, an argument without a flag."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from qchunk.config import from_dict
from qchunk import registry
from qchunk.runs import checkpoint
from qchunk import envs, normalise
from qchunk.commands import flags
from qchunk.drivers import on_policy, online
from qchunk.drivers import offline as training
from qchunk.system.errors import UserError
from qchunk.types import Algorithm, Learner, Spec, Vars, view

GIVEN = "given"  # the folder within a run's that holds the frozen modules it stands on


class Parts(NamedTuple):
    """What a run is made of, besides its data."""

    build: Any
    c: Any
    settings: Any
    online: online.OnlineSettings | None  # None for an on-policy method
    env: Any
    given: dict


def drivers(config_class: type) -> tuple[type, ...]:
    """The settings of what trains such a method: a configuration with a ``rollout`` is that of an on-policy one."""
    on = "rollout" in config_class.__dataclass_fields__  # type: ignore[attr-defined]
    return (on_policy.Settings,) if on else (training.Settings, online.OnlineSettings)


def rebuild(kept: dict, folder: Path) -> Parts:
    """What a run was made of, from its configuration and its folder."""
    build, config_class = registry.builder(kept["algorithm"])
    c = from_dict(config_class, kept["config"])
    first, *rest = drivers(config_class)
    settings, more = from_dict(first, kept["settings"]), [from_dict(cls, kept["online"]) for cls in rest]
    env = envs.make(kept["env"], c.chunk.history, kept.get("objective"))
    return Parts(build, c, settings, more[0] if more else None, env, read_given(folder))


def save_given(given: dict, run: Path) -> None:
    """Copies the frozen modules that a run stands on, [S, ...], into its folder; nothing where it stands on none."""
    if not given:
        return
    flat = {"/".join(k): v for k, v in flatten_dict(given).items()}
    shapes = {k: [str(v.dtype), list(v.shape)] for k, v in flat.items()}
    checkpoint.save(run / GIVEN, 0, given, {"shapes": shapes, "per_seed": True})


def read_given(run: Path) -> dict:
    """What ``save_given`` wrote; {} for a run that stands on nothing. Every byte is checked.

    Raises:
        UserError: it is damaged, or of the time when all seeds shared their frozen modules.
    """
    if not (run / GIVEN).is_dir():
        return {}
    kept = checkpoint.about(run / GIVEN)
    if not kept.get("per_seed"):
        raise UserError(f"{run} was made when all seeds shared one prior", "train it anew with this version")
    shapes = kept["shapes"]
    like = {tuple(k.split("/")): jax.ShapeDtypeStruct(s, np.dtype(d)) for k, (d, s) in shapes.items()}
    tree = checkpoint.restore(run / GIVEN, unflatten_dict(like))[0]
    return jax.tree.map(jax.numpy.asarray, tree)


def restore(folder: Path, p: Parts, step: int | None) -> tuple[tuple[Learner | None, Any], int]:
    """(learner, online part or None) of a checkpoint, and its step; None and 0 where the run never saved one."""
    where = folder / "checkpoints"
    if step is None and not checkpoint.steps(where):
        return (None, None), 0
    spec = Spec(p.env.observation_size, p.env.action_size, p.c.chunk.horizon)
    learner = jax.eval_shape(lambda: training.init(p.build, p.c, p.given, spec, p.settings))
    like = {"learner": learner}
    if checkpoint.about(where, step).get("online"):
        like["online"] = state_like(p, learner)
    tree, about = checkpoint.restore(where, like, step)
    tree = jax.tree.map(jax.numpy.asarray, tree)
    normalise.check(tree["learner"], p.settings.normalise_obs, p.settings.normalise_action)
    return (tree["learner"], tree.get("online")), int(about["step"])


def state_like(p: Parts, learner: Learner) -> Any:
    """Shapes and types of what a run holds besides its learner while it plays in its environment."""
    if p.online is None:
        return on_policy.state_like(p.build, p.env, learner, p.c, p.given, p.settings)
    return online.state_like(p.build, p.env, learner, p.c, p.given, p.settings, p.online)


def learner_of(folder: Path, p: Parts, step: int | None) -> tuple[Learner, int]:
    """The learner of a checkpoint that must be there."""
    (learner, _), at = restore(folder, p, step)
    if learner is None:
        raise UserError(f"{folder} has no checkpoint yet", f"go on with qchunk train --resume {folder}")
    return learner, at


def one_seed(p: Parts, learner: Learner, seed: int = 0) -> tuple[Algorithm, Vars]:
    """A run's algorithm in its units, and what the seed at this place of its seeds reads."""
    stacked = learner._replace(step=jax.numpy.broadcast_to(learner.step, p.settings.seeds))
    vars = jax.tree.map(lambda x: x[seed], view(stacked, p.given))
    return training.in_units(p.build, p.settings)(p.c), vars


def first_seed(p: Parts, learner: Learner) -> tuple[Learner, dict]:
    """The learner and the frozen modules of a run's first seed, leaves [1, ...]."""
    one, given = jax.tree.map(lambda x: x[:1], (learner._replace(step=learner.step[None]), p.given))
    return one._replace(step=learner.step), given
