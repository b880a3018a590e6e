"""The command line. ``--help`` and ``list`` answer without importing jax; a user's mistake is one line and exit code 2."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from qchunk import names
from qchunk.system import answers, compiled, loading, memory, stopping, surroundings, tracebacks
from qchunk.system.errors import UserError, unknown
from qchunk.system.processes import cores

COMMANDS = {
    "list": ("[algorithms|actors|envs|...]", "every name, one line each", "qchunk.cli:list_names"),
    "collect": (
        "ENV --out DATA",
        "scripted or learned behaviour -> data set with episode ends",
        "qchunk.commands.collect:collect",
    ),
    "data": (
        "info|check|convert FILE",
        "a data set of ours or of others: its figures, its defects, in our format",
        "qchunk.commands.datasets:data",
    ),
    "train": (
        "ALGO --env ENV --data DATA",
        "train; --resume RUN goes on exactly where it was",
        "qchunk.commands.train:train",
    ),
    "eval": ("RUN --episodes 100", "evaluate a run's newest checkpoint", "qchunk.commands.evaluate:evaluate"),
    "rank": (
        "RUN... --data FILE",
        "what policies would earn, from data alone: fitted Q evaluation",
        "qchunk.commands.rank:rank",
    ),
    "compare": (
        "--env ENV --seeds 4",
        "several methods, everything else held equal: one report",
        "qchunk.commands.compare:compare",
    ),
    "sweep": (
        "ALGO --env ENV --FIELD V V",
        "settings beside each other in one program; the best, reported elsewhere",
        "qchunk.commands.sweep:sweep",
    ),
    "reproduce": (
        "SUITE [--scale SCALE]",
        "a table of ours or of a paper, beside the published figures",
        "qchunk.commands.reproduce:reproduce",
    ),
    "render": ("RUN", "an episode as a gif", "qchunk.commands.render:render"),
    "report": (
        "RUN... --out DIR",
        "one html page; its tables (markdown, csv, json, LaTeX) and pictures (png, pdf, svg)",
        "qchunk.commands.report:report",
    ),
    "export": (
        "RUN --out FILE.zip",
        "the policy as one file that needs jax and numpy, not qchunk",
        "qchunk.commands.export:export",
    ),
    "serve": (
        "RUN|FILE.zip --port 8000",
        "the policy for robots over websockets, as openpi's clients speak",
        "qchunk.commands.serve:serve",
    ),
    "env": (
        "setup NAME",
        "a simulator in an interpreter of its own: metaworld, robosuite, kitchen",
        "qchunk.commands.environment:env",
    ),
    "bench": (
        "[NAME...] [--check]",
        "the figures of benchmarks/, each a ratio measured in one process",
        "qchunk.commands.bench:bench",
    ),
}
HIDDEN = {"worker": "qchunk.commands.workers:worker"}  # what programs call
MOST_DEVICES = 8  # each holds the data


def usage() -> str:
    """What ``qchunk --help`` prints."""
    rows = [f"  qchunk {name:9} {args:28} {text}" for name, (args, text, _) in COMMANDS.items()]
    return "\n".join(
        [
            "qchunk: reinforcement learning with policies that generate chunks of actions.",
            "",
            *rows,
            "",
            "Every command has --help. `qchunk train ALGO --help` shows that algorithm's fields.",
        ]
    )


def list_names(argv: list[str]) -> None:
    """Prints the tables of names."""
    tables = names.tables()
    if "--help" in argv or "-h" in argv:
        print(f"usage: qchunk list [{'|'.join(tables)}]")
        return
    for wanted in argv:
        if wanted not in tables:
            raise unknown("table", wanted, tables)
    for title in argv or tables:
        print(f"{title}:")
        width = max(map(len, tables[title]))
        for name, text in tables[title].items():
            print(f"  {name:{width}} {text}")


def main(argv: list[str] | None = None) -> None:
    """Runs one command and exits: 0, 2 after a user's mistake, 128 + the signal after Ctrl-C, SIGTERM and SIGHUP."""
    argv = sys.argv[1:] if argv is None else argv
    surroundings.open_streams()
    with stopping.watched():  # before anything that takes time
        try:
            command(argv)
            surroundings.flush()
            stopping.check()
        except UserError as e:
            _leave(f"error: {e}", 2)
        except stopping.Stopped:
            stopping.leave()
        except KeyboardInterrupt:
            sys.exit(130)
        except BrokenPipeError:
            surroundings.drop()  # nobody reads on: that is no mistake
            sys.exit(0)
        except BaseException as e:
            if isinstance(e, SystemExit) and not tracebacks.own_frames(e):
                raise  # of --help, and of what has failed and has said so
            if stopping.asked():  # such as a terminal that is no longer there
                stopping.leave()
            if found := memory.shortage(e) if memory.is_short(e) else surroundings.explained(e):
                _leave(f"error: {found}", 2)
            lines = failure(e)
            if not lines:
                raise
            _leave(f"error: {lines[0]}", 2, lines[1:])


