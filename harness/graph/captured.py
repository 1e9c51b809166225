"""`CapturedModel`: a graph with its initial tensors, and the result of comparing it with the module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from harness.errors import CaptureError
from harness.graph.form import Graph
from harness.graph.rebuild import GraphModule

# What a model does with images of another size than it was built for.
OtherSize = Literal["refused", "one prediction each", "other predictions"]


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """The result of comparing the captured graph with the eager module, bit for bit.

    Args:
        repeatable: two captures gave the same graph and constants.
        eval_equal: the outputs in evaluation are equal, for several images and for one.
        train_equal: outputs, gradients, parameters and buffers of some training steps are equal, from the same random state.
        other_size: what the eager module does with images four pixels larger; ``other predictions`` means that
            it returns more or fewer predictions than there are images.
        single_image: the shape of the eager module's output for one image; None if it fails.
        single_image_failure: why the eager module fails for one image; empty if it does not.
        finite: the output is finite throughout for at least some images.
        training_failure: the error, if the backward passes of module and graph fail in the same way; empty otherwise.
        differences: a sentence for each failed comparison.
    """

    repeatable: bool = True
    eval_equal: bool = True
    train_equal: bool = True
    other_size: OtherSize = "refused"
    single_image: tuple[int, ...] | None = None
    single_image_failure: str = ""
    finite: bool = True
    training_failure: str = ""
    differences: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether the capture is repeatable and equal to the module in both modes."""
        return self.repeatable and self.eval_equal and self.train_equal


@dataclass(frozen=True, kw_only=True, eq=False)
class CapturedModel:
    """A captured model: its graph, its fidelity, and initial parameters, buffers and constants by name, on the CPU."""

    name: str
    graph: Graph
    state: Mapping[str, torch.Tensor]
    fidelity: Fidelity

    def to_module(self) -> GraphModule:
        """Return a new trainable module with its own copy of the tensors."""
        return GraphModule(self.graph, self.state)

    def require_trainable(self) -> None:
        """Refuse to train if the graph differs from the model, or the output is not one row of scores per image.

        Raises:
            CaptureError: the capture differs from the model, the model's own backward pass fails, or its output is not
                one row of floating-point numbers per image.
        """
        problem = "; ".join(self.fidelity.differences)
        if self.fidelity.training_failure:
            problem = f"a training step fails: {self.fidelity.training_failure}"
        outputs = {operation.name: operation.outputs for operation in self.graph.train.operations}
        (meta,) = outputs.get(self.graph.train.output) or (None,)
        if meta is not None and ("float" not in meta.dtype or meta.shape[:1] != ("B",)):
            problem = f"its output is {meta.dtype} of shape ({', '.join(map(str, meta.shape))})"
        if problem:
            msg = (
                f"{self.name} cannot be trained: expected a model that gives each image a row of scores, and a captured graph, "
                f"which is what is trained, that computes what the model computes, but {problem}. Change the model; "
                "`harness check` examines its structure all the same"
            )
            raise CaptureError(msg)
