"""Arguments by their declared names."""

from __future__ import annotations

from harness.graph.form import Operation, Ref
from harness.graph.schema import bind


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
