from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.determinism import Axis
from tests.documents import schema_errors

Command = Callable[..., tuple[int, str, str]]

HEAD = "import os, torch\nfrom torch import nn\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
LINEAR = "        self.head = nn.Linear(784, 10)\n    def forward(self, images):\n        "

pytestmark = [
    pytest.mark.smoke,  # it trains
    pytest.mark.usefixtures("worker_here", "known_environment"),
]


@pytest.fixture
def options(tmp_path: Path) -> tuple[object, ...]:
    """Options for four steps of small batches on the CPU."""
    recipe = tmp_path / "small.toml"
    recipe.write_text('batch_size = 8\nepochs = 1\n[optimizer]\nname = "sgd"\nlr = 0.1\n', encoding="utf-8")
    return "--recipe", recipe, "--device", "cpu", "--steps", 4


def write_model(folder: Path, forward: str) -> Path:
    """A file with a model that has this forward expression."""
    path = folder / "net.py"
    path.write_text(f"{HEAD}{LINEAR}{forward}\n", encoding="utf-8")
    return path


def test_a_reproducible_model_passes(command: Command, tmp_path: Path, options: tuple[object, ...]) -> None:
    """Each axis has a row, the last line has verdict and duration, and the document is valid."""
    path = write_model(tmp_path, "return self.head(images.flatten(1))")
    code, out, _ = command("repro", path, *options, "--json", tmp_path / "repro.json")
    document = json.loads((tmp_path / "repro.json").read_text(encoding="utf-8"))

    assert (0, []) == (code, schema_errors(document))
    assert [axis.value for axis in Axis if axis is not Axis.FROZEN] == [
        finding["requirement"] for finding in document["findings"]
    ]
    assert "trainings of 4 steps in 2 epochs" in " ".join(out.split())
    assert "pass     original module against rebuilt graph  bit-equal" in out
    assert f"PASS  {path}:Net on cpu, in " in " ".join(out.split("\n"))
    assert ["$.steps"] == [error.partition(":")[0] for error in schema_errors({**document, "steps": 1})]


def test_a_nondeterministic_model_fails(command: Command, tmp_path: Path, options: tuple[object, ...]) -> None:
    """The exit code is 1; the finding says where the runs differ, the evidence why."""
    path = write_model(tmp_path, "return self.head(images.flatten(1)) * (1 + os.urandom(1)[0])")
    code, out, _ = command("repro", path, *options, "--html", tmp_path / "page.html")

    assert 1 == code
    assert "fail     repeat in the process                  differs at step 1 in tensor head.weight by " in out
    assert "cause: the code draws from os.urandom" in out
    assert "os.urandom is called in line 8 of net.py" in out
    assert "fail     captured graph draws anew" in out
    assert "cause: the code draws from os.urandom" in (tmp_path / "page.html").read_text("utf-8")


def test_a_model_that_cannot_be_captured_is_checked(
    command: Command, tmp_path: Path, options: tuple[object, ...]
) -> None:
    """Without a graph one axis is skipped, with the reason."""
    forward = "return self.head(images.flatten(1)) * (1.0 if float(images.sum()) > 0 else 2.0)"
    code, out, err = command("repro", write_model(tmp_path, forward), *options)

    assert 0 == code
    assert "skip     original module against rebuilt graph  not applicable: " in out
    assert "The determinism check continues without the graph" in err


def test_a_procedure_is_used(command: Command, tmp_path: Path, options: tuple[object, ...]) -> None:
    """A user's loader that ignores the seed fails on its axis."""
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
    """A wrong option is exit code 2 with what was expected, before anything is trained."""
    code, _, err = command("repro", write_model(tmp_path, "return images"), *arguments)

    assert 2 == code
    assert words in " ".join(err.split())


def test_a_model_that_fails_in_training_is_an_input_error(
    command: Command, tmp_path: Path, options: tuple[object, ...]
) -> None:
    """A model that raises in training is an input error that names the line."""
    forward = "assert torch.rand(1) < 0 or not self.training or len(images) < 8, 'too many'; return self.head(images.flatten(1))"
    code, _, err = command("repro", write_model(tmp_path, forward), *options)

    assert 2 == code
    assert "failed in line 8 of net.py during a training: AssertionError: too many" in " ".join(err.split())
