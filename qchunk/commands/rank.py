"""``qchunk rank``."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from qchunk.commands import flags
from qchunk.ranges import PositiveFloat, PositiveInt, Widths
from qchunk.system import answers, loading
from qchunk.system.errors import UserError


@dataclasses.dataclass(frozen=True)
class RankFlags:
    """Policies ranked from data alone, by fitted Q evaluation."""

    data: Path | None = None
    """The data set that judges all of them; by default the first run's own."""
    updates: PositiveInt = 10_000
    """Updates of each critic."""
    batch: PositiveInt = 256
    """Windows of an update."""
    hidden: Widths = (256, 256)
    """Widths of the critics' hidden layers."""
    lr: PositiveFloat = 3e-4
    """The critics' learning rate."""
    json: bool = False
    """Print the estimates as JSON to stdout, and nothing else there."""


def rank(argv: list[str]) -> None:
    """``qchunk rank RUN... [--data FILE]``."""
    folders = []
    while argv and not argv[0].startswith("-"):
        folders.append(Path(argv[0]))
        argv = argv[1:]
    text = "qchunk rank RUN... [flags]: what the runs' policies would earn, from data alone (fitted Q evaluation)."
    (f,) = flags.parse("rank", argv, RankFlags, text=text)
    if not folders:
        raise UserError("rank needs at least one run folder first", "qchunk rank RUN... --data FILE")
    from qchunk.comparison import fitted_q
    from qchunk.config import ChunkConfig, OptimConfig, from_dict
    from qchunk.reporting import records
    from qchunk.runs.run_folder import read_config

    kept = [read_config(folder)["config"] for folder in folders]
    if len({c["env"] for c in kept}) > 1:
        raise UserError(
            f"the runs are of {' and '.join(sorted({c['env'] for c in kept}))}", "rank runs of one environment"
        )
    if not f.data and not kept[0].get("data"):
        raise UserError(f"{folders[0]} was trained without data", "give --data FILE")
    chunked = [from_dict(ChunkConfig, c["config"].get("chunk")) for c in kept]
    if len({(c.gamma, c.discount) for c in chunked}) > 1:
        raise UserError("the runs discount otherwise", "rank runs of one --chunk.gamma and --chunk.discount")
    data = f.data or Path(kept[0]["data"]["path"])
    if not loading.readable(data):
        raise UserError(f"there is no data set {data}", "give --data FILE")
    critic = dataclasses.replace(fitted_q.FittedQ().critic, hidden=f.hidden)
    c = fitted_q.FittedQ(critic=critic, optim=OptimConfig(f.lr))
    found = []
    for i, folder in enumerate(folders, 1):
        print(f"[rank {i}/{len(folders)}] {folder}", file=sys.stderr, flush=True)
        found.append(fitted_q.judge(folder, data, f.updates, f.batch, c))
    if f.json:
        answers.answer([fitted_q.as_json(r) for r in found])
        return
    rows = fitted_q.table(found)
    print(records.markdown(rows, tuple(rows[0])), *fitted_q.caveats(found), sep="\n")
