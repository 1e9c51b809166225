"""A captured model as two files: its graph as JSON, its tensors as safetensors."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from harness.errors import GraphFormatError
from harness.graph.capture import CapturedModel, Fidelity
from harness.graph.form import Graph
from harness.tables import expect_mapping, read_table


def write_captured(captured: CapturedModel, stem: Path) -> None:
    """Write ``stem.json`` and ``stem.safetensors``, for `read_captured`; the model's name is not part of them."""
    document = captured.graph.to_json() | {"fidelity": dataclasses.asdict(captured.fidelity)}
    state = {name: tensor.contiguous() for name, tensor in captured.state.items()}
    save_file(state, stem.with_suffix(".safetensors"))
    stem.with_suffix(".json").write_text(json.dumps(document), encoding="utf-8")


def read_captured(stem: Path, name: str) -> CapturedModel:
    """Read what `write_captured` wrote, and call it ``name``.

    Raises:
        GraphFormatError: a file is missing, damaged, or not what it should be.
    """
    try:
        document = json.loads(stem.with_suffix(".json").read_text(encoding="utf-8"))
        state = load_file(stem.with_suffix(".safetensors"))
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        msg = f"expected a captured model in {stem.name}.json and {stem.name}.safetensors, got {type(error).__name__}: {error}"
        raise GraphFormatError(msg) from error
    table = dict(expect_mapping(document, where="captured model", error=GraphFormatError))
    fidelity = read_table(Fidelity, table.pop("fidelity", None), where="fidelity", error=GraphFormatError)
    return CapturedModel(name=name, graph=Graph.from_json(table), state=state, fidelity=fidelity)
