"""What best of N adds to the process's memory: 4096 environments, N = 32, 4 x 512, by slice size."""

from __future__ import annotations

import resource
import subprocess
import sys

from _timing import tell

E, N, WIDTHS = 4096, 32, (512,) * 4


def peak(slice_rows: int) -> float:
    """Peak resident memory in GiB above that before the call, of one decision (own process)."""
    import jax

    from qchunk.actor_configs import FlowConfig
    from qchunk.algorithms.qc import QC, qc
    from qchunk.config import CriticConfig
    from qchunk.types import Spec, view

    def highest() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

    c = QC(actor=FlowConfig(WIDTHS, steps=2), critic=CriticConfig(WIDTHS), n=N, slice_rows=slice_rows)
    vars, policy = view(jax.jit(lambda: qc(c).init(jax.random.key(0), Spec(37, 5, 5), {}))(), {}), qc(c).act
    obs = jax.random.normal(jax.random.key(1), (E, 37))
    act = jax.jit(lambda vars, key, obs: policy.plan(vars, policy.draw(vars, key, obs), obs, None).action)
    compiled = act.lower(vars, jax.random.key(2), obs).compile()
    before = highest()
    jax.block_until_ready(compiled(vars, jax.random.key(2), obs))
    return highest() - before


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1].isdigit():
        print(peak(int(sys.argv[1])))
    else:
        added = []
        for rows in (0, E * N):  # 0: chosen by backend; E * N: no slicing
            done = subprocess.run([sys.executable, __file__, str(rows)], capture_output=True, text=True, check=True)
            added.append(float(done.stdout.split()[-1]))
        sliced, whole = added
        tell(
            f"memory best of {N}, {E} environments",
            added_gib=sliced,
            not_sliced_gib=whole,
            ratio=sliced / whole,
            better="lower",
        )
