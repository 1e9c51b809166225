"""Operations that differ between training and evaluation: dropouts and batch normalisations, each in both modes."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from harness.graph.form import Operation, bind
from harness.structure.dataflow import DataFlow
from harness.structure.layers import dropout_probability, elements_per_image


@dataclass(frozen=True, kw_only=True)
class DropoutSite:
    """One dropout operation: where, with which probability, when it is active, and on how many numbers an image."""

    module: str
    p: float
    elements: int
    active_in_training: bool
    active_in_evaluation: bool

    @property
    def live(self) -> bool:
        """Whether it does what dropout is for: drops something in training and nothing in evaluation."""
        return self.active_in_training and not self.active_in_evaluation and self.p > 0


@dataclass(frozen=True, kw_only=True)
class BatchNormSite:
    """One batch normalisation: whether it learns from the batch in training and uses running statistics in evaluation."""

    module: str
    batch_statistics_in_training: bool
    batch_statistics_in_evaluation: bool

    @property
    def ordinary(self) -> bool:
        """Whether it normalises by the batch in training and by its running statistics in evaluation."""
        return self.batch_statistics_in_training and not self.batch_statistics_in_evaluation


def find_dropouts(train: DataFlow, evaluate: DataFlow) -> tuple[DropoutSite, ...]:
    """Dropouts on the way to the output, in training order; those active in evaluation only come last."""
    remaining = _by_module([operation for operation in evaluate.on_path if operation.kind.family == "dropout"])
    sites = []
    for operation in train.on_path:
        if operation.kind.family == "dropout":
            same = remaining[operation.module]
            active = _active(same.pop(0)) if same else False
            sites.append(_dropout_site(operation, training=_active(operation), evaluation=active))
    sites += [
        _dropout_site(operation, training=False, evaluation=True)
        for operation in evaluate.on_path
        if operation in remaining[operation.module] and _active(operation)
    ]
    return tuple(sites)


def find_batch_norms(train: DataFlow, evaluate: DataFlow) -> tuple[BatchNormSite, ...]:
    """Batch normalisations on the way to the output, in training order."""
    remaining = _by_module([operation for operation in evaluate.on_path if operation.kind.name == "batch_norm"])
    sites = []
    for operation in train.on_path:
        if operation.kind.name == "batch_norm":
            same = remaining[operation.module]
            sites.append(
                BatchNormSite(
                    module=operation.module,
                    batch_statistics_in_training=_active(operation),
                    batch_statistics_in_evaluation=_active(same.pop(0)) if same else False,
                )
            )
    return tuple(sites)


def _dropout_site(operation: Operation, *, training: bool, evaluation: bool) -> DropoutSite:
    return DropoutSite(
        module=operation.module,
        p=dropout_probability(bind(operation)),
        elements=elements_per_image(operation.shape),
        active_in_training=training,
        active_in_evaluation=evaluation,
    )


def _by_module(operations: list[Operation]) -> dict[str, list[Operation]]:
    """Operations by the submodule they run in: the n-th of one mode is the n-th of the other."""
    grouped: dict[str, list[Operation]] = defaultdict(list)
    for operation in operations:
        grouped[operation.module].append(operation)
    return grouped


def _active(operation: Operation) -> bool:
    """Whether a dropout or a batch normalisation works as it does in training."""
    arguments = bind(operation)
    return arguments.get("train", arguments.get("training")) is True
