"""Settings that every test runs under."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
# two seeds are spread over two devices, three are not
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "2")
# most of the tests' time is compiling: without LLVM's optimisations they take two thirds of it. A cache of compiled programs on
# disk saved another 5 %, and jaxlib 0.10.2 crashed writing one, once in a run of 1,250 tests
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import jax

jax.config.update("jax_debug_key_reuse", True)