def command(argv: list[str]) -> None:
    """Runs one command in this process. Raises UserError, and whatever code of the user's raises."""
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return
    if argv[0] == "--version":
        from importlib.metadata import version

        print(f"qchunk {version('qchunk')}")
        return
    if argv[0] not in (*COMMANDS, *HIDDEN):
        raise unknown("command", argv[0], COMMANDS, "qchunk --help shows all")
    surroundings.check()
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # modules of the user's own, as python -m would find them
    if argv[0] != "bench" and "host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(min(MOST_DEVICES, cores())))
    if argv[0] != "bench":  # which times compiling, too
        compiled.keep()
    name_glfw()
    if argv[0] in ("compare", "render", "reproduce"):
        draw_without_a_screen()
    target = HIDDEN[argv[0]] if argv[0] in HIDDEN else COMMANDS[argv[0]][2]
    module, _, function = target.partition(":")
    with answers.alone() if "--json" in argv and argv[0] != "bench" else contextlib.nullcontext():
        getattr(importlib.import_module(module), function)(argv[1:])


def failure(err: BaseException) -> list[str]:
    """The message for an exception that code of the user's raised or led to: a line, then its frames. Empty: it is ours."""
    if line := tracebacks.blamed(err):
        return [f"{line}. Fix it there.", *tracebacks.listed(err)]
    if files := loading.loaded():
        line = f"what {' or '.join(files)} gives does not fit: {tracebacks.told(err)}"
        return [f"{line}. See docs/tutorials for what each function returns.", *tracebacks.listed(err, ours=True)]
    return []


def name_glfw() -> None:
    """Names glfw's library, which MuJoCo loads when it is imported. Unnamed, a Python of its own would be asked for its version:
    a tenth of a second, and at Ctrl-C a traceback of that child's."""
    found = importlib.util.find_spec("glfw") if sys.platform.startswith("linux") else None
    if found and found.origin:
        screen = "wayland" if os.environ.get("XDG_SESSION_TYPE") == "wayland" else "x11"  # as glfw chooses
        library = os.path.join(os.path.dirname(found.origin), screen, "libglfw.so")
        if os.path.exists(library):
            os.environ.setdefault("PYGLFW_LIBRARY", library)


def draw_without_a_screen() -> None:
    """Where there is no screen, MuJoCo is to draw by EGL; it reads that once, when it is imported, and cannot be without it then."""
    if {"DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL"} & set(os.environ) or not sys.platform.startswith("linux"):
        return
    from ctypes.util import find_library

    if find_library("EGL"):
        os.environ["MUJOCO_GL"] = "egl"


def _leave(line: str, code: int, more: Sequence[str] = ()) -> NoReturn:
    try:
        print(" ".join(line.split()), *more, sep="\n", file=sys.stderr, flush=True)
    except OSError:  # such as a full disk
        surroundings.drop(sys.stderr)
    with contextlib.suppress(UserError, BrokenPipeError):
        surroundings.flush()
    sys.exit(code)
