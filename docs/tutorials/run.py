"""Runs the tutorials as a reader would: files that they show are written, commands are run, in an empty folder each.

``python docs/tutorials/run.py [NAME ...]``. A fence ``sh`` is commands; ``python FILE`` is the file's content. Two tutorials run
at a time, and what one prints is shown when it ends; the first command that fails ends all with exit code 1.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
FENCE = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.M | re.S)


def run(name: str) -> str:
    """One tutorial; its commands find the programs that lie beside this python. Returns what it printed and how long it took.

    Raises:
        RuntimeError: A command failed.
    """
    began = time.time()
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    printed = ""
    with tempfile.TemporaryDirectory() as folder:
        for kind, file, text in FENCE.findall((HERE / f"{name}.md").read_text()):
            if kind == "python" and file:
                (Path(folder) / file).write_text(text)
            elif kind == "sh":
                done = subprocess.run(
                    ["bash", "-euxc", text],
                    cwd=folder,
                    env=env,
                    text=True,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                )
                printed += done.stdout
                if done.returncode:
                    raise RuntimeError(f"{printed}tutorial {name} failed with exit code {done.returncode}")
    return f"{printed}tutorial {name}: {time.time() - began:.0f} s"


def main() -> None:
    """All of them, or those whose names are given."""
    wanted = sys.argv[1:] or [p.stem for p in sorted(HERE.glob("[0-9]-*.md"))]
    with ThreadPoolExecutor(2) as pool:
        try:
            for printed in pool.map(run, wanted):
                print(printed, flush=True)
        except RuntimeError as e:
            pool.shutdown(cancel_futures=True)
            sys.exit(str(e))


if __name__ == "__main__":
    main()
