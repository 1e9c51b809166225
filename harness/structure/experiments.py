"""Experiments that run a rebuilt model, to confirm properties that were determined from the model's graph.

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
# With n steps, gradients are complete even if n - 1 layers in a row are initialised to zero.
_GRADIENT_STEPS = 4


@dataclass(frozen=True, kw_only=True)
class FieldComparison:
    """The result of comparing the receptive fields traced in the graph with those found by experiment.

    Args:
        checked: number of values whose fields were compared; only values with an exact traced field are.
        disagreements: names of the values whose traced field differs from the field found by experiment.
    """

    checked: int
    disagreements: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Gradients:
    """Which parameters had no usable gradient in a few training steps.

    Args:
        missing: trainable parameters whose gradient was absent or zero throughout in every step.
        not_finite: trainable parameters whose gradient contained NaN or infinity.
        failure: the error if a training step failed; empty otherwise.
    """

    missing: tuple[str, ...]
    not_finite: tuple[str, ...]
    failure: str = ""

    @property
    def complete(self) -> bool:
        """Whether every trainable parameter has a finite gradient that is not zero."""
        return not self.missing and not self.not_finite and not self.failure


class Experiments:
    """Experiments on copies of one captured model, on the CPU; each experiment runs when its result is first accessed.

    The experiments leave torch's global random state unchanged.
    """

    def __init__(self, captured: CapturedModel, structure: Structure) -> None:
        self._captured = captured
        self._structure = structure

    @cached_property
    def fields(self) -> FieldComparison:
        """The comparison of each value's receptive field traced in the graph with the field found by experiment."""
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

        None if the head has no global pooling, if the pooled value is the image or has other last dimensions than rows and
        columns, if repeated evaluation passes differ, or if no prediction is finite.
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
        """Whether any of ten further training passes over the same images has another output than the first pass.

        Zero weights are first replaced by random numbers, since the output cannot show dropout before a layer of zeros.
        """
        return self._training_differs(lambda module: {"output": module(self._images)})

    @cached_property
    def dropouts_draw(self) -> bool:
        """Whether the results of operations that draw random numbers differ between training passes over the same images.

        Differences too small to change the output after rounding are found as well; see `training_passes_differ`.
        """
        names = {op.name for op in self._captured.graph.train.operations if op.kind.draws}
        return self._training_differs(
            lambda module: {k: v for k, v in module.trace(self._images).items() if k in names}
        )

    def _training_differs(self, values: Callable[[GraphModule], dict[str, torch.Tensor]]) -> bool:
        # A copy, since training passes update the running statistics that evaluation uses.
        module = copy.deepcopy(self._evaluating).train()
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            draw_zeros_anew(module)
            state, first = ModuleState(module), values(module)
            for _ in range(TRAINING_PASSES):
                # Buffers that a pass has changed are restored, so that only random numbers can make passes differ.
                state.restore_tensors()
                again = values(module)
                # Compared exactly: the effect of dropout may be as small as a rounding error.
                if not all(same_tensor(again[name], value) for name, value in first.items()):
                    return True
        return False

    @property
    def has_predictions(self) -> bool:
        """Whether any prediction for random images is finite; without one, comparing predictions shows nothing."""
        return bool(self._predictions.isfinite().any())

    @cached_property
    def predictions_vary(self) -> bool:
        """Whether different images get different predictions; if the output is constant or NaN, experiments show nothing."""
        if not self._predictions.ndim or not self.has_predictions:
            return False
        return not self._same(self._predictions[:1].expand_as(self._predictions), self._predictions)

    @cached_property
    def distribution(self) -> Literal["probabilities", "log-probabilities"] | None:
        """Whether each image's outputs sum to one (probabilities) or their exponentials do; None if neither is the case."""
        rows = self._predictions
        if rows.ndim != 2 or rows.shape[1] == 1 or not rows.is_floating_point():  # noqa: PLR2004 - (batch, classes)
            return None
        bound = BOUNDS[rows.dtype]
        if bool((rows.logsumexp(1).abs() < bound).all()):
            return "log-probabilities"
        return "probabilities" if bool((rows >= 0).all() and ((rows.sum(1) - 1).abs() < bound).all()) else None

    @cached_property
    def evaluation_repeats(self) -> bool:
        """Whether ten further evaluation passes over the same images return exactly the output of the first pass."""
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            return all(same_tensor(self._evaluating(self._images), self._predictions) for _ in range(TRAINING_PASSES))

    @cached_property
    def batch_size_invariant(self) -> bool:
        """Whether each image gets the same prediction in a batch of one as in a larger batch."""
        with torch.no_grad():
            try:
                alone = torch.cat([self._evaluating(image[None]) for image in self._images])
            except (RuntimeError, IndexError):
                # For example, a squeeze that also removes the batch dimension of a single image.
                return False
        return self._same(alone, self._predictions)

    @cached_property
    def permutation_equivariant(self) -> bool:
        """Whether permuting the images of a batch permutes the predictions in the same way."""
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
        """The result of up to four training steps; after the first alone, zero weights can make other gradients zero."""
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
                # For example, an in-place operation changed a value that the backward pass needs.
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
        # Infinities and NaN must be equal and at the same positions.
        difference = torch.where(both, a.double() - b.double(), 0.0).abs().max() / size
        equal = bool((both | (a == b) | (a.isnan() & b.isnan())).all())
        return equal and bool(difference <= BOUNDS.get(self._predictions.dtype, 0.0))


def _is_map(field_map: FieldMap) -> bool:
    """Whether the last two dimensions of a value are rows and columns, or of size one and no axis of the image."""
    return all(axes in ((), (axis,)) for axes, axis in zip(field_map.axes[-2:], "HW", strict=False))


def _loss(output: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Cross entropy with random labels; for an output that is not one row of scores per image, the output's mean."""
    if output.ndim < 2 or not output.is_floating_point():  # noqa: PLR2004 - images and scores
        return output.mean()
    scores = output.flatten(1)
    return functional.cross_entropy(scores, torch.randint(scores.shape[1], (len(scores),), generator=generator))


def _named(module: nn.Module, condition: Callable[[torch.Tensor | None], bool]) -> tuple[str, ...]:
    return tuple(
        name for name, parameter in module.named_parameters() if parameter.requires_grad and condition(parameter.grad)
    )
