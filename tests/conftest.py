"""Settings that every test runs under."""

import os
from importlib.metadata import version

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
# two seeds are spread over two devices, three are not
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "2")
# what commands in fresh processes compile is not for the user's home; test_compiled.py asks for a folder of its own
os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "false")
# of where an operation was written a program keeps one line, not the ten above it
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "1")
# most of the tests' time is compiling: without LLVM's optimisations and XLA's fusion emitters it takes a third of that
# (jaxlib after 0.10 ends the process at the second flag, which it no longer has)
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0"
    + " --xla_cpu_use_fusion_emitters=false" * version("jaxlib").startswith("0.10."),
)

import gc
import math
import time

import jax
import pytest

from qchunk.__main__ import SELDOM
from qchunk.drivers import events
from qchunk.system import compiled

gc.set_threshold(*SELDOM)
jax.config.update("jax_debug_key_reuse", True)
# "progress" comes by the clock, and a slow machine is to show the same events; test_events.py asks for it
events.SECONDS = math.inf

MAPS = 12_000  # mapped regions of a process; Linux allows 65,530, and the drivers let jax forget all programs at half of that


@pytest.fixture(scope="session")
def drop_old_programs():
    """Each compiled program takes some mapped regions for as long as jax keeps it, and a process compiles thousands."""
    return lambda: compiled.make_room(MAPS)


@pytest.fixture(scope="module", autouse=True)
def programs_of_finished_modules_are_dropped(drop_old_programs):
    yield
    drop_old_programs()


LATE = "not begun: the time that --begin-until gives is over"


def pytest_addoption(parser):
    parser.addoption(
        "--begin-until", type=float, metavar="SECONDS", help="begin no test after this time (of `date +%%s`)"
    )


def pytest_runtest_setup(item):
    until = item.config.getoption("begin_until")
    if until is not None and time.time() > until:
        pytest.skip(LATE)


def pytest_terminal_summary(terminalreporter):
    late = sum(LATE in str(r.longrepr) for r in terminalreporter.stats.get("skipped", ()))
    if late:
        terminalreporter.write_line(f"{late} tests {LATE}; make test-all runs all")


def pytest_collection_modifyitems(items):
    """Many short tests are last, so that processes that share them end together; long ones at the end would leave a core idle for minutes."""
    items.sort(key=lambda item: item.path.name == "test_conformance.py")
