"""Several processes, on one host or many, that train one run together: the same command everywhere but for its number.

Every process runs the same program on its part of the devices (``jax.distributed``). The first alone writes the run's folder;
what the others would write goes into a folder of theirs that is removed.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qchunk.system import stopping
from qchunk.system.errors import UserError

LOST = ("Gloo", "gloo", "Coordination", "coordination")  # words of jax where another process does not answer
MEETING = 300.0  # seconds that the processes of a run wait for each other
LEAVING = 2.0  # seconds that the first one gives the others to end, where all stop
_met = False  # whether all processes have begun
CLUSTER = "auto"  # in the place of HOST:PORT: what Slurm, Open MPI, Kubernetes or a TPU pod say by themselves


@dataclasses.dataclass(frozen=True)
class HostFlags:
    """One run over several processes; each is given the same command but for its number."""

    coordinator: str = ""
    """For one run over several processes (docs/cluster.md): HOST:PORT of the first one; or auto, where the cluster tells it, and the next two."""
    processes: int | None = None
    """How many processes train the run together."""
    process_id: int | None = None
    """The number of this process, from 0."""


def join(f: HostFlags) -> None:
    """Meets the other processes; before anything is computed. Nothing where no flag asks for it.

    Raises:
        UserError: flags that do not say who the others are, or a cluster that does not say so itself.
    """
    told = f.coordinator, f.processes, f.process_id
    if not f.coordinator:
        if told != ("", None, None):
            raise UserError(
                "--processes and --process-id are of a run over several", "give --coordinator HOST:PORT, too"
            )
        return
    if f.coordinator != CLUSTER:
        port = f.coordinator.rpartition(":")[2]
        if None in told or not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536):
            fix = f"give HOST:PORT with --processes and --process-id, or --coordinator {CLUSTER} where the cluster says them"
            raise UserError(f"--coordinator {f.coordinator} does not say who the others are", fix)
        assert f.processes is not None and f.process_id is not None
        if not 0 <= f.process_id < f.processes:
            fix = f"give numbers from 0 to {max(f.processes, 1) - 1}"
            raise UserError(f"--process-id {f.process_id} is none of {f.processes} processes", fix)
        if f.process_id == 0:
            _check_port(int(port))
    import jax

    jax.config.update("jax_enable_preemption_service", False)  # it takes SIGTERM, which stopping.py answers
    others = (None,) * 3 if f.coordinator == CLUSTER else told
    try:
        with _in_time():
            jax.distributed.initialize(*others, initialization_timeout=int(MEETING) + 60)
    except (RuntimeError, ValueError) as e:
        raise _apart(str(e).strip().splitlines()[0][:160] or type(e).__name__) from e


def _check_port(port: int) -> None:
    """Refuses a port at which the first process cannot be met: jax would end there by a segmentation fault.

    Raises:
        UserError: another process listens there, or this one may not.
    """
    with socket.socket() as found:
        # what is left of a run that has ended is in nobody's way
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind(("", port))
        except OSError as e:
            fix = "give all processes a --coordinator with another port, such as 4321"
            raise UserError(f"the first process cannot be met at port {port}: {e.strerror}", fix) from e


def _apart(why: str) -> UserError:
    """The user's error for processes that do not meet."""
    fix = "start all processes within five minutes, with one coordinator that each can reach and numbers of their own"
    return UserError(f"the processes of the run do not meet: {why}", fix)


@contextlib.contextmanager
def _in_time() -> Iterator[None]:
    """Ends this process by a line where it waits for longer than ``MEETING``: jax would abort it, by a stack trace and no exception."""
    met = threading.Event()

    def watch() -> None:
        if not met.wait(MEETING):
            stopping.say(f"error: {_apart(f'the others are not here after {MEETING:.0f} seconds')}")
            os._exit(2)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        met.set()


def several() -> bool:
    """Whether this process is one of several."""
    import jax

    return jax.process_count() > 1


def first() -> bool:
    """Whether this process is the one that writes."""
    import jax

    return jax.process_index() == 0


def agreed(*flags: bool) -> tuple[bool, ...]:
    """Each flag, true for all processes as soon as it is for one; all of them ask at the same place."""
    if not several():
        return flags
    import numpy as np
    from jax.experimental import multihost_utils

    return tuple(bool(x) for x in multihost_utils.process_allgather(np.asarray(flags)).any(axis=0))


def wait(name: str) -> None:
    """Until all processes are here."""
    if several():
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def let_go() -> None:
    """Before all processes stop: the first one leaves last. The service that they meet by ends with it, and aborts those that are still there."""
    if several() and first():
        time.sleep(LEAVING)


