"""Measures what the sandbox costs: a command that loads a file, a folder of files, and three builds in a warm worker.

    python -m benchmarks.sandbox_cost [--rounds 5] [--json FILE]

In each round: the imports of torch.export and of its exporter, each in a new process; `harness check` of a file, without a
requirement on the sandbox and with that for code of others, and of a folder of ten, likewise; then, in this process, three
builds of a further submission in the worker that earlier ones have warmed, with both requirements. Seconds are medians over
the rounds, of wall time, and of the CPU time of all processes; of a command, without that of a worker in bubblewrap. Ratios are
medians of the ratios within a round; those of CPU time depend less on other work of the machine. Requires Linux.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.start_time import BASE, EXPORTER, FILE, Figures, options_of, report, timed
from harness.errors import HarnessError
from harness.files import temporary_folder
from harness.sandbox import DEFAULT_REQUIREMENT, NO_REQUIREMENT, LayerState, SandboxRequirement, warm_workers
from harness.sources import LoadedModel, load_builds

_FILES = 10
_SEEDS = (1, 1, 2)
_REQUIREMENTS = {"none": NO_REQUIREMENT, "default": DEFAULT_REQUIREMENT}


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


def three_builds(area: Path, requirement: SandboxRequirement) -> tuple[dict[str, float], tuple[LayerState, ...]]:
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


def measured(rounds: int, folder: Path) -> tuple[list[Figures], dict[str, tuple[LayerState, ...]]]:
    """Measure everything in rounds; return the seconds of each round, and the layers by the name of the requirement."""
    chosen, bytecode, layers = commands(folder), folder / "bytecode", {}
    # Compiles what the other commands import.
    timed(chosen["check net.py, requirement none"], bytecode)
    found: list[Figures] = []
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write the results, and return the exit code."""
    options = options_of(arguments, "Measure what the sandbox costs.")
    load = os.getloadavg()[0]
    try:
        with tempfile.TemporaryDirectory() as folder:
            rounds, layers = measured(options.rounds, Path(folder))
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        return 4
    held = {name: [dataclasses.asdict(state) for state in states] for name, states in layers.items()}
    report("the cost of the sandbox", rounds, load, options.json, layers=held)
    return 0


if __name__ == "__main__":
    sys.exit(main())
