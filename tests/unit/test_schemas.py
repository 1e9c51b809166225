"""Every JSON document of the command line conforms to its schema, and the schemas reject other documents."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.documents import SCHEMAS, schema_errors

Command = Callable[..., tuple[int, str, str]]

COMMANDS = {
    "list": ("list",),
    "show": ("show", "cloud_1"),
    "check": ("check", "rf_study_5"),
    "doctor": ("doctor",),
    "verify": ("verify", "cloud_2", "--data", "digits", "--quick"),
}


@pytest.fixture
def document(request: pytest.FixtureRequest, command: Command, quick_load: None) -> Any:  # noqa: ANN401, ARG001 - any JSON
    """The document that a command writes with --json."""
    _, out, _ = command(*COMMANDS[request.param], "--json", "-")
    return json.loads(out)


@pytest.mark.parametrize("name", SCHEMAS)
def test_schemas_are_schemas(name: str) -> None:
    """Each schema conforms to the 2020-12 dialect that it names."""
    assert SCHEMAS[name]["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    Draft202012Validator.check_schema(SCHEMAS[name])


@pytest.mark.parametrize("document", COMMANDS, indirect=True)
def test_documents_are_valid(document: Any) -> None:  # noqa: ANN401 - any JSON
    """The document of each command conforms to the schema that it names."""
    assert schema_errors(document) == []


@pytest.mark.parametrize("document", COMMANDS, indirect=True)
def test_documents_have_exactly_the_keys_of_their_schema(document: Any) -> None:  # noqa: ANN401 - any JSON
    """A missing key, an additional key and a value of another type are invalid."""
    for key in document.keys() - {"schema"}:
        without, changed = copy.deepcopy(document), copy.deepcopy(document)
        del without[key]
        changed[key] = {"of": "another type"}

        assert schema_errors(without) != []
        assert schema_errors(changed) != []
    assert schema_errors({**document, "more": 1}) != []


@pytest.mark.parametrize("document", ["verify"], indirect=True)
def test_a_verification_contains_a_run_record(document: Any) -> None:  # noqa: ANN401 - any JSON
    """The record in a verification must conform to the schema of run records."""
    assert document["record"] is None
    assert schema_errors({**document, "record": {"schema": "harness.run/1"}}) != []


@pytest.mark.smoke
def test_a_record_is_valid(command: Command, tmp_path: Path, quick_load: None) -> None:  # noqa: ARG001 - avoids a capture
    """The record of a run is valid, alone and within a verification."""
    recipe = tmp_path / "short.toml"
    recipe.write_text('batch_size = 512\nepochs = 3\n[optimizer]\nname = "sgd"\nlr = 0.1\n', encoding="utf-8")
    options = ("cloud_2", "--recipe", recipe, "--data", "digits", "--device", "cpu", "--json", "-", "--out", tmp_path)

    _, verified, _ = command("verify", *options)
    _, trained, _ = command("train", *options)

    assert schema_errors(json.loads(trained)) == []
    assert schema_errors(json.loads(verified)) == []
    assert json.loads(trained)["epochs"] == json.loads(verified)["record"]["epochs"]


@pytest.mark.smoke
def test_comparisons_of_records_are_valid(command: Command, tmp_path: Path, quick_load: None) -> None:  # noqa: ARG001 - avoids a capture
    """The documents of bisect and replay are valid, with a difference and without."""
    recipe = tmp_path / "short.toml"
    recipe.write_text('batch_size = 1024\nepochs = 1\n[optimizer]\nname = "sgd"\nlr = 0.1\n', encoding="utf-8")
    options = ("cloud_2", "--recipe", recipe, "--data", "digits", "--device", "cpu")
    for seed in (1, 2):
        command("train", *options, "--seed", seed, "--out", tmp_path / str(seed))
    one, other = tmp_path / "1" / "record.json", tmp_path / "2" / "record.json"

    for arguments in (("bisect", one, other), ("bisect", one, one), ("replay", one)):
        _, out, _ = command(*arguments, "--json", "-")
        assert schema_errors(json.loads(out)) == []
        assert schema_errors({**json.loads(out), "more": 1}) != []


@pytest.mark.parametrize("document", ["check"], indirect=True)
def test_a_finding_has_one_of_five_statuses(document: Any) -> None:  # noqa: ANN401 - any JSON
    """The schema of findings, shared by check and verify, rejects another status."""
    document["findings"][0]["status"] = "perhaps"

    assert len(schema_errors(document)) == 1
