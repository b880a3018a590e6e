"""No simulator at all: what stands in an environment's place where there is only a robot's own data. Its last episodes are held out and judge a policy.

Its name says the sizes: ``none/37,5`` has observations of 37 numbers and actions of 5, ``none/goal:3,state:12,5`` a tree of them.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from qchunk import trees
from qchunk.data.chunks import Dataset
from qchunk.data.formats import Rows, to_device
from qchunk.envs.base import Env, State
from qchunk.system.errors import UserError

SHARE = 0.1  # of the episodes, and at least one


class HeldOut(Env):
    """Sizes, and the episodes that are held out once data have been read. It cannot be played in."""

    data_name = ""  # of any data
    episode_length = 1
    action_size = property(lambda self: self.sizes[1])
    observation_size = property(lambda self: self.sizes[0])
    backend = property(lambda self: "none")

    def __init__(self, obs: Any, action: int):
        self.sizes = (obs, action)
        self.held: Dataset | None = None

    @property
    def no_obs(self) -> Any:
        """Zeros in the place of an observation, a tree of arrays [O]."""
        return trees.unnamed({name: np.zeros(n, np.float32) for name, n in trees.named(self.sizes[0]).items()})

    def reset(self, rng: Any) -> State:
        raise UserError("--env none is no place to play in", "name an environment, or learn from --data alone")

    def step(self, state: State, action: Any) -> State:
        raise NotImplementedError  # nothing is ever reset

    def hold_out(self, rows: Rows) -> Rows:
        """Keeps the last episodes, and returns the others.

        Raises:
            UserError: there is one episode only.
        """
        ends = np.flatnonzero(rows.end) + 1
        kept = max(1, round(SHARE * len(ends)))
        if kept == len(ends):
            raise UserError("the data hold one episode, and none can be held out", "record more episodes")
        cut = int(ends[-kept - 1])
        self.held = to_device(jax.tree.map(lambda x: x[cut:], rows))
        return jax.tree.map(lambda x: x[:cut], rows)


def name_of(rows: Rows) -> str:
    """The name of what stands in the place of an environment for these data."""
    sizes = {name.removeprefix("obs/"): n for name, n in trees.named(trees.sizes(rows.obs)).items()}
    obs = [str(n) if name == "obs" else f"{name}:{n}" for name, n in sizes.items()]
    return f"none/{','.join([*obs, str(rows.action.shape[1])])}"


def make(rest: str) -> HeldOut:
    """``37,5`` and its like.

    Raises:
        UserError: it says no sizes.
    """
    *parts, action = rest.split(",")
    named = [part.rpartition(":") for part in parts]
    if not named or not all(n.isdigit() and int(n) > 0 for n in (action, *(n for _, _, n in named))):
        problem = f"none/{rest} is no place to play in, and says no sizes"
        raise UserError(problem, "name an environment; to train without one, pass qchunk train --env none --data FILE")
    return HeldOut(trees.unnamed({f"obs/{name}" if name else "obs": int(n) for name, _, n in named}), int(action))
