"""Measures the time of `harness check` from start to end, compared with the import of torch in the same run.

    python benchmarks/start_time.py [--rounds 5] [--json FILE]

Each command runs in a new process, in rounds: every command once, then every command again. Modules are compiled before the
first round, as pip does when it installs them. Seconds are medians of wall time, and of the CPU time of the process and of
the child processes that it waited for; CPU time depends less on other work of the machine. Ratios are medians of the ratios
within a round. Requires a POSIX system.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch

from harness.errors import ExaminerError, HarnessError
from harness.files import write_whole
from harness.training import environment

# Kinds of seconds and of ratios, by the name of what was measured.
Figures = dict[str, dict[str, float]]
Rounds = Sequence[Figures]

BASE = "import torch.export"
# A capture imports this module when it is called.
EXPORTER = "import torch.export._trace"
FILE = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.1),
            nn.Conv2d(8, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LogSoftmax(dim=1),
        )
"""


def commands(folder: Path) -> dict[str, list[str]]:
    """Return the commands to compare, by name; the verdict of `harness check` is ignored."""
    (folder / "net.py").write_text(FILE, encoding="utf-8")
    harness = [sys.executable, "-m", "harness", "check"]
    return {
        **{code: [sys.executable, "-c", code] for code in ("import torch", BASE, EXPORTER)},
        "harness check reference": [*harness, "reference"],
        "harness check net.py": [*harness, str(folder / "net.py")],
    }


def timed(command: Sequence[str], bytecode: Path) -> dict[str, float]:
    """Run a command with compiled modules in the folder ``bytecode``; return the wall time and the CPU time in seconds.

    Raises:
        ExaminerError: the exit code is neither 0 nor 1.
    """
    variables = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(bytecode)}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=variables)
    wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in (0, 1):
        raise ExaminerError(f"{' '.join(command)} ended with exit code {done.returncode}: {done.stderr.strip()[-500:]}")
    return {"wall": wall, "cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}


def figures_of(rounds: Rounds) -> Figures:
    """Compute the median seconds of each command, and the medians of the ratios to the two imports within a round."""
    figures = {}
    for name in rounds[0]:
        figures[name] = {kind: statistics.median(one[name][kind] for one in rounds) for kind in ("wall", "cpu")}
        for key, base in (("export", BASE), ("exporter", EXPORTER)):
            for kind in ("wall", "cpu"):
                ratios = [one[name][kind] / one[base][kind] for one in rounds]
                figures[name][f"{kind}_to_{key}"] = statistics.median(ratios)
    return figures


def report(title: str, rounds: Rounds, load: float, path: Path | None, **more: object) -> None:
    """Print the figures of all rounds and, unless ``path`` is None, write them to it as JSON, with ``more`` facts.

    ``load`` is the load of the machine before the first round.
    """
    figures = figures_of(rounds)
    document = {
        "title": title,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": dataclasses.asdict(environment(torch.device("cpu"))),
        "load_before": load,
        **more,
        "figures": figures,
        "rounds": rounds,
    }
    print(f"load before: {load:.1f}; wall and CPU seconds, ratios to `{BASE}` and to `{EXPORTER}`")
    width = max(map(len, figures)) + 2
    for name, found in figures.items():
        shown = "  ".join(f"{key} {value:5.2f}" for key, value in found.items())
        print(f"{name:{width}} {shown}")
    if path:
        write_whole(path, (json.dumps(document, indent=1) + "\n").encode())


def options_of(arguments: Sequence[str] | None, description: str) -> argparse.Namespace:
    """Parse the command line of a benchmark in rounds: ``rounds`` and ``json``."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything as JSON")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the commands, print and write the results, and return the exit code."""
    options = options_of(arguments, "Compare the time of `harness check` with the import of torch.")
    load = os.getloadavg()[0]
    try:
        with tempfile.TemporaryDirectory() as folder:
            chosen = commands(Path(folder))
            bytecode = Path(folder, "bytecode")
            for command in chosen.values():
                timed(command, bytecode)
            rounds = [
                {name: timed(command, bytecode) for name, command in chosen.items()} for _ in range(options.rounds)
            ]
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        return 4
    report("the time of harness check, from start to end", rounds, load, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
