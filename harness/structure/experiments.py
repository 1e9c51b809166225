"""Experiments that run a rebuilt model to check what was determined from its graph.

`harness.structure.interventions` defines the numerical tolerances.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from harness.graph.captured import CapturedModel
from harness.graph.module_state import ModuleState, same_tensor
from harness.graph.rebuild import GraphModule
from harness.structure.fields import FieldMap
from harness.structure.interventions import BOUNDS, IMAGES, SEED, draw_zeros_anew, rebuilt_in_double, suitable
from harness.structure.probe import confirms, probe_receptive_field
from harness.structure.structure import Structure

TRAINING_PASSES = 10
# As many layers in a row may start at zero.
_GRADIENT_STEPS = 4


@dataclass(frozen=True, kw_only=True)
class FieldComparison:
    """The traced receptive field compared with the probed one.

    Args:
        checked: number of values compared, position by position: those whose traced field is exact.
        disagreements: the values where they differ.
    """

    checked: int
    disagreements: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Gradients:
    """The gradients of a few training steps.

    Args:
        missing: trainable parameters without a gradient, or with zeros only, in every step.
        not_finite: trainable parameters whose gradient holds NaN or infinity.
        failure: why the backward pass failed; empty when it did not.
    """

    missing: tuple[str, ...]
    not_finite: tuple[str, ...]
    failure: str = ""

    @property
    def complete(self) -> bool:
        """Whether every trainable parameter has a finite gradient that is not zero."""
        return not self.missing and not self.not_finite and not self.failure


class Experiments:
    """Experiments on copies of one model, on the CPU; each runs on first access.

    Torch's global random state is preserved.
    """

    def __init__(self, captured: CapturedModel, structure: Structure) -> None:
        self._captured = captured
        self._structure = structure

    @cached_property
    def fields(self) -> FieldComparison:
        """Compare the traced and the probed receptive field of every value."""
        checked, disagreements = 0, []
        for name, found in probe_receptive_field(self._captured.to_module()).items():
            field_map = self._structure.field_maps.get(name)
            if field_map is None or field_map.certainty != "exact":
                continue
            checked += 1
            if not confirms(field_map, found):
                disagreements.append(name)
        return FieldComparison(checked=checked, disagreements=tuple(disagreements))

    @cached_property
    def pooling_ignores_positions(self) -> bool | None:
        """Whether permuting the positions of the map before the head's global pooling leaves the output unchanged.

        None when there is no such pooling, when it pools the image itself or a value whose last two dimensions are not rows
        and columns, when evaluation draws random numbers, or when no prediction is finite.
        """
        pool = self._structure.head_pool
        if pool is None or pool.before == self._captured.graph.input_name or not self.evaluation_repeats:
            return None
        if not self.has_predictions:
            return None
        if not _is_map(self._structure.field_maps[pool.before]):
            return None

        def shuffled(value: torch.Tensor) -> torch.Tensor:
            rows, columns = value.shape[-2:]
            order = torch.randperm(rows * columns, generator=torch.Generator().manual_seed(SEED))
            return value.flatten(-2)[..., order].reshape(value.shape)

        with torch.no_grad():
            changed: torch.Tensor = self._evaluating.run_with(self._images, {pool.before: shuffled})
        return self._same(changed, self._predictions)

    @cached_property
    def training_passes_differ(self) -> bool:
        """Whether any of ten training passes over the same images differs from the first.

        Zero weights are first replaced by random ones: a zero-initialised branch would hide its randomness.
        """
        return self._training_differs(lambda module: {"output": module(self._images)})

    @cached_property
    def dropouts_draw(self) -> bool:
        """As `training_passes_differ`, for the results of random operations: rounding can hide them in the output."""
        names = {op.name for op in self._captured.graph.train.operations if op.kind.draws}
        return self._training_differs(
            lambda module: {k: v for k, v in module.trace(self._images).items() if k in names}
        )

    def _training_differs(self, values: Callable[[GraphModule], dict[str, torch.Tensor]]) -> bool:
        # A copy: training passes move the running statistics, which evaluation reads.
        module = copy.deepcopy(self._evaluating).train()
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            draw_zeros_anew(module)
            state, first = ModuleState(module), values(module)
            for _ in range(TRAINING_PASSES):
                # Only what is drawn may differ, not what a pass leaves in a buffer.
                state.restore_tensors()
                again = values(module)
                # To the bit: what dropout changes may be as small as rounding.
                if not all(same_tensor(again[name], value) for name, value in first.items()):
                    return True
        return False

    @property
    def has_predictions(self) -> bool:
        """Whether any prediction is finite, as experiments require."""
        return bool(self._predictions.isfinite().any())

    @cached_property
    def predictions_vary(self) -> bool:
        """Whether different images get different predictions; a constant or NaN output would hide every effect."""
        if not self._predictions.ndim or not self.has_predictions:
            return False
        return not self._same(self._predictions[:1].expand_as(self._predictions), self._predictions)

    @cached_property
    def distribution(self) -> Literal["probabilities", "log-probabilities"] | None:
        """The kind of prediction, if each image's values or their exponentials sum to one; None if neither do."""
        rows = self._predictions
        if rows.ndim != 2 or rows.shape[1] == 1 or not rows.is_floating_point():  # noqa: PLR2004 - (batch, classes)
            return None
        bound = BOUNDS[rows.dtype]
        if bool((rows.logsumexp(1).abs() < bound).all()):
            return "log-probabilities"
        return "probabilities" if bool((rows >= 0).all() and ((rows.sum(1) - 1).abs() < bound).all()) else None

    @cached_property
    def evaluation_repeats(self) -> bool:
        """Whether repeated evaluation passes are bitwise equal."""
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            return all(same_tensor(self._evaluating(self._images), self._predictions) for _ in range(TRAINING_PASSES))

    @cached_property
    def batch_size_invariant(self) -> bool:
        """Whether each image gets the same prediction in a batch of one as in a larger batch."""
        with torch.no_grad():
            try:
                alone = torch.cat([self._evaluating(image[None]) for image in self._images])
            except (RuntimeError, IndexError):
                # Such as a squeeze that takes the batch dimension of a single image with it.
                return False
        return self._same(alone, self._predictions)

    @cached_property
    def permutation_equivariant(self) -> bool:
        """Whether permuting the images permutes the predictions."""
        if self._predictions.shape[:1] != (IMAGES,):
            return False
        order = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(SEED))
        with torch.no_grad():
            return self._same(self._evaluating(self._images[order]), self._predictions[order])

    @cached_property
    def batch_independent(self) -> bool:
        """Whether an image's prediction stays the same when all other images of the batch are replaced."""
        if not self._predictions.ndim:
            return False
        batch = torch.cat([self._images[:1], -3 * self._images[1:]])
        with torch.no_grad():
            return self._same(self._evaluating(batch)[:1], self._predictions[:1])

    @cached_property
    def gradients(self) -> Gradients:
        """The gradients of a few training steps, as zero-initialised weights can block gradients in the first one."""
        module = self._captured.to_module().train()
        generator = torch.Generator().manual_seed(SEED)
        images = suitable(module, torch.randn((4 * IMAGES, *module.graph.input_shape), generator=generator))
        missing = set(dict(module.named_parameters()))
        for _ in range(_GRADIENT_STEPS):
            module.zero_grad()
            try:
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(SEED)
                    output = module(images)
                if output.requires_grad:
                    torch.autograd.backward(_loss(output, generator))
            except RuntimeError as error:
                # Such as a value that was changed in place after something else had kept it for the backward pass.
                return Gradients(missing=(), not_finite=(), failure=str(error).partition(". Hint:")[0])
            not_finite = _named(module, lambda gradient: gradient is not None and not bool(gradient.isfinite().all()))
            without = _named(module, lambda gradient: gradient is None or not bool(gradient.any()))
            missing &= set(without)
            if not_finite or not missing:
                break
            with torch.no_grad():
                for parameter in module.parameters():
                    if parameter.grad is not None:
                        parameter.sub_(0.1 * parameter.grad)
        return Gradients(missing=tuple(name for name in without if name in missing), not_finite=not_finite)

    @cached_property
    def _in_double(self) -> tuple[GraphModule, torch.dtype]:
        return rebuilt_in_double(self._captured.graph, self._captured.state)

    @property
    def _evaluating(self) -> GraphModule:
        return self._in_double[0]

    @cached_property
    def _images(self) -> torch.Tensor:
        module, dtype = self._in_double
        shape = (IMAGES, *self._captured.graph.input_shape)
        return suitable(module, torch.randn(shape, generator=torch.Generator().manual_seed(SEED)).to(dtype))

    @cached_property
    def _predictions(self) -> torch.Tensor:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            predictions: torch.Tensor = self._evaluating(self._images)
            return predictions

    def _same(self, a: torch.Tensor, b: torch.Tensor) -> bool:
        if a.shape != b.shape:
            return False
        finite = self._predictions[self._predictions.isfinite()].double()
        size = finite.abs().max().clamp(min=1e-30) if len(finite) else 1.0
        both = a.isfinite() & b.isfinite()
        # What is not finite must be so in the same places.
        difference = torch.where(both, a.double() - b.double(), 0.0).abs().max() / size
        equal = bool((both | (a == b) | (a.isnan() & b.isnan())).all())
        return equal and bool(difference <= BOUNDS.get(self._predictions.dtype, 0.0))


def _is_map(field_map: FieldMap) -> bool:
    """Whether the value's last two dimensions are rows and columns, or stand for no axis."""
    return all(axes in ((), (axis,)) for axes, axis in zip(field_map.axes[-2:], "HW", strict=False))


def _loss(output: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Cross entropy with random labels; for an output without a row of scores per image, its mean."""
    if output.ndim < 2 or not output.is_floating_point():  # noqa: PLR2004 - images and scores
        return output.mean()
    scores = output.flatten(1)
    return functional.cross_entropy(scores, torch.randint(scores.shape[1], (len(scores),), generator=generator))


def _named(module: nn.Module, condition: Callable[[torch.Tensor | None], bool]) -> tuple[str, ...]:
    return tuple(
        name for name, parameter in module.named_parameters() if parameter.requires_grad and condition(parameter.grad)
    )
