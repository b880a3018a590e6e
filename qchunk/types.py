"""The types that every part of qchunk meets at, and the few constants that all of them read.

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
from typing import Any, NamedTuple, Protocol

import jax
import optax

from qchunk import trees

Array = jax.Array
Key = jax.Array  # a typed key: jax.random.key(0)
PyTree = Any
Metrics = dict[str, Array]
LENGTH = "length"  # of ``extras``: how many actions of a plan are to be played, int32 in 1 .. H
EDGE = 1.0 - 1e-5  # actions of data are clipped to +-EDGE, as the papers do, so that tanh can reach them
CLEAN = (1.0, 0.0)  # the noise level (alpha, sigma) of clean chunks
# of ``extras``: which step of its plan an action is, int32; 0 where a plan begins. None: each does
PLAN_STEP = "plan_step"
SKILL = "skill"  # of a plan's ``extras``, where a Decoder turns it into actions


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
    success: Array | None  # [n, E], 1, 0 or -1 where a step does not speak of it; None where the environment never does
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
    # [*B, ...] each: what plans and data hold besides (latents, log-probabilities, "source"); see chunks.cut
    extras: dict


class Learner(NamedTuple):
    """Everything that training changes. ``step`` is shared by vmapped seeds: ``Learner(0, 0, 0, 0, None)``."""

    params: dict  # trained modules by name; a temperature is a module too
    targets: dict  # target networks and moving averages by their module's name, where it keeps one
    stats: dict  # units of observations and actions (normalise.py), numbers that follow ``step`` (schedules.py)
    opt: optax.OptState  # ONE transformation: optax.partition by module
    step: Array  # [] int32, updates done


class Vars(NamedTuple):
    """What acting and losses may READ."""

    params: dict
    targets: dict
    stats: dict
    given: dict  # frozen modules of an earlier stage: in no optimiser, never donated; stacked over seeds in the drivers


class TargetNetwork(NamedTuple):
    """How a target network, a copy of a module's parameters, follows them: ``target + rate * (params - target)`` per update.

    ``lagged`` ones read the parameters from before the gradient step (the Q-chunking papers), others those after it.
    """

    rate: Any  # float, or a tracer, in (0, 1]; or a function of the number of the update
    lagged: bool = True
    every: int = 1  # it moves in updates that are multiples of this
    acts: bool = False  # a moving average (EMA) that acts, and is given to later stages, in its module's place
    drawn: int = 0  # members of an ensemble that an update reads of it, others in each update; 0: all


class Module(NamedTuple):
    """A named set of parameters, and what is computed with it."""

    name: str
    init: InitFn
    apply: Callable  # (params, ...) -> output
    target: TargetNetwork | None = None  # None: no second copy is kept


class Decoder(NamedTuple):
    """What turns the chunks of a Kernel that are no actions, but W numbers of a skill, into actions."""

    size: int  # W
    plan: Callable[[Vars, PyTree, Array], Any]  # (vars, obs [*B, O], skill [*B, 1, W]) -> Plan
    emit: EmitFn  # looks at every step, not only where a plan begins
    # chunks with a backup point at every step -> their skills [*B, 1, W] in [-1, 1]
    encode: Callable[[Vars, Chunk], Array]


class Kernel(NamedTuple):
    """ONE denoising step: everything that an iterative actor has to define.

    k counts steps: k = 0 is the first, noisiest one; ``levels[0]`` is noise and ``levels[K]`` is data, whatever
    index a paper uses. Leading axes of ``obs`` and ``x`` broadcast; so does ``k`` in a Kernel whose probabilities are computed
    (sampling.log_prob looks at all steps at once); a guided one takes one k.
    """

    modules: tuple[Module, ...]
    levels: Any  # [K+1, 2] (alpha, sigma) with x = alpha * a + sigma * eps; another grid is another Kernel
    shape: Callable[[Vars], tuple[int, ...]]  # (H, A), read off the parameters
    denoise: DenoiseFn
    advance: AdvanceFn | None  # the rule of a step; None where there are no levels
    step: StepFn
    noisy: bool  # whether std may be positive: sampling then draws noise for every step
    draw: DrawFn
    loss: LossFn
    density: DensityFn | None = None  # None: no density of its chunks is known
    infill: InfillFn | None = None  # None: it has not learned to go on from the beginning of a chunk
    committed: int = 0  # the most actions that ``infill`` has learned to be given
    decoder: Decoder | None = None  # None: its chunks are actions
    velocity: VelocityFn | None = None  # of a flow; None: it is none
    follow: FollowFn | None = None  # None: it learns from data alone


class Plan(NamedTuple):
    """A chunk that an actor decided on."""

    action: Array  # [*B, H, A] in [-1, 1]
    extras: dict = {}  # noqa: RUF012  (never written to)


class Pull(NamedTuple):
    """How firmly a plan that is being made holds on to the old one (real-time chunking, 2506.07339)."""

    weight: Array  # [*B, H] in [0, 1] for each action; a plan whose weights are all 0 is made as without a pull
    limit: Array | None  # [*B] beta > 0, the most that a step adds to a flow's velocity, in units of the pull itself
    # None: actions of weight 1 are given, and the actor goes on from them as it has learned to (``Policy.committed``)


class Old(NamedTuple):
    """The plan that is being played when the next one is made, aligned to now: its action i is meant for the i-th step from now."""

    plan: Plan
    # [*B, H] 1 where the plan still has an action; 0 behind its end, and everywhere where an episode begins
    left: Array
    pull: Pull | None = None  # what a scheme asks of policies that can be pulled


class Choice(NamedTuple):
    """Among what a policy chooses, and what it thinks of every prefix: what schemes read that set their own boundaries."""

    policy: Any  # Policy, whose plans are the candidates
    n: int  # N
    values: Any  # ValueFn -> [members, *B, J], of the first ``points[j]`` actions
    aggregate: Callable[[Array], Array]  # [members, *B] -> [*B]
    points: tuple[int, ...]  # J lengths, ascending
    gamma: Any  # discount per environment step


class Policy(NamedTuple):
    """A way of choosing chunks; every wrapper maps Policy -> Policy.

    Drawing is apart from planning, as it is in Kernel and Term, so that noise can be shared, sliced and injected.
    Every leaf of the noise leads with the axes of ``obs``.
    """

    draw: PolicyDrawFn
    plan: PlanFn
    emit: EmitFn
    length: int | None = None  # actions in its chunks where that is not the configuration's horizon
    pulled: bool = False  # whether its plans obey ``Old.pull``; a wrapper that hands ``old`` on keeps it
    committed: int = 0  # the most actions of an old plan that it can be given, to go on from
    ends: bool = False  # whether its plans say how far they are to be played: ``extras[LENGTH]``
    choice: Choice | None = None  # None: it has no opinion of prefixes
    speaks: str = ""  # what it makes before that becomes actions, in words; "" where it makes actions themselves


class Critic(NamedTuple):
    """An ensemble that values chunks given as [*B, H, A]. Leading axes of obs and action broadcast."""

    modules: tuple[Module, ...]
    values: ValueFn  # -> [members, *B]
    aggregate: Callable[[Array], Array]  # [members, *B] -> [*B]
    score: ValueFn  # -> [*B], the aggregated opinion


class Term(NamedTuple):
    """One summand of an objective. Its metrics carry its name: "td/loss", "td/q"."""

    name: str
    wrt: tuple[str, ...]  # names of the modules it trains; it sees every other one behind stop_gradient
    draw: DrawFn
    fn: TermFn
    every: int = 1  # active in updates whose number is a multiple of it ...
    start: int = 0  # ... and at least this ...
    end: int | None = None  # ... and less than this


class Together(NamedTuple):
    """Terms on one draw: each ``fn`` gets this noise, or what ``shared`` makes of it, in place of its own ``draw``'s."""

    draw: DrawFn
    terms: tuple[Term, ...]
    shared: SharedFn | None = None


