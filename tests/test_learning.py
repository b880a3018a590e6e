"""One learning test per improvement rule, on probes whose values are known."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from driven import random_rows
from tiers import slow_but

from qchunk import envs
from qchunk.actor_configs import (
    ConsistencyConfig,
    DiffusionConfig,
    FlowConfig,
    FullGaussianConfig,
    MeanFlowConfig,
    OneStepConfig,
    RegressionConfig,
    TanhGaussianConfig,
)
from qchunk.algorithms.bam import BAM, bam
from qchunk.algorithms.bc import BC, bc
from qchunk.algorithms.cgql import CGQL, cgql
from qchunk.algorithms.consistency_ac import ConsistencyAC, consistency_ac
from qchunk.algorithms.cqn_as import CQNAS, cqn_as
from qchunk.algorithms.dac import DAC, dac
from qchunk.algorithms.dawr import DAWR, dawr
from qchunk.algorithms.dipo import DIPO, dipo
from qchunk.algorithms.dql import DQL, dql
from qchunk.algorithms.drwr import DRWR, drwr
from qchunk.algorithms.dsrl import DSRL, dsrl
from qchunk.algorithms.dtql import DTQL, dtql
from qchunk.algorithms.edp import EDP, edp
from qchunk.algorithms.expo import EXPO, expo
from qchunk.algorithms.faster import FASTER, faster
from qchunk.algorithms.fawac import FAWAC, fawac
from qchunk.algorithms.fbrac import FBRAC, fbrac
from qchunk.algorithms.fedit import FEdit, fedit
from qchunk.algorithms.gfp import GFP, gfp
from qchunk.algorithms.idql import IDQL, idql
from qchunk.algorithms.ifql import IFQL, ifql
from qchunk.algorithms.iql import IQL, iql
from qchunk.algorithms.mac import MAC, mac
from qchunk.algorithms.meanflow_q import MeanFlowQ, meanflow_q
from qchunk.algorithms.muzero import MuZero, muzero
from qchunk.algorithms.ogpo import OGPO, ogpo
from qchunk.algorithms.pa_rl import PARL, pa_rl
from qchunk.algorithms.qam import QAM, qam
from qchunk.algorithms.qam_e import QAME, qam_e
from qchunk.algorithms.qam_f import QAMF, qam_f
from qchunk.algorithms.qc import QC, qc
from qchunk.algorithms.qc_fql import QCFQL, qc_fql
from qchunk.algorithms.qsm import QSM, qsm
from qchunk.algorithms.rebrac import ReBRAC, rebrac
from qchunk.algorithms.top_erl import TOPERL, top_erl
from qchunk.algorithms.trqam import TRQAM, trqam
from qchunk.algorithms.vpn import VPN, vpn
from qchunk.config import ChunkConfig, CriticConfig, OptimConfig, RolloutConfig, ValueConfig
from qchunk.critics.chunk_q import chunk_q
from qchunk.critics.prefix import PrefixConfig
from qchunk.critics.zooms import ZoomConfig
from qchunk.data import formats
from qchunk.drivers import train
from qchunk.drivers.from_scratch import FromScratchSettings
from qchunk.drivers.on_policy import OnPolicySettings
from qchunk.drivers.online import OnlineSettings
from qchunk.envs.probes.exact import Probe, Rules
from qchunk.planning import SearchConfig
from qchunk.trust_region import TrustRegionConfig
from qchunk.types import view
from qchunk.world_model import LatentConfig, ModelConfig

W = (32, 32)
TANH = TanhGaussianConfig((32, 32))
ACTOR, CRITIC, OPTIM = FlowConfig((32, 32), steps=4), CriticConfig((32, 32), tau=0.05), OptimConfig(3e-3)
DIFFUSION = DiffusionConfig((32, 32, 32), steps=5, schedule="vp")


def data_of(env, steps=3000):
    return formats.to_device(random_rows(env, steps, 16, dispatch=100))


def last(build, c, env, steps, **more):
    s = OnlineSettings(offline_steps=steps, eval_every=steps, log_every=steps, episodes=100, batch=128, **more)
    *_, evaluated, saved = train(build, c, env=env, data=data_of(env), settings=s)
    return evaluated.values, saved.learner


# a reward of 1 at the fifth step: gamma^(4 - t), whatever the chunks
CHUNKS = [ChunkConfig(1, (), 0.9), ChunkConfig(1, (2,), 0.9), ChunkConfig(2, (), 0.9)]


@pytest.mark.parametrize("chunk", slow_but(CHUNKS[2:], CHUNKS), ids=["one action", "two steps", "chunks"])
def test_critics_find_exact_values(chunk):
    env = envs.make("probe/delayed")
    _, learner = last(qc, QC(chunk, ACTOR, CRITIC, OPTIM, n=1), env, 1000)
    first = jax.tree.map(lambda x: x[0], learner._replace(step=learner.step[None]))
    t = np.arange(5)
    obs = jnp.stack([jnp.asarray(t) / 10, jnp.zeros(5)], axis=1)
    actions = jax.random.uniform(jax.random.key(1), (64, 5, chunk.horizon, 1), minval=-1.0)  # they do not matter
    q = chunk_q(CRITIC).score(view(first, {}), obs, actions).mean(axis=0)
    np.testing.assert_allclose(q, 0.9 ** (4 - t), atol=0.05)


def test_best_of_n_improves_on_the_behaviour_it_imitates():
    """The second action must have the sign of the first: chance succeeds in half of the episodes, a chunk critic in all."""
    env = envs.make("probe/two-step")
    chunk = ChunkConfig(2)
    values, _ = last(qc, QC(chunk, ACTOR, CRITIC, OPTIM, n=8), env, 600, seeds=2)
    imitated, _ = last(bc, BC(chunk, ACTOR, OPTIM), env, 600, seeds=2)
    assert values["success"].min() >= 0.9, values["success"]
    assert imitated["success"].max() <= 0.7, imitated["success"]


LATENT = LatentConfig((32, 32), size=16, atoms=1, tau=0.05)
ATOMS, SEARCH = dataclasses.replace(LATENT, atoms=11, support=(-1.0, 1.0)), SearchConfig(policy="learned")
RULES = {
    "qc-fql": (qc_fql, QCFQL(ChunkConfig(2), ACTOR, OneStepConfig((32, 32)), CRITIC, OPTIM, alpha=0.3)),
    "ifql": (ifql, IFQL(ChunkConfig(2), ACTOR, CRITIC, OPTIM, n=8)),
    "fbrac": (fbrac, FBRAC(ChunkConfig(2), ACTOR, CRITIC, OPTIM, alpha=0.3)),
    "fawac": (fawac, FAWAC(ChunkConfig(2), ACTOR, CRITIC, OPTIM, alpha=30.0)),
    "fedit": (fedit, FEdit(ChunkConfig(2), ACTOR, TANH, CRITIC, OPTIM, scale=1.0)),
    "dsrl": (dsrl, DSRL(ChunkConfig(2), ACTOR, TANH, CRITIC, OPTIM, scale=1.5)),
    "cgql": (cgql, CGQL(ChunkConfig(2), ACTOR, CRITIC, OPTIM, "mean", weight=10.0, share=0.5)),
    "qam": (qam, QAM(ChunkConfig(2), ACTOR, CRITIC, OPTIM, weight=10.0)),
    "qam-e": (qam_e, QAME(ChunkConfig(2), ACTOR, CRITIC, OPTIM, weight=10.0, editor=TANH, scale=0.3)),
    "qam-f": (qam_f, QAMF(ChunkConfig(2), ACTOR, CRITIC, OPTIM, 10.0, student=OneStepConfig((32, 32)), alpha=1.0)),
    "bam": (bam, BAM(ChunkConfig(2), ACTOR, CRITIC, OPTIM, weight=40.0)),
    "dql": (dql, DQL(ChunkConfig(2), DIFFUSION, CRITIC, OPTIM, n=1)),
    "edp": (edp, EDP(ChunkConfig(2), DIFFUSION, CRITIC, OPTIM, eta=5.0, n=1)),
    "dac": (dac, DAC(ChunkConfig(2), dataclasses.replace(DIFFUSION, steps=10), CRITIC, OPTIM, alpha=0.03)),
    "qsm": (qsm, QSM(ChunkConfig(2), ACTOR, CRITIC, OPTIM)),
    "idql": (idql, IDQL(ChunkConfig(2), DIFFUSION, CRITIC, OPTIM, n=8)),
    "dawr": (dawr, DAWR(ChunkConfig(2), DIFFUSION, ValueConfig((32, 32)), OPTIM, depth=2)),
    "iql": (iql, IQL(ChunkConfig(2), ACTOR, CRITIC, OPTIM, alpha=30.0)),
    "mac": (mac, MAC(ChunkConfig(2), ACTOR, OneStepConfig((32, 32)), ModelConfig((32, 32)), CRITIC, OPTIM, depth=2)),
    "vpn": (vpn, VPN(ChunkConfig(2), ACTOR, OneStepConfig((32, 32)), LATENT, OPTIM, depth=2, unroll=2)),
    "muzero": (
        muzero,
        MuZero(ChunkConfig(2), ACTOR, OneStepConfig((32, 32)), ATOMS, OPTIM, depth=2, unroll=2, search=SEARCH),
    ),
    "trqam": (trqam, TRQAM(ChunkConfig(2), ACTOR, CRITIC, OPTIM, bound=4.0)),
    "ogpo": (ogpo, OGPO(ChunkConfig(2), ACTOR, CRITIC, OPTIM, OPTIM, group=8, clip=0.1, noise=0.1, n=1)),
    "consistency-ac": (consistency_ac, ConsistencyAC(ChunkConfig(2), ConsistencyConfig(W), CRITIC, OPTIM, n=1)),
    "meanflow-q": (meanflow_q, MeanFlowQ(ChunkConfig(2), MeanFlowConfig(W), CRITIC, OPTIM, alpha=0.3, n=1)),
    "gfp": (gfp, GFP(ChunkConfig(2), ACTOR, OneStepConfig(W), CRITIC, OPTIM, alpha=0.3, eta=0.3)),
    "faster": (faster, FASTER(ChunkConfig(2), ACTOR, CRITIC, OPTIM, n=8)),
    "expo": (expo, EXPO(ChunkConfig(2), ACTOR, TANH, CRITIC, OPTIM, scale=0.3, n=4)),
    "dtql": (
        dtql,
        DTQL(ChunkConfig(2), ACTOR, TANH, CRITIC, ValueConfig((32, 32)), OPTIM, 0.9, alpha=0.3, clone=0.0, n=1),
    ),
    "pa-rl": (pa_rl, PARL(ChunkConfig(2), ACTOR, CRITIC, OPTIM, 8, 4, 4, 0.05, temperature=0.0)),
    "rebrac": (rebrac, ReBRAC(ChunkConfig(2), RegressionConfig((32, 32)), CRITIC, OPTIM, alpha=0.01)),
}


UPDATES = {
    "trqam": 1500,
    "fedit": 2500,
    "dsrl": 1500,
    "muzero": 300,
}  # an entropy bonus fades in the first thousand; searches cost
LEAST = {
    "ogpo": 0.75,
    "dac": 0.8,
    "iql": 0.8,
    "fawac": 0.8,
    "dawr": 0.8,
    "qsm": 0.8,
    "fedit": 0.8,
    "cgql": 0.7,
}  # of the success


@pytest.mark.parametrize("rule", slow_but(["qc-fql"], list(RULES), long=("muzero", "vpn")))
def test_a_critic_improves_on_the_behaviour(rule):
    """On the same probe: chance succeeds in half of the episodes."""
    build, c = RULES[rule]
    values, _ = last(build, c, envs.make("probe/two-step"), UPDATES.get(rule, 600), seeds=2)
    assert values["success"].min() >= LEAST.get(rule, 0.9), values["success"]


class Hill(Probe):
    """One step, whose reward is 1 - (a - 0.7)^2: 0.18 for uniform actions. A success or none has no slope to climb."""

    def __init__(self):
        super().__init__("flag")
        self.rules = Rules(lambda t, memory, action: (1.0 - (action[0] - 0.7) ** 2, 1.0, memory), 1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [ACTOR, DIFFUSION], ids=["flow", "diffusion"])
def test_cloning_what_has_climbed_is_better_than_the_data(kind):
    values, _ = last(dipo, DIPO(ChunkConfig(1), kind, CRITIC, OPTIM, rate=0.1), Hill(), 600)
    assert values["return"].min() >= 0.8, values["return"]


@pytest.mark.slow
def test_returns_weigh_what_was_played():
    """On-policy, without a critic: half of the first policy's episodes succeed."""
    c, steps = DRWR(ACTOR, ChunkConfig(2), RolloutConfig(64, 4, 4, 4), OPTIM), 20 * 64 * 4 * 2
    s = OnPolicySettings(online_steps=steps, eval_every=steps, log_every=steps, episodes=100, seeds=2)
    *_, evaluated, _ = train(drwr, c, env=envs.make("probe/two-step"), settings=s)
    assert evaluated.values["success"].min() >= 0.9, evaluated.values["success"]


