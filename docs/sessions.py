"""Run the commands of the tutorial and the guides, and record the printed output.

Each ``docs/sessions/NAME.console`` holds commands, one per line after ``$``, each followed by the output of the
command. This script runs the commands again, in order, in a copy of the folder, and replaces the output: ``python
docs/sessions.py [NAME]...``. The data set is the embedded digits; figures that depend on the machine, such as seconds,
change from run to run.
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
    """Return the commands of a session, without the output of the commands."""
    return [line.removeprefix("$ ") for line in text.splitlines() if line.startswith("$ ")]


def run(session: Path) -> Iterator[str]:
    """Run the commands of a session in a temporary folder; yield each command with the printed output.

    Args:
        session: the ``.console`` file; the other files in the same folder are copied to the temporary folder.
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
    """Record the sessions with these names, or all sessions if there are no names."""
    for session in sorted(FOLDER.glob("*.console")):
        if not names or session.stem in names:
            print(session.name, file=sys.stderr)
            session.write_text("\n".join(run(session)), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