class Algorithm(NamedTuple):
    """The whole public contract of a method."""

    init: Callable[[Key, Spec, dict | None], Learner]  # (key, spec, given)
    act: Policy  # evaluation
    explore: Policy  # collecting
    prepare: PrepareFn
    update: UpdateFn  # ONE step
    stop: StopFn
    freeze: Callable[[Learner], dict]  # its modules by name, as a later stage is given them
    draw: DrawChunkFn | None = None  # None: ``buffer.draw``
    # what plays in place of ``explore`` where a run begins at random, in plans of the same extras; None: uniform random actions
    first: Policy | None = None
    # whether it turns weights into chunks itself; others are wrapped (primitives.in_primitives)
    primitives: bool = False
    # on policy, before an iteration is played: numbers that follow the count of updates
    refresh: Callable[[Learner], Learner] = lambda learner: learner


InitFn = Callable[[Key, Spec], PyTree]
"""(key, spec) -> parameters."""

DrawFn = Callable[[Key, Chunk], PyTree]
"""(key, chunk) -> noise, of any form."""

LossFn = Callable[[Vars, Any, Chunk], Array]
"""(vars, noise, chunk) -> [*B], the mean over (H, A) of masked errors, zeros counted."""

TermFn = Callable[[Vars, Any, Chunk], tuple[Array, Metrics]]
"""(vars, noise, chunk) -> (loss [], metrics, each [])."""

