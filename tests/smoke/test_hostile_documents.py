"""Documents that are made to stop a reader: bounded time and memory, a sentence, and nothing outside the path is touched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.smoke

# The reader takes about a tenth of either.
SECONDS, BYTES = 30, 2**30
# Runs a command from a small process: a child inherits the peak of its parent's memory, and that of pytest is large.
# Processor time, since a busy machine would fail a test of elapsed time.
MEASURE = """\
import json, resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stdout=sys.stderr)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([code, used.ru_utime + used.ru_stime, 1024 * used.ru_maxrss]))
"""
BAIT = [
    "1/1 ",
    "acc ",
    "0.0.0",
    "| ",
    "param ",
    "#",
    "a: 1-1 ",
    "epoch ",
    "%|",
    "loss ",
    "<a",
    "*",
    "best ",
    "9.9 test ",
]


def big_log(path: Path) -> None:
    """200 MB of a log."""
    block = "".join(
        f"Epoch: {n}\n100%|{'█' * 24}| 938/938 [01:24<00:00]\nTest set: Average loss: 0.05, Accuracy: 98{n:02d}/10000 (98.21%)\n"
        for n in range(50)
    ).encode()
    with path.open("wb") as file:
        for _ in range(200 * 10**6 // len(block)):
            file.write(block)


def long_line(path: Path) -> None:
    """A line of 10 MB, and one that was updated in place."""
    path.write_bytes(b"Accuracy: " + b"9" * 10**7 + b"\n" + b"Loss=0.1 10%|###| 1/938\r" * 10**6 + b"100%|#| 938/938\n")


def bait(path: Path) -> None:
    """Lines that catch regular expressions which backtrack."""
    lines = [(text * 4_000)[: 3_990 - len(end)] + end for text in BAIT for end in ("", " acc", " param 1", "9.99%")]
    path.write_text("\n".join(lines * 10), "utf-8")


def many(path: Path) -> None:
    """Thousands of claims about as many runs and tables."""
    log = "Epoch: 1\nTest set: Average loss: 0.05, Accuracy: 9821/10000 (98.21%)\n"
    claims = "Best Test Accuracy: 99.1\nParameters: {}k\nBatch size: 7\nEpochs: 3\n"
    text = "".join(f"{claims.format(n)}## Model {n % 90}\n{log}Total params: {n}\n" for n in range(3_000))
    path.write_text(text, "utf-8")


def nested(path: Path) -> None:
    """A notebook with deeply nested JSON."""
    path.write_text('{"cells": ' + "[" * 10**6, "utf-8")


def random_bytes(path: Path) -> None:
    """No text."""
    path.write_bytes(os.urandom(10**6))


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("big.log", big_log),
        ("long.md", long_line),
        ("bait.md", bait),
        ("many.md", many),
        ("nested.ipynb", nested),
        ("binary.txt", random_bytes),
    ],
)
def test_a_hostile_document_is_read_in_bounded_time_and_memory(
    name: str, write: Callable[[Path], None], tmp_path: Path
) -> None:
    """The audit ends without a traceback, and says what it did not read where it did not read all."""
    folder = tmp_path / "submission"
    folder.mkdir()
    write(folder / name)
    (folder / "out.md").symlink_to("/etc/passwd")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    command = [sys.executable, "-m", "harness", "audit", str(folder), "--json", str(tmp_path / "out.json")]
    with (tmp_path / "errors.txt").open("wb") as errors:
        measured = subprocess.run(
            [sys.executable, "-c", MEASURE, *command],
            stdout=subprocess.PIPE,
            stderr=errors,
            timeout=10 * SECONDS,
            check=True,
        )
    code, seconds, peak = json.loads(measured.stdout)
    document = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert "Traceback" not in (tmp_path / "errors.txt").read_text(encoding="utf-8")
    assert code in {0, 1}
    assert (True, True) == (seconds < SECONDS, peak < BYTES)
    whole = {"bait.md"}
    assert {"out.md", name} - whole <= {one["file"] for one in document["unread"]}
    assert sorted([*before, "errors.txt", "out.json"]) == sorted(path.name for path in tmp_path.rglob("*"))
