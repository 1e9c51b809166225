"""A captured model as two files: read back equal, and refused when damaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from harness.errors import GraphFormatError
from harness.graph import CapturedModel, read_captured, write_captured

Shipped = Callable[[str], CapturedModel]
Document = dict[str, Any]


@pytest.fixture
def written(shipped: Shipped, tmp_path: Path) -> Path:
    """The files of a shipped model, by their path without suffix."""
    write_captured(shipped("five_step_2"), tmp_path / "model")
    return tmp_path / "model"


def test_a_captured_model_survives_a_round_trip(shipped: Shipped, tmp_path: Path) -> None:
    """Graph, tensors, their layout in memory aside, and fidelity are read as they were written, under a new name."""
    captured = shipped("five_step_2")
    transposed = {
        name: tensor.mT.contiguous().mT if tensor.ndim > 1 else tensor for name, tensor in captured.state.items()
    }
    fidelity = replace(captured.fidelity, repeatable=False, other_size="other answers", differences=("a", "b"))
    write_captured(replace(captured, state=transposed, fidelity=fidelity), tmp_path / "model")
    read = read_captured(tmp_path / "model", "renamed")

    assert ("renamed", captured.graph, fidelity) == (read.name, read.graph, read.fidelity)
    assert captured.state.keys() == read.state.keys()
    assert all(torch.equal(captured.state[name], tensor) for name, tensor in read.state.items())


def without(key: str) -> Callable[[Document], object]:
    """A change that removes a key."""
    return lambda document: document.pop(key)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("schema"), "expected a string under 'schema'"),
        (without("train"), "graph.train: expected an object"),
        (without("fidelity"), "fidelity: expected a table"),
        (lambda document: document["fidelity"].update(sure=True), "'sure' is not a known key"),
        (lambda document: document["fidelity"].update(repeatable="yes"), "expected repeatable to be true or false"),
        (lambda document: document["fidelity"].update(other_size="larger"), "expected other_size to be one of"),
        (lambda document: document["eval"].update(output="nothing"), "its output 'nothing' is not defined"),
    ],
)
def test_a_damaged_document_is_refused(written: Path, change: Callable[[Document], object], words: str) -> None:
    """A key that is missing, unknown or of another type is an error that names it."""
    path = written.with_suffix(".json")
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    path.write_text(json.dumps(document), encoding="utf-8")

    with pytest.raises(GraphFormatError, match=words):
        read_captured(written, "model")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"[" * 100_000, b"\xff\xfe"])
@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_damaged_files_are_refused(written: Path, suffix: str, content: bytes) -> None:
    """A file that is cut short or holds something else is an error of the one class that callers expect."""
    written.with_suffix(suffix).write_bytes(content)

    with pytest.raises(GraphFormatError, match="captured model"):
        read_captured(written, "model")


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_missing_files_are_refused(written: Path, suffix: str) -> None:
    """Both files must be there."""
    written.with_suffix(suffix).unlink()

    with pytest.raises(GraphFormatError, match=r"expected a captured model in model\.json and model\.safetensors"):
        read_captured(written, "model")


def test_tensors_of_another_model_are_refused_when_rebuilt(written: Path) -> None:
    """What the tensors are is checked where they are used: a rebuilt module names the first that does not fit."""
    save_file({"other": torch.zeros(1)}, written.with_suffix(".safetensors"))

    with pytest.raises(GraphFormatError, match="found nothing"):
        read_captured(written, "model").to_module()
