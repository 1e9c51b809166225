"""The graph as a document: what is written is read back, and what is damaged is refused with the place named."""

from __future__ import annotations

import copy
import json
import re
import time
from collections.abc import Callable
from typing import Any

import pytest

from harness.errors import GraphFormatError
from harness.graph import Graph
from harness.graph.form import Ref, Symbol, decode_argument, encode_argument

DOCUMENT: dict[str, Any] = {
    "schema": "harness.graph/1",
    "torch": "2.8.0",
    "input": {"name": "x", "shape": [1, 4, 4]},
    "tensors": [
        {
            "name": "conv.weight",
            "kind": "parameter",
            "shape": [2, 1, 3, 3],
            "dtype": "float32",
            "requires_grad": True,
            "aliases": ["tied.weight"],
            "content": "",
            "persistent": True,
        },
        {
            "name": "conv.bias",
            "kind": "parameter",
            "shape": [2],
            "dtype": "float32",
            "requires_grad": True,
            "aliases": [],
            "content": "",
            "persistent": True,
        },
    ],
    "modules": [{"path": "", "type": "Net", "parameters": 0}, {"path": "conv", "type": "Conv2d", "parameters": 20}],
    "train": {
        "operations": [
            {
                "name": "conv2d",
                "op": "aten.conv2d.default",
                "args": [{"ref": "x"}, {"ref": "conv.weight"}, {"ref": "conv.bias"}, [1, 1], [1, 1]],
                "kwargs": {},
                "outputs": [{"shape": ["B", 2, 4, 4], "dtype": "float32"}],
                "module": "conv",
                "module_type": "Conv2d",
            },
            {
                "name": "dropout",
                "op": "aten.dropout.default",
                "args": [{"ref": "conv2d"}, 0.5, True],
                "kwargs": {},
                "outputs": [{"shape": ["B", 2, 4, 4], "dtype": "float32"}],
                "module": "",
                "module_type": "",
            },
        ],
        "output": "dropout",
    },
    "eval": {
        "operations": [
            {
                "name": "flat",
                "op": "aten.view.default",
                "args": [{"ref": "x"}, [-1, 16]],
                "kwargs": {"dtype": {"dtype": "float32"}},
                "outputs": [{"shape": ["B", 16], "dtype": "float32"}],
                "module": "",
                "module_type": "",
            }
        ],
        "output": "flat",
    },
}

Change = Callable[[dict[str, Any]], object]


def changed(change: Change) -> dict[str, Any]:
    """The document after a change."""
    document = copy.deepcopy(DOCUMENT)
    change(document)
    return document


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
    "version": (lambda d: d.update(schema="harness.graph/2"), r"'harness.graph/1', found schema='harness.graph/2'"),
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
    "a negative size": (lambda d: d["tensors"][0].update(shape=[-1]), r"graph.tensors\[0\]: expected sizes from 0"),
    "a truth as a size": (lambda d: d["tensors"][0].update(shape=[True]), r"graph.tensors\[0\]: expected sizes from 0"),
    "a tensor in the batch size": (
        lambda d: d["tensors"][0].update(shape=["B"]),
        r"graph.tensors\[0\]: expected sizes without the batch",
    ),
    "a giant side": (lambda d: d["tensors"][0].update(shape=[10**4000]), r"graph.tensors\[0\]: expected sizes from 0"),
    "a giant tensor": (
        lambda d: d["tensors"][0].update(shape=[10**8, 10**8]),
        r"graph.tensors\[0\]: 'shape' .* more than 100,000,000 numbers",
    ),
    "giant together": (
        lambda d: [d["tensors"][i].update(shape=[10**8]) for i in (0, 1)],
        r"tensors hold 200,000,000 numbers together: at most 100,000,000",
    ),
    "too many dimensions": (
        lambda d: d["tensors"][0].update(shape=[1] * 9),
        r"graph.tensors\[0\]: 'shape' has 9 entries, at most 8",
    ),
    "a giant image": (lambda d: d["input"].update(shape=[1, 4, 10**6]), r"images of shape \[1, 4, 1000000\]: at most"),
    "a giant result": (
        lambda d: operation(d)["outputs"][0].update(shape=["B", 10**5, 10**5]),
        r"graph.train.operations\[0\].outputs\[0\]: .* more than 100,000,000 numbers",
    ),
    "a size that is a page of text": (
        lambda d: operation(d)["outputs"][0].update(shape=["B" * 1000]),
        r"graph.train.operations\[0\].outputs\[0\]: expected sizes",
    ),
    "too many operations": (
        lambda d: d["train"].update(operations=[operation(d)] * 20_001),
        r"graph.train: 'operations' has 20,001 entries, at most 20,000",
    ),
    "an undefined value": (
        lambda d: operation(d)["args"].append({"ref": "nowhere"}),
        r"train program: operation 'conv2d' reads 'nowhere', which is not defined before it",
    ),
    "a cycle": (
        lambda d: operation(d)["args"].append({"ref": "dropout"}),
        r"train program: operation 'conv2d' reads 'dropout', which is not defined before it",
    ),
    "an operation that reads itself": (
        lambda d: operation(d)["args"].append([{"ref": "conv2d"}]),
        r"operation 'conv2d' reads 'conv2d'",
    ),
    "a missing tensor": (lambda d: d["tensors"].pop(0), r"operation 'conv2d' reads 'conv.weight'"),
    "a value twice": (lambda d: operation(d, 1).update(name="conv2d"), r"train program: 'conv2d' is defined twice"),
    "a tensor twice": (lambda d: d["tensors"].append(d["tensors"][0]), r"the graph defines 'conv.weight' twice"),
    "an alias that is another tensor": (
        lambda d: d["tensors"][1].update(aliases=["conv.weight"]),
        r"the graph defines 'conv.weight' twice",
    ),
    "an undefined output": (lambda d: d["eval"].update(output="end"), r"eval program: its output 'end' is not defined"),
    "an unknown kind of argument": (
        lambda d: operation(d)["args"].append({"code": "print()"}),
        r"graph.train.operations\[0\]: expected an argument",
    ),
    "a number that is none": (
        lambda d: operation(d)["kwargs"].update(eps=float("nan")),
        r"graph.train.operations\[0\]: expected a finite number, found nan",
    ),
    "nested lists": (
        lambda d: operation(d)["args"].append(deep(100)),
        r"graph.train.operations\[0\]: an argument is nested more than 8 deep",
    ),
    "nested tables": (
        lambda d: operation(d)["args"].append(deep_table(900)),
        r"graph.train.operations\[0\]: expected an argument",
    ),
}


