"""Other places that want a run's metrics: TensorBoard, W&B, or anything with two methods."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from qchunk.runs.run_folder import CONFIG, figure
from qchunk.system.errors import UserError, unknown


class Sink(Protocol):
    """Another place that wants the metrics: anything with these two methods."""

    def log(self, kind: str, step: int, values: Mapping[str, Any]) -> None: ...
    def close(self) -> None: ...


def sinks_by_name(names: Iterable[str], folder: Path) -> list[Sink]:
    """Opens sinks for the metrics of the run in ``folder``.

    Args:
        names: of "tensorboard" and "wandb".

    Raises:
        UserError: an unknown name, or the package behind it is not installed.
    """
    table = {"tensorboard": _TensorBoard, "wandb": _Wandb}
    for name in (names := list(names)):
        if name not in table:
            raise unknown("sink", name, table)
    sinks: list[Sink] = []
    for name in names:
        try:
            sinks.append(table[name](Path(folder)))
        except ImportError as err:
            for sink in sinks:
                sink.close()
            raise UserError(f"the sink {name!r} is not installed", f'Run: pip install "qchunk[{name}]"') from err
    return sinks


def _scalars(kind: str, values: Mapping[str, Any]) -> dict[str, float]:
    """``kind/name`` -> the number, or the mean over seeds."""
    return {f"{kind}/{name}": figure(v)["mean"] for name, v in values.items()}


class _TensorBoard:
    def __init__(self, folder: Path):
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(logdir=str(folder / "tensorboard"))

    def log(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        for name, value in _scalars(kind, values).items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    def __init__(self, folder: Path):
        import wandb  # pyright: ignore[reportMissingImports]

        # the same for every process that goes on with this run, wherever the folder has moved
        identity = hashlib.sha256((folder / CONFIG).read_bytes()).hexdigest()[:16]
        self._run = wandb.init(project="qchunk", name=folder.name, dir=str(folder), id=identity, resume="allow")
        # W&B refuses steps that go back, as they do after a rewind: the step is a value like any other
        self._run.define_metric("*", step_metric="step")

    def log(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        self._run.log({"step": step, **_scalars(kind, values)})

    def close(self) -> None:
        self._run.finish()
