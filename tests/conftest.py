"""Settings that every test runs under."""

import os
import shutil
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
# two seeds are spread over two devices, three are not
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "2")
# most of the tests' time is compiling: without LLVM's optimisations they take two thirds of it
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
# what one process of a run has compiled, no other compiles: neither pytest's nor those that tests start
PROGRAMS = None if "JAX_COMPILATION_CACHE_DIR" in os.environ else tempfile.mkdtemp(prefix="qchunk-programs-")
if PROGRAMS:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = PROGRAMS
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import jax  # noqa: E402

jax.config.update("jax_debug_key_reuse", True)


def pytest_unconfigure():
    if PROGRAMS:  # this process made it: pytest's workers have found theirs in the environment
        shutil.rmtree(PROGRAMS, ignore_errors=True)
