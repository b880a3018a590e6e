"""How random a policy is where its density is not known: mixtures of Gaussians fitted to its samples."""

from __future__ import annotations

import distrax
import jax
import jax.numpy as jnp

from qchunk.improve import repeated
from qchunk.losses.terms import own_key
from qchunk.sampling import act
from qchunk.types import Array, Chunk, Key, Metrics, Module, Policy, Term, Vars

FITTING = 30  # rounds of expectation and maximisation
LEAST = 1e-6  # variance added to every number, without which samples at the ends of [-1, 1] have no density
STATES = 16  # of a batch, over which the entropy is averaged


def mixture(x: Array, count: int) -> distrax.Distribution:
    """``count`` Gaussians with full covariances, fitted to samples [n, A] by expectation and maximisation.

    They start from samples far apart (the first, then each time the one farthest from all before), with what is nearest to each.
    """
    size = x.shape[-1]
    least = LEAST * jnp.eye(size)

    def fitted(share: Array) -> distrax.Distribution:
        """From what each sample belongs to [n, count], whose rows add up to 1."""
        weight = jnp.maximum(jnp.sum(share, axis=0), 1e-6)  # [count]
        mean = (share.T @ x) / weight[:, None]
        apart = x[:, None] - mean  # [n, count, A]
        spread = jnp.einsum("nk,nki,nkj->kij", share, apart, apart) / weight[:, None, None] + least
        return _mixed(weight / len(x), mean, spread)

    def again(_, share: Array) -> Array:
        return _belongs(fitted(share), x)

    first = jax.nn.one_hot(jnp.argmin(_distances(x, count), axis=-1), count)
    return fitted(jax.lax.fori_loop(0, FITTING, again, first))


def _distances(x: Array, count: int) -> Array:
    """Squared distances of samples [n, A] to ``count`` of them that are far apart: [n, count]."""
    found = [jnp.sum(jnp.square(x - x[0]), axis=-1)]
    for _ in range(count - 1):
        farthest = x[jnp.argmax(jnp.min(jnp.stack(found), axis=0))]
        found.append(jnp.sum(jnp.square(x - farthest), axis=-1))
    return jnp.stack(found, axis=-1)


def _mixed(weight: Array, mean: Array, spread: Array) -> distrax.Distribution:
    each = distrax.MultivariateNormalFullCovariance(mean, spread)
    return distrax.MixtureSameFamily(distrax.Categorical(probs=weight), each)


def _belongs(mixed: distrax.Distribution, x: Array) -> Array:
    parts = mixed.components_distribution.log_prob(x[:, None]) + jnp.log(mixed.mixture_distribution.probs)
    return jax.nn.softmax(parts)


def entropy(x: Array, count: int) -> Array:
    """Differential entropy, in nats, of the mixture fitted to samples [*B, n, A]: [*B], minus the mean of its log-density at them.

    The published estimate (2405.15177, code) is a bound on it, up to log ``count`` too high where Gaussians overlap.
    Of samples that it was fitted to it is too low: of 200 and three Gaussians by about 0.05 nats per number at A = 5, 0.17 at 21.
    """
    flat = x.reshape(-1, *x.shape[-2:])
    with jax.default_matmul_precision("highest"):  # covariances are to stay positive definite
        found = jax.vmap(lambda x: -jnp.mean(mixture(x, count).log_prob(x)))(flat)
    return found.reshape(x.shape[:-2])


def regulate(policy: Policy, heat: Module, target: float, samples: int, count: int, name: str = "temperature") -> Term:
    """Moves a temperature until the actions of a policy have ``target`` nats of entropy per number (2405.15177).

    The entropy is that of each action of a chunk by itself, from ``samples`` chunks at the batch's first 16 states, so that
    a long chunk needs no more of them.

    Args:
        policy: its noise grows with the temperature.
        count: Gaussians of the mixture.
    """

    def fn(vars: Vars, key: Key, chunk: Chunk) -> tuple[Array, Metrics]:
        obs = jax.tree.map(lambda o: o[:STATES], chunk.obs)
        action = act(policy, jax.lax.stop_gradient(vars), key, repeated(obs, samples)).action  # [states, n, H, A]
        each = entropy(jnp.moveaxis(action, 1, -2), count) / action.shape[-1]
        found = jnp.where(
            jnp.isfinite(each).any(), jnp.nanmean(each, where=jnp.isfinite(each)), target
        )  # no fit, no move
        heated = heat.apply(vars.params[heat.name])
        return jnp.log(heated) * (found - target), {"temperature": heated, "entropy": found}

    return Term(name, (heat.name,), own_key, fn)
