"""How fast `five_step_4` trains: course code's loop, PyTorch Lightning, our engines and many seeds, side by side in one run.

    python benchmarks/training_speed.py [--json FILE] [--markdown FILE]
    python benchmarks/training_speed.py --images 2000 --rounds 1        a quick trial

Every figure is taken in a process of its own by `timed_training.py`, in rounds: each contender once, then again. Ratios are
those of the medians; their range is that of the ratios within a round. On Linux, on the CPU.
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
    "plain": "course code: DataLoader with 2 workers, PIL transforms, `.item()` at each step",
    "lightning": "PyTorch Lightning's trainer, the same loaders",
    **{engine: f"`harness train --engine {engine}`" for engine in ENGINES},
    **{f"{engine}-seeds": f"`harness train --engine {engine} --seeds`, a seed a core" for engine in ENGINES},
}
PARTS = ("surroundings", "memory", "step")
# What `harness` sets before torch is imported; nobody else's process has it.
OURS = {"GOMP_SPINCOUNT": "30000"}
THREAD_SETTINGS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
TRAIN_IMAGES, TEST_IMAGES = 60_000, 10_000
MEMORY_SEEDS = 2
INPUT_ERROR = 2
_SECONDS_BETWEEN_LOOKS = 0.2
_SHOWN_OF_AN_ERROR = 2000

Options = argparse.Namespace


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_timed(name: str, options: Options, *, seeds: int | None = None, memory: bool = False) -> dict[str, Any]:
    """Take one measurement in a process of its own.

    Args:
        name: as `timed_training.py` calls it.
        options: data, images and epochs.
        seeds: how many side by side.
        memory: look at the memory of all its processes while it runs, which costs it a little time.

    Raises:
        InputError: the process said that the input cannot be used.
        ExaminerError: it failed in another way.
    """
    command = [sys.executable, str(TIMED), name, "--data", options.data, "--epochs", str(options.epochs)]
    command += ["--images", str(options.images)] if options.images else []
    command += ["--seeds", str(seeds)] if seeds else []
    surrounding = {key: value for key, value in os.environ.items() if key not in THREAD_SETTINGS}
    if name not in ("plain", "lightning"):
        surrounding |= OURS
    if name == "surroundings":
        # A progress bar is part of it, also where this command writes to a file.
        surrounding |= {"FORCE_COLOR": "1"}
    began = time.monotonic()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        peaks = {"pss_bytes": 0, "rss_bytes": 0}
        with subprocess.Popen(command, env=surrounding, stdout=out, stderr=err) as process:
            while memory and process.poll() is None:
                peaks = {key: max(peaks[key], now) for key, now in memory_of(family(process.pid)).items()}
                time.sleep(_SECONDS_BETWEEN_LOOKS)
        out.seek(0)
        err.seek(0)
        said, complained = out.read().decode(), err.read().decode()
    if process.returncode:
        kind = InputError if process.returncode == INPUT_ERROR else ExaminerError
        raise kind(f"{name}: {complained.strip()[-_SHOWN_OF_AN_ERROR:].removeprefix('error: ')}")
    measured: dict[str, Any] = json.loads(said.splitlines()[-1])
    return {**measured, "wall_seconds": round(time.monotonic() - began, 3), **(peaks if memory else {})}


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The name in parentheses may hold anything.
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def memory_of(pids: Sequence[int]) -> dict[str, int]:
    """Memory of some processes together: shared pages counted once (Pss), and once for each process that has them (Rss)."""
    sums = {"pss_bytes": 0, "rss_bytes": 0}
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                key = f"{line.partition(':')[0].lower()}_bytes"
                if key in sums:
                    sums[key] += 1024 * int(line.split()[1])
    return sums


def figures_of(rounds: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Each contender's seconds an epoch and seed, and how many times as fast as the plain loop it is.

    Args:
        rounds: each round's measurements by contender.
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
    """The median over the rounds of what matrix multiplication reached, by threads."""
    reached = [each["sgemm"]["flop_per_second"] for each in rounds]
    return {threads: statistics.median(each[threads] for each in reached) for threads in reached[0]}


def epoch_operations(operations: Mapping[str, int], images: int | None) -> int:
    """Floating-point operations of an epoch: the training images' steps and the test images' answers."""
    return (images or TRAIN_IMAGES) * operations["training"] + TEST_IMAGES * operations["forward"]


def examine(options: Options) -> dict[str, Any]:
    """Measure everything that was asked for."""
    left_out = {}
    if "lightning" in options.only and importlib.util.find_spec("lightning") is None:
        left_out["lightning"] = "not installed; `python -m pip install lightning` installs it"
        say(f"lightning is left out: {left_out['lightning']}")
    contenders = [name for name in CONTENDERS if name in options.only and name not in left_out]
    load = os.getloadavg()[0]
    rounds: list[dict[str, Any]] = []
    for number in range(1, options.rounds + 1):
        rounds.append({})
        for name in contenders:
            engine, _, seeds = name.partition("-")
            taken = rounds[-1][name] = run_timed(engine, options, seeds=cores() if seeds else None)
            say(f"round {number}/{options.rounds}: {name}: {statistics.fmean(taken['epochs']):.2f} s an epoch and seed")
        rounds[-1]["sgemm"] = run_timed("sgemm", options)
    document: dict[str, Any] = {
        "title": "the time of an epoch of five_step_4" if options.images is None else trial_title(options),
        "whole_epochs": options.images is None,
        "images": options.images or TRAIN_IMAGES,
        "epochs_a_round": options.epochs,
        "seconds_of": "training and test of an epoch, without imports and start; of seeds side by side: the slowest seed's "
        "divided by the number of seeds",
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
            say(f"{part}: done")
    if "memory" in options.only:
        engines = [engine for engine in ENGINES if engine in options.only] or ENGINES
        document["memory"] = {engine: run_timed(engine, options, seeds=MEMORY_SEEDS, memory=True) for engine in engines}
        say("memory: done")
    return document


def trial_title(options: Options) -> str:
    """What a run on a part of the images is called, so that nobody takes it for the measurement."""
    return (
        f"TRIAL on {options.images:,} of {TRAIN_IMAGES:,} training images: no figure below stands for an epoch of MNIST"
    )


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, its columns in line."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    lines = [heads, ["-" * width for width in widths], *rows]
    return "\n".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |" for line in lines
    )


def markdown(document: Mapping[str, Any]) -> str:
    """The document as tables for a reader."""
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
            f"Load of the machine before (processes that compute, mean of a minute): {document['load_before']:.1f}."
        ),
        (
            f"Medians of {rounds} interleaved round{'s' * (rounds > 1)}, in brackets the smallest and the largest. Seconds: "
            f"{document['seconds_of']}. The last column: what part of that time float32 matrix multiplication would need for the "
            f"same {document['epoch_flop'] / 1e9:.0f} GFLOP; it reaches {sgemm}; the most counts."
        ),
        table(
            ("contender", "what", "seconds an epoch and seed", "times the plain loop", "sgemm's share"),
            [
                (name, CONTENDERS[name], _seconds(figures), _ratio(figures), _percent(figures["sgemm_share"]))
                for name, figures in document["figures"].items()
            ],
        ),
        *(f"{name} was left out: {reason}." for name, reason in document["left_out"].items()),
    ]
    if surroundings := document.get("surroundings"):
        shares = _shares(surroundings)
        rows = [(name, _percent(share)) for name, share in shares.items()]
        parts += [
            "## What surrounds the steps",
            "One seed, engine fast, in percent of the epoch's seconds.",
            table(("part", "of the epoch"), [*rows, ("together", _percent(sum(shares.values())))]),
        ]
    if step := document.get("step"):
        rows = [(name, _percent(share)) for name, share in _shares(step).items()]
        parts += [
            "## Where the time of a step goes",
            (
                f"One seed, engine fast, {step['steps']} steps of {1000 * step['seconds'] / step['steps']:.1f} ms under "
                "PyTorch's profiler, which makes them slower."
            ),
            table(("part", "of the step"), rows),
        ]
    if memory := document.get("memory"):
        peaks = [
            [name, *(f"{one[kind] / 1e9:.2f}" for kind in ("pss_bytes", "rss_bytes"))] for name, one in memory.items()
        ]
        parts += [
            f"## Memory of {MEMORY_SEEDS} seeds side by side",
            (
                "The largest sum over all processes (command, fork server, seeds) while they run, in GB. Pss counts a shared "
                "page once, Rss once for each process that has it."
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


def say(sentence: str) -> None:
    """Tell how far it is."""
    print(sentence, file=sys.stderr, flush=True)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    known = (*CONTENDERS, *PARTS)
    if unknown := [name for name in names if name not in known]:
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(known)}, got {', '.join(unknown)}")
    return names


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"expected a number from 1 on, got {text!r}")
    return int(text)


def _place(text: str) -> Path:
    path = Path(text)
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"expected a file that can be written, got {text!r}")
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; returns the exit code."""
    parser = argparse.ArgumentParser(description="Time an epoch of five_step_4, side by side.")
    parser.add_argument("--data", default="mnist", help="mnist or a folder that holds it; HARNESS_DATA names one, too")
    parser.add_argument("--rounds", type=_count, default=5)
    parser.add_argument("--epochs", type=_count, default=1, help="epochs a measurement; their mean counts")
    parser.add_argument("--images", type=_count, help="train on the first so many images only: a trial")
    parser.add_argument(
        "--only", type=_names, default=(*CONTENDERS, *PARTS), metavar="NAME,...", help="some contenders or parts"
    )
    parser.add_argument("--json", type=_place, metavar="FILE", help="write everything as JSON")
    parser.add_argument("--markdown", type=_place, metavar="FILE", help="write the tables as Markdown")
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
        say(f"error: {error}")
        return INPUT_ERROR if isinstance(error, InputError) else 4
    return 0


if __name__ == "__main__":
    sys.exit(main())
