"""The run record: its file, its schema, and what it refuses."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

from harness.errors import InputError
from harness.sandbox import Layer, LayerState
from harness.training import Recipe, RunRecord, state_digest
from tests.documents import REGISTRY, SCHEMAS
from tests.made_up import network, record

VALIDATOR = jsonschema.Draft202012Validator(
    SCHEMAS["run.schema.json"], registry=REGISTRY, format_checker=jsonschema.FormatChecker()
)
VALID = record([9_900, 9_950])


def test_a_record_is_read_as_written(tmp_path: Path) -> None:
    """Reading a written record gives an equal record."""
    VALID.write(tmp_path / "run.json")
    assert VALID == RunRecord.read(tmp_path / "run.json")
    assert ["run.json"] == [path.name for path in tmp_path.iterdir()]


def test_a_record_says_which_layers_held() -> None:
    """The layers are read as written; in an older record they are unknown, and its content, with its digest, stays as it is."""
    layers = (
        LayerState(layer=Layer.USER, holds=False, detail="needs root"),
        LayerState(layer=Layer.LANDLOCK, holds=True, detail="version 7"),
    )
    made, old = dataclasses.replace(VALID, sandbox=layers), VALID.to_json()
    VALIDATOR.validate(made.to_json())

    assert made == RunRecord.from_json(json.loads(json.dumps(made.to_json())))
    assert {"layer": "user", "holds": False, "detail": "needs root"} == made.to_json()["sandbox"][0]
    assert "sandbox" not in old
    assert RunRecord.from_json(old).sandbox is None
    assert [] == dataclasses.replace(VALID, sandbox=()).to_json()["sandbox"]


@pytest.mark.parametrize(
    "optimizer",
    [
        {"name": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": True},
        {"name": "adam", "lr": 0.1},
        {"name": "adamw", "lr": 0.1},
    ],
)
@pytest.mark.parametrize(
    "schedule",
    [
        {"name": "one-cycle", "max_lr": 0.1},
        {"name": "warmup-cosine", "warmup": 0.1, "until": 0.7, "floor": 0},
        {"name": "plateau", "factor": 0.5, "patience": 3},
        {"name": "step", "step_size": 3, "gamma": 0.1},
        {"name": "multi-step", "milestones": [3, 5], "gamma": 0.1},
        {"name": "cosine"},
    ],
)
def test_every_recipe_fits_the_published_schema(optimizer: dict[str, Any], schedule: dict[str, Any]) -> None:
    """A record with any optimizer, schedule and augmentation is valid by docs/schemas/run.schema.json."""
    mapping = {
        "batch_size": 1,
        "epochs": 2,
        "optimizer": optimizer,
        "schedule": schedule,
        "augmentation": {"rotation": 7, "scale": [0.9, 1.1]},
    }
    document = {**VALID.to_json(), "recipe": {"name": "r", **Recipe.from_mapping(mapping, name="r").to_mapping()}}
    VALIDATOR.validate(document)
    assert document == RunRecord.from_json(document).to_json()


BAD: list[tuple[str, object, str]] = [
    ("schema", "harness.run/2", "expected a run record with schema='harness.run/1', got schema='harness.run/2'"),
    ("status", "done", "expected status to be one of 'complete', 'interrupted', 'diverged', got status='done'"),
    ("seed", "1", "expected seed to be a whole number"),
    ("extra", 1, "'extra' is not a known key"),
    ("epochs", {}, "expected epochs to be a list"),
    ("environment", None, "expected a table of keys and values, got None"),
    ("recipe.epochs", 0, "expected 1 <= epochs"),
    ("epochs.0.test_correct", 99.4, "expected test_correct to be a whole number"),
    ("environment.threads", None, "expected threads to be a whole number"),
]
# What a schema cannot say: one value against another.
CONTRADICTIONS: list[tuple[str, object, str]] = [
    ("recipe.epochs", 3, "all 3 declared epochs are completed, got status='complete' with 2 completed epochs"),
    ("status", "diverged", "all 2 declared epochs are completed, got status='diverged' with 2 completed epochs"),
    ("recipe.epochs", 1, "expected epochs numbered from 1 to at most 1, got epochs [1, 2]"),
    ("epochs.1.epoch", 3, "expected epochs numbered from 1 to at most 2, got epochs [1, 3]"),
    ("epochs.1.test_total", 20_000, "expected the same number of test images in all epochs"),
    ("epochs.0.test_correct", 10_001, "expected 0 <= test_correct <= test_total"),
    ("epochs.0.train_correct", 60_001, "expected 0 <= train_correct <= train_total"),
    ("started", "yesterday", "got started='yesterday'"),
]


def with_value(path: str, value: object) -> dict[str, Any]:
    """The document of a valid record with one value replaced."""
    document: Any = json.loads(json.dumps(VALID.to_json()))
    *parts, last = path.split(".")
    place = document
    for part in parts:
        place = place[int(part) if part.isdigit() else part]
    place[last] = value
    return dict(document)


@pytest.mark.parametrize(("path", "value", "message"), BAD + CONTRADICTIONS)
def test_a_bad_record_is_named(path: str, value: object, message: str) -> None:
    """A record that is malformed or contradicts itself is an error that names the place."""
    with pytest.raises(InputError) as caught:
        RunRecord.from_json(with_value(path, value), where="run.json")
    assert str(caught.value).startswith("run.json")
    assert message in str(caught.value)


@pytest.mark.parametrize(("path", "value"), [(path, value) for path, value, _ in BAD])
def test_the_schema_refuses_what_the_reader_refuses(path: str, value: object) -> None:
    """The published schema catches every malformed value that the reader catches."""
    assert not VALIDATOR.is_valid(with_value(path, value))


def test_every_key_is_required_by_reader_and_schema() -> None:
    """A record that lacks any one of its keys is refused by both; only `validation` is younger than the oldest records."""
    for key in VALID.to_json().keys() - {"validation"}:
        document = VALID.to_json()
        del document[key]
        assert not VALIDATOR.is_valid(document)
        with pytest.raises(InputError, match=key):
            RunRecord.from_json(document)


def test_an_unusable_file_is_named(tmp_path: Path) -> None:
    """A file that is missing, not JSON or not a table is an error that names its path."""
    path = tmp_path / "run.json"
    with pytest.raises(InputError, match=r"run\.json.*cannot be read"):
        RunRecord.read(path)
    path.write_text("{")
    with pytest.raises(InputError, match=r"run record .*run\.json is not valid JSON"):
        RunRecord.read(path)
    path.write_text("[]")
    with pytest.raises(InputError, match=r"run\.json: expected a table of keys and values"):
        RunRecord.read(path)


def test_a_full_disk_leaves_the_old_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When writing fails, the old file is unchanged, no temporary file is left, and the error gives the reason."""
    path = tmp_path / "run.json"
    VALID.write(path)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"could not write .*run\.json.*No space left on device"):
        record([1, 2]).write(path)
    assert VALID == RunRecord.read(path)
    assert ["run.json"] == [path.name for path in tmp_path.iterdir()]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """Writing into a folder that does not exist is an error that names the path."""
    with pytest.raises(InputError, match=r"nosuch.* does not exist"):
        VALID.write(tmp_path / "nosuch" / "run.json")


def test_the_state_digest_sees_every_bit() -> None:
    """The order of the tensors does not matter; one bit, a name, a type or a shape does."""
    state = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3], dtype=torch.int64)}
    same = {"b": state["b"].clone(), "a": state["a"].clone()}
    nextafter = torch.nextafter(state["a"], torch.tensor(9.0))
    others = [
        {**state, "a": nextafter},
        {"c": state["a"], "b": state["b"]},
        {**state, "b": state["b"].double()},
        {**state, "a": state["a"].reshape(1, 2)},
        {"a": state["a"]},
    ]
    assert state_digest(state) == state_digest(same)
    assert len(others) + 1 == len({state_digest(each) for each in [state, *others]})


def test_the_state_digest_takes_every_type() -> None:
    """Scalars, empty tensors, bfloat16 and strided tensors have digests."""
    state = {
        "scalar": torch.tensor(1),
        "empty": torch.zeros(0),
        "half": torch.ones(3, dtype=torch.bfloat16),
        "strided": torch.arange(6.0).reshape(2, 3).t(),
        "flag": torch.tensor([True]),
    }
    assert len(state_digest(state)) == 64
    assert state_digest(network().state_dict()) != state_digest(state)
