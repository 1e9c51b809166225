"""The graph as data: its digest sees what runs and nothing else; arguments by their declared names."""

from __future__ import annotations

from typing import Any

import pytest

from harness.graph import graph_from_json
from harness.graph.form import Operation, Ref, bind
from tests.made_up import GRAPH_DOCUMENT, Change, changed_document


def operation(document: dict[str, Any], index: int = 0) -> dict[str, Any]:
    """An operation of the training program."""
    found: dict[str, Any] = document["train"]["operations"][index]
    return found


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
    other = graph_from_json(renamed(GRAPH_DOCUMENT, names))
    assert graph_from_json(GRAPH_DOCUMENT) != other
    assert graph_from_json(GRAPH_DOCUMENT).exact_digest() == other.exact_digest()


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
    assert graph_from_json(GRAPH_DOCUMENT).exact_digest() != graph_from_json(changed_document(change)).exact_digest()


def test_a_tensor_is_found_by_its_name() -> None:
    """A graph gives the tensor of a name, and nothing for a name it does not hold."""
    graph = graph_from_json(GRAPH_DOCUMENT)
    found = graph.tensor("conv.weight")
    assert found is not None
    assert 18 == found.elements
    assert graph.tensor("conv.nothing") is None


def test_arguments_are_bound_by_name_with_defaults() -> None:
    """Positional and keyword arguments get their declared names; the rest have torch's defaults."""
    pooling = Operation(name="y", op="aten.max_pool2d.default", args=(Ref("x"), (2, 2)), kwargs={"padding": (1, 1)})

    assert {
        "self": Ref("x"),
        "kernel_size": (2, 2),
        "stride": (),
        "padding": (1, 1),
        "dilation": (1, 1),
        "ceil_mode": False,
    } == bind(pooling)


def test_operations_without_a_schema_keep_their_keyword_arguments() -> None:
    """Operations on sizes and unknown ones have no declared names."""
    assert {} == bind(Operation(name="y", op="operator.add", args=(Ref("x"), 2)))
    assert {"p": 0.5} == bind(Operation(name="y", op="aten.unheard_of.default", args=(Ref("x"),), kwargs={"p": 0.5}))
