"""Adds the run records in a folder to the shipped file with the variation of accuracies over seeds.

    python benchmarks/seed_noise.py runs

The records of one training (model, recipe, data) replace the existing entry for this training.
"""

from __future__ import annotations

import json
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

from harness.files import write_whole
from harness.reproducibility import read_records
from harness.reproducibility.noise import training_key
from harness.training import RunRecord

SHIPPED = Path(__file__).parents[1] / "harness" / "reproducibility" / "seed_noise.json"


def entry(records: list[RunRecord]) -> dict[str, Any]:
    """Return the entry for the complete runs of one training with several seeds."""
    first = records[0]
    return {
        "model": first.model,
        "graph_digest": first.graph_digest,
        "data_title": first.data_title,
        "data_digest": first.data_digest,
        "recipe": first.recipe.to_mapping(),
        "test_total": first.epochs[0].test_total,
        "made": {
            "harness": first.environment.harness,
            "torch": first.environment.torch,
            "device": first.device,
            "cpu_capability": first.environment.cpu_capability,
            "threads": sorted({record.environment.threads for record in records}),
            "date": max(record.started for record in records)[:10],
        },
        "counts": {str(record.seed): [epoch.test_correct for epoch in record.epochs] for record in records},
    }


def key_of(entry: dict[str, Any]) -> tuple[str, ...]:
    """Return the key that identifies the training of an entry: graph, data and recipe."""
    return entry["graph_digest"], entry["data_digest"], json.dumps(entry["recipe"], sort_keys=True)


def main(folder: Path) -> None:
    """Read the run records in a folder and update the shipped file."""
    complete = [record for record in read_records(folder) if record.status == "complete"]
    complete.sort(key=lambda record: (training_key(record), record.seed))
    shipped = json.loads(SHIPPED.read_text(encoding="utf-8"))["trainings"] if SHIPPED.exists() else []
    entries = {key_of(old): old for old in shipped}
    for _, group in groupby(complete, key=training_key):
        new = entry(list(group))
        entries[key_of(new)] = new
    # One line per training, for readable diffs.
    lines = ",\n".join(json.dumps(line) for line in entries.values())
    write_whole(SHIPPED, f'{{"trainings": [\n{lines}\n]}}\n'.encode())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
