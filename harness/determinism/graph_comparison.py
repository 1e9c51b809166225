"""The axes that compare the module with its captured graph."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from harness.determinism.axes import Axis, compared, finding, not_applicable
from harness.determinism.model_under_test import ModelUnderTest
from harness.determinism.snapshot import StateSnapshot
from harness.findings import Finding, Status
from harness.graph import CapturedModel
from harness.reproducibility.comparison import first_difference
from harness.reproducibility.trace import Trace, Tracer
from harness.training import Step


def rebuilt_graph(
    model: ModelUnderTest, reference: Trace, captured: CapturedModel | None, why_not_captured: str
) -> Finding:
    """Train the module rebuilt from the graph, with the original module's initial tensors."""
    if captured is None:
        return not_applicable(Axis.GRAPH, why_not_captured)
    module, rebuilt = model.module(), captured.to_module()
    tensors = {
        **dict(rebuilt.named_parameters(remove_duplicate=False)),
        **dict(rebuilt.named_buffers(remove_duplicate=False)),
    }
    names = []
    with torch.no_grad():
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            tensors[name].copy_(tensor)
            names.append(name)
    tracer = _PartTracer(model.device, frozenset(names))
    difference = first_difference(reference, model.trace(rebuilt, tracer=tracer))
    if difference is None:
        return compared(Axis.GRAPH, None)
    before = StateSnapshot(module, model.device)
    model.trace(module, upto=difference.step)
    changed = before.changed(StateSnapshot(module, model.device))
    attributes = [name for name in changed if name.startswith("attribute ")]
    evidence = [*captured.fidelity.differences]
    if attributes:
        evidence.append(
            f"the module changes {', '.join(attributes)} in training; a graph holds the value from its capture"
        )
    hint = "`harness train` trains the graph. Keep in a buffer what changes, and draw with torch."
    return compared(Axis.GRAPH, difference, evidence=evidence, hint=hint)


class _PartTracer(Tracer):
    """Traces only the tensors of these names: the constants of a graph are buffers of its module, too."""

    def __init__(self, device: torch.device, names: frozenset[str]) -> None:
        super().__init__(device)
        self._names = names

    def before_step(self, step: Step) -> None:
        super().before_step(replace(step, module=_Part(step.module, self._names)))

    def after_step(self, step: Step) -> None:
        super().after_step(replace(step, module=_Part(step.module, self._names)))


class _Part(nn.Module):
    """A module reduced to its tensors of some names."""

    def __init__(self, module: nn.Module, names: frozenset[str]) -> None:
        super().__init__()
        self._whole = [module]
        self._names = names

    def named_parameters(self, *_: Any, **__: Any) -> Iterator[tuple[str, nn.Parameter]]:  # noqa: ANN401
        named = self._whole[0].named_parameters(remove_duplicate=False)
        return ((name, tensor) for name, tensor in named if name in self._names)

    def named_buffers(self, *_: Any, **__: Any) -> Iterator[tuple[str, Tensor]]:  # noqa: ANN401
        named = self._whole[0].named_buffers(remove_duplicate=False)
        return ((name, tensor) for name, tensor in named if name in self._names)


def frozen_draws(captured: CapturedModel) -> Finding:
    """The finding for a graph that does not compute what its module computes."""
    return finding(
        Axis.FROZEN,
        Status.FAIL,
        "; ".join(captured.fidelity.differences),
        ("`harness train` and `harness verify` train the graph, which repeats what the module drew during capture",),
        "Draw with torch in forward, and keep counts in buffers.",
    )
