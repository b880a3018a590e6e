"""The project's own files: what is promised about installing, licence and the light commands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
UNPINNED = {"wandb"}  # not on the machines that test this; jax of the accelerators' extras has the base's pin


def pins(file: str = "constraints.txt") -> dict[str, Version]:
    lines = (ROOT / file).read_text().splitlines()
    wanted = [line for line in lines if line.strip() and not line.startswith("#")]
    return {canonicalize_name(name): Version(v) for name, v in (line.split("==") for line in wanted)}


LANES = {"3.12": "constraints-3.12.txt", "3.13": "constraints-3.13.txt"}  # the newest versions, by Python


@pytest.mark.parametrize("file", ["constraints.txt", "constraints-low.txt", *LANES.values()])
def test_constraints_are_names_and_versions_only(file):
    """No index address, no option, no path: each machine has its own."""
    for line in (ROOT / file).read_text().splitlines():
        assert line.startswith("#") or re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+]+", line), line


def test_pins_hold_the_lower_bounds():
    found, missing = pins(), set()
    for text in [*PROJECT["dependencies"], *(r for extra in EXTRAS.values() for r in extra)]:
        r = Requirement(text)
        assert list(r.specifier), f"{text} has no bound"
        name = canonicalize_name(r.name)
        if name not in found:
            missing.add(name)
        else:
            assert r.specifier.contains(found[name], prereleases=True), (text, found[name])
    assert missing == UNPINNED


def test_lower_bounds_are_the_versions_that_were_tested():
    """Those of the lane of lowest versions, none higher and none lower."""
    low = pins("constraints-low.txt")
    for text in [*PROJECT["dependencies"], *EXTRAS["test"]]:
        r = Requirement(text)
        (bound,) = r.specifier
        assert low[canonicalize_name(r.name)] == Version(bound.version), text


@pytest.mark.parametrize("python", LANES)
def test_lanes_of_the_newest_versions_pin_what_tests_need(python):
    found = pins(LANES[python])
    for text in [*PROJECT["dependencies"], *EXTRAS["test"]]:
        r = Requirement(text)
        if r.marker is None or r.marker.evaluate({"python_version": python}):
            assert r.specifier.contains(found[canonicalize_name(r.name)], prereleases=True), text
        else:
            assert canonicalize_name(r.name) not in found, text


def test_names_extras_and_what_the_base_install_has():
    assert PROJECT["name"] == "qchunk" and PROJECT["scripts"]["qchunk"] == "qchunk.__main__:main"
    assert PROJECT["license"] == "Apache-2.0" and Requirement(f"x{PROJECT['requires-python']}").specifier.contains(
        "3.11"
    )
    assert {"ogbench", "cuda12", "tpu", "tensorboard", "wandb", "test", "lint"} <= set(EXTRAS)
    base = {canonicalize_name(Requirement(r).name) for r in PROJECT["dependencies"]}
    assert {"jax", "flax", "optax", "orbax-checkpoint", "gymnax", "brax", "chex", "distrax", "tfp-nightly"} <= base
    assert not any("cuda" in r or "tpu" in r for r in PROJECT["dependencies"]), "the base install runs on a CPU"


def test_licence():
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text and "Version 2.0, January 2004" in text and "END OF TERMS AND CONDITIONS" in text


def test_make_has_the_targets():
    text = (ROOT / "Makefile").read_text()
    for target in ("install", "demo", "test", "test-slow", "test-all", "bench", "docs", "lint", "wheel", "help"):
        assert re.search(rf"^{target}:", text, re.M), target


def test_ci_runs_every_test_and_the_readme_names_both_commands():
    made = set(" ".join(re.findall(r"^make (.*)", (ROOT / ".ci/run").read_text(), re.M)).split())
    assert {"lint", "docs", "wheel", "test", "test-slow", "tutorials"} <= made
    readme = (ROOT / "README.md").read_text()
    assert re.search(r"^make test ", readme, re.M) and "make test-all" in readme


def test_the_arguments_of_slow_tests_reach_them_and_no_other_run_of_pytest():
    """In the environment they would reach the runs that tests start in folders whose pytest knows no such option."""
    command = ["make", "--dry-run", "test-slow", "PYTEST_ARGS=--begin-until=7"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    runs = [line for line in done.stdout.splitlines() if "-m pytest" in line]
    assert len(runs) == 2 and all(line.endswith(" --begin-until=7") for line in runs), done.stdout
    assert not re.search(
        r"^[^#]*PYTEST_ADDOPTS", (ROOT / ".ci/run").read_text() + (ROOT / "Makefile").read_text(), re.M
    )


@pytest.mark.slow
@pytest.mark.parametrize("until, said", [(0, "2 tests not begun"), (10**12, "2 passed")])
def test_tests_not_begun_in_time_are_counted(tmp_path, until, said):
    """CI begins no test that would take it over its time, and says so: nobody is to take what it left out as passed."""
    (tmp_path / "test_two.py").write_text("def test_one():\n    pass\n\n\ndef test_two():\n    pass\n")
    conftest = ["-p", "conftest", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
    command = [sys.executable, "-m", "pytest", "-n", "2", f"--begin-until={until}", *conftest, str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True, timeout=300)
    assert said in done.stdout


def light(*argv: str) -> tuple[str, set[str], float]:
    """stdout, the packages imported, and the processor's seconds of a command in a fresh interpreter."""
    before = os.times()
    command = [sys.executable, "-X", "importtime", "-m", "qchunk", *argv]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300)
    after = os.times()
    seconds = after.children_user + after.children_system - before.children_user - before.children_system
    names = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines() if "|" in line}
    return done.stdout, names, seconds


@pytest.mark.parametrize("argv, shows", [(["--help"], "qchunk train"), (["list"], "tabletop/cube-single-task1")])
def test_light_commands(argv, shows):
    """Well under a second, the best of three: other tests share the cores. And nothing heavy is imported."""
    found = [light(*argv) for _ in range(3)]
    out, imported, _ = found[0]
    assert shows in out
    assert "qchunk" in imported, "importtime was read"
    assert not {"jax", "jaxlib", "flax", "brax", "mujoco", "numpy", "scipy", "matplotlib"} & imported
    assert min(seconds for _, _, seconds in found) < 0.8


@pytest.mark.slow
def test_nobody_waits_for_warp():
    """MJX imports it where it is installed, and nothing here uses it; who asks MJX for it has it."""
    pytest.importorskip("warp")
    command = [sys.executable, "-c", "import sys, qchunk.envs.base; print(sorted({'brax', 'warp'} & set(sys.modules)))"]
    for asked, found in (({}, "['brax']"), ({"MJX_GPU_DEFAULT_WARP": "true"}, "['brax', 'warp']")):
        env = {**os.environ, **asked}
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True, timeout=60)
        assert done.stdout.strip() == found
