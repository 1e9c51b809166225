"""Models as people write them, in one worker process: what a model does is a verdict or has a cause, never our failure."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.contracts import examine, parse_contract
from harness.findings import Status
from harness.graph import read_captured
from harness.sandbox import Job, Limits, run_processes
from harness.sources.capturing import CaptureRequest
from harness.sources.source import candidate_files, parse_source

pytestmark = pytest.mark.smoke

# What the file does when it is imported would stop the worker process or garble its answer if nothing were done about it.
FILE = """
import json
import os
import torch
from torch import nn
from torch.nn import functional as F

torch.set_default_dtype(torch.float64)
torch.set_default_device("cuda")
json.dumps = lambda *_, **__: b"not a text"
for variable in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "TORCH_EXTENSIONS_DIR"):
    assert os.path.dirname(os.environ[variable]).startswith(os.environ["WORKSPACES"])


class Proxy:
    @property
    def __class__(self):
        raise RuntimeError("unbound")


proxy = Proxy()


class T(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.drop, self.fc = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Dropout(0.1), nn.Linear(8, 10)

    def body(self, x):
        return self.fc(self.drop(F.relu(self.bn(self.conv(x)))).mean((2, 3)))

    def forward(self, x):
        return self.body(x)


class Grid(T):
    def forward(self, x):
        if not hasattr(self, "grid"):
            self.register_buffer("grid", torch.ones(1, 1, 28, 28))
        return self.body(x * self.grid)


class InPlace(T):
    def forward(self, x):
        x -= 0.1307
        x /= 0.3081
        return self.body(x)


class TrainNone(T):
    def train(self, mode=True):
        super().train(mode)


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = torch.randn(10, 784)

    def forward(self, x):
        return x.flatten(1) @ self.w.T


class Compiled(T):
    def __init__(self):
        super().__init__()
        self.conv = torch.compile(self.conv, backend="eager")


class Counter(T):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return self.body(x) * self.calls


class Changing(T):
    def __init__(self):
        super().__init__()
        self.register_buffer("ema", torch.ones(8))

    def forward(self, x):
        h = self.conv(x) * self.ema[:, None, None]
        if self.training:
            self.ema.mul_(0.9).add_(0.1)
        return self.fc(self.drop(F.relu(self.bn(h))).mean((2, 3)))


class Branch(T):
    def forward(self, x):
        return self.body(x) + 1e12 * x.mean((1, 2, 3))[:, None]


class Held(T):
    def __init__(self):
        super().__init__()
        object.__setattr__(self, "held", Proxy())


class Returned(T):
    def forward(self, x):
        return Proxy()


class Meta(T):
    def __init__(self):
        super().__init__()
        self.to("meta")


class Double(T):
    def __init__(self):
        super().__init__()
        self.double()


class Nan(T):
    def forward(self, x):
        return self.body(x) * float("nan")


class Scalar(T):
    def forward(self, x):
        return self.body(x).mean()
"""
REFUSED = {
    "Held": "cannot be captured in training mode",
    "Returned": "returns Proxy in evaluation mode",
    "Meta": "is on the meta device",
    "Double": "Its parameters are float64",
}
FAILING = {"Counter": "capture", "Nan": "output", "Scalar": "output", "Changing": "gradients", "Plain": "dropout"}
CONTRACT = """
classes = 10
[gap]
forbidden = false
[dropout]
required = true
[batch]
independent = true
[gradients]
complete = true
"""


def test_each_model_gets_a_verdict_or_a_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No class ends in an internal error, and what is wrong with it is said; torch's defaults are reset, with a note."""
    monkeypatch.setenv("WORKSPACES", str(tmp_path))
    path = tmp_path / "net.py"
    path.write_text(FILE, encoding="utf-8")
    (file,) = candidate_files(parse_source(str(path)))
    request = CaptureRequest(source=file, arguments="", seed=1, input_shape=(1, 28, 28))
    (outcome,) = run_processes([Job(request=request, working_folder=tmp_path)], tmp_path, limits=Limits(seconds=300))
    result = outcome.result(request)

    assert result is not None, outcome.output
    assert any("set to float64 on a device that is missing here, is reset" in note for note in result.notes)
    failing = {}
    for number, report in enumerate(result.classes):
        name = report.name.rpartition(":")[2]
        if report.failure is not None:
            assert "internal" != report.failure.kind, report.failure.traceback
            assert REFUSED[name] in report.failure.message
            continue
        assert name not in REFUSED
        model = read_captured(outcome.folder / str(number), name)
        findings = examine(model, parse_contract(CONTRACT, name="field", place="here"))
        assert [] == [finding.describe() for finding in findings if finding.status is Status.ERROR], name
        failing[name] = [finding.requirement for finding in findings if finding.status is Status.FAIL]
    assert dict.fromkeys(FAILING, True) == {name: FAILING[name] in failing[name] for name in FAILING}
    assert [] == [name for name, failed in failing.items() if failed and name not in FAILING]
