"""Simulators that want an interpreter of their own, and the versions that were tried together: ``qchunk env setup``. No jax here.

What is installed is named by ``packages``; ``pins`` holds everything that comes along at one version (pip's constraints), so that the
list made today is the list made next year.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from qchunk.system import files, interpreters
from qchunk.system.errors import UserError


class Setup(NamedTuple):
    """An interpreter to make."""

    packages: tuple[str, ...]  # to install
    pins: str  # NAME==VERSION of these and of what they need, words apart
    names: tuple[str, ...]  # what it is remembered for: families of environments, or names
    example: str  # an environment that must work there


_EVERYWHERE = """absl-py==2.5.1 cloudpickle==3.1.3 etils==1.15.0 Farama-Notifications==0.0.6 fsspec==2026.9.0 glfw==2.11.0
    gymnasium==1.4.0 mujoco==3.3.0 packaging==26.4 pillow==13.0.0 PyOpenGL==3.1.10 typing_extensions==4.16.0 zipp==4.1.2"""
SETUPS = {
    "metaworld": Setup(
        ("metaworld", "mujoco", "packaging"),
        f"{_EVERYWHERE} ImageIO==2.38.1 metaworld==3.1.1 numpy==2.4.6 scipy==1.17.1",
        ("metaworld",),
        "metaworld/reach-v3",
    ),
    "robosuite": Setup(
        ("robosuite", "mujoco", "gymnasium", "packaging"),
        f"""{_EVERYWHERE} evdev==2.0.0 iniconfig==2.3.1 llvmlite==0.50.0 mink==0.0.5 numba==0.68.1 numpy==1.26.4
        opencv-python==4.11.0.86 pluggy==1.7.0 Pygments==2.21.0 pynput==1.8.2 pytest==9.2.0 python-xlib==0.33
        qpsolvers==4.13.0 quadprog==0.1.14 robosuite==1.5.2 scipy==1.17.1 six==1.17.0 termcolor==3.3.0 tqdm==4.70.1""",
        ("robosuite",),
        "robosuite/Lift",
    ),
    "kitchen": Setup(
        ("gymnasium-robotics", "mujoco", "packaging"),
        f"""{_EVERYWHERE} gymnasium-robotics==1.4.2 ImageIO==2.38.1 Jinja2==3.1.6 MarkupSafe==3.0.4 numpy==2.4.6
        pettingzoo==1.27.0""",
        ("gymnasium/FrankaKitchen-v1",),
        "gymnasium/FrankaKitchen-v1",
    ),
}


def made(name: str, folder: Path, base: str = "") -> str:
    """The interpreter of a new virtual environment with the packages of a setup; one that is there is brought up to the list.

    Args:
        base: the interpreter that it is made from; "" is the one that runs this.

    Raises:
        UserError: it cannot be made, or pip cannot install the list.
    """
    setup, python = SETUPS[name], folder / "bin" / "python"
    files.make_folder(folder.parent)
    base = interpreters.started(base)[0] if base else sys.executable
    fix = f"see whether {base} -m venv works by itself, or give --python with another one"
    bare = [] if setup.packages else ["--without-pip"]
    _run([base, "-m", "venv", *bare, str(folder)], f"{folder} cannot be made", fix)
    if setup.packages:
        pins = folder / "pins.txt"
        files.atomic_write(pins, "\n".join(setup.pins.split()) + "\n")
        fix = "the same command goes on; pip reads PIP_INDEX_URL and PIP_PROXY"
        quiet = ["--quiet", "--disable-pip-version-check", "--no-input"]
        command = [str(python), "-m", "pip", "install", *quiet, "-c", str(pins), *setup.packages]
        _run(command, f"pip cannot install {' '.join(setup.packages)} into {folder}", fix)
    return interpreters.checked(str(python))


def _run(command: list[str], problem: str, fix: str) -> None:
    """Runs a command, whose output goes to stderr where it fails: its last error is part of the line."""
    try:
        told = subprocess.run(command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL)
    except OSError as e:
        raise UserError(f"{problem}: {e.strerror}", fix) from e
    if told.returncode:
        lines = [x.strip() for x in (told.stderr + "\n" + told.stdout).splitlines() if x.strip()]
        errors = [x.removeprefix("ERROR: ") for x in lines if "rror" in x] or lines or ["without a word"]
        raise UserError(f"{problem}: {errors[-1]}", fix)
