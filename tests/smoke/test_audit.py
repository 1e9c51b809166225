"""`harness audit` trains what a log is about, compares the log with the runs, and writes a page."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documents import schema_errors

pytestmark = pytest.mark.smoke

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.c, self.bn, self.fc = nn.Conv2d(1, 8, 3, stride=2), nn.BatchNorm2d(8), nn.Linear(8 * 13 * 13, 10)

    def forward(self, x):
        return self.fc(torch.relu(self.bn(self.c(x))).flatten(1))
"""
RECIPE = 'batch_size = 64\nepochs = 9\n[optimizer]\nname = "sgd"\nlr = 0.02\nmomentum = 0.9\n'
README = """# Digits

Total params: 13,626

```
EPOCH: 1
Test set: Average loss: 0.2, Accuracy: {}/360 ({:.2f}%)
EPOCH: 2
Test set: Average loss: 0.2, Accuracy: {}/360 ({:.2f}%)
```
"""


def _audit(folder: Path, *counts: int) -> tuple[int, dict[str, object], str]:
    figures = [figure for count in counts for figure in (count, 100 * count / 360)]
    (folder / "README.md").write_text(README.format(*figures), encoding="utf-8")
    options = ("--replicate", "3", "--recipe", "recipe.toml", "--data", "digits", "--device", "cpu", "--out", "runs")
    command = (sys.executable, "-m", "harness", "audit", ".", *options, "--json", "out.json", "--html", "page.html")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    document = json.loads((folder / "out.json").read_text(encoding="utf-8"))
    assert [] == schema_errors(document), done.stderr
    return done.returncode, document, (folder / "page.html").read_text(encoding="utf-8")


def test_a_log_is_compared_with_runs_of_its_code(tmp_path: Path) -> None:
    """A log that the runs come near to is consistent; one that no run comes near to is undecided, and the page says so."""
    (tmp_path / "net.py").write_text(NET, encoding="utf-8")
    (tmp_path / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    code, document, page = _audit(tmp_path, 36, 40)
    means = [figure["mean"] for figure in document["replication"]["figures"] if figure["figure"] == "last"]  # type: ignore[index]

    assert (3, True) == (code, "below what we see" in page)
    (mean,) = means
    code, document, page = _audit(tmp_path, round(mean), round(mean))
    assert {"last": "consistent"}.items() <= {
        figure["figure"]: figure["outcome"]
        for figure in document["replication"]["figures"]  # type: ignore[index]
    }.items()
    assert "<script" not in page
