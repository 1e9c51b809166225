"""Measures what the sandbox costs: a command that loads a file, a folder of files, and three builds in a warm worker.

    python -m benchmarks.sandbox_cost [--rounds 5] [--json FILE]

In each round: the imports of torch.export and of its exporter, each in a new process; `harness check` of a file, without a
requirement on the sandbox and with that for code of others, and of a folder of ten, likewise; then, in this process, three
builds of a further submission in the worker that earlier ones have warmed, with both requirements. Seconds are medians over
the rounds, of wall time, and of the CPU time of all processes; of a command, without that of a worker in bubblewrap. Ratios are
medians of the ratios within a round; those of CPU time depend less on other work of the machine. Requires Linux.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.start_time import BASE, EXPORTER, FILE, timed
from harness.errors import HarnessError
from harness.files import temporary_folder, write_whole
from harness.sandbox import DEFAULT_REQUIREMENT, NO_REQUIREMENT, LayerState, SandboxRequirement, warm_workers
from harness.sources import LoadedModel, load_builds
from harness.training import environment

_FILES = 10
_SEEDS = (1, 1, 2)
_REQUIREMENTS = {"none": NO_REQUIREMENT, "default": DEFAULT_REQUIREMENT}

Figures = dict[str, float]


def commands(folder: Path) -> dict[str, list[str]]:
    """Return the commands to measure, by name; the verdict of `harness check` is ignored."""
    several = folder / "several"
    several.mkdir()
    for number in range(_FILES):
        (several / f"net{number}.py").write_text(FILE, encoding="utf-8")
    (folder / "net.py").write_text(FILE, encoding="utf-8")
    check = [sys.executable, "-m", "harness", "check"]
    found = {code: [sys.executable, "-c", code] for code in (BASE, EXPORTER)}
    for name, requirement in _REQUIREMENTS.items():
        options = ["--require-sandbox", str(requirement)]
        found[f"check net.py, requirement {name}"] = [*check, str(folder / "net.py"), *options]
    return {**found, f"check {_FILES} files": [*check, str(several)]}


def cpu_seconds(process: int) -> float:
    """Return the CPU time of a process and of all its descendants, those that it waited for included."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    own = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    children = Path(f"/proc/{process}/task").glob("*/children")
    return own + sum(cpu_seconds(int(child)) for path in children for child in path.read_text("utf-8").split())


def three_builds(area: Path, requirement: SandboxRequirement) -> tuple[Figures, tuple[LayerState, ...]]:
    """Build a new submission three times; return the seconds, and the layers that confined it.

    Raises:
        HarnessError: a build failed.
    """
    with temporary_folder("submission", inside=area) as folder:
        (folder / "net.py").write_text(FILE, encoding="utf-8")
        before, began = cpu_seconds(os.getpid()), time.monotonic()
        builds = load_builds(str(folder), seeds=_SEEDS, sandbox=requirement)
        seconds = {"wall": time.monotonic() - began, "cpu": cpu_seconds(os.getpid()) - before}
    for build in builds:
        if not isinstance(build, LoadedModel):
            raise build
        layers = build.layers
    return seconds, layers


def measured(rounds: int, folder: Path) -> tuple[list[dict[str, Figures]], dict[str, tuple[LayerState, ...]]]:
    """Measure everything in rounds; return the seconds of each round, and the layers by the name of the requirement."""
    chosen, bytecode, layers = commands(folder), folder / "bytecode", {}
    # Compiles what the other commands import.
    timed(chosen["check net.py, requirement none"], bytecode)
    found: list[dict[str, Figures]] = []
    with warm_workers() as area:
        for requirement in _REQUIREMENTS.values():
            three_builds(area, requirement)
        for _ in range(rounds):
            one = {name: timed(command, bytecode) for name, command in chosen.items()}
            for name, requirement in _REQUIREMENTS.items():
                key = f"three builds in a warm worker, requirement {name}"
                one[key], layers[name] = three_builds(area, requirement)
            found.append(one)
    return found, layers


def figures_of(rounds: Sequence[dict[str, Figures]]) -> dict[str, Figures]:
    """Compute the median seconds of each row, and the medians of the ratios to the two imports within a round."""
    return {
        name: {
            **{kind: statistics.median(one[name][kind] for one in rounds) for kind in ("wall", "cpu")},
            **{
                f"{kind}_to_{key}": statistics.median(one[name][kind] / one[base][kind] for one in rounds)
                for key, base in (("export", BASE), ("exporter", EXPORTER))
                for kind in ("wall", "cpu")
            },
        }
        for name in rounds[0]
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write the results, and return the exit code."""
    parser = argparse.ArgumentParser(description="Measure what the sandbox costs.")
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything as JSON")
    options = parser.parse_args(arguments)
    load = os.getloadavg()[0]
    try:
        with tempfile.TemporaryDirectory() as folder:
            rounds, layers = measured(options.rounds, Path(folder))
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        return 4
    document: dict[str, Any] = {
        "title": "the cost of the sandbox",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": dataclasses.asdict(environment(torch.device("cpu"))),
        "load_before": load,
        "layers": {name: [dataclasses.asdict(state) for state in states] for name, states in layers.items()},
        "figures": figures_of(rounds),
        "rounds": rounds,
    }
    print(f"load before: {load:.1f}; wall and CPU seconds, ratios to `{BASE}` and to `{EXPORTER}`")
    for name, figures in document["figures"].items():
        shown = "  ".join(f"{key} {value:5.2f}" for key, value in figures.items())
        print(f"{name:52} {shown}")
    if options.json:
        write_whole(options.json, (json.dumps(document, indent=1) + "\n").encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