def test_a_graph_survives_a_round_trip() -> None:
    """Reading and writing gives the same document, and the same graph from it."""
    graph = Graph.from_json(json.loads(json.dumps(DOCUMENT)))
    assert DOCUMENT == graph.to_json()
    assert graph == Graph.from_json(graph.to_json())


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_documents_are_refused(name: str) -> None:
    """A damaged document is refused within a second, in words that name the place."""
    change, words = DAMAGED[name]
    document = changed(change)
    start = time.perf_counter()
    with pytest.raises(GraphFormatError) as refused:
        Graph.from_json(document)
    assert time.perf_counter() - start < 1
    assert re.search(words, str(refused.value)), str(refused.value)
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize("document", [None, [], "graph", 3])
def test_what_is_no_document_is_refused(document: object) -> None:
    """A document is an object."""
    with pytest.raises(GraphFormatError, match="graph: expected an object, found"):
        Graph.from_json(document)


@pytest.mark.parametrize(
    "argument",
    [None, True, 3, 0.1, "same", Ref("x"), Symbol("dtype", "float32"), (1, (Ref("x"), None)), Symbol("float", "-inf")],
)
def test_arguments_survive_a_round_trip(argument: Any) -> None:  # noqa: ANN401 - an Argument, recursively
    """Each kind of argument is decoded from its JSON text to what it was."""
    assert argument == decode_argument(json.loads(json.dumps(encode_argument(argument))))


def renamed(data: Any, names: dict[str, str]) -> Any:  # noqa: ANN401 - JSON data
    """JSON data with some of its texts replaced."""
    if isinstance(data, dict):
        return {key: renamed(value, names) for key, value in data.items()}
    if isinstance(data, list):
        return [renamed(value, names) for value in data]
    return names.get(data, data) if isinstance(data, str) else data


def test_the_exact_digest_leaves_names_out() -> None:
    """Other names of values, tensors and modules, and another version of torch, give the same digest."""
    names = {"x": "y", "conv2d": "first", "conv.weight": "deep.a.b", "conv": "deep", "Conv2d": "Mine", "2.8.0": "3.0"}
    other = Graph.from_json(renamed(DOCUMENT, names))
    assert Graph.from_json(DOCUMENT) != other
    assert Graph.from_json(DOCUMENT).exact_digest() == other.exact_digest()


@pytest.mark.parametrize(
    "change",
    [
        lambda d: operation(d)["args"].__setitem__(4, [0, 1]),
        lambda d: operation(d, 1)["args"].__setitem__(1, 0.25),
        lambda d: operation(d, 1)["args"].pop(),
        lambda d: operation(d).update(op="aten.conv_transpose2d.input"),
        lambda d: d["eval"].update(output="x"),
        lambda d: d["tensors"][1].update(requires_grad=False),
        lambda d: d["tensors"][1].update(dtype="float16"),
        lambda d: operation(d)["args"].__setitem__(2, {"ref": "x"}),
        lambda d: d["train"].update(output="conv2d"),
    ],
    ids=["padding", "p", "active", "operation", "eval output", "frozen", "dtype", "operand", "train output"],
)
def test_the_exact_digest_sees_every_change_of_what_runs(change: Change) -> None:
    """One changed padding, probability, operation, operand or output changes the digest."""
    assert Graph.from_json(DOCUMENT).exact_digest() != Graph.from_json(changed(change)).exact_digest()


def test_a_tensor_is_found_by_its_name() -> None:
    """A graph gives the tensor of a name, and nothing for a name it does not hold."""
    graph = Graph.from_json(DOCUMENT)
    found = graph.tensor("conv.weight")
    assert found is not None
    assert 18 == found.elements
    assert graph.tensor("conv.nothing") is None
