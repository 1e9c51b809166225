"""Experiments on a rebuilt model: what is read off the graph must also show when it runs.

How precisely numbers are compared is said in `harness.structure.interventions`.
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

from harness.graph.capture import CapturedModel
from harness.graph.rebuild import GraphModule
from harness.structure.fields import FieldMap
from harness.structure.interventions import BOUNDS, IMAGES, SEED, draw_zeros_anew, rebuilt_in_double
from harness.structure.probe import confirms, probe_receptive_field
from harness.structure.structure import Structure

TRAINING_PASSES = 10
# As many layers in a row may start at zero.
_GRADIENT_STEPS = 4


@dataclass(frozen=True, kw_only=True)
class FieldComparison:
    """The traced receptive field compared with the probed one.

    Args:
        checked: how many values were compared, position by position: those whose field is called exact.
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
    """Experiments on copies of one model, on the CPU; each is run when first asked for.

    Torch's global random state is left as it was.
    """

    def __init__(self, captured: CapturedModel, structure: Structure) -> None:
        self._captured = captured
        self._structure = structure

    @cached_property
    def fields(self) -> FieldComparison:
        """The receptive field of every value, as traced and as probed."""
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
        and columns, or when evaluation draws random numbers.
        """
        pool = self._structure.head_pool
        if pool is None or pool.before == self._captured.graph.input_name or not self.evaluation_repeats:
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
        """Whether training passes over the same images differ, in any of ten.

        Weights that are zero are drawn anew: a branch that starts at zero would hide what happens on it.
        """
        # A copy: training passes move the running statistics, which evaluation reads.
        module = copy.deepcopy(self._evaluating).train()
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            draw_zeros_anew(module)
            first = module(self._images)
            return not all(self._same(module(self._images), first) for _ in range(TRAINING_PASSES))

    @cached_property
    def predictions_vary(self) -> bool:
        """Whether different images get different predictions: an output that is constant shows no effect."""
        return not self._same(self._predictions[:1].expand_as(self._predictions), self._predictions)

    @cached_property
    def distribution(self) -> Literal["probabilities", "log-probabilities"] | None:
        """What the numbers of each image's prediction are, by their sum or that of their exponentials; None for neither."""
        rows = self._predictions
        if rows.ndim != 2 or rows.shape[1] == 1:  # noqa: PLR2004 - (batch, classes)
            return None
        bound = BOUNDS[rows.dtype]
        if bool((rows.logsumexp(1).abs() < bound).all()):
            return "log-probabilities"
        return "probabilities" if bool((rows >= 0).all() and ((rows.sum(1) - 1).abs() < bound).all()) else None

    @cached_property
    def evaluation_repeats(self) -> bool:
        """Whether evaluation passes are equal to the bit."""
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            return all(torch.equal(self._evaluating(self._images), self._predictions) for _ in range(TRAINING_PASSES))

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
        order = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(SEED))
        with torch.no_grad():
            return self._same(self._evaluating(self._images[order]), self._predictions[order])

    @cached_property
    def batch_independent(self) -> bool:
        """Whether an image's prediction stays the same when all other images of the batch are replaced."""
        batch = torch.cat([self._images[:1], -3 * self._images[1:]])
        with torch.no_grad():
            return self._same(self._evaluating(batch)[:1], self._predictions[:1])

    @cached_property
    def gradients(self) -> Gradients:
        """The gradients of a few training steps: behind weights that start at zero, a gradient comes after the first."""
        module = self._captured.to_module().train()
        generator = torch.Generator().manual_seed(SEED)
        images = torch.randn((4 * IMAGES, *module.graph.input_shape), generator=generator)
        missing = set(dict(module.named_parameters()))
        for _ in range(_GRADIENT_STEPS):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(SEED)
                output = module(images).flatten(1)
            labels = torch.randint(output.shape[1], (len(output),), generator=generator)
            module.zero_grad()
            if output.requires_grad:
                try:
                    torch.autograd.backward(functional.cross_entropy(output, labels))
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
    def _evaluating(self) -> GraphModule:
        return rebuilt_in_double(self._captured.graph, self._captured.state)

    @cached_property
    def _images(self) -> torch.Tensor:
        shape = (IMAGES, *self._captured.graph.input_shape)
        dtype = next((p.dtype for p in self._evaluating.parameters() if p.is_floating_point()), torch.float32)
        return torch.randn(shape, generator=torch.Generator().manual_seed(SEED)).to(dtype)

    @cached_property
    def _predictions(self) -> torch.Tensor:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            predictions: torch.Tensor = self._evaluating(self._images)
            return predictions

    def _same(self, a: torch.Tensor, b: torch.Tensor) -> bool:
        if a.shape != b.shape:
            return False
        size = self._predictions.abs().max().clamp(min=1e-30)
        return bool(((a - b).abs().max() / size) < BOUNDS[self._predictions.dtype])


def _is_map(field_map: FieldMap) -> bool:
    """Whether rows and columns are the value's last two dimensions, as far as it has them."""
    return all(axes in ((), (axis,)) for axes, axis in zip(field_map.axes[-2:], "HW", strict=False))


def _named(module: nn.Module, condition: Callable[[torch.Tensor | None], bool]) -> tuple[str, ...]:
    return tuple(
        name for name, parameter in module.named_parameters() if parameter.requires_grad and condition(parameter.grad)
    )
