"""`harness golden`: update, check and list; exit codes and documents."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import harness.cli.golden
import harness.sources
import mnist_models
from harness.goldens import check as golden_check
from harness.goldens import measurement
from harness.graph import CapturedModel, capture
from harness.sandbox.layers import Layer, unavailable_layers
from harness.sources import LoadedModel, ModelSource
from tests.documents import schema_errors
from tests.made_up import digests, network

Command = Callable[..., tuple[int, str, str]]

NAMES = ("cloud_2", "reference")

pytestmark = pytest.mark.smoke  # it captures and trains


@pytest.fixture(scope="module")
def net() -> CapturedModel:
    """A small network."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return capture(network(dropout=0.1), name="Net", twice=False)


@pytest.fixture(autouse=True)
def models(net: CapturedModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, CapturedModel]:
    """Two shipped models and one of the user's, all small; none has a golden yet."""
    found = {**{name: dataclasses.replace(net, name=name) for name in NAMES}, "net.py:Net": net}

    def load(text: str, **_: object) -> LoadedModel:
        layers = () if text in NAMES else unavailable_layers()
        return LoadedModel(model=found[text], source=ModelSource(text=text), layers=layers)

    monkeypatch.setattr(harness.sources, "load", load)
    monkeypatch.setattr(mnist_models, "list_models", lambda: NAMES)
    monkeypatch.setattr(harness.cli.golden, "SHIPPED", tmp_path / "goldens")
    for module in (measurement, golden_check):
        monkeypatch.setattr(module, "train_briefly", lambda *_: (digests(0), digests(50)))
    monkeypatch.chdir(tmp_path)
    Path("net.py").touch()
    return found


@pytest.fixture
def recorded(command: Command, tmp_path: Path) -> Path:
    """The folder with the goldens of both shipped models."""
    assert 0 == command("golden", "update")[0]
    return tmp_path / "goldens"


def change(models: dict[str, CapturedModel], name: str) -> None:
    """Change one parameter of a model."""
    state = models[name].state
    models[name] = dataclasses.replace(models[name], state={**state, "0.bias": state["0.bias"] * 1.01})


def words(text: str) -> str:
    """The text on one line."""
    return " ".join(text.split())


def test_unchanged_models_pass(command: Command, recorded: Path) -> None:
    """All shipped models are checked, with progress on standard error; the verdict names the environment."""
    code, out, err = command("golden", "check")
    assert (0, 8) == (code, out.count("pass     "))
    assert "PASS  2 models checked against the goldens, torch" in out
    assert ["1 of 2: cloud_2", "2 of 2: reference"] == err.splitlines()
    assert ["cloud_2.safetensors", "reference.safetensors"] == sorted(path.name for path in recorded.iterdir())


@pytest.mark.usefixtures("recorded")
def test_a_changed_model_fails(command: Command, models: dict[str, CapturedModel]) -> None:
    """Exit code 1; the finding names the tensor, the hint is the command that records the change."""
    change(models, "cloud_2")
    code, out, err = command("golden", "check", "cloud_2")
    assert (1, "") == (code, err)
    assert "fail     weights   0.bias has other values" in out
    assert "If the change is intended, record the new results with `harness golden update cloud_2`." in words(out)


@pytest.mark.usefixtures("recorded")
def test_another_environment_is_undecided(command: Command) -> None:
    """Exit code 3, with the comparison within a tolerance; the number of threads is restored."""
    before = torch.get_num_threads()
    code, out, _ = command("golden", "check", "cloud_2", "--threads", 77)
    assert (3, before) == (code, torch.get_num_threads())
    assert "unknown  outputs   within tolerance, but no results recorded for torch" in out
    assert "`harness golden update cloud_2 --threads 77` here to add this environment" in words(out)


def test_a_model_without_a_golden_fails(command: Command) -> None:
    """A missing golden is a failure with its own message."""
    code, out, _ = command("golden", "check", "reference")
    assert 1 == code
    assert "reference.safetensors does not exist" in words(out)


def test_unused_goldens_are_reported(command: Command, recorded: Path) -> None:
    """A golden without a model is reported, unless models are named."""
    shutil.copy(recorded / "cloud_2.safetensors", recorded / "gone.safetensors")
    assert 0 == command("golden", "check", "cloud_2")[0]
    code, out, _ = command("golden", "check")
    assert 1 == code
    assert "fail     unused golden  gone.safetensors belongs to no model" in out


@pytest.mark.usefixtures("recorded")
def test_an_update_prints_the_changes(command: Command, models: dict[str, CapturedModel], tmp_path: Path) -> None:
    """Old and new digests are printed; --dry-run prints the same and writes nothing; a second update changes nothing."""
    path = tmp_path / "goldens" / "cloud_2.safetensors"
    before = path.read_bytes()
    change(models, "cloud_2")
    _, dry, _ = command("golden", "update", "--dry-run")
    assert before == path.read_bytes()
    code, out, _ = command("golden", "update")
    assert (0, dry) == (code, out.replace(" bytes\n", " bytes, not written\n"))
    assert re.search(r"  0\.bias: [0-9a-f]{16} -> [0-9a-f]{16}\n", out)
    assert out.endswith("reference: no changes\n")
    assert "cloud_2: no changes\n" == command("golden", "update", "cloud_2")[1]


