"""Every JSON document of the command line is valid by its published schema, and the schemas refuse what is not."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

Command = Callable[..., tuple[int, str, str]]

FOLDER = Path(__file__).parents[2] / "docs" / "schemas"
SCHEMAS = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.schema.json"))}
REGISTRY: Registry[Any] = Registry().with_resources(
    (name, Resource.from_contents(schema)) for name, schema in SCHEMAS.items()
)
COMMANDS = {
    "list": ("list",),
    "show": ("show", "cloud_1"),
    "check": ("check", "rf_study_5"),
    "doctor": ("doctor",),
    "verify": ("verify", "cloud_2", "--data", "digits", "--quick"),
}


def faults(document: Any) -> list[str]:  # noqa: ANN401 - any JSON
    """What about a document its schema refuses."""
    kind = document["schema"].removeprefix("harness.").removesuffix("/1")
    validator = Draft202012Validator(SCHEMAS[f"{kind}.schema.json"], registry=REGISTRY)
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)]


@pytest.fixture
def document(request: pytest.FixtureRequest, command: Command, quick_load: None) -> Any:  # noqa: ANN401, ARG001 - any JSON
    """What a command writes with --json."""
    _, out, _ = command(*COMMANDS[request.param], "--json", "-")
    return json.loads(out)


@pytest.mark.parametrize("name", SCHEMAS)
def test_schemas_are_schemas(name: str) -> None:
    """Each published schema is valid by the 2020-12 dialect that it names."""
    assert SCHEMAS[name]["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    Draft202012Validator.check_schema(SCHEMAS[name])


@pytest.mark.parametrize("document", COMMANDS, indirect=True)
def test_documents_are_valid(document: Any) -> None:  # noqa: ANN401 - any JSON
    """What each command writes is valid by the schema that it names."""
    assert faults(document) == []


@pytest.mark.parametrize("document", COMMANDS, indirect=True)
def test_every_key_is_required_and_known(document: Any) -> None:  # noqa: ANN401 - any JSON
    """A document with a key missing, one too many, or of another type is refused."""
    for key in document.keys() - {"schema"}:
        without, strange = copy.deepcopy(document), copy.deepcopy(document)
        del without[key]
        strange[key] = {"of": "another type"}

        assert faults(without) != []
        assert faults(strange) != []
    assert faults({**document, "more": 1}) != []


@pytest.mark.parametrize("document", ["verify"], indirect=True)
def test_a_verification_carries_a_run_record(document: Any) -> None:  # noqa: ANN401 - any JSON
    """The record of the long run is held to the schema of run records."""
    assert document["record"] is None
    assert faults({**document, "record": {"schema": "harness.run/1"}}) != []


@pytest.mark.smoke
def test_a_record_is_valid(command: Command, tmp_path: Path, quick_load: None) -> None:  # noqa: ARG001 - spares a capture
    """What train and verify write about a run is valid, alone and within a verification."""
    recipe = tmp_path / "short.toml"
    recipe.write_text('batch_size = 512\nepochs = 1\n[optimizer]\nname = "sgd"\nlr = 0.1\n', encoding="utf-8")
    options = ("cloud_2", "--recipe", recipe, "--data", "digits", "--device", "cpu", "--json", "-", "--out", tmp_path)

    _, verified, _ = command("verify", *options)
    _, trained, _ = command("train", *options)

    assert faults(json.loads(trained)) == []
    assert faults(json.loads(verified)) == []
    assert json.loads(trained)["epochs"] == json.loads(verified)["record"]["epochs"]


@pytest.mark.smoke
def test_comparisons_of_records_are_valid(command: Command, tmp_path: Path, quick_load: None) -> None:  # noqa: ARG001 - spares a capture
    """What bisect and replay write is valid, with a difference and without one."""
    recipe = tmp_path / "short.toml"
    recipe.write_text('batch_size = 1024\nepochs = 1\n[optimizer]\nname = "sgd"\nlr = 0.1\n', encoding="utf-8")
    options = ("cloud_2", "--recipe", recipe, "--data", "digits", "--device", "cpu")
    for seed in (1, 2):
        command("train", *options, "--seed", seed, "--out", tmp_path / str(seed))
    one, other = tmp_path / "1" / "record.json", tmp_path / "2" / "record.json"

    for arguments in (("bisect", one, other), ("bisect", one, one), ("replay", one)):
        _, out, _ = command(*arguments, "--json", "-")
        assert faults(json.loads(out)) == []
        assert faults({**json.loads(out), "more": 1}) != []


@pytest.mark.parametrize("document", ["check"], indirect=True)
def test_a_finding_has_one_of_five_statuses(document: Any) -> None:  # noqa: ANN401 - any JSON
    """The schema of findings, shared by check and verify, is applied."""
    document["findings"][0]["status"] = "perhaps"

    assert len(faults(document)) == 1
