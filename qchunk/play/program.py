"""What is run: a static ``Program`` and the arrays that it takes. Drivers and players pass these two, and a learner."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from jax.interpreters.partial_eval import dce_jaxpr

from qchunk import normalise
from qchunk.data.buffer import Ring, Source
from qchunk.envs.base import AutoReset, spec_of, wrap
from qchunk.envs.host.pool import HostEnv
from qchunk.envs.objective import settled
from qchunk.play.execute import Execution, Scheme
from qchunk.primitives import in_primitives
from qchunk.sampling import at_random, uniform
from qchunk.seeds import Share, over_seeds
from qchunk.system.errors import UserError
from qchunk.types import Algorithm, Array, Learner, Spec, Vars, view
from qchunk.varied import put

Build = Callable[[Any], Algorithm]


@dataclasses.dataclass(frozen=True)
class Program:
    """What a compiled program is made for. Hashable: the static argument of everything that is jitted.

    Attributes:
        build: config -> Algorithm.
        env: a brax ``Env`` for ONE environment, or a ``HostEnv``.
        units: kinds of the units of observations and actions inside the algorithm (normalise.KINDS).
    """

    build: Build
    env: Any
    units: tuple[str, str] = ("none", "none")

    def algorithm(self, c: Any) -> Algorithm:
        """The method in its units, and in primitives where chunks are such. Raises UserError where ``build`` returns something else than an Algorithm."""
        made = self.build(c)
        if not isinstance(made, Algorithm):
            name = getattr(self.build, "__name__", "build")
            raise UserError(
                f"{name} returns a {type(made).__name__}", "return an Algorithm, such as qchunk.learner(...)"
            )
        if c.chunk.codec != "none" and not made.primitives:
            made = in_primitives(made, c.chunk)
        return made if self.units == ("none", "none") else normalise.normalised(made)

    def spec(self, c: Any) -> Spec:
        """The sizes that networks are built for."""
        return spec_of(self.env, c.chunk.horizon)

    def scheme(self, x: Inputs, role: str) -> Scheme:
        """Execution of one of the algorithm's policies, "act" (evaluation), "explore" (collecting) or "random" in its place."""
        algorithm = self.algorithm(x.c)
        if role == "random":
            explore = algorithm.explore
            return x.execution.scheme(at_random(algorithm.first or uniform(explore), explore))
        return x.execution.scheme(getattr(algorithm, role))

    def playable(self, given: dict) -> AutoReset:
        """The environment of one seed, wrapped, with the objective's weights that the run is given."""
        return wrap(settled(self.env, given))

    def source(self, x: Inputs, ring: Ring | None = None, mix: str = "uniform") -> Source:
        """What one seed's batches are drawn from."""
        return Source(x.data, ring, mix, getattr(self.env, "goal_of", None))

    @property
    def on_host(self) -> bool:
        """Whether its environments run in worker processes, outside of what can be compiled."""
        return isinstance(self.env, HostEnv)


class Inputs(NamedTuple):
    """The arrays of a program, for S seeds; with their first axis gone those of one seed (``each_seed``)."""

    c: Any  # the method's configuration: its floats are traced
    execution: Execution  # how much of a chunk is played; its floats are traced
    given: dict  # [S, ...] frozen modules of an earlier stage
    keys: Array  # [S]
    data: Any = None  # a Dataset, the same for every seed; None where there is none
    varied: dict | None = None  # [S] floats of ``c`` by their flags, where seeds differ in them; see varied.py
    share: Share = Share()  # how many devices share each seed; no array


def reads(learner: Learner, x: Inputs) -> Vars:
    """What policies and losses may read, of one seed or of all."""
    return view(learner, x.given)


def each_seed(fn: Callable, learner: Learner, x: Inputs, *batched: Any) -> Any:
    """``fn(learner, inputs, *batched)`` for each seed in one program; its inputs are that seed's.

    Args:
        batched: further values, whose leaves lead with S.
    """

    def one(learner: Learner, given: dict, key: Array, varied: dict | None, *rest: Any) -> Any:
        *more, data = rest
        mine = x._replace(c=put(x.c, varied), given=given, keys=key, data=data, varied=None)
        return fn(learner, mine, *more)

    return over_seeds(one, learner, x.given, x.keys, x.varied, *batched, shared=(x.data,), share=x.share)


def depends(jaxpr: Any, first: int, count: int) -> bool:
    """Whether any output of a traced program depends on these inputs, ``count`` of them from ``first`` on."""
    _, read = dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return any(read[first : first + count])
