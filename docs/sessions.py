"""Run the commands of the tutorial and the guides, and record what they print.

Each ``docs/sessions/NAME.console`` holds commands, one a line after ``$``, and below each what it printed. This script runs the
commands again, in order, in a copy of the folder, and writes the output anew: ``python docs/sessions.py [NAME]...``. The data are
the embedded digits; figures that belong to the machine, such as seconds, change from run to run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path(__file__).parent / "sessions"


def commands(text: str) -> list[str]:
    """The commands of a session, without their output."""
    return [line.removeprefix("$ ") for line in text.splitlines() if line.startswith("$ ")]


def run(session: Path) -> Iterator[str]:
    """Run a session's commands in a folder of their own; yields each command with what it printed.

    Args:
        session: the ``.console`` file; the other files of its folder are beside the commands when they run.
    """
    settings = {name: value for name, value in os.environ.items() if not name.startswith("HARNESS_")}
    settings |= {"NO_COLOR": "1", "HARNESS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "work"
        shutil.copytree(session.parent, place)
        settings["HARNESS_CACHE"] = str(Path(folder) / "cache")
        for command in commands(session.read_text("utf-8")):
            done = subprocess.run(
                ["/bin/bash", "-c", command],
                cwd=place,
                env=settings,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            lines = [line.rstrip() for line in done.stdout.splitlines()]
            yield "\n".join([f"$ {command}", *lines]) + "\n"


def main(names: list[str]) -> None:
    """Record the sessions of these names, or all of them."""
    for session in sorted(FOLDER.glob("*.console")):
        if not names or session.stem in names:
            print(session.name, file=sys.stderr)
            session.write_text("\n".join(run(session)), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
