"""Compares the training speed of `five_step_4` with course code, PyTorch Lightning, the engines, and many seeds, in one run.

    python benchmarks/training_speed.py [--json FILE] [--markdown FILE]
    python benchmarks/training_speed.py --images 2000 --rounds 1        a quick test

`timed_training.py` performs each measurement in a new process, in rounds: every contender once, then every contender
again. Ratios are ratios of medians; the range of a ratio is the range of the ratios within a round. Requires Linux;
measures on the CPU.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from harness.errors import ExaminerError, HarnessError, InputError
from harness.files import write_whole
from harness.training import environment

TIMED = Path(__file__).with_name("timed_training.py")
ENGINES = ("eager", "fast", "bf16")
CONTENDERS = {
    "plain": "course code: DataLoader with 2 workers, PIL transforms, `.item()` in each step",
    "lightning": "PyTorch Lightning's trainer with the same loaders",
    **{engine: f"`harness train --engine {engine}`" for engine in ENGINES},
    **{f"{engine}-seeds": f"`harness train --engine {engine} --seeds`, one seed per core" for engine in ENGINES},
}
PARTS = ("surroundings", "memory", "step")
# Environment variables that `harness` sets before torch is imported; they are not set for the other contenders.
OURS = {"GOMP_SPINCOUNT": "30000"}
THREAD_SETTINGS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
TRAIN_IMAGES, TEST_IMAGES = 60_000, 10_000
MEMORY_SEEDS = 2
INPUT_ERROR = 2
_SAMPLING_SECONDS = 0.2
_MAX_ERROR_CHARACTERS = 2000

Options = argparse.Namespace


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_timed(name: str, options: Options, *, seeds: int | None = None, memory: bool = False) -> dict[str, Any]:
    """Run one measurement in a new process and return the result.

    Args:
        name: the name of the measurement in `timed_training.py`.
        options: the options data, images and epochs.
        seeds: number of concurrent seeds; None for a single training.
        memory: whether to sample the memory of all processes of the measurement, which slows the measurement down a
            little.

    Raises:
        InputError: the process reported an input error.
        ExaminerError: the process failed in another way.
    """
    command = [sys.executable, str(TIMED), name, "--data", options.data, "--epochs", str(options.epochs)]
    command += ["--images", str(options.images)] if options.images else []
    command += ["--seeds", str(seeds)] if seeds else []
    variables = {key: value for key, value in os.environ.items() if key not in THREAD_SETTINGS}
    if name not in ("plain", "lightning"):
        variables |= OURS
    if name == "surroundings":
        # The progress bar is part of the measurement, even if this output goes to a file.
        variables |= {"FORCE_COLOR": "1"}
    began = time.monotonic()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        peaks = {"pss_bytes": 0, "rss_bytes": 0}
        with subprocess.Popen(command, env=variables, stdout=out, stderr=err) as process:
            while memory and process.poll() is None:
                peaks = {key: max(peaks[key], now) for key, now in memory_of(process_tree(process.pid)).items()}
                time.sleep(_SAMPLING_SECONDS)
        out.seek(0)
        err.seek(0)
        output, error_output = out.read().decode(), err.read().decode()
    if process.returncode:
        kind = InputError if process.returncode == INPUT_ERROR else ExaminerError
        raise kind(f"{name}: {error_output.strip()[-_MAX_ERROR_CHARACTERS:].removeprefix('error: ')}")
    measured: dict[str, Any] = json.loads(output.splitlines()[-1])
    return {**measured, "wall_seconds": round(time.monotonic() - began, 3), **(peaks if memory else {})}


def process_tree(pid: int) -> list[int]:
    """Return the identifiers of a process and of all its descendants."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The name, in parentheses, may contain any character.
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def memory_of(pids: Sequence[int]) -> dict[str, int]:
    """Return the total memory of processes, with shared pages counted once (Pss) and once per process (Rss)."""
    sums = {"pss_bytes": 0, "rss_bytes": 0}
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                key = f"{line.partition(':')[0].lower()}_bytes"
                if key in sums:
                    sums[key] += 1024 * int(line.split()[1])
    return sums


