"""modules + terms + policies -> Algorithm.

One update, in this order: one key per term; ONE gradient of the sum of the active terms, each seeing the modules it
does not train behind ``stop_gradient``; one step of the optimiser; then the slow copies move, lagged ones towards the
parameters from before the step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from qchunk import trees
from qchunk.config import OptimConfig
from qchunk.types import (
    Algorithm,
    Array,
    Chunk,
    Key,
    Learner,
    Metrics,
    Module,
    Policy,
    Spec,
    Term,
    Vars,
    slow_view,
    view,
)


def modules_of(parts: Sequence[Any]) -> tuple[Module, ...]:
    """The modules of Modules, Kernels and Critics."""
    found = tuple(m for part in parts for m in ((part,) if isinstance(part, Module) else part.modules))
    names = [m.name for m in found]
    if len(set(names)) != len(names):
        raise ValueError(f"two modules share a name: {sorted(names)}; give one of them another")
    return found


def reading(part: Any, look: Callable[[Vars], Vars]) -> Any:
    """The same Kernel or Critic, seeing ``look(vars)`` in place of its variables."""

    def redirect(fn: Callable) -> Callable:
        return lambda vars, *a, **k: fn(look(vars), *a, **k)

    reads = [f for f in ("shape", "denoise", "step", "loss", "values", "score") if hasattr(part, f)]
    return part._replace(**{f: redirect(getattr(part, f)) for f in reads})


def frozen(part: Any) -> Any:
    """The same Kernel or Critic, reading its modules from ``given`` and training none."""
    return reading(part, lambda vars: vars._replace(params=vars.given))._replace(modules=())


def seeing(part: Any, look: str | Callable) -> Any:
    """The same Kernel or Critic, shown a part of each observation, and built for its size.

    Args:
        look: a key of a dictionary, such as "state"; or a function of an observation [*B, O], which keeps its leading axes.
    """
    see: Callable = (lambda obs: obs[look]) if isinstance(look, str) else look

    def of_obs(fn: Callable) -> Callable:
        return lambda vars, obs, *a, **k: fn(vars, see(obs), *a, **k)

    def of_chunk(fn: Callable) -> Callable:
        return lambda *a: fn(*a[:-1], a[-1]._replace(obs=see(a[-1].obs), next_obs=see(a[-1].next_obs)))

    def built(module: Module) -> Module:
        def init(key: Key, spec: Spec) -> Any:
            one = jax.tree.map(lambda n: jax.ShapeDtypeStruct((n,), jnp.float32), spec.obs)
            return module.init(key, spec._replace(obs=trees.sizes(jax.eval_shape(see, one))))

        return module._replace(init=init)

    reads = {f: of_obs(getattr(part, f)) for f in ("denoise", "step", "values", "score") if hasattr(part, f)}
    reads |= {f: of_chunk(getattr(part, f)) for f in ("draw", "loss") if hasattr(part, f)}
    return part._replace(modules=tuple(built(m) for m in part.modules), **reads)


def acting(part: Any) -> Any:
    """The same Kernel, reading the moving average of its weights if it keeps one to act with."""
    return reading(part, slow_view) if any(m.slow and m.slow.acts for m in part.modules) else part


def starting(algorithm: Algorithm, *names: str) -> Algorithm:
    """The same algorithm, whose modules of these names start where those of an earlier stage ended, if there is one."""

    def init(key: Key, spec: Spec, given: dict | None = None) -> Learner:
        made = algorithm.init(key, spec, given)
        earlier = {n: jax.tree.map(jnp.copy, given[n]) for n in names if given and n in given}
        return made._replace(params={**made.params, **earlier})

    return algorithm._replace(init=init)


def is_active(term: Term, step: Array) -> Array | bool:
    """Whether a term takes part in update number ``step`` (0 is the first)."""
    if term.every == 1 and term.start == 0:
        return True
    return (step % term.every == 0) & (step >= term.start)


def run_term(term: Term, vars: Vars, key: Key, chunk: Chunk, active: Array | bool) -> tuple[Array, Metrics]:
    """Loss and metrics of a term; zeros, at no cost, where it is not active."""
    params = {n: p if n in term.wrt else jax.lax.stop_gradient(p) for n, p in vars.params.items()}
    vars = vars._replace(params=params)

    def run(vars: Vars) -> tuple[Array, Metrics]:
        return term.fn(vars, term.draw(key, chunk), chunk)

    if active is True:
        return run(vars)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(run, vars))
    return jax.lax.cond(active, run, lambda vars: zeros, vars)


def move_slow(slow: dict, modules: Sequence[Module], before: dict, after: dict, step: Array) -> dict:
    """Moves each slow copy once, as its module's rule says."""
    moved = {}
    for module in modules:
        if (rule := module.slow) is None:
            continue
        rate = rule.rate(step) if callable(rule.rate) else rule.rate
        rate = jnp.where(step % rule.every == 0, rate, 0.0) if rule.every > 1 else rate
        source = before if rule.lagged else after
        moved[module.name] = optax.incremental_update(source[module.name], slow[module.name], rate)
    return moved