def test_a_damaged_golden_is_replaced(command: Command, recorded: Path) -> None:
    """A message says that the recorded outputs of other environments are lost."""
    (recorded / "cloud_2.safetensors").write_bytes(b"not a golden")
    code, out, err = command("golden", "update", "cloud_2")
    assert (0, True) == (code, "new golden, with results for torch" in out)
    assert err.startswith(
        "the golden cannot be read and is replaced; outputs recorded in other environments are lost: expected a golden, but"
    )


def test_goldens_of_user_models(command: Command, recorded: Path, tmp_path: Path) -> None:
    """Their folder determines which models are checked; the golden of a deleted model is unused."""
    own = tmp_path / "own"
    assert 0 == command("golden", "update", "net.py:Net", "--folder", own)[0]
    document = json.loads(command("golden", "check", "--folder", own, "--json", "-")[1])
    assert ([], len(Layer)) == (schema_errors(document), len(document["models"][0]["sandbox"]))
    code, out, err = command("golden", "check", "--folder", own)
    assert (0, "sandbox: none of the layers", "Net") == (code, err.partition(";")[0], out.splitlines()[0])
    (tmp_path / "net.py").unlink()
    code, out, _ = command("golden", "check", "--folder", own)
    assert 1 == code
    assert "Net.safetensors belongs to no model" in out
    assert 2 == len(list(recorded.iterdir()))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ("check", "net.py:Net"),
            "expected a shipped model, or --folder for a model of your own, got 'net.py:Net' without --folder.",
        ),
        (("update", "cloud_2", "reference", "--args", "width=2"), "expected one MODEL with --args, got 2"),
        (
            ("check", "--folder", "empty"),
            "expected a MODEL, or a --folder with goldens, got --folder empty, which has none",
        ),
        (("check", "--device", "tpu"), "expected a device that this machine has, got device='tpu'"),
    ],
)
def test_wrong_input_is_refused(arguments: tuple[str, ...], expected: str, command: Command) -> None:
    """Wrong input is exit code 2 with a remedy."""
    code, _, err = command("golden", *arguments)
    assert 2 == code
    assert expected in words(err)


def test_the_document_of_a_check(command: Command, recorded: Path, models: dict[str, CapturedModel]) -> None:
    """The document has one entry per model and the unused goldens, and is valid."""
    shutil.copy(recorded / "cloud_2.safetensors", recorded / "gone.safetensors")
    change(models, "cloud_2")
    code, out, _ = command("golden", "check", "--json", "-")
    document = json.loads(out)
    assert (1, []) == (code, schema_errors(document))
    assert [("cloud_2", "fail"), ("reference", "pass")] == [
        (entry["model"], entry["status"]) for entry in document["models"]
    ]
    assert ["unused golden"] == [finding["requirement"] for finding in document["unused"]]
    assert (1, "fail") == (document["environment"]["threads"], document["status"])


def test_the_list(command: Command, recorded: Path) -> None:
    """The list has models and environments; a missing and an unreadable golden are listed as such."""
    (recorded / "reference.safetensors").unlink()
    (recorded / "gone.safetensors").write_bytes(b"not a golden")
    code, out, _ = command("golden", "list")
    assert 0 == code
    assert re.search(r"cloud_2 +[0-9,]+  torch .*, 1 thread", out)
    assert re.search(r"reference +-  there is no golden", out)
    assert re.search(r"gone +-  expected a golden, but", out)
    document = json.loads(command("golden", "list", "--json", "-")[1])
    assert [] == schema_errors(document)
    assert [("cloud_2", 1), ("reference", 0), ("gone", 0)] == [
        (entry["model"], len(entry["environments"])) for entry in document["goldens"]
    ]


def test_documents_have_exactly_the_keys_of_their_schema(command: Command, tmp_path: Path) -> None:
    """An additional or a missing key is invalid."""
    (tmp_path / "goldens").mkdir()
    for kind in ("check", "list"):
        document = json.loads(command("golden", kind, "--json", "-")[1])
        assert [] == schema_errors(document)
        assert [] != schema_errors({**document, "more": 1})
        assert [] != schema_errors({key: value for key, value in document.items() if key != "folder"})


@pytest.mark.parametrize("name", ["nosuch", "nosuch/deeper", "file"])
def test_a_folder_that_is_none_is_not_listed(name: str, command: Command, tmp_path: Path) -> None:
    """A folder that does not exist is wrong input, not an empty list."""
    (tmp_path / "none").mkdir()
    code, _, err = command("golden", "list", "--folder", tmp_path / name)

    assert (2, True) == (code, "expected a folder with goldens" in err)
    assert 0 == command("golden", "list", "--folder", tmp_path / "none")[0]