def figures_of(rounds: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Compute the seconds per epoch and seed of each contender, and the contender's speed relative to the plain loop.

    Args:
        rounds: the measurements of each round, by name of the contender.
    """
    seconds = {
        name: [statistics.fmean(each[name]["epochs"]) for each in rounds] for name in CONTENDERS if name in rounds[0]
    }
    plain = seconds.get("plain")
    figures: dict[str, dict[str, float | None]] = {}
    for name, own in seconds.items():
        ratios = [base / mine for base, mine in zip(plain, own, strict=True)] if plain else []
        figures[name] = {
            "median": statistics.median(own),
            "smallest": min(own),
            "largest": max(own),
            "ratio": statistics.median(plain) / statistics.median(own) if plain else None,
            "smallest_ratio": min(ratios, default=None),
            "largest_ratio": max(ratios, default=None),
        }
    return figures


def sgemm_of(rounds: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Compute the median over the rounds of the speed of matrix multiplication, by number of threads."""
    reached = [each["sgemm"]["flop_per_second"] for each in rounds]
    return {threads: statistics.median(each[threads] for each in reached) for threads in reached[0]}


def epoch_operations(operations: Mapping[str, int], images: int | None) -> int:
    """Count the floating-point operations of an epoch: training steps, and predictions of the test images."""
    return (images or TRAIN_IMAGES) * operations["training"] + TEST_IMAGES * operations["forward"]


def examine(options: Options) -> dict[str, Any]:
    """Run all selected measurements and return the results as a JSON document."""
    left_out = {}
    if "lightning" in options.only and importlib.util.find_spec("lightning") is None:
        left_out["lightning"] = "not installed; `python -m pip install lightning` installs it"
        report(f"lightning is skipped: {left_out['lightning']}")
    contenders = [name for name in CONTENDERS if name in options.only and name not in left_out]
    load = os.getloadavg()[0]
    rounds: list[dict[str, Any]] = []
    for number in range(1, options.rounds + 1):
        rounds.append({})
        for name in contenders:
            engine, _, seeds = name.partition("-")
            taken = rounds[-1][name] = run_timed(engine, options, seeds=cores() if seeds else None)
            report(
                f"round {number}/{options.rounds}: {name}: {statistics.fmean(taken['epochs']):.2f} s per epoch and seed"
            )
        rounds[-1]["sgemm"] = run_timed("sgemm", options)
    document: dict[str, Any] = {
        "title": "the time of an epoch of five_step_4" if options.images is None else test_title(options),
        "whole_epochs": options.images is None,
        "images": options.images or TRAIN_IMAGES,
        "epochs_a_round": options.epochs,
        "seconds_of": "training and test of an epoch, without imports and start-up; for concurrent seeds: time of the slowest "
        "seed, divided by the number of seeds",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": dataclasses.asdict(environment(torch.device("cpu"))),
        "cores": cores(),
        "load_before": load,
        "left_out": left_out,
        "figures": figures_of(rounds),
        "operations": run_timed("operations", options),
        "sgemm_flop_per_second": sgemm_of(rounds),
        "rounds": rounds,
    }
    document["epoch_flop"] = epoch_operations(document["operations"], options.images)
    fastest = max(document["sgemm_flop_per_second"].values())
    for figures in document["figures"].values():
        figures["sgemm_share"] = document["epoch_flop"] / fastest / figures["median"]
    for part in ("surroundings", "step"):
        if part in options.only:
            document[part] = run_timed(part, options)
            report(f"{part}: done")
    if "memory" in options.only:
        engines = [engine for engine in ENGINES if engine in options.only] or ENGINES
        document["memory"] = {engine: run_timed(engine, options, seeds=MEMORY_SEEDS, memory=True) for engine in engines}
        report("memory: done")
    return document


def test_title(options: Options) -> str:
    """Return the title for a test run on part of the images, which must not be mistaken for the measurement of whole epochs."""
    return f"TEST RUN on {options.images:,} of {TRAIN_IMAGES:,} training images: the results do not hold for an epoch of MNIST"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table with the cells of a column padded to the same width."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    lines = [heads, ["-" * width for width in widths], *rows]
    return "\n".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |" for line in lines
    )


