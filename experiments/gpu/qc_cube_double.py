"""Q-chunking (2507.07969) on the five tasks of OGBench's cube-double, as the paper trains it: 4 x 512, N = 32, 1M updates and 1M environment steps, 4 seeds.

Its rows of ``qc_paper`` alone, whose mean is a published curve (published/qc_cube_double_curve.csv). ``slices.py`` runs it in turns of some minutes. Needs
``pip install -c constraints.txt -e '.[ogbench]'``; the data are played by OGBench's oracles, a process on every core.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import qc_paper

from qchunk.comparison.suite import Run, Suite


def suite(scale: str) -> list[Run]:
    """Five runs of 4 seeds, the same at every scale."""
    return [run for run in qc_paper.paper_runs() if run.label == "qc" and "/cube-double-" in run.env]


def differences(scale: str) -> list[str]:
    """Those of the whole table that speak of these runs."""
    others = ("cube-quadruple", "RLPD", "ReBRAC", "SUPE-GT")
    return [text for text in qc_paper.differences(scale) if not any(name in text for name in others)]


SUITE = Suite(suite, ("paper",), qc_paper.SUITE.published, differences)
