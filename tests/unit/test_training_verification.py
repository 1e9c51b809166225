# ruff: noqa: SLF001 - mutants replace parts of the engines

"""Verification of engines: each accepts the network as it is and refuses one with a wrong operation."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.graph import CapturedModel, GraphModule, Program, capture
from harness.training import ENGINES, Engine, choose_engine, engines
from harness.training.fusion import FUSED_OPERATIONS
from harness.training.verification import BFLOAT16, FLOAT32, OneStep, gamma, rounding_bounds
from tests.made_up import network

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def captured() -> CapturedModel:
    """Convolution, batch norm, ReLU, dropout and a linear layer, with log-probabilities as output."""
    torch.manual_seed(0)
    return capture(nn.Sequential(network(dropout=0.1), nn.LogSoftmax(dim=1)), name="net", twice=False)


def verified(engine: Engine, captured: CapturedModel) -> str:
    """What the verification finds, empty if nothing."""
    return engine.reason_against(captured.to_module(), CPU)


def bf16_with(operations: Mapping[str, Callable[..., Any]]) -> Engine:
    """The engine bf16 with other functions for some operations."""

    def changed(module: nn.Module, _: torch.Generator | None) -> Callable[[Tensor], Tensor]:
        run = engines._fused(module, {**FUSED_OPERATIONS, **engines._FLOAT32_OPERATIONS, **operations})

        def compute(images: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                output = run(images)
            return output.to(torch.promote_types(output.dtype, torch.float32))

        return compute

    return dataclasses.replace(ENGINES["bf16"], network=changed)


def batch_norm(p: float, maps: Tensor, weight: Tensor, bias: Tensor, *rest: Any) -> Tensor:  # noqa: ANN401 - as ATen's
    """The fused batch norm with an epsilon of 1e-3 instead of 1e-5."""
    *middle, _, cudnn = rest
    factor = 1 / (1 - p)
    result: Tensor = torch.ops.aten.batch_norm.default(maps, weight * factor, bias * factor, *middle, 1e-3, cudnn)
    return result


def in_bfloat16(maps: Tensor) -> bool:
    """Whether an operation runs in the format, so that float64 shows nothing."""
    return maps.dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["eager", "fast", "bf16"])
def test_the_engines_pass(name: str, captured: CapturedModel) -> None:
    """The engines of the CPU compute what the network says; so does bf16 put together by hand."""
    assert "" == verified(ENGINES[name], captured)
    assert "" == verified(bf16_with({}), captured)


@pytest.mark.parametrize(
    ("operation", "wrong", "difference"),
    [
        ("fused.relu_dropout", lambda maps, *_, **__: maps.clone(), "the output"),
        ("fused.relu_dropout", lambda maps, p, *_, **__: maps.relu() / (1 - p), "the output"),
        ("fused.batch_norm", lambda _, *rest: torch.ops.aten.batch_norm.default(*rest), "the output"),
        ("fused.batch_norm", batch_norm, "the output"),
        ("aten.log_softmax.int", lambda scores, dim, *_: functional.log_softmax(scores.bfloat16(), dim), "the output"),
        ("aten.log_softmax.int", functional.log_softmax, "the sum of the probabilities"),
        ("fused.relu_dropout", lambda maps, *_, **__: maps if in_bfloat16(maps) else maps.relu(),
         "the output, by a relative error"),
        ("fused.relu_dropout", lambda maps, *_, **__: maps.relu() * (0 if in_bfloat16(maps) else 1),
         "the output, by a relative error of 1 "),
        ("fused.relu_dropout", lambda maps, *_, **__: maps.relu() * (math.nan if in_bfloat16(maps) else 1),
         "the output, by a relative error of nan"),
        ("fused.relu_dropout", lambda maps, *_, **__: maps.detach().relu() + 0 * maps if in_bfloat16(maps) else maps.relu(),
         "the gradient, by a relative error"),
    ],
    ids=["no ReLU", "dropout scaled twice", "dropout not scaled", "epsilon", "softmax in bfloat16", "softmax by autocast",
         "no ReLU in bfloat16", "zeros in bfloat16", "NaN in bfloat16", "no gradient in bfloat16"],
)  # fmt: skip
def test_a_wrong_operation_is_refused(
    operation: str, wrong: Callable[..., Tensor], difference: str, captured: CapturedModel
) -> None:
    """Mutants of bf16: wrong in any format, or in bfloat16 only, each named by its first difference."""
    assert f"bf16 differs from eager in {difference}" in verified(bf16_with({operation: wrong}), captured)


def test_an_engine_needs_a_verification() -> None:
    """Without one it cannot be constructed, and only the module as written is exempt from it."""
    with pytest.raises(TypeError, match="verification"):
        Engine(name="new", devices=("cpu",), network=engines._fast)  # type: ignore[call-arg]

    assert ["eager"] == [engine.name for engine in ENGINES.values() if engine.is_reference]


def test_a_new_engine_is_compared_by_its_own_network(captured: CapturedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is automatic and wrong is not chosen, with the reason; the right one is."""

    def negative(module: nn.Module, _: torch.Generator | None) -> Callable[[Tensor], Tensor]:
        return lambda images: -module(images)

    new = Engine(name="new", devices=("cpu",), network=negative, verification=OneStep(FLOAT32), automatic_on=("cpu",))
    monkeypatch.setitem(ENGINES, "fast", dataclasses.replace(ENGINES["fast"], automatic_on=()))
    monkeypatch.setitem(ENGINES, "new", new)
    engine, reason = choose_engine("auto", captured.to_module(), CPU)
    assert ("eager", "new differs from eager in the output") == (engine.name, reason)

    monkeypatch.setitem(ENGINES, "new", dataclasses.replace(new, network=lambda module, _: module))
    assert "new" == choose_engine("auto", captured.to_module(), CPU)[0].name


def test_the_model_and_the_random_state_stay_as_they_were(captured: CapturedModel) -> None:
    """A verification changes neither parameters, buffers and gradients nor torch's global generator."""
    module = captured.to_module()
    before, random = {name: tensor.clone() for name, tensor in module.state_dict().items()}, torch.get_rng_state()
    ENGINES["bf16"].reason_against(module, CPU)

    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())
    assert torch.equal(random, torch.get_rng_state())


def test_the_bounds_follow_from_the_format_and_the_depth(captured: CapturedModel) -> None:
    """Ten roundings (images, two weights, seven operations), 64 products, and one ReLU after the fourth."""
    module = captured.to_module()
    w = BFLOAT16 + 64 * FLOAT32 / (1 - 64 * FLOAT32)
    flipped = 4 * w / (1 - 4 * w) / math.pi + 4 / (16 * 64)
    found = rounding_bounds(module, BFLOAT16)

    assert 10 * w / (1 - 10 * w) == pytest.approx(found.output)
    assert math.hypot(20 * w / (1 - 20 * w), math.sqrt(2 * flipped)) == pytest.approx(found.gradient)
    assert math.inf == gamma(256, BFLOAT16)


def test_deeper_networks_have_wider_bounds(captured: CapturedModel) -> None:
    """Each operation adds a rounding."""
    module = captured.to_module()
    shorter = Program(operations=module.graph.train.operations[:-1], output=module.graph.train.operations[-2].name)
    cut = GraphModule(
        dataclasses.replace(module.graph, train=shorter),
        {**dict(module.named_parameters()), **dict(module.named_buffers())},
    )

    assert rounding_bounds(cut, BFLOAT16).output < rounding_bounds(module, BFLOAT16).output
