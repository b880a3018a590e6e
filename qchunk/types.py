"""The types that every part of qchunk meets at. Nothing else lives here.

Letters, in every signature, comment and shape check:
B batch, H chunk length, J backup points, A action size, O observation size, N candidates, K denoising (or flow)
steps, E parallel environments, T decisions of a rollout, S seeds, U consecutive chunks. ``*B`` stands for any number
of leading axes.

An observation is one array or a tree of them: dictionaries, one within another where need be. EVERY leaf has exactly one
event axis, [*B, O] with an O of its own: an image is flat, and what reads it reshapes it. A leaf keeps its type: images
are uint8 wherever they are stored, and become numbers in [0, 1] where a network reads them (``nets.flatten_obs``). What is
written [*B, O] below holds for every leaf.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from qchunk import trees

Array = jax.Array
Key = jax.Array  # a typed key: jax.random.key(0)
PyTree = Any
Metrics = dict[str, Array]
CLEAN = (1.0, 0.0)  # the noise level (alpha, sigma) of clean chunks
PLAN_STEP = "plan_step"  # of ``extras``: which step of its plan an action is, int32; 0 at a decision. None: each is one


class Spec(NamedTuple):
    """The sizes that networks are built for. Hashable, so that programs are shared between equal ones."""

    obs: PyTree  # O; of a tree of observations the tree of its leaves' sizes, such as {"state": 12, "goal": 3}
    action: int  # A
    horizon: int  # H

    def __hash__(self) -> int:
        return hash((tuple(trees.named(self.obs).items()), self.action, self.horizon))


class Steps(NamedTuple):
    """What was played, step by step; leading axes [n, E]. Where ``alive`` is 0 nothing was: the episode had ended."""

    obs: PyTree  # [n, E, O]
    action: Array  # [n, E, A]
    reward: Array  # [n, E]
    terminal: Array  # [n, E]
    truncation: Array  # [n, E]
    next_obs: PyTree  # [n, E, O] the true one
    success: Array | None  # [n, E], None where the environment has no notion of it
    alive: Array  # [n, E]
    terms: dict = {}  # noqa: RUF012  (never written to)  [n, E] each, what an objective is made of
    extras: dict = {}  # noqa: RUF012  [n, E, ...] each: a plan's extras at every one of its steps, and PLAN_STEP


class Chunk(NamedTuple):
    """What every loss eats. Leading axes *B are (B,), (T, E) for a rollout, or (B, U) for U consecutive chunks
    (``chunks.consecutive``)."""

    obs: PyTree  # [*B, O]
    action: Array  # [*B, H, A]  data go on after a success; padding (the last action) only after an episode's end
    mask: Array  # [*B, H]     1 inside the episode
    reward: Array  # [*B, J]     discounted return up to backup point j, stopped at a success
    discount: Array  # [*B, J]     gamma^n (1 - terminal)
    next_obs: PyTree  # [*B, J, O]  the true observation there, never an auto-reset one
    weight: Array  # [*B, J]     0 where a time-out cuts the backup; losses are sum(w * l) / sum(w)
    last: Array  # [*B]        1 where an episode ends inside the chunk: cuts traces even where discount > 0
    extras: (
        dict  # [*B, ...] each: what plans and data hold besides (latents, log-probabilities, "source"); see chunks.cut
    )


class Learner(NamedTuple):
    """Everything that training changes. ``step`` is shared by vmapped seeds: ``Learner(0, 0, 0, 0, None)``."""

    params: dict  # trained modules by name; a temperature is a module too
    slow: dict  # Polyak, EMA and periodic copies
    stats: dict  # units of observations and actions (normalise.py)
    opt: optax.OptState  # ONE transformation: optax.partition by module
    step: Array  # [] int32, updates done


class Vars(NamedTuple):
    """What acting and losses may READ."""

    params: dict
    slow: dict
    stats: dict
    given: dict  # frozen modules of an earlier stage: in no optimiser, never donated; stacked over seeds in the drivers


class Slow(NamedTuple):
    """How a slow copy follows its module: ``slow + rate * (params - slow)``, once per update.

    ``lagged`` copies read the parameters from before the gradient step (the Q-chunking papers), others those after it.
    """

    rate: Any  # float, or a tracer, in (0, 1]; or a function of the number of the update
    lagged: bool = True
    every: int = 1  # the copy moves in updates that are multiples of it
    acts: bool = False  # whether the copy, not the module, is what acts and what later stages are given


class Module(NamedTuple):
    """A named set of parameters."""

    name: str
    init: Callable  # (key, Spec) -> params
    apply: Callable  # (params, ...) -> output
    slow: Slow | None = None


class Kernel(NamedTuple):
    """ONE denoising step: everything that an iterative actor has to define.

    k counts steps: k = 0 is the first, noisiest one; ``levels[0]`` is noise and ``levels[K]`` is data, whatever
    index a paper uses. Leading axes of ``obs`` and ``x`` broadcast; so does ``k`` in a Kernel whose probabilities are asked for
    (sampling.log_prob looks at all steps at once); a guided one takes one k.
    """

    modules: tuple[Module, ...]
    levels: Any  # [K+1, 2] (alpha, sigma) with x = alpha * a + sigma * eps; another grid is another Kernel
    shape: Callable  # vars -> (H, A), read off the parameters
    denoise: Callable  # (vars, obs, x, k) -> estimate of the clean chunk [*B, H, A]; noise, score, velocity follow
    advance: Callable | None  # (x, clean, k[, eta]) -> (mean, std), the rule of a step; None where there are no levels
    step: Callable  # (vars, obs, x, k) -> (mean [*B, H, A], std); std = 0 for an ODE
    noisy: bool  # whether std may be positive: sampling then draws noise for every step
    draw: Callable  # (key, Chunk) -> noise
    loss: Callable  # (vars, noise, Chunk) -> [*B], mean over (H, A) of masked errors, zeros counted


class Plan(NamedTuple):
    """A chunk that an actor decided on."""

    action: Array  # [*B, H, A] in [-1, 1]
    extras: dict = {}  # noqa: RUF012  (never written to)


class Old(NamedTuple):
    """The plan that is being played when the next one is made, aligned to now: its action i is meant for the i-th step from now."""

    plan: Plan
    left: (
        Array  # [*B, H] 1 where the plan still has an action; 0 behind its end, and everywhere where an episode begins
    )


class Policy(NamedTuple):
    """A way of choosing chunks; every wrapper maps Policy -> Policy.

    Drawing is apart from planning, as it is in Kernel and Term, so that noise can be shared, sliced and injected.
    Every leaf of the noise leads with the axes of ``obs``.
    """

    draw: Callable  # (vars, key, obs [*B, O]) -> noise
    plan: Callable  # (vars, noise, obs, Old) -> Plan; None in place of Old where no episode is played, as in a target
    emit: Callable  # (vars, plan, i, obs) -> [*B, A]
    length: int | None = None  # actions in its chunks where that is not the configuration's horizon


class Critic(NamedTuple):
    """An ensemble that values chunks given as [*B, H, A]. Leading axes of obs and action broadcast."""

    modules: tuple[Module, ...]
    values: Callable  # (vars, obs, action, level=CLEAN) -> [members, *B]; level [.., 2] is (alpha, sigma) of the chunk
    aggregate: Callable  # [members, *B] -> [*B]
    score: Callable  # (vars, obs, action, level=CLEAN) -> [*B], the aggregated opinion


class Term(NamedTuple):
    """One summand of an objective."""

    wrt: tuple[str, ...]  # names of the modules it trains; it sees every other one behind stop_gradient
    draw: Callable  # (key, Chunk) -> noise
    fn: Callable  # (vars, noise, Chunk) -> (scalar, Metrics)
    every: int = 1  # active in updates whose number is a multiple of it ...
    start: int = 0  # ... and at least this


class Algorithm(NamedTuple):
    """The whole public contract of a method."""

    init: Callable  # (key, Spec, given) -> Learner
    act: Policy  # evaluation
    explore: Policy  # collecting
    prepare: Callable  # (learner, given, key, Chunk) -> (learner, Chunk)
    update: Callable  # (learner, given, key, Chunk) -> (learner, Metrics): ONE step
    stop: Callable  # metrics -> bool: the driver masks what is left of an epoch
    freeze: Callable  # learner -> its modules by name, as a later stage is given them
    draw: Callable | None = None  # (key, buffer.Source, ChunkConfig, batch) -> Chunk; None: ``buffer.draw``


def view(learner: Learner, given: dict) -> Vars:
    """What a policy or a loss may read of a learner and of an earlier stage's frozen modules."""
    return Vars(learner.params, learner.slow, learner.stats, given)


def slow_view(vars: Vars) -> Vars:
    """The same variables with every slow copy in the place of its module."""
    return vars._replace(params={**vars.params, **vars.slow})