def meet(over: Any, asked: Any = None) -> None:
    """Lets the devices of a mesh speak to each other for the first time, once all processes are here.

    CPUs wait half a minute for a first meeting, and for any later one as long as compiling may take.

    Args:
        asked: what they will train, as JSON has it: the same for all of them.

    Raises:
        UserError: another process cannot begin, or would train something else.
    """
    if not several():
        return
    import jax
    import numpy as np

    global _met
    _met = True
    if agreed(False)[0]:
        raise UserError("another process of this run cannot begin", "do what it says, and start all of them again")
    if not _alike(asked):
        fix = "give each the same command but for --process-id, and the same data"
        raise UserError("the processes of this run would train different things", fix)
    lies = jax.P(*over.axis_names)
    x = placed(np.zeros(over.devices.shape, np.float32), jax.NamedSharding(over, lies))
    for axes in (*over.axis_names, over.axis_names):
        add = functools.partial(jax.lax.psum, axis_name=axes)
        jax.jit(jax.shard_map(add, mesh=over, in_specs=lies, out_specs=lies, check_vma=False))(x).block_until_ready()


def _alike(asked: Any) -> bool:
    """Whether all processes ask for the same; all of them call it together."""
    import numpy as np
    from jax.experimental import multihost_utils

    text = json.dumps(asked, sort_keys=True, default=str)
    mark = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint32)
    return bool((multihost_utils.process_allgather(mark) == mark).all())


def read(x: Any) -> Any:
    """An array as numpy's, also where other processes hold parts of it; all of them read it at the same place."""
    import numpy as np

    return np.asarray(gathered(x))


def placed(tree: Any, shardings: Any) -> Any:
    """``jax.device_put``, also where devices are other processes'; what only this one holds is the same in all of them."""
    import jax
    import numpy as np

    if not several():
        return jax.device_put(tree, shardings)

    def put(x: Any, where: Any) -> Any:
        if isinstance(x, jax.Array) and not x.is_fully_addressable:
            return jax.jit(lambda x: x, out_shardings=where)(x)
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put(jax.random.key_data(x), where), impl=jax.random.key_impl(x))
        held = np.asarray(x)  # device_put would send all of it to all processes, to see that it is the same
        return jax.make_array_from_callback(held.shape, where, lambda at: held[at])

    return jax.tree.map(put, tree, shardings)


def gathered(tree: Any) -> Any:
    """The tree, whose leaves this process can read: those that other processes hold parts of are numpy's. All of them call it together."""
    import jax

    def whole(x: Any) -> Any:
        if not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated:
            return x
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(whole(jax.random.key_data(x)), impl=jax.random.key_impl(x))
        from jax.experimental import multihost_utils

        return multihost_utils.process_allgather(x, tiled=True)

    return jax.tree.map(whole, tree)


def checkpointer() -> Any:
    """orbax's, of this process alone: by itself it would wait for the others at every step of its own."""
    import orbax.checkpoint as ocp  # here, because it takes half a second that most commands need not spend

    if not several():
        return ocp.PyTreeCheckpointer()
    import jax

    me = jax.process_index()
    mine = ocp.options.MultiprocessingOptions(me, {me}, f"process-{me}")
    return ocp.Checkpointer(ocp.PyTreeCheckpointHandler(multiprocessing_options=mine), multiprocessing_options=mine)


@contextlib.contextmanager
def together(f: HostFlags) -> Iterator[Path | None]:
    """``join``, and a folder for what this process writes if it is not the first; it is removed.

    Raises:
        UserError: as ``join``.
    """
    join(f)
    if not several():
        yield None
        return
    with contextlib.ExitStack() as stack:
        stack.enter_context(_stdout_kept())
        wait("joined")
        folder = None
        if not first():
            stack.enter_context(stopping.hint("the first process says how to go on"))
            made = tempfile.TemporaryDirectory(prefix="qchunk-", ignore_cleanup_errors=True)
            folder = Path(stack.enter_context(made))
        try:
            yield folder
        except BaseException as e:
            if not _met:
                with contextlib.suppress(RuntimeError):  # nobody is there
                    agreed(True)
            lost = isinstance(e, RuntimeError) and any(word in str(e) for word in LOST)
            # after what is printed: jax would wait for the others at the end of the interpreter, and they for this one
            atexit.register(os._exit, 2 if lost or isinstance(e, UserError) else 1)
            if not lost:
                raise
            fix = "look at what it said, and start all processes again, with --resume where there is a checkpoint"
            why = str(e).strip().splitlines()[0][:120]
            raise UserError(f"another process of this run has ended, or cannot be reached ({why})", fix) from e


@contextlib.contextmanager
def _stdout_kept() -> Iterator[None]:
    """Within it stdout is stderr: the library that CPUs talk through prints there whom it has met."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def mirrored(run: Path, folder: Path) -> Path:
    """A folder within ``folder`` that reads as the run does, so that going on with it writes nothing into the run."""
    made = folder / run.name
    made.mkdir()
    for path in run.iterdir():
        if path.is_dir():
            os.symlink(path.resolve(), made / path.name)
        elif path.name != "lock":
            (made / path.name).write_bytes(path.read_bytes())
    return made
