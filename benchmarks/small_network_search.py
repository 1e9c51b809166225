"""Compares small networks with `reference` on training images that were excluded from the training, not on the test images.

    python benchmarks/small_network_search.py [--data FOLDER] [--out runs/search]

Every candidate is trained with the recipe of `reference` for each seed and tested on 10,000 training images that were
excluded from the training. An interrupted search continues with the seeds that are not finished;
`benchmarks/records/small_networks.json` holds all results, including those of networks and recipes that were tried once and
that this script does not train: ``difference`` describes them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from harness.files import write_whole
from harness.reproducibility import read_records
from harness.training import RunRecord

RESULTS = Path(__file__).with_name("records") / "small_networks.json"
NETWORK = Path(__file__).with_name("small_network.py")
VALIDATION = 10_000
# Number of last epochs that are compared, as in the contract `reference`.
LAST = 5
# In the order tried: the arguments of `SmallNetwork`. The number in a name is that of the parameters.
CANDIDATES: dict[str, dict[str, Any]] = {
    "silu-6056": {"widths": (8, 16, 8, 12, 12, 16, 24)},
    "silu-5140": {"widths": (8, 12, 8, 10, 12, 16, 16)},
    "silu-6012": {"widths": (8, 12, 8, 12, 14, 16, 16)},
    "silu-5468": {"widths": (8, 16, 8, 10, 12, 16, 16)},
    "silu-6062": {"widths": (6, 12, 8, 12, 14, 18, 16)},
    "silu-4976": {"widths": (8, 10, 8, 10, 12, 16, 16)},
    "relu-6056": {"widths": (8, 16, 8, 12, 12, 16, 24), "activation": "relu"},
    "silu-6012-dropout": {"widths": (8, 12, 8, 12, 14, 16, 16), "dropout": 0.05},
    "silu-5468-dropout": {"widths": (8, 16, 8, 10, 12, 16, 16), "dropout": 0.05},
    "silu-6012-dropout-0.01": {"widths": (8, 12, 8, 12, 14, 16, 16), "dropout": 0.01},
    "relu-7752-dropout": {"widths": (8, 16, 8, 12, 16, 20, 24), "activation": "relu", "dropout": 0.05},
    "silu-7752-dropout-0.01": {"widths": (8, 16, 8, 12, 16, 20, 24), "dropout": 0.01},
    "relu-7752-dropout-0.01": {"widths": (8, 16, 8, 12, 16, 20, 24), "activation": "relu", "dropout": 0.01},
    "relu-7752-dropout-0.01-dilated": {
        "widths": (8, 16, 8, 12, 16, 20, 24),
        "activation": "relu",
        "dropout": 0.01,
        "stride": 1,
    },
    "relu-6012-dropout-0.01-dilated": {
        "widths": (8, 12, 8, 12, 14, 16, 16),
        "activation": "relu",
        "dropout": 0.01,
        "stride": 1,
    },
    "silu-6012-dropout-0.01-dilated": {"widths": (8, 12, 8, 12, 14, 16, 16), "dropout": 0.01, "stride": 1},
}
_SHIPPED = Path(__file__).parents[1] / "mnist_models" / "certificates"
# The networks that are certified under the contract `reference`, in this order, each declared before its certificate; and
# their certificates. The shipped models have one of their own.
CERTIFIED = {
    "relu-7752-dropout": RESULTS.parent / "certificates" / "relu-7752-dropout.json",
    "silu-6012-dropout-0.01": _SHIPPED / "reference_small.json",
    "relu-7752-dropout-0.01-dilated": _SHIPPED / "reference.json",
}


def train(name: str, seeds: str, data: str, engine: str, folder: Path) -> None:
    """Train the seeds of a candidate, or of `reference`, that are not finished."""
    if name in CANDIDATES:
        arguments = ",".join(f"{key}={value!r}" for key, value in CANDIDATES[name].items())
        model = [f"{NETWORK}:SmallNetwork", "--args", arguments]
    else:
        model = [name]
    subprocess.run(
        [
            *(sys.executable, "-m", "harness", "train", *model, "--recipe", "reference", "--engine", engine),
            *("--validation", str(VALIDATION), "--seeds", seeds, "--data", data, "--out", str(folder / name)),
        ],
        check=True,
    )


def summary(name: str, records: list[RunRecord]) -> dict[str, Any]:
    """Summarise the complete runs of a candidate: correct images in the last epochs for each seed, mean and minimum."""
    counts = {record.seed: [epoch.test_correct for epoch in record.epochs[-LAST:]] for record in records}
    first = records[0]
    return {
        "name": name,
        "difference": "",
        "graph_digest": first.graph_digest,
        "engine": first.engine,
        "processor": first.environment.processor,
        "torch": first.environment.torch,
        "seeds": sorted(counts),
        "counts": [counts[seed] for seed in sorted(counts)],
        "mean": statistics.fmean(count for seed in counts for count in counts[seed]),
        "minimum": min(min(one) for one in counts.values()),
    }


def main() -> None:
    """Train the seeds that are not finished, then write and print the results of all candidates."""
    parser = argparse.ArgumentParser(description="Compare small networks on images left out of the training.")
    parser.add_argument("--data", default="mnist", help="mnist, or a folder with the MNIST files (default: mnist)")
    parser.add_argument("--seeds", default="1-2", help="seeds of every candidate (default: %(default)s)")
    parser.add_argument("--only", help="names of candidates, with commas (default: reference and all candidates)")
    parser.add_argument("--engine", default="bf16", help="engine (default: %(default)s)")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/search"), help="folder of the runs (default: %(default)s)"
    )
    options = parser.parse_args()
    results = {one["name"]: one for one in json.loads(RESULTS.read_text("utf-8"))} if RESULTS.exists() else {}
    for name in options.only.split(",") if options.only else ("reference", *CANDIDATES):
        train(name, options.seeds, options.data, options.engine, options.out)
        complete = [record for record in read_records(options.out / name) if record.status == "complete"]
        results[name] = summary(name, complete)
        write_whole(RESULTS, (json.dumps(list(results.values()), indent=1) + "\n").encode())
    for one in sorted(results.values(), key=lambda one: -one["mean"]):
        print(f"{one['name']}: mean {one['mean']:.1f}, minimum {one['minimum']}, {len(one['seeds'])} seeds")


if __name__ == "__main__":
    main()
