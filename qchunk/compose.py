"""modules + terms + policies -> Algorithm.

One update, in this order: one key per term (per group of terms together); ONE gradient of the sum of the active terms,
each seeing the modules it does not train behind ``stop_gradient``; one step of the optimiser; then the target networks
move, lagged ones towards the parameters from before the step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from qchunk import target_networks, trees
from qchunk.data.chunks import beginning, of_chunk
from qchunk.optimisers import Optim, transformation
from qchunk.system.errors import UserError, shaped
from qchunk.target_networks import target_view
from qchunk.types import (
    Algorithm,
    Array,
    Chunk,
    DrawChunkFn,
    Key,
    Learner,
    Metrics,
    Module,
    Policy,
    PrepareFn,
    Spec,
    StopFn,
    Term,
    Together,
    Vars,
    built_for,
    view,
)

# fields of a Kernel or a Critic that are called with (vars, obs, ...): what ``reading`` and ``shown`` redirect
OF_OBS = ("denoise", "infill", "step", "velocity", "density", "values", "score", "logits")
ACTIVE = "/active"  # behind a term's name: 1 in the updates in which it is active; of terms that are not in all


def modules_of(parts: Sequence[Any]) -> tuple[Module, ...]:
    """The modules of these Modules, Kernels and Critics, in order.

    Raises:
        UserError: two of them share a name.
    """
    found = tuple(m for part in parts for m in ((part,) if isinstance(part, Module) else part.modules))
    names = [m.name for m in found]
    if len(set(names)) != len(names):
        raise UserError(f"two modules share a name: {', '.join(sorted(names))}", 'give one of them another: name="..."')
    return found


def check_trained(terms: Sequence[Term], modules: Sequence[Module]) -> None:
    """Refuses a term that trains what is no module of its algorithm.

    Raises:
        UserError: names the term and the module.
    """
    names = sorted(m.name for m in modules)
    for term in terms:
        if odd := sorted(set(term.wrt) - set(names)):
            fix = f"add its part to learner's parts, which hold {', '.join(names)}"
            raise UserError(f"the term {term.name} trains {', '.join(odd)}, which is no module of them", fix)


def names_of(terms: Sequence[Term]) -> list[str]:
    """What the metrics of each term are called: its name; where terms share one, followed by the modules that each trains.

    Raises:
        UserError: two terms of one name train the same modules.
    """
    names = [t.name for t in terms]
    found = [n if names.count(n) == 1 else "_".join((n, *t.wrt)) for n, t in zip(names, terms, strict=True)]
    if len(set(found)) != len(found):
        twice = ", ".join(sorted({n for n in found if found.count(n) > 1}))
        raise UserError(f"two terms share the name {twice}", 'give one of them another: name="..."')
    return found


def reading(part: Any, look: Callable[[Vars], Vars]) -> Any:
    """The same Kernel or Critic, seeing ``look(vars)`` in place of its variables."""

    def redirect(fn: Callable) -> Callable:
        return lambda vars, *a, **k: fn(look(vars), *a, **k)

    found = {f: redirect(getattr(part, f)) for f in (*OF_OBS, "shape", "loss") if getattr(part, f, None)}
    if follow := getattr(part, "follow", None):
        found["follow"] = lambda teacher: redirect(follow(teacher))
    if decoder := getattr(part, "decoder", None):
        found["decoder"] = decoder._replace(**{f: redirect(getattr(decoder, f)) for f in ("plan", "emit", "encode")})
    return part._replace(**found)


def frozen(part: Any) -> Any:
    """The same Kernel or Critic, reading its modules from ``given`` and training none."""
    return reading(part, lambda vars: vars._replace(params=vars.given))._replace(modules=())


def seeing(part: Any, look: str | Callable) -> Any:
    """The same Kernel or Critic, shown a part of each observation, and built for its size.

    Args:
        look: a key of a dictionary, such as "state"; or a function of an observation [*B, O], which keeps its leading axes.
    """
    see: Callable = (lambda obs: obs[look]) if isinstance(look, str) else look

    def sizes(spec: Spec) -> Spec:
        one = jax.tree.map(lambda n: jax.ShapeDtypeStruct((n,), jnp.float32), spec.obs)
        return spec._replace(obs=trees.sizes(jax.eval_shape(see, one)))

    return shown(part, sizes, lambda c: c._replace(obs=see(c.obs), next_obs=see(c.next_obs)), see=see)


def shortened(part: Any, length: int) -> Any:
    """The same Kernel or Critic for the first ``length`` actions of every chunk, and built for so many.

    A method whose windows are longer than the chunks that it plays gives its policy this length, too:
    ``sample(shortened(pi, n))._replace(length=n)`` (2512.10926, section 4).
    """

    def first(action: Array | None) -> Array | None:
        return None if action is None else action[..., :length, :]

    return shown(part, lambda spec: spec._replace(horizon=length), lambda c: beginning(c, length), first=first)


def shown(
    part: Any,
    sizes: Callable[[Spec], Spec],
    chunk: Callable[[Chunk], Chunk],
    see: Callable = lambda obs: obs,
    first: Callable = lambda action: action,
) -> Any:
    """The same Kernel or Critic, shown something else than it is called with.

    Args:
        sizes: of what it is shown, from those that it is called with.
        chunk: what its losses are shown.
        see: (obs [*B, O]) -> what it is shown of them.
        first: (action [*B, H, A], or None) -> likewise.

    Raises:
        UserError: a Kernel of skills.
    """

    def of_obs(fn: Callable) -> Callable:
        return lambda vars, obs, action=None, *a: fn(vars, see(obs), first(action), *a)

    if getattr(part, "decoder", None):
        raise UserError("skills are decoded from whole observations", "take an actor of actions, such as flow")
    reads = {f: of_obs(getattr(part, f)) for f in OF_OBS if getattr(part, f, None)}
    reads |= {f: of_chunk(getattr(part, f), chunk) for f in ("draw", "loss") if hasattr(part, f)}
    if follow := getattr(part, "follow", None):  # a teacher is shown the same
        reads["follow"] = lambda teacher: of_chunk(follow(teacher), chunk)
    return built_for(part, sizes)._replace(**reads)


def lagging(part: Any) -> Any:
    """The same Kernel or Critic, reading its target networks."""
    return reading(part, target_view)


def acting(part: Any) -> Any:
    """The same Kernel, reading the moving average of its weights if it keeps one to act with."""
    return lagging(part) if any(m.target and m.target.acts for m in part.modules) else part


def warm_started(algorithm: Algorithm, *names: str) -> Algorithm:
    """The same algorithm, whose modules of these names, and their second copies, start where those of an earlier stage ended, if there is one."""

    def init(key: Key, spec: Spec, given: dict | None = None) -> Learner:
        made = algorithm.init(key, spec, given)
        earlier = {n: jax.tree.map(jnp.copy, given[n]) for n in names if given and n in given}
        averages = {n: jax.tree.map(jnp.copy, p) for n, p in earlier.items() if n in made.targets}
        return made._replace(params={**made.params, **earlier}, targets={**made.targets, **averages})

    return algorithm._replace(init=init)


def sometimes(term: Term) -> bool:
    """Whether it is active in some updates and not in others."""
    return term.end != 0 and (term.every, term.start, term.end) != (1, 0, None)


def is_active(term: Term, step: Array) -> Array | bool:
    """Whether a term takes part in update number ``step`` (0 is the first)."""
    if not sometimes(term):
        return term.end != 0
    begun = (step % term.every == 0) & (step >= term.start)
    return begun if term.end is None else begun & (step < term.end)


def turns(terms: dict[str, Term], step: Array) -> Metrics:
    """ "TERM/active" of those that are not active in every update: 1.0 where they are in this one."""
    return {n + ACTIVE: jnp.asarray(is_active(t, step), jnp.float32) for n, t in terms.items() if sometimes(t)}


def resting(group: Together, held: set[str]) -> Together:
    """The same terms; those that train held modules alone are never active."""
    return group._replace(terms=tuple(t._replace(end=0) if t.wrt and set(t.wrt) <= held else t for t in group.terms))


def run_terms(group: Together, vars: Vars, key: Key, chunk: Chunk, step: Array) -> list[tuple[Array, Metrics]]:
    """Loss and metrics of each term, in their order; zeros, and no forward pass, where it is not active in this update.

    ``shared`` runs once for all terms that train the same modules in the same updates. For others it runs again, behind
    their own ``stop_gradient``: through one pass a term's gradient would reach modules that it does not train.
    """
    noise = group.draw(key, chunk)
    passes: dict[tuple, list[int]] = {}
    for i, term in enumerate(group.terms):
        passes.setdefault((frozenset(term.wrt), term.every, term.start, term.end), []).append(i)
    found: dict[int, tuple[Array, Metrics]] = {}
    for (wrt, *_), members in passes.items():
        params = {n: p if n in wrt else jax.lax.stop_gradient(p) for n, p in vars.params.items()}

        def run(vars: Vars) -> list[tuple[Array, Metrics]]:
            made = noise if group.shared is None else group.shared(vars, noise, chunk)
            return [group.terms[i].fn(vars, made, chunk) for i in members]

        active = is_active(group.terms[members[0]], step)
        found.update(zip(members, _where_active(active, run, vars._replace(params=params)), strict=True))
    return [found[i] for i in range(len(group.terms))]


def _where_active(active: Array | bool, run: Callable, vars: Vars) -> Any:
    if active is True:
        return run(vars)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(run, vars))
    if active is False:
        return zeros
    return jax.lax.cond(active, run, lambda vars: zeros, vars)


def hold(active: dict[str, Array | bool], new: dict, old: dict) -> dict:
    """Keeps the old entry of every module none of whose terms was active."""
    return {
        n: new[n] if active[n] is True else jax.tree.map(lambda a, b, on=active[n]: jnp.where(on, a, b), new[n], old[n])
        for n in new
    }


def learner(
    parts: Sequence[Any],
    act: Policy,
    terms: Sequence[Term | Together],
    optim: Optim | dict[str, Optim],
    *,
    explore: Policy | None = None,
    prepare: PrepareFn | None = None,
    stop: StopFn | None = None,
    clip: float | None = None,
    draw: DrawChunkFn | None = None,
    prior: Any = None,
) -> Algorithm:
    """Composes an algorithm from modules, policies, terms and their optimiser.

    Args:
        parts: Modules, Kernels and Critics to train.
        act: policy of evaluation; ``explore`` that of collecting, by default the same.
        terms: summands of the objective. Metrics of an update are "loss", their sum, and for each term "TERM/loss" and
            "TERM/METRIC", of one that is active in some updates only "TERM/active", too: 1.0 in those.
        optim: a configuration (Adam) or any optax transformation, for each module by itself; or a dictionary of such by
            module name ("" is the rest). A transformation that asks for ``value`` gets the sum of the terms.
        prepare: before a set of updates.
        stop: masks what is left of an epoch.
        clip: joint global-norm clipping of the gradient of all modules.
        draw: (key, buffer.Source, ChunkConfig, batch) -> Chunk, from data and online experience; by default
            ``buffer.draw``, of which ``functools.partial(buffer.draw, count=3)`` gives consecutive chunks.
        prior: one of the parts, whose modules an earlier stage's replace where there is one (``Stands.CLONED``). They are then
            read and never trained, and terms that train nothing else are left out.

    Raises:
        UserError: modules or terms of one name, or a term or ``optim`` that names what is no module.
    """
    modules = modules_of(parts)
    partition = transformation(modules, optim)
    tx = partition if clip is None else optax.chain(optax.clip_by_global_norm(clip), partition)
    tx = optax.with_extra_args_support(tx)
    groups = [t if isinstance(t, Together) else Together(t.draw, (t,)) for t in terms]
    flat = [t for group in groups for t in group.terms]
    names = names_of(flat)
    check_trained(flat, modules)
    cloned = {m.name for m in (prior.modules if prior else ())}

    def init(key: Key, spec: Spec, given: dict | None = None) -> Learner:
        keys = jax.random.split(key, len(modules))
        params = {m.name: m.init(k, spec) for m, k in zip(modules, keys, strict=True)}
        params |= {n: jax.tree.map(jnp.copy, given[n]) for n in cloned if given and n in given}
        targets = target_networks.copies(modules, params)
        return Learner(params, targets, {}, tx.init(params), jnp.zeros((), jnp.int32))

    def update(state: Learner, given: dict, key: Key, chunk: Chunk) -> tuple[Learner, Metrics]:
        keys = jax.random.split(key, len(groups))
        read = target_networks.drawn(state.targets, modules, jax.random.fold_in(key, len(groups)))
        held = cloned & set(given)
        now = [resting(group, held) for group in groups]
        flat = [t for group in now for t in group.terms]

        def objective(params: dict) -> tuple[Array, Metrics]:
            vars = view(state, given)._replace(params=params, targets=read)
            runs = [r for g, k in zip(now, keys, strict=True) for r in run_terms(g, vars, k, chunk, state.step)]
            return added({n: r for n, r, t in zip(names, runs, flat, strict=True) if t.end != 0})

        (loss, metrics), grads = jax.value_and_grad(objective, has_aux=True)(state.params)
        updates, opt = tx.update(grads, state.opt, state.params, value=loss)
        params = optax.apply_updates(state.params, updates)
        metrics |= turns(dict(zip(names, flat, strict=True)), state.step)
        if any(is_active(term, state.step) is not True for term in flat):
            active = {n: _any([is_active(t, state.step) for t in flat if n in t.wrt]) for n in params}
            params, opt = hold(active, params, state.params), _hold_opt(active, opt, state.opt)
        moving = [m for m in modules if m.name not in held]
        targets = {**state.targets, **target_networks.moved(state.targets, moving, state.params, params, state.step)}
        return Learner(params, targets, state.stats, opt, state.step + 1), {"loss": loss, **metrics}

    def freeze(state: Learner) -> dict:
        acts = {m.name for m in modules if m.target and m.target.acts}
        return {n: state.targets[n] if n in acts else p for n, p in state.params.items()}

    same, never = (lambda s, g, k, c: (s, c)), (lambda m: False)
    return Algorithm(init, act, explore or act, prepare or same, update, stop or never, freeze, draw)


def added(runs: dict[str, tuple[Array, Metrics]]) -> tuple[Array, Metrics]:
    """The sum of the losses, and the metrics of all terms, by the names of these."""
    mean = "return one number, such as a mean over the batch"
    losses = (shaped(jnp.asarray(loss), (), f"the loss of the term {n}", mean) for n, (loss, _) in runs.items())
    total = sum(losses, jnp.zeros(()))
    if odd := [name for name, (_, metrics) in runs.items() if ACTIVE[1:] in metrics]:
        problem = (
            f'the term {odd[0]} has a metric called "{ACTIVE[1:]}", which is what the share of its updates is called'
        )
        raise UserError(problem, "give it another name")
    named = {name: {"loss": loss, **metrics} for name, (loss, metrics) in runs.items()}
    return total, {f"{name}/{k}": v for name, metrics in named.items() for k, v in metrics.items()}


def _any(flags: list[Array | bool]) -> Array | bool:
    if any(f is True for f in flags):
        return True
    return jnp.stack(flags).any() if flags else jnp.asarray(False)


def _hold_opt(active: dict[str, Array | bool], new: Any, old: Any) -> Any:
    """``hold`` for the optimiser's state, which is a PartitionState or a chain that ends in one."""
    if isinstance(new, optax.transforms.PartitionState):
        return new._replace(inner_states=hold(active, new.inner_states, old.inner_states))
    return (*new[:-1], _hold_opt(active, new[-1], old[-1]))
