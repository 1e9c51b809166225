"""Graphs as JSON and captured models as files: read back equal, and refused when damaged, with the place named."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.errors import GraphFormatError
from harness.graph import CapturedModel, graph_from_json, graph_to_json, read_captured, write_captured
from harness.graph.form import Ref, Symbol, encode_argument
from harness.graph.serialisation import decode_argument
from tests.made_up import GRAPH_DOCUMENT, Change, changed_document

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
    fidelity = replace(captured.fidelity, repeatable=False, other_size="other predictions", differences=("a", "b"))
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
        (lambda document: document["eval"].update(output="nothing"), "as output, found 'nothing', which no value has"),
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


def test_tensors_of_another_model_are_refused(written: Path) -> None:
    """The graph and the tensors must make a model that runs, without too few tensors, too many, or others."""
    path = written.with_suffix(".safetensors")
    state = load_file(path)
    first = min(state)
    for changed, words in (
        ({}, "got nothing"),
        (state | {first: torch.zeros(1)}, r"got torch\.float32 of shape \[1\]"),
        (state | {"other": torch.zeros(1)}, "got 1 others, such as 'other'"),
    ):
        save_file(changed, path)
        with pytest.raises(GraphFormatError, match=words):
            read_captured(written, "model")


def test_a_graph_that_cannot_run_is_refused(written: Path) -> None:
    """Declared shapes and operations are checked before anybody relies on them."""
    path = written.with_suffix(".json")
    for key, value, words in (
        ("outputs", [{"shape": ["B", 1], "dtype": "float32"}], "the graph declares an output"),
        ("op", "builtins.exec", "is not on the allow-list"),
    ):
        content = path.read_text(encoding="utf-8")
        document = json.loads(content)
        operation(document)[key] = value
        path.write_text(json.dumps(document), encoding="utf-8")
        with pytest.raises(GraphFormatError, match=words):
            read_captured(written, "model")
        path.write_text(content, encoding="utf-8")


def test_a_graph_of_too_many_values_is_refused(written: Path) -> None:
    """The number of values is limited before they are read."""
    written.with_suffix(".json").write_bytes(b"[" + b"0," * 500_000 + b"0]")
    with pytest.raises(GraphFormatError, match="expected a document of at most 500,000 values"):
        read_captured(written, "model")


def deep(levels: int) -> list[Any]:
    """A list in a list in a list."""
    nested: list[Any] = []
    for _ in range(levels):
        nested = [nested]
    return nested


def deep_table(levels: int) -> dict[str, Any]:
    """A table in a table in a table."""
    nested: dict[str, Any] = {}
    for _ in range(levels):
        nested = {"a": nested}
    return nested


def operation(document: dict[str, Any], index: int = 0) -> dict[str, Any]:
    """An operation of the training program."""
    found: dict[str, Any] = document["train"]["operations"][index]
    return found


DAMAGED: dict[str, tuple[Change, str]] = {
    "version": (
        lambda d: d.update(schema="harness.graph/2"),
        r"schema='harness.graph/1', got schema='harness.graph/2': export",
    ),
    "no version": (lambda d: d.pop("schema"), r"graph: expected a string under 'schema', found nothing"),
    "no input": (lambda d: d.pop("input"), r"graph.input: expected an object, found NoneType"),
    "tensors as a table": (lambda d: d.update(tensors={}), r"graph: expected a list under 'tensors', found dict"),
    "a tensor as a number": (lambda d: d["tensors"].append(7), r"graph.tensors\[2\]: expected an object, found int"),
    "kind": (lambda d: d["tensors"][0].update(kind="secret"), r"graph.tensors\[0\]: .* found kind='secret'"),
    "a truth as a number": (
        lambda d: d["tensors"][0].update(requires_grad=1),
        r"graph.tensors\[0\]: expected true or false under 'requires_grad', found int 1",
    ),
    "an alias that is no name": (
        lambda d: d["tensors"][1].update(aliases=[3]),
        r"graph.tensors\[1\]: expected a list of strings under 'aliases', found \[3\]",
    ),
    "a negative size": (
        lambda d: d["tensors"][0].update(shape=[-1]),
        r"graph.tensors\[0\]: expected a list of sizes, from 0",
    ),
    "a truth as a size": (
        lambda d: d["tensors"][0].update(shape=[True]),
        r"graph.tensors\[0\]: expected a list of sizes, from 0",
    ),
    "a tensor in the batch size": (
        lambda d: d["tensors"][0].update(shape=["B"]),
        r"graph.tensors\[0\]: expected a list of integers",
    ),
    "a giant side": (
        lambda d: d["tensors"][0].update(shape=[10**4000]),
        r"graph: expected shape to have at most 64 bits",
    ),
    "a giant tensor": (
        lambda d: d["tensors"][0].update(shape=[10**8, 10**8]),
        r"graph.tensors\[0\]: expected 'shape' of at most 100,000,000 elements",
    ),
    "giant together": (
        lambda d: [d["tensors"][i].update(shape=[10**8]) for i in (0, 1)],
        r"at most 100,000,000 elements in all tensors of the graph together, got 200,000,000",
    ),
    "too many dimensions": (
        lambda d: d["tensors"][0].update(shape=[1] * 9),
        r"graph.tensors\[0\]: expected at most 8 entries under 'shape', got 9",
    ),
    "a giant image": (
        lambda d: d["input"].update(shape=[1, 4, 10**6]),
        r"dimensions of at most 1,024, got images of shape \[1, 4, 1000000\]",
    ),
    "a giant result": (
        lambda d: operation(d)["outputs"][0].update(shape=["B", 10**5, 10**5]),
        r"graph.train.operations\[0\].outputs\[0\]: .* at most 100,000,000 elements",
    ),
    "a size that is a page of text": (
        lambda d: operation(d)["outputs"][0].update(shape=["B" * 1000]),
        r"graph.train.operations\[0\].outputs\[0\]: expected a list of sizes",
    ),
    "too many operations": (
        lambda d: d["train"].update(operations=[operation(d)] * 20_001),
        r"graph.train: expected at most 20,000 entries under 'operations', got 20,001",
    ),
    "an undefined value": (
        lambda d: operation(d)["args"].append({"ref": "nowhere"}),
        r"train program: operation 'conv2d' reads 'nowhere', which is neither the input nor a tensor",
    ),
    "a cycle": (
        lambda d: operation(d)["args"].append({"ref": "dropout"}),
        r"train program: operation 'conv2d' reads 'dropout', which is neither the input nor a tensor",
    ),
    "an operation that reads itself": (
        lambda d: operation(d)["args"].append([{"ref": "conv2d"}]),
        r"operation 'conv2d' reads 'conv2d'",
    ),
    "a missing tensor": (lambda d: d["tensors"].pop(0), r"operation 'conv2d' reads 'conv.weight'"),
    "a value twice": (
        lambda d: operation(d, 1).update(name="conv2d"),
        r"expected a new name for each operation, found 'conv2d' twice",
    ),
    "a tensor twice": (
        lambda d: d["tensors"].append(d["tensors"][0]),
        r"all tensors of the graph, found 'conv.weight' twice",
    ),
    "an alias that is another tensor": (
        lambda d: d["tensors"][1].update(aliases=["conv.weight"]),
        r"all tensors of the graph, found 'conv.weight' twice",
    ),
    "an undefined output": (
        lambda d: d["eval"].update(output="end"),
        r"eval program: expected the name of a value as output, found 'end'",
    ),
    "an unknown kind of argument": (
        lambda d: operation(d)["args"].append({"code": "print()"}),
        r"graph.train.operations\[0\]: expected an argument",
    ),
    "a number that is none": (
        lambda d: operation(d)["kwargs"].update(eps=float("nan")),
        r"graph: expected eps to be a finite number, got eps=nan",
    ),
    "nested lists": (
        lambda d: operation(d)["args"].append(deep(100)),
        r"graph: expected lists and tables nested at most 32 deep",
    ),
    "nested tables": (
        lambda d: operation(d)["args"].append(deep_table(900)),
        r"graph: expected lists and tables nested at most 32 deep",
    ),
}


def test_a_graph_survives_a_round_trip() -> None:
    """Reading and writing gives the same document, and the same graph from it."""
    graph = graph_from_json(json.loads(json.dumps(GRAPH_DOCUMENT)))
    assert GRAPH_DOCUMENT == graph_to_json(graph)
    assert graph == graph_from_json(graph_to_json(graph))


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_documents_are_refused(name: str) -> None:
    """A damaged document is refused, in words that name the place."""
    change, words = DAMAGED[name]
    document = changed_document(change)
    with pytest.raises(GraphFormatError) as refused:
        graph_from_json(document)
    assert re.search(words, str(refused.value)), str(refused.value)
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize("document", [None, [], "graph", 3])
def test_what_is_no_document_is_refused(document: object) -> None:
    """A document is an object."""
    with pytest.raises(GraphFormatError, match="graph: expected an object, found"):
        graph_from_json(document)


@pytest.mark.parametrize(
    "argument",
    [None, True, 3, 0.1, "same", Ref("x"), Symbol("dtype", "float32"), (1, (Ref("x"), None)), Symbol("float", "-inf")],
)
def test_arguments_survive_a_round_trip(argument: Any) -> None:  # noqa: ANN401 - an Argument, recursively
    """Each kind of argument is decoded from its JSON text to what it was."""
    assert argument == decode_argument(json.loads(json.dumps(encode_argument(argument))))


@pytest.mark.parametrize("file", ["model.json", "model.safetensors"])
@pytest.mark.parametrize("fault", ["link", "pipe", "large", "missing"])
def test_only_plain_files_of_limited_size_are_read(file: str, fault: str, written: Path, tmp_path: Path) -> None:
    """A file that leads elsewhere, never ends or does not fit into memory is refused before it is read."""
    path = written.with_name(file)
    kept = path.rename(tmp_path / "kept")
    if fault == "link":
        path.symlink_to(kept)
    elif fault == "pipe":
        os.mkfifo(path)
    elif fault == "large":
        path.touch()
        os.truncate(path, 2**40)

    with pytest.raises(GraphFormatError):
        read_captured(written, "net")


@pytest.mark.parametrize(
    ("content", "words"),
    [((2**30).to_bytes(8, "little") + bytes(100), "bytes of names and shapes"), (bytes(200), "SafetensorError")],
)
def test_damaged_tensors_are_refused(content: bytes, words: str, written: Path) -> None:
    """Neither a huge table of names nor one that is no JSON is read; nor more bytes than are allowed."""
    written.with_suffix(".safetensors").write_bytes(content)
    with pytest.raises(GraphFormatError, match=words):
        read_captured(written, "net")


def test_tensors_are_limited(written: Path) -> None:
    """More bytes than are allowed are not read."""
    read_captured(written, "net", max_bytes=2**26)
    with pytest.raises(GraphFormatError, match="bytes, at most"):
        read_captured(written, "net", max_bytes=-(2**22))