@pytest.mark.slow
def test_zooming_finds_a_narrow_peak():
    """Two peaks of width 0.1 at +-0.8 and 0 between them: random actions earn 0.23, and one of 125 cells over 0.9."""
    zooms = ZoomConfig((32,), 3, 5, 11, (0.0, 1.0), tau=0.05)
    c = CQNAS(ChunkConfig(1, (1,)), zooms, OPTIM, td=1.0, imitate=False)
    values, _ = last(cqn_as, c, envs.make("probe/fork"), 800, seeds=2)
    assert values["return"].min() >= 0.85, values["return"]


@pytest.mark.slow
def test_a_full_covariance_learns_what_belongs_together():
    """Online from scratch, on the same probe: what explores succeeds in half of the episodes at first, and nearly always once its two actions go together."""
    region = TrustRegionConfig(mean=0.05, cov=0.005, follow=0.05, floor=0.1)
    critic = PrefixConfig((16,), members=1, aggregate="mean", tau=0.05, heads=2)
    c = TOPERL(ChunkConfig(2), FullGaussianConfig((16,), std=0.5), critic, region, OPTIM, OPTIM)
    s = FromScratchSettings(
        online_steps=1600, envs=16, start_training=320, batch=64, log_every=320, online_eval_every=1600, seeds=2
    )
    found = [
        e.values["reward_per_step"]
        for e in train(top_erl, c, env=envs.make("probe/two-step"), settings=s)
        if e.kind == "train"
    ]
    assert found[0].max() <= 0.35, found  # of 0.5
    assert found[-1].min() >= 0.42, found


@pytest.mark.slow
def test_a_time_out_bootstraps():
    """A reward of 1 at each step, for ever: 1 / (1 - gamma) up to the limit, which is no end of the values.

    gamma is small because the value past the limit is the network's own extrapolation.
    """
    chunk = ChunkConfig(2, (), 0.5)
    _, learner = last(qc, QC(chunk, ACTOR, CRITIC, OPTIM, n=1), envs.make("probe/constant"), 800)
    first = jax.tree.map(lambda x: x[0], learner._replace(step=learner.step[None]))
    t = np.arange(9)  # the last whole window of two steps starts at 8
    obs = jnp.stack([jnp.asarray(t) / 10, jnp.zeros(9)], axis=1)
    actions = jax.random.uniform(jax.random.key(1), (64, 9, 2, 1), minval=-1.0)
    q = chunk_q(CRITIC).score(view(first, {}), obs, actions).mean(axis=0)
    np.testing.assert_allclose(q, 2.0, atol=0.05)
