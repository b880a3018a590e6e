"""What test_mesh.py runs in processes with other numbers of devices; the last line that is printed is the answer, as JSON."""

import json
import sys

import jax
import numpy as np
from test_conformance import tiny, world

from qchunk import registry
from qchunk.drivers import offline, on_policy, online, train
from qchunk.drivers.on_policy import OnPolicySettings
from qchunk.drivers.online import OnlineSettings


def trained(method: str, seeds: int, each: int):
    """(the first event, the last one, all figures) of a small run."""
    build, config = registry.builder(method)
    c, (env, data) = tiny(config()), world(False)
    if method == "ppo":
        settings, more = OnPolicySettings(online_steps=64, episodes=8), {}
        c = c.__class__(**{**vars(c), "rollout": c.rollout.__class__(envs=8, decisions=4, minibatches=2, epochs=1)})
    else:
        settings = OnlineSettings(
            batch=16, offline_steps=20, log_every=20, online_steps=96, envs=8, start_training=32, update_ratio=0.25
        )
        more = {"data": data}
    s = type(settings)(**{**vars(settings), "seeds": seeds, "devices_per_seed": each, "episodes": 8})
    kept = None
    figures = {}
    for event in train(build, c, env=env, settings=s, **more):
        figures |= {(event.kind, event.step, n): v for n, v in event.values.items() if "second" not in n}
        first = jax.tree.map(np.array, event.learner.params)
        kept = kept or first
        last = host((event.learner, event.state))
    return kept, *last, figures


def host(tree):
    """Numbers of a tree, keys as their data."""
    data = lambda x: jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x  # noqa: E731
    return jax.tree.map(lambda x: np.array(data(x), np.float64), tree)


def furthest(a, b) -> float:
    """The greatest difference between two trees of numbers."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(np.abs(x - y).max()) for x, y in pairs if x.size)


def differences(method: str, seeds: str, each: str) -> dict:
    """How far a run on shared devices ends from the same one without."""
    first, *alone = trained(method, int(seeds), 1)
    for fn in (offline.updates, online.device_block, on_policy.iterate):
        fn.clear_cache()
    _, *shared = trained(method, int(seeds), int(each))
    names = ("learner", "state", "figures")
    found = {n: furthest(a, b) for n, a, b in zip(names, alone, shared, strict=True)}
    block = on_policy.iterate if method == "ppo" else offline.updates
    return {**found, "moved": furthest(first, alone[0].params), "compiled": block._cache_size()}


if __name__ == "__main__":
    name, *args = sys.argv[1:]
    print(json.dumps(globals()[name](*args)))
