"""`harness golden`: update, check and list, with their exit codes and documents."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

import harness.cli.golden
import harness.sources
import mnist_models
from harness.goldens import check as golden_check
from harness.goldens import measurement
from harness.graph import CapturedModel, capture
from tests.made_up import digests, network

Command = Callable[..., tuple[int, str, str]]

FOLDER = Path(__file__).parents[2] / "docs" / "schemas"
SCHEMAS = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in FOLDER.glob("*.schema.json")}
REGISTRY: Registry[Any] = Registry().with_resources(
    (name, Resource.from_contents(schema)) for name, schema in SCHEMAS.items()
)
NAMES = ("cloud_2", "reference")

pytestmark = pytest.mark.smoke  # it captures and trains


def faults(document: dict[str, Any]) -> list[str]:
    """What about a document its schema refuses."""
    kind = document["schema"].removeprefix("harness.").removesuffix("/1")
    validator = Draft202012Validator(SCHEMAS[f"{kind}.schema.json"], registry=REGISTRY)
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)]


@pytest.fixture(scope="module")
def net() -> CapturedModel:
    """A small network."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return capture(network(dropout=0.1), name="Net", twice=False)


@pytest.fixture(autouse=True)
def models(net: CapturedModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, CapturedModel]:
    """Two shipped models and one of the user's, all of them small and soon trained; none is on record yet."""
    found = {**{name: dataclasses.replace(net, name=name) for name in NAMES}, "net.py:Net": net}
    monkeypatch.setattr(harness.sources, "load_model", lambda text, **_: found[text])
    monkeypatch.setattr(mnist_models, "list_models", lambda: NAMES)
    monkeypatch.setattr(harness.cli.golden, "SHIPPED", tmp_path / "goldens")
    for module in (measurement, golden_check):
        monkeypatch.setattr(module, "train_briefly", lambda *_: (digests(0), digests(50)))
    monkeypatch.chdir(tmp_path)
    Path("net.py").touch()
    return found


@pytest.fixture
def recorded(command: Command, tmp_path: Path) -> Path:
    """The folder of the shipped models' goldens, with both of them."""
    assert 0 == command("golden", "update")[0]
    return tmp_path / "goldens"


def change(models: dict[str, CapturedModel], name: str) -> None:
    """Make one number of a model another."""
    state = models[name].state
    models[name] = dataclasses.replace(models[name], state={**state, "0.bias": state["0.bias"] * 1.01})


def words(text: str) -> str:
    """A text on one line."""
    return " ".join(text.split())


def test_models_that_did_not_change_pass(command: Command, recorded: Path) -> None:
    """All shipped models, with progress on standard error, and a verdict that names the environment."""
    code, out, err = command("golden", "check")
    assert (0, 8) == (code, out.count("pass     "))
    assert "PASS  2 models held to what is on record, torch" in out
    assert ["1 of 2: cloud_2", "2 of 2: reference"] == err.splitlines()
    assert ["cloud_2.safetensors", "reference.safetensors"] == sorted(path.name for path in recorded.iterdir())


@pytest.mark.usefixtures("recorded")
def test_a_changed_model_fails(command: Command, models: dict[str, CapturedModel]) -> None:
    """Exit code 1; the finding names the tensor, and the hint is the command that puts the change on record."""
    change(models, "cloud_2")
    code, out, err = command("golden", "check", "cloud_2")
    assert (1, "") == (code, err)
    assert "fail     weights   0.bias has other values" in out
    assert "If the change is intended, `harness golden update cloud_2` records it." in words(out)


@pytest.mark.usefixtures("recorded")
def test_another_environment_is_undecided(command: Command) -> None:
    """Exit code 3, with the result of the comparison by tolerance; the threads are put back afterwards."""
    before = torch.get_num_threads()
    code, out, _ = command("golden", "check", "cloud_2", "--threads", 77)
    assert (3, before) == (code, torch.get_num_threads())
    assert "unknown  outputs   within tolerance, but no golden for torch" in out
    assert "`harness golden update cloud_2 --threads 77` here adds this environment" in words(out)


def test_a_model_without_a_golden_fails(command: Command) -> None:
    """That there is none is its own message, and no pass."""
    code, out, _ = command("golden", "check", "reference")
    assert 1 == code
    assert "reference.safetensors does not exist" in words(out)


def test_unused_goldens_are_looked_for_among_all(command: Command, recorded: Path) -> None:
    """A golden of a model that is no more is named, unless a single model was asked for."""
    shutil.copy(recorded / "cloud_2.safetensors", recorded / "gone.safetensors")
    assert 0 == command("golden", "check", "cloud_2")[0]
    code, out, _ = command("golden", "check")
    assert 1 == code
    assert "fail     unused golden  gone.safetensors belongs to no model" in out


