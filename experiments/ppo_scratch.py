"""PPO from scratch against stated thresholds: a return of 900 on inverted_pendulum and of -100 on reacher, 4 seeds."""

from dppo import scratch

from qchunk.comparison.suite import Run, Suite


def suite(scale: str) -> list[Run]:
    """Two runs of 4 seeds."""
    return [
        scratch("brax/inverted_pendulum@spring", "ppo", 600_000, 4),
        scratch("brax/reacher@spring", "ppo", 1_000_000, 4),
    ]


SUITE = Suite(suite)
