"""`CapturedModel`: a graph, the initial tensors, and the result of comparing the graph with the module."""

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
        repeatable: whether two captures gave the same graph and constants.
        eval_equal: whether graph and module give equal outputs in evaluation mode, for several images and for one.
        train_equal: whether graph and module have equal outputs, gradients, parameters and buffers after each of a few
            training steps that start from the same random state.
        other_size: what the eager module does with images four pixels larger in height and width; ``other predictions``
            means that the module returns more or fewer predictions than there are images.
        single_image: the shape of the eager module's output for one image; None if the module fails for one image.
        single_image_failure: the error of the eager module for one image; empty if there is none.
        finite: False if the module returns NaN or infinity both for normally distributed images and for images between
            0 and 1.
        training_failure: the module's error, if the same training step of module and graph fails; empty otherwise.
        differences: a sentence for each comparison that found a difference.
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
        """Whether capture is repeatable and the graph equals the module in training and in evaluation mode."""
        return self.repeatable and self.eval_equal and self.train_equal


@dataclass(frozen=True, kw_only=True, eq=False)
class CapturedModel:
    """A captured model: the graph, how the graph compares with the module (``fidelity``), and the initial tensors.

    ``state`` maps the name of each parameter, buffer and constant to the initial tensor, on the CPU. ``is_own_statement``
    says that ``fidelity`` comes from the process that ran the model's code, which could have forged it.
    """

    name: str
    graph: Graph
    state: Mapping[str, torch.Tensor]
    fidelity: Fidelity
    is_own_statement: bool = False

    def to_module(self) -> GraphModule:
        """Build a trainable `GraphModule` from the graph and a new copy of the initial tensors."""
        return GraphModule(self.graph, self.state)

    def require_trainable(self) -> None:
        """Raise an error if the captured model cannot be trained.

        Raises:
            CaptureError: the graph differs from the model, a training step of the model fails, training changes a tensor
                that is not in the ``state_dict``, or the output of the model is not one row of floating-point numbers
                per image.
        """
        problem = "; ".join(self.fidelity.differences)
        if lost := self.graph.changed_outside_state_dict():
            problem = f"training changes {', '.join(lost)}, which the state_dict does not hold: use a persistent buffer"
        if self.fidelity.training_failure:
            problem = f"a training step fails: {self.fidelity.training_failure}"
        outputs = {operation.name: operation.outputs for operation in self.graph.train.operations}
        (meta,) = outputs.get(self.graph.train.output) or (None,)
        if meta is not None and ("float" not in meta.dtype or meta.shape[:1] != ("B",)):
            problem = f"the model's output is {meta.dtype} of shape ({', '.join(map(str, meta.shape))})"
        if problem:
            msg = (
                f"{self.name} cannot be trained: expected a model that returns one row of scores for each image, and a captured "
                f"graph that computes the same as the model, but {problem}. Change the model; `harness check` can examine the "
                "structure of a model that cannot be trained"
            )
            raise CaptureError(msg)
