"""Other places that want a run's metrics: TensorBoard, W&B, or anything with two methods."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

from qchunk.runs.run_folder import RunFolder, figure
from qchunk.system.errors import UserError, unknown
from qchunk.system.files import explain_oserror, make_folder


class Sink(Protocol):
    """Another place that wants the metrics: anything with these two methods."""

    def log(self, kind: str, step: int, values: Mapping[str, Any]) -> None: ...
    def close(self) -> None: ...


def check(names: Iterable[str]) -> None:
    """Refuses names of no sink.

    Raises:
        UserError: an unknown name.
    """
    for name in names:
        if name not in _SINKS:
            raise unknown("sink", name, _SINKS)


def sinks_by_name(names: Iterable[str], run: RunFolder) -> list[Sink]:
    """Opens sinks for the metrics of a run.

    Args:
        names: of "tensorboard", whose files are written again from the metrics so far, and "wandb".

    Raises:
        UserError: an unknown name, or the package behind it is not installed.
    """
    check(names := list(names))
    sinks: list[Sink] = []
    for name in names:
        try:
            sinks.append(_SINKS[name](run))
        except ImportError as err:
            for sink in sinks:
                sink.close()
            raise UserError(f"the sink {name!r} is not installed", f'Run: pip install "qchunk[{name}]"') from err
    return sinks


def _scalars(kind: str, values: Mapping[str, Any]) -> dict[str, float]:
    """``kind/name`` -> the number, or the mean over seeds; of evaluations each seed's, too, as ``kind/name/seed0``."""
    found = {}
    for name, value in values.items():
        shown = figure(value)
        found[f"{kind}/{name}"] = shown["mean"]
        if kind == "eval" and len(shown["per_seed"]) > 1:
            found |= {f"{kind}/{name}/seed{i}": x for i, x in enumerate(shown["per_seed"])}
    return found


class _TensorBoard:
    """On the disk when ``log`` returns. TensorBoard shows a step that is written twice as two points, so a resumed run writes its
    files again from its metrics. tensorboardX's SummaryWriter would write in a thread: a full disk ends that, and whoever hands it more waits for ever."""

    def __init__(self, run: RunFolder):
        from tensorboardX import event_file_writer

        self._folder = run.path / "tensorboard"
        make_folder(self._folder)
        lines = run.lines()
        began = time.time() - (lines[-1]["seconds"] if lines else 0.0)
        with self._told():
            for old in self._folder.glob("events.out.tfevents.*"):
                old.unlink()
            self._writer = event_file_writer.EventsWriter(str(self._folder / "events"))
            for line in lines:
                values = {n: [math.nan if x is None else x for x in _listed(v)] for n, v in line["values"].items()}
                self._add(line["kind"], line["step"], values, began + line["seconds"])
            self._writer.flush()

    def log(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        with self._told():
            self._add(kind, step, values, time.time())
            self._writer.flush()

    def _add(self, kind: str, step: int, values: Mapping[str, Any], when: float) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        for name, value in _scalars(kind, values).items():
            self._writer.write_event(Event(wall_time=when, step=step, summary=scalar(name, value)))

    def close(self) -> None:
        with contextlib.suppress(OSError):  # of a full disk, which ``log`` has told
            self._writer.close()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """What the disk refuses is the user's error."""
        try:
            yield
        except OSError as err:
            raise explain_oserror(err, self._folder) from err


def _listed(value: Any) -> list:
    return value if isinstance(value, list) else [value]


class _Wandb:
    def __init__(self, run: RunFolder):
        import wandb  # pyright: ignore[reportMissingImports]

        # the same for every process that goes on with this run, wherever the folder or its data have moved
        parts = {n: run.config.get(n) for n in ("algorithm", "label", "env", "seed", "config")}
        text = json.dumps([run.about.get("created"), parts], sort_keys=True, default=str)
        identity = hashlib.sha256(text.encode()).hexdigest()[:16]
        more = {"name": run.path.name, "dir": str(run.path), "id": identity, "resume": "allow"}
        project = os.environ.get("WANDB_PROJECT") or "qchunk"
        self._run = wandb.init(project=project, config={**run.config}, **more)
        # W&B refuses steps that go back, as they do after a rewind: the step is a value like any other
        self._run.define_metric("*", step_metric="step")

    def log(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        self._run.log({"step": step, **_scalars(kind, values)})

    def close(self) -> None:
        self._run.finish()


_SINKS: dict[str, Callable[[RunFolder], Sink]] = {"tensorboard": _TensorBoard, "wandb": _Wandb}
