"""The published JSON schemas, and what they refuse about a document."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry, Resource

_FOLDER = Path(__file__).parents[1] / "docs" / "schemas"
SCHEMAS: dict[str, Any] = {
    path.name: json.loads(path.read_text(encoding="utf-8")) for path in sorted(_FOLDER.glob("*.schema.json"))
}
REGISTRY: Registry[Any] = Registry().with_resources(
    (name, Resource.from_contents(schema)) for name, schema in SCHEMAS.items()
)


def schema_errors(document: Any) -> list[str]:  # noqa: ANN401 - any JSON
    """The violations of the schema that a document names, each with its path; empty if the document is valid."""
    kind = document["schema"].removeprefix("harness.").removesuffix("/1")
    validator = Draft202012Validator(SCHEMAS[f"{kind}.schema.json"], registry=REGISTRY)
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)]
