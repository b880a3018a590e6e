"""What a GPU is asked besides parity and conformance; all of it holds on a CPU, too."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from driven import random_rows

from qchunk import envs
from qchunk.actor_configs import FlowConfig
from qchunk.algorithms.qc import QC, qc
from qchunk.config import ChunkConfig, CriticConfig
from qchunk.data import formats
from qchunk.drivers import offline, online
from qchunk.drivers.common import assemble, init
from qchunk.drivers.online import OnlineSettings

pytestmark = pytest.mark.accelerator
C = QC(ChunkConfig(2), FlowConfig((8,), steps=2), CriticConfig((8,)), n=2)
PLAY = OnlineSettings(offline_steps=2, batch=8, online_steps=32, envs=2, start_training=0, online_eval_every=16)


@pytest.mark.slow
def test_nothing_goes_to_or_from_the_host_within_a_block():
    """Neither of updates on data nor of decisions with updates: what they need is on the device, what they tell stays there."""
    env = envs.make("probe/two-step")
    rows = random_rows(env, 40, 4, dispatch=10)
    program, x = assemble(qc, C, env, PLAY, data=formats.to_device(rows))
    learner = init(program, x)
    plan = online.schedule(program.scheme(x, "explore").steps, PLAY)
    state = online.begin(program, x, plan, learner)
    x = jax.tree.map(jnp.asarray, x)  # a configuration's floats are Python's: arguments of every dispatch
    count, due = jnp.asarray(2), jnp.ones(plan.dispatch, jnp.int32)
    before = jax.tree.map(jnp.copy, learner.params)
    for guard in ("allow", "disallow"):  # the first call compiles
        with jax.transfer_guard(guard):
            learner, _ = offline.updates(program, PLAY.batch, learner, x, count)
            learner, state, _ = online.device_block(program, plan, learner, state, x, count, due)
    assert int(state.decisions) == 4 and int(learner.step) == 8
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), before, learner.params)
    assert min(jax.tree.leaves(moved)) > 0


def test_what_crosses_is_seen():
    """The guard of the test above would stop a number of Python's."""
    double = jax.jit(lambda x, n: x * n)
    x = double(jnp.ones(3), 2)
    with jax.transfer_guard("disallow"), pytest.raises(Exception, match="Disallowed host-to-device"):
        double(x, 3)