SharedFn = Callable[[Vars, Any, Chunk], PyTree]
"""(vars, noise, chunk) -> what several terms need, such as the output of one forward pass."""

DenoiseFn = Callable[[Vars, PyTree, Array, Any], Array]
"""(vars, obs [*B, O], x [*B, H, A], k) -> estimate of the clean chunk [*B, H, A]; noise, score, velocity follow."""

StepFn = Callable[[Vars, PyTree, Array, Any], tuple[Array, Any]]
"""(vars, obs [*B, O], x [*B, H, A], k) -> (mean [*B, H, A], std); std is 0 for an ODE."""

InfillFn = Callable[[Vars, PyTree, Array, Any, Array], Array]
"""(vars, obs [*B, O], x [*B, H, A], k, given [*B, H]) -> ``denoise``'s estimate, where the actions ``given`` (1) of x are clean."""

FollowFn = Callable[[Kernel], LossFn]
"""teacher -> a loss on the same noise as ``loss``'s, whose minimum generates as the teacher does; the teacher learns nothing by it."""

VelocityFn = Callable[[Vars, PyTree, Array, Array], Array]
"""(vars, obs [*B, O], x [*B, H, A], t [*B, 1] in [0, 1], 1 is data) -> velocity of a flow [*B, H, A]."""

DensityFn = Callable[[Vars, PyTree, Array], Array]
"""(vars, obs [*B, O], noise [*B, H, A]) -> log-density of each number of the chunk that the noise becomes [*B, H, A]."""

AdvanceFn = Callable[..., tuple[Array, Any]]
"""(x [*B, H, A], clean [*B, H, A], k[, eta]) -> (mean [*B, H, A], std)."""

PolicyDrawFn = Callable[[Vars, Key, PyTree], PyTree]
"""(vars, key, obs [*B, O]) -> noise; every leaf leads with *B."""

PlanFn = Callable[[Vars, Any, PyTree, Old | None], Plan]
"""(vars, noise, obs [*B, O], Old) -> Plan; None in place of Old where no episode is played, as in a target."""

EmitFn = Callable[[Vars, Plan, Any, PyTree], Array]
"""(vars, plan, i, obs [*B, O]) -> action i of the plan [*B, A]."""

PrepareFn = Callable[[Learner, dict, Key, Chunk], tuple[Learner, Chunk]]
"""(learner, given, key, chunk) -> (learner, chunk), before a set of updates."""

UpdateFn = Callable[[Learner, dict, Key, Chunk], tuple[Learner, Metrics]]
"""(learner, given, key, chunk) -> (learner, metrics, each [])."""

DrawChunkFn = Callable[..., Chunk]
"""(key, buffer.Source, ChunkConfig, batch) -> chunk, from data and the online experience that there is."""

StopFn = Callable[[Metrics], Array | bool]
"""metrics -> bool []: whether the driver leaves out what remains of an epoch."""


class ValueFn(Protocol):
    """(vars, obs [*B, O], action [*B, H, A], level [.., 2]) -> values; level is the (alpha, sigma) of the chunk's noise."""

    def __call__(self, vars: Vars, obs: PyTree, action: Any = ..., level: Any = ..., /) -> Array:
        """A critic of states reads no action, one of clean chunks no level."""


def built_for(part: Any, sizes: Callable[[Spec], Spec]) -> Any:
    """The same Kernel or Critic, whose modules are built for the sizes ``sizes(spec)``."""

    def built(m: Module) -> Module:
        return m._replace(init=lambda key, spec: m.init(key, sizes(spec)))

    return part._replace(modules=tuple(built(m) for m in part.modules))


def view(learner: Learner, given: dict) -> Vars:
    """What a policy or a loss may read of a learner and of an earlier stage's frozen modules."""
    return Vars(learner.params, learner.targets, learner.stats, given)