def markdown(document: Mapping[str, Any]) -> str:
    """Return the results in ``document`` as Markdown tables."""
    machine = document["environment"]
    sgemm = ", ".join(
        f"{speed / 1e9:.0f} GFLOP/s on {threads} thread{'s' * (threads != '1')}"
        for threads, speed in document["sgemm_flop_per_second"].items()
    )
    rounds = len(document["rounds"])
    parts = [
        f"# Speed: {document['title']}",
        (
            f"{machine['processor']}, {document['cores']} cores, {machine['cpu_capability']}, PyTorch {machine['torch']}, "
            f"Python {machine['python']}, commit {machine['commit']}, {document['date'][:10]}. "
            f"Load average of the machine before (one minute): {document['load_before']:.1f}."
        ),
        (
            f"Medians of {rounds} interleaved round{'s' * (rounds > 1)}, with smallest and largest values in parentheses. "
            f"Seconds: {document['seconds_of']}. The last column is the share of that time in which float32 matrix "
            f"multiplication computes the same {document['epoch_flop'] / 1e9:.0f} GFLOP, at the higher speed of {sgemm}."
        ),
        table(
            ("contender", "what", "seconds per epoch and seed", "speed relative to plain", "sgemm share"),
            [
                (name, CONTENDERS[name], _seconds(figures), _ratio(figures), _percent(figures["sgemm_share"]))
                for name, figures in document["figures"].items()
            ],
        ),
        *(f"{name} was skipped: {reason}." for name, reason in document["left_out"].items()),
    ]
    if surroundings := document.get("surroundings"):
        shares = _shares(surroundings)
        rows = [(name, _percent(share)) for name, share in shares.items()]
        parts += [
            "## Time outside of the steps",
            "One seed, engine fast, in percent of the epoch's time.",
            table(("part", "share of the epoch"), [*rows, ("total", _percent(sum(shares.values())))]),
        ]
    if step := document.get("step"):
        rows = [(name, _percent(share)) for name, share in _shares(step).items()]
        parts += [
            "## Time within a step",
            (
                f"One seed, engine fast, {step['steps']} steps of {1000 * step['seconds'] / step['steps']:.1f} ms under "
                "PyTorch's profiler, which slows them down."
            ),
            table(("part", "share of the step"), rows),
        ]
    if memory := document.get("memory"):
        peaks = [
            [name, *(f"{one[kind] / 1e9:.2f}" for kind in ("pss_bytes", "rss_bytes"))] for name, one in memory.items()
        ]
        parts += [
            f"## Memory of {MEMORY_SEEDS} concurrent seeds",
            (
                "Largest total over all processes (command, fork server, seeds) during the run, in GB. Pss counts a shared page "
                "once, Rss once per process."
            ),
            table(("engine", "Pss", "Rss"), peaks),
        ]
    return "\n\n".join(parts) + "\n"


def _seconds(figures: Mapping[str, float]) -> str:
    return f"{figures['median']:.2f} ({figures['smallest']:.2f} - {figures['largest']:.2f})"


def _ratio(figures: Mapping[str, float | None]) -> str:
    if figures["ratio"] is None:
        return ""
    return f"{figures['ratio']:.2f} ({figures['smallest_ratio']:.2f} - {figures['largest_ratio']:.2f})"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _shares(measured: Mapping[str, Any]) -> dict[str, float]:
    return {name: seconds / measured["seconds"] for name, seconds in measured["parts"].items()}


def report(sentence: str) -> None:
    """Print a line about the progress to standard error."""
    print(sentence, file=sys.stderr, flush=True)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    known = (*CONTENDERS, *PARTS)
    if unknown := [name for name in names if name not in known]:
        raise argparse.ArgumentTypeError(f"expected names from {', '.join(known)}, got {', '.join(unknown)}")
    return names


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"expected a positive integer, got {text!r}")
    return int(text)


def _writable_file(text: str) -> Path:
    path = Path(text)
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"expected a writable file, got {text!r}")
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the measurements, print and write the results, and return the exit code."""
    parser = argparse.ArgumentParser(description="Compare the time of an epoch of five_step_4.")
    parser.add_argument(
        "--data", default="mnist", help="mnist, or a folder with the MNIST files (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=_count, default=5, help="number of rounds (default: %(default)s)")
    parser.add_argument(
        "--epochs",
        type=_count,
        default=1,
        help="epochs per measurement, of which the mean is used (default: %(default)s)",
    )
    parser.add_argument("--images", type=_count, help="number of training images to use, for a quick test")
    parser.add_argument(
        "--only",
        type=_names,
        default=(*CONTENDERS, *PARTS),
        metavar="NAME,...",
        help="contenders and parts to measure (default: all)",
    )
    parser.add_argument("--json", type=_writable_file, metavar="FILE", help="write everything as JSON")
    parser.add_argument("--markdown", type=_writable_file, metavar="FILE", help="write the tables as Markdown")
    options = parser.parse_args(arguments)
    try:
        document = examine(options)
        text = markdown(document)
        print(text)
        if options.json:
            write_whole(options.json, (json.dumps(document, indent=1) + "\n").encode())
        if options.markdown:
            write_whole(options.markdown, text.encode())
    except HarnessError as error:
        report(f"error: {error}")
        return INPUT_ERROR if isinstance(error, InputError) else 4
    return 0


if __name__ == "__main__":
    sys.exit(main())
