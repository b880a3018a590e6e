"""Runs the tutorials as a reader would: files that they show are written, commands are run, in an empty folder each.

``python docs/tutorials/run.py [NAME ...]``. A fence ``sh`` is commands; ``python FILE`` is the file's content. The first
command that fails ends it with exit code 1.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
FENCE = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.M | re.S)


def run(page: Path) -> None:
    """One tutorial; its commands find the programs that lie beside this python."""
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    with tempfile.TemporaryDirectory() as folder:
        for kind, name, text in FENCE.findall(page.read_text()):
            if kind == "python" and name:
                (Path(folder) / name).write_text(text)
            elif kind == "sh":
                subprocess.run(["bash", "-euxc", text], cwd=folder, env=env, check=True)


def main() -> None:
    """All of them, or those whose names are given."""
    wanted = sys.argv[1:] or [p.stem for p in sorted(HERE.glob("[0-9]-*.md"))]
    for name in wanted:
        began = time.time()
        try:
            run(HERE / f"{name}.md")
        except subprocess.CalledProcessError as e:
            sys.exit(f"tutorial {name} failed: {e}")
        print(f"tutorial {name}: {time.time() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
