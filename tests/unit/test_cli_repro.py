from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from harness.determinism import conduct, worker
from harness.determinism.axes import Axis
from harness.training import loop
from tests import made_up

Command = Callable[..., tuple[int, str, str]]

SCHEMAS = Path(__file__).parents[2] / "docs" / "schemas"
HEAD = "import os, torch\nfrom torch import nn\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
LINEAR = "        self.head = nn.Linear(784, 10)\n    def forward(self, images):\n        "

pytestmark = pytest.mark.smoke  # it trains


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch, worker_here: None) -> None:  # noqa: ARG001 - loads models here
    """Do the child processes' work in this one."""

    def run(_: object, folders: Mapping[Path, Any]) -> dict[Path, str]:
        for folder in folders:
            worker.answer(folder)
        return dict.fromkeys(folders, "")

    monkeypatch.setattr(conduct._Children, "_run_side_by_side", run)  # noqa: SLF001 - spares each case imports of PyTorch
    monkeypatch.setattr(loop, "environment", lambda _: made_up.ENVIRONMENT)


@pytest.fixture
def options(tmp_path: Path) -> tuple[object, ...]:
    """A recipe of small batches, on the CPU, for four steps."""
    recipe = tmp_path / "small.toml"
    recipe.write_text('batch_size = 8\nepochs = 1\n[optimizer]\nname = "sgd"\nlr = 0.1\n', encoding="utf-8")
    return "--recipe", recipe, "--device", "cpu", "--steps", 4


def write_model(folder: Path, forward: str) -> Path:
    """A file with a model that computes this."""
    path = folder / "net.py"
    path.write_text(f"{HEAD}{LINEAR}{forward}\n", encoding="utf-8")
    return path


def test_a_reproducible_model_passes(command: Command, tmp_path: Path, options: tuple[object, ...]) -> None:
    """Each axis has its row, the last line its verdict and how long it took, and the document is valid by its schema."""
    path = write_model(tmp_path, "return self.head(images.flatten(1))")
    code, out, _ = command("repro", path, *options, "--json", tmp_path / "repro.json")
    document = json.loads((tmp_path / "repro.json").read_text(encoding="utf-8"))
    resources = {file.name: json.loads(file.read_text(encoding="utf-8")) for file in SCHEMAS.glob("*.schema.json")}
    registry: Registry[Any] = Registry().with_resources(
        (name, Resource.from_contents(schema)) for name, schema in resources.items()
    )
    validator = Draft202012Validator(resources["repro.schema.json"], registry=registry)

    assert (0, []) == (code, [error.message for error in validator.iter_errors(document)])
    assert [axis.value for axis in Axis if axis is not Axis.FROZEN] == [
        finding["requirement"] for finding in document["findings"]
    ]
    assert "trainings of 4 steps in 2 epochs" in " ".join(out.split())
    assert "pass     original module against rebuilt graph  bit-equal" in out
    assert f"PASS  {path}:Net on cpu, in " in " ".join(out.split("\n"))
    assert [error.json_path for error in validator.iter_errors({**document, "steps": 1})] == ["$.steps"]


def test_a_model_that_does_not_repeat_fails(command: Command, tmp_path: Path, options: tuple[object, ...]) -> None:
    """The exit code is 1, the axis says where it differs, the evidence why, and what the graph froze is told."""
    path = write_model(tmp_path, "return self.head(images.flatten(1)) * (1 + os.urandom(1)[0])")
    code, out, _ = command("repro", path, *options)

    assert 1 == code
    assert "fail     repeat in the process                  differs at step 1 in tensor head.weight by " in out
    assert "cause: it draws from os.urandom" in out
    assert "os.urandom is called in line 8 of net.py" in out
    assert "fail     captured graph draws anew" in out


def test_a_model_that_cannot_be_captured_is_audited(
    command: Command, tmp_path: Path, options: tuple[object, ...]
) -> None:
    """Without a graph there is one axis less, and the row says why."""
    forward = "return self.head(images.flatten(1)) * (1.0 if float(images.sum()) > 0 else 2.0)"
    code, out, err = command("repro", write_model(tmp_path, forward), *options)

    assert 0 == code
    assert "skip     original module against rebuilt graph  not applicable: " in out
    assert "The audit goes on without the graph" in err


def test_a_procedure_is_used(command: Command, tmp_path: Path, options: tuple[object, ...]) -> None:
    """A loader of the user's own that ignores the seed is found on its axis."""
    procedure = Path(__file__).parents[1] / "controls" / "loader_ignores_seed.py"
    path = write_model(tmp_path, "return self.head(images.flatten(1))")
    code, out, _ = command("repro", path, *options, "--procedure", procedure, "--json", "-")
    failed = [finding for finding in json.loads(out)["findings"] if finding["status"] == "fail"]

    assert (1, [Axis.ORDER]) == (code, [finding["requirement"] for finding in failed])
    assert str(procedure) == json.loads(out)["procedure"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--procedure", "nowhere.py"), "'nowhere.py' does not exist"),
        (("--steps", "1"), "is not in the range"),
        (("--device", "abacus"), "expected a device that this machine has"),
        (("--recipe", "nowhere.toml"), "expected a recipe file"),
    ],
)
def test_wrong_input_is_refused(command: Command, tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    """A wrong option ends with code 2 and says what was expected, before anything is trained."""
    code, _, err = command("repro", write_model(tmp_path, "return images"), *arguments)

    assert 2 == code
    assert words in " ".join(err.split())


def test_a_model_that_fails_in_training_is_told(command: Command, tmp_path: Path, options: tuple[object, ...]) -> None:
    """A model that raises is an input error with its line."""
    forward = "assert torch.rand(1) < 0 or not self.training or len(images) < 8, 'too many'; return self.head(images.flatten(1))"
    code, _, err = command("repro", write_model(tmp_path, forward), *options)

    assert 2 == code
    assert "failed in line 8 of net.py in the middle of a training: AssertionError: too many" in " ".join(err.split())