@pytest.mark.usefixtures("recorded")
def test_an_update_says_what_is_new(command: Command, models: dict[str, CapturedModel], tmp_path: Path) -> None:
    """Old and new by name; --dry-run says the same and writes nothing; afterwards nothing changes."""
    path = tmp_path / "goldens" / "cloud_2.safetensors"
    before = path.read_bytes()
    change(models, "cloud_2")
    _, tried, _ = command("golden", "update", "--dry-run")
    assert before == path.read_bytes()
    code, out, _ = command("golden", "update")
    assert (0, tried) == (code, out.replace(" bytes\n", " bytes, not written\n"))
    assert re.search(r"  0\.bias: [0-9a-f]{16} -> [0-9a-f]{16}\n", out)
    assert out.endswith("reference: nothing changes\n")
    assert "cloud_2: nothing changes\n" == command("golden", "update", "cloud_2")[1]


def test_a_damaged_golden_is_made_anew(command: Command, recorded: Path) -> None:
    """It is told what is lost with it."""
    (recorded / "cloud_2.safetensors").write_bytes(b"not a golden")
    code, out, err = command("golden", "update", "cloud_2")
    assert (0, True) == (code, "new, with torch" in out)
    assert err.startswith("made anew, without what other environments had on record: expected a golden, but")


def test_goldens_of_a_users_models(command: Command, recorded: Path, tmp_path: Path) -> None:
    """They are kept in a folder of the user's, which says by itself what is to be checked; what is gone is unused."""
    own = tmp_path / "own"
    assert 0 == command("golden", "update", "net.py:Net", "--folder", own)[0]
    code, out, err = command("golden", "check", "--folder", own)
    assert (0, "", "Net") == (code, err, out.splitlines()[0])
    (tmp_path / "net.py").unlink()
    code, out, _ = command("golden", "check", "--folder", own)
    assert 1 == code
    assert "Net.safetensors belongs to no model" in out
    assert 2 == len(list(recorded.iterdir()))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("check", "net.py:Net"), "net.py:Net is none of the shipped models. Say with --folder where"),
        (("update", "cloud_2", "reference", "--args", "width=2"), "--args belongs to one MODEL, got 2"),
        (("check", "--folder", "empty"), "expected a MODEL, or goldens in --folder empty, which holds none"),
        (("check", "--device", "tpu"), "expected a device that this machine has, got device='tpu'"),
    ],
)
def test_what_cannot_be_asked_is_refused(arguments: tuple[str, ...], expected: str, command: Command) -> None:
    """Exit code 2, with what to do."""
    code, _, err = command("golden", *arguments)
    assert 2 == code
    assert expected in words(err)


def test_the_check_as_a_document(command: Command, recorded: Path, models: dict[str, CapturedModel]) -> None:
    """One entry a model, and the unused goldens, valid by the schema; nothing else is printed."""
    shutil.copy(recorded / "cloud_2.safetensors", recorded / "gone.safetensors")
    change(models, "cloud_2")
    code, out, _ = command("golden", "check", "--json", "-")
    document = json.loads(out)
    assert (1, []) == (code, faults(document))
    assert [("cloud_2", "fail"), ("reference", "pass")] == [
        (entry["model"], entry["status"]) for entry in document["models"]
    ]
    assert ["unused golden"] == [finding["requirement"] for finding in document["unused"]]
    assert (1, "fail") == (document["environment"]["threads"], document["status"])


def test_the_list(command: Command, recorded: Path) -> None:
    """Models with the environments on record; what is missing or cannot be read says so."""
    (recorded / "reference.safetensors").unlink()
    (recorded / "gone.safetensors").write_bytes(b"not a golden")
    code, out, _ = command("golden", "list")
    assert 0 == code
    assert re.search(r"cloud_2 +[0-9,]+  torch .*, 1 thread", out)
    assert re.search(r"reference +-  there is no golden", out)
    assert re.search(r"gone +-  expected a golden, but", out)
    document = json.loads(command("golden", "list", "--json", "-")[1])
    assert [] == faults(document)
    assert [("cloud_2", 1), ("reference", 0), ("gone", 0)] == [
        (entry["model"], len(entry["environments"])) for entry in document["goldens"]
    ]


def test_the_documents_know_no_other_keys(command: Command) -> None:
    """A key too many, or one missing, is refused."""
    for kind in ("check", "list"):
        document = json.loads(command("golden", kind, "--json", "-")[1])
        assert [] == faults(document)
        assert [] != faults({**document, "more": 1})
        assert [] != faults({key: value for key, value in document.items() if key != "folder"})
