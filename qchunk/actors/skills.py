"""Skills: a variational autoencoder of chunks, whose decoder looks at every step (OPAL, 2010.13611, section 4.1)."""

from __future__ import annotations

from collections.abc import Callable

import distrax
import jax
import jax.numpy as jnp

from qchunk import nets
from qchunk.actor_configs import SkillConfig
from qchunk.actors.one_step import one_step
from qchunk.system.errors import UserError
from qchunk.types import EDGE, SKILL, Array, Chunk, Decoder, Kernel, Key, Module, Plan, PyTree, Spec, Vars

LOG_STD = (
    -5.0,
    2.0,
)  # of prior and decoder; -20 in published code, where noiseless actions make the likelihood unbounded


def skills(c: SkillConfig, name: str = "actor") -> Kernel:
    """The Kernel of one step from noise to a skill u = tanh(z), z ~ prior(o), with the decoder of skills into actions.

    Loss: the mean negative log-likelihood of a window's actions, each decoded from z and its own observation, plus ``c.kl`` times
    KL(encoder || prior). Actions are decoded at their mean (the published code samples them). ``loss`` and ``encode`` need a backup
    point at every step, for the observations there.
    """

    init, apply = _networks(c)

    def actions(vars: Vars, obs: PyTree, skill: Array) -> Array:
        z = jnp.arctanh(jnp.clip(skill, -EDGE, EDGE))
        return jnp.clip(apply(vars.params[name], "decoder", nets.flatten_obs(obs), z).mean(), -1.0, 1.0)

    def seen(vars: Vars, chunk: Chunk) -> tuple[Array, distrax.Normal]:
        """The observations of a window's steps [*B, H, O], and the encoder's opinion of it."""
        if chunk.reward.shape[-1] != chunk.action.shape[-2]:
            problem = "skills are read off the observations of every step, and these windows have other backup points"
            raise UserError(problem, "train them by bc, and stand on them by opal, without --chunk.codec")
        both = jax.tree.map(
            lambda o, n: jnp.concatenate([o[..., None, :], n[..., :-1, :]], -2), chunk.obs, chunk.next_obs
        )
        obs = nets.flatten_obs(both)
        return obs, apply(vars.params[name], "encoder", obs, chunk.action)

    def loss(vars: Vars, noise: Array, chunk: Chunk) -> Array:
        obs, posterior = seen(vars, chunk)
        z = posterior.mean() + posterior.stddev() * noise
        z_each = jnp.broadcast_to(z[..., None, :], (*obs.shape[:-1], z.shape[-1]))
        unlikely = -jnp.sum(apply(vars.params[name], "decoder", obs, z_each).log_prob(chunk.action), axis=-1)
        prior = apply(vars.params[name], "prior", nets.flatten_obs(chunk.obs))
        apart = jnp.sum(posterior.kl_divergence(prior), axis=-1)
        return jnp.mean(unlikely * chunk.mask, axis=-1) + c.kl * apart * jnp.mean(chunk.mask, axis=-1)

    def step(vars: Vars, obs: PyTree, x: Array, k) -> tuple[Array, float]:
        del k
        prior = apply(vars.params[name], "prior", nets.flatten_obs(obs))
        return jnp.tanh(prior.mean()[..., None, :] + prior.stddev()[..., None, :] * x), 0.0

    def plan(vars: Vars, obs: PyTree, skill: Array) -> Plan:
        one, horizon = skill[..., 0, :], _horizon(vars.params[name])
        now = actions(vars, obs, one)[..., None, :]
        return Plan(jnp.broadcast_to(now, (*now.shape[:-2], horizon, now.shape[-1])), {SKILL: one})

    def emit(vars: Vars, plan: Plan, i, obs: PyTree) -> Array:
        del i
        return actions(vars, obs, plan.extras[SKILL])

    def encode(vars: Vars, chunk: Chunk) -> Array:
        return jnp.clip(jnp.tanh(seen(vars, chunk)[1].mean()), -EDGE, EDGE)[..., None, :]

    def draw(key: Key, chunk: Chunk) -> Array:
        return jax.random.normal(key, (*chunk.last.shape, c.skill))

    kernel = one_step(Module(name, init, apply), lambda params: (1, c.skill), step, False, loss)
    return kernel._replace(draw=draw, decoder=Decoder(c.skill, plan, emit, encode))


def _networks(c: SkillConfig) -> tuple[Callable, Callable]:
    """(key, spec) -> parameters of encoder, prior and decoder; (parameters, which, *inputs) -> its diagonal Gaussian."""

    def network(part: str, out: tuple[int, ...]) -> nets.SkillEncoder | nets.MLP:
        return (
            nets.SkillEncoder(c.hidden, out) if part == "encoder" else nets.MLP(c.hidden, out, activation=jax.nn.relu)
        )

    def init(key: Key, spec: Spec) -> PyTree:
        keys, obs = jax.random.split(key, 3), nets.flatten_obs(jax.tree.map(jnp.zeros, spec.obs))
        window = jnp.tile(obs, (spec.horizon, 1)), jnp.zeros((spec.horizon, spec.action))
        return {
            "encoder": network("encoder", (2, c.skill)).init(keys[0], *window)["params"],
            "prior": nets.init(network("prior", (2, c.skill)), keys[1], spec.obs),
            "decoder": nets.init(network("decoder", (2, spec.action)), keys[2], spec.obs, c.skill),
        }

    def apply(params: PyTree, part: str, *inputs: Array) -> distrax.Normal:
        net = network(part, nets.output_shape(params[part]))
        mean, spread = jnp.moveaxis(nets.apply(net, params[part], *inputs), -2, 0)
        return distrax.Normal(mean, jnp.exp(0.5 * spread if part == "encoder" else jnp.clip(spread, *LOG_STD)))

    return init, apply


def _horizon(params: PyTree) -> int:
    """H, read off the encoder: its head sees both directions of every step."""
    width = params["encoder"]["forward_1"]["hn"]["bias"].shape[-1]
    return params["encoder"]["head_kernel"].shape[-2] // (2 * width)