def transformation(modules: Sequence[Module], optim: OptimConfig | dict[str, OptimConfig]):
    """One Adam per module, behind one interface. ``optim`` may give some modules their own by name ("" is the rest)."""
    by_name = optim if isinstance(optim, dict) else {"": optim}
    chosen = {m.name: by_name[m.name] if m.name in by_name else by_name[""] for m in modules}
    per_module = {name: optax.adam(rate_of(c)) for name, c in chosen.items()}
    return optax.partition(per_module, lambda params: {n: jax.tree.map(lambda _: n, p) for n, p in params.items()})


def rate_of(c: OptimConfig) -> Any:
    """The learning rate, or its schedule: final_lr -> lr linearly, then a cosine back, as DPPO's (2409.00588, code)."""
    if c.warmup == c.decay == 0:
        return c.lr
    up = optax.linear_schedule(c.final_lr, c.lr, c.warmup) if c.warmup else optax.constant_schedule(c.lr)
    if c.decay == 0:
        return up
    down = optax.cosine_decay_schedule(c.lr, max(1, c.decay - c.warmup), alpha=c.final_lr / c.lr)
    return optax.join_schedules([up, down], [c.warmup])


def hold(active: dict[str, Array | bool], new: dict, old: dict) -> dict:
    """Keeps the old entry of every module none of whose terms was active."""
    return {
        n: new[n] if active[n] is True else jax.tree.map(lambda a, b, on=active[n]: jnp.where(on, a, b), new[n], old[n])
        for n in new
    }


def learner(
    parts: Sequence[Any],
    act: Policy,
    terms: Sequence[Term],
    optim: OptimConfig | dict[str, OptimConfig],
    *,
    explore: Policy | None = None,
    prepare: Callable | None = None,
    stop: Callable | None = None,
    clip: float | None = None,
    draw: Callable | None = None,
) -> Algorithm:
    """Composes an algorithm.

    Args:
        parts: Modules, Kernels and Critics to train.
        act: policy of evaluation; ``explore`` that of collecting, by default the same.
        terms: summands of the objective.
        optim: optimiser of all modules, or of some by name ("" is the rest).
        prepare: (learner, given, key, chunk) -> (learner, chunk), before a set of updates.
        stop: metrics -> bool, masks what is left of an epoch.
        clip: joint global-norm clipping of the gradient of all modules.
        draw: (key, buffer.Source, ChunkConfig, batch) -> Chunk, from data and online experience; by default
            ``buffer.draw``, of which ``functools.partial(buffer.draw, count=3)`` gives consecutive chunks.
    """
    modules = modules_of(parts)
    partition = transformation(modules, optim)
    tx = partition if clip is None else optax.chain(optax.clip_by_global_norm(clip), partition)

    def init(key: Key, spec: Spec, given: dict | None = None) -> Learner:
        del given
        keys = jax.random.split(key, len(modules))
        params = {m.name: m.init(k, spec) for m, k in zip(modules, keys, strict=True)}
        slow = {m.name: jax.tree.map(jnp.copy, params[m.name]) for m in modules if m.slow is not None}
        return Learner(params, slow, {}, tx.init(params), jnp.zeros((), jnp.int32))

    def update(state: Learner, given: dict, key: Key, chunk: Chunk) -> tuple[Learner, Metrics]:
        active = [is_active(term, state.step) for term in terms]
        keys = jax.random.split(key, len(terms))

        def objective(params: dict) -> tuple[Array, Metrics]:
            vars = view(state, given)._replace(params=params)
            runs = [run_term(t, vars, k, chunk, a) for t, k, a in zip(terms, keys, active, strict=True)]
            return sum((loss for loss, _ in runs), jnp.zeros(())), {k: v for _, m in runs for k, v in m.items()}

        (loss, metrics), grads = jax.value_and_grad(objective, has_aux=True)(state.params)
        updates, opt = tx.update(grads, state.opt, state.params)
        params = optax.apply_updates(state.params, updates)
        if any(a is not True for a in active):
            by_module = {
                m.name: _any([a for t, a in zip(terms, active, strict=True) if m.name in t.wrt]) for m in modules
            }
            params = hold(by_module, params, state.params)
            opt = _hold_opt(by_module, opt, state.opt)
        slow = move_slow(state.slow, modules, state.params, params, state.step)
        return Learner(params, slow, state.stats, opt, state.step + 1), {"loss": loss, **metrics}

    def freeze(state: Learner) -> dict:
        acts = {m.name for m in modules if m.slow and m.slow.acts}
        return {n: state.slow[n] if n in acts else p for n, p in state.params.items()}

    same, never = (lambda s, g, k, c: (s, c)), (lambda m: False)
    return Algorithm(init, act, explore or act, prepare or same, update, stop or never, freeze, draw)


def _any(flags: list[Array | bool]) -> Array | bool:
    if any(f is True for f in flags):
        return True
    return jnp.stack(flags).any() if flags else jnp.asarray(False)


def _hold_opt(active: dict[str, Array | bool], new: Any, old: Any) -> Any:
    """``hold`` for the optimiser's state, which is a PartitionState or a chain that ends in one."""
    if isinstance(new, optax.transforms.PartitionState):
        return new._replace(inner_states=hold(active, new.inner_states, old.inner_states))
    return (*new[:-1], _hold_opt(active, new[-1], old[-1]))
