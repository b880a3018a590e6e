"""gymnasium environments for tests of worker processes; ``host_envs:Walk-v0`` registers and makes one."""

from __future__ import annotations

import importlib.util
import os
import random
import time
from pathlib import Path

import gymnasium
import numpy as np

TROUBLE = "QCHUNK_TEST_TROUBLE"  # names a file that says what goes wrong, once: "die", "hang", "die at 4" (its step of an episode), or always: "die always"


class Walk(gymnasium.Env):
    """A walk on a line with random pushes: ends at 1, is cut off after 7 steps. Observations [2], action in [-2, 6]."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,))
    action_space = gymnasium.spaces.Box(-2.0, 6.0, (1,))

    def __init__(self, start=None, word=""):
        assert isinstance(word, str)
        self.start = start

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        start = self.np_random.uniform(-0.5, 0.5) if self.start is None else self.start
        self.x, self.t = start + 0.005 * (np.random.rand() + random.random()), 0
        return self._obs(), {}

    def step(self, action):
        trouble(self.t)
        self.x += 0.1 * float(action[0]) + 0.05 * self.np_random.normal()
        self.t += 1
        return self._obs(), -abs(self.x), self.x >= 1.0, False, {"success": self.x >= 1.0}

    def _obs(self):
        return np.asarray([self.x, self.t], np.float32)


class Parts(Walk):
    """The same walk, shown in parts."""

    observation_space = gymnasium.spaces.Dict(
        {name: gymnasium.spaces.Box(-np.inf, np.inf, (1,)) for name in ("time", "place")}
    )

    def _obs(self):
        place, time = np.split(super()._obs(), 2)
        return {"time": time, "place": place}


class Pictures(Parts):
    """The same walk, as a picture beside a dictionary of numbers."""

    observation_space = gymnasium.spaces.Dict(
        {"picture": gymnasium.spaces.Box(0, 255, (2, 3), np.uint8), "body": Parts.observation_space}
    )

    def _obs(self):
        pixels = np.arange(6, dtype=np.uint8).reshape(2, 3) + np.uint8(30 * self.t)
        return {"picture": pixels, "body": super()._obs()}


class Raises(Walk):
    """Its fourth step fails."""

    def step(self, action):
        if self.t == 3:
            raise RuntimeError("the motor is hot")
        return super().step(action)


class Guided(Walk):
    """The same walk with an expert of its own, drawn as one colour."""

    def __init__(self, render_mode=None):
        super().__init__()
        self.render_mode = render_mode

    def expert(self):
        return np.asarray([1.5 - self.x])

    def render(self):
        return np.full((4, 6, 3), 20 * self.t, np.uint8)


class Sees(Walk):
    """Observes what can be imported where it runs: jax, an installed qchunk, numpy."""

    observation_space = gymnasium.spaces.Box(0, 1, (3,))

    def _obs(self):
        found = [importlib.util.find_spec("jax"), importlib.machinery.PathFinder.find_spec("qchunk"), np]
        return np.asarray([x is not None for x in found], np.float32)


class Dies(Walk):
    """Making it ends the process."""

    def __init__(self):
        os._exit(4)


class Discrete(Walk):
    action_space = gymnasium.spaces.Discrete(3)


def trouble(t=0):
    try:
        path = os.environ[TROUBLE]
        what, _, at = Path(path).read_text().partition(" at ")
        if at and int(at) != t:
            return
        if "always" not in what:
            os.rename(path, f"{path}.taken")  # by one process only
    except (KeyError, FileNotFoundError):  # there is none, or another process was faster
        return
    if what.startswith("die"):
        os._exit(3)
    time.sleep(1000)


class Told(gymnasium.Env):
    """Six steps, all of them alike; subclasses differ in what they say of success, and in rewards."""

    observation_space = gymnasium.spaces.Box(-9, 9, (2,))
    action_space = gymnasium.spaces.Box(-1, 1, (1,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), {}

    def step(self, action):
        self.t += 1
        assert np.isfinite(action).all(), "no simulator is given what is no number"
        return self.obs(), self.reward(), self.t == 6, False, self.info(self.t == 6)

    def obs(self):
        return np.zeros(2, np.float32)

    def reward(self):
        return -1.0

    def info(self, last):
        return {}


class ToldLast(Told):
    def info(self, last):
        return {"success": True} if last else {}


class ToldWithGap(Told):
    def info(self, last):
        return {} if self.t == 3 else {"success": self.t == 2}


class ToldAsIs(Told):
    def info(self, last):
        return {"is_success": float(last)}


class ToldFalse(Told):
    def info(self, last):
        return {"success": np.asarray([False])}


class NanReward(Told):
    def reward(self):
        return np.nan if self.t == 5 else np.asarray([-1.0])


class HugeObservation(Told):
    def obs(self):
        return np.asarray([0.0, 1e39 if self.t == 5 else 0.0])


class Many(Told):
    """Each of gymnasium's spaces that flattens."""

    observation_space = gymnasium.spaces.Dict(
        {
            "a": gymnasium.spaces.Discrete(3, start=1),
            "b": gymnasium.spaces.MultiDiscrete([2, 3]),
            "c": gymnasium.spaces.MultiBinary(2),
            "d": gymnasium.spaces.Tuple((gymnasium.spaces.Box(0, 1, ()), gymnasium.spaces.Discrete(2))),
            "e": gymnasium.spaces.Box(-9, 9, (1, 2), np.int64),
        }
    )

    def reset(self, *, seed=None, options=None):
        return self.obs(), super().reset(seed=seed)[1]

    def obs(self):
        return {"a": 2, "b": [1, 2], "c": [0, 1], "d": (0.5, 1), "e": [[-0.5, 2]]}


class Bytes(Told):
    """Shows numbers as bytes; at its third step one that is none."""

    observation_space = gymnasium.spaces.Box(0, 255, (2,), np.uint8)

    def __init__(self, odd=np.nan):
        self.odd = odd

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.obs(), {}

    def obs(self):
        return np.asarray([7, self.odd if self.t == 3 else 200.0])


class Pixels(Bytes):
    observation_space = gymnasium.spaces.Box(0, 255, (1, 2), np.uint8)

    def obs(self):
        return super().obs()[None]


class Acts(Told):
    """Shows its last action as a share of the bounds, which are whole numbers or huge."""

    def __init__(self, most=2, kind="int64"):
        self.most, self.action_space = most, gymnasium.spaces.Box(-most, most, (1,), np.dtype(kind).type)

    def step(self, action):
        self.last = action
        return super().step(action)

    def obs(self):
        return np.asarray([self.last[0] / self.most, 0])


TOLD = (Many, Bytes, Pixels, Acts, Told, ToldLast, ToldWithGap, ToldAsIs, ToldFalse, NanReward, HugeObservation)
for kind in (Walk, Parts, Pictures, Raises, Guided, Sees, Dies, Discrete, *TOLD):
    gymnasium.register(f"{kind.__name__}-v0", entry_point=kind, max_episode_steps=7)
