"""S = 1, 4, 16, 64 seeds of Q-chunking at the paper's sizes in one program on a GPU: an update of all over S times that of one."""

from __future__ import annotations

from _accelerator import SMOKE, needed
from _methods import Size, configured, data_set, going_on
from _timing import medians, tell

TITLE, SIZE, STEPS = ("tiny", Size((16,), 2), 2) if SMOKE else ("4x512", Size((512,) * 4, 32), 10)
SEEDS, UPDATES, REPEATS = ((1, 2), 4, 1) if SMOKE else ((1, 4, 16, 64), 64, 5)


def seconds(seeds: int, data) -> float:
    """Of an update of all of them."""
    count = max(1, UPDATES // seeds)
    go_on = going_on(*configured("qc", SIZE, steps=STEPS), data, count, seeds)
    return medians(REPEATS, update=go_on)["update"] / count


def main() -> None:
    needed()
    data, alone = data_set(), 0.0
    for seeds in SEEDS:
        took = seconds(seeds, data)
        alone = alone or took
        tell(f"qc {TITLE} S={seeds}", ms=1e3 * took, ratio=took / (seeds * alone), better="lower")


if __name__ == "__main__":
    main()
