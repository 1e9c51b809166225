"""Experiments on a rebuilt model: what is read off the graph must also show when it runs.

Numbers are compared in double precision, where rounding stays many orders of magnitude below any real dependence; a model that
cannot run in double precision is compared in single precision with a larger tolerance.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn
from torch.nn import functional

from harness.graph.captured import CapturedModel
from harness.graph.module_state import ModuleState, same_tensor
from harness.graph.rebuild import GraphModule
from harness.structure.fields import FieldMap
from harness.structure.probe import confirms, probe_receptive_field
from harness.structure.structure import Structure

_SEED = 4_409
IMAGES = 6
TRAINING_PASSES = 10
# Relative to the output's own size: far above rounding, far below an image's influence. Other types hold whole numbers.
_BOUND = {torch.float64: 1e-9, torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}


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
    """The gradients after one backward pass.

    Args:
        missing: trainable parameters without a gradient, or with zeros only.
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
            order = torch.randperm(rows * columns, generator=torch.Generator().manual_seed(_SEED))
            return value.flatten(-2)[..., order].reshape(value.shape)

        with torch.no_grad():
            changed: torch.Tensor = self._evaluating.run_with(self._images, {pool.before: shuffled})
        return self._same(changed, self._predictions)

    @cached_property
    def training_passes_differ(self) -> bool:
        """Whether training passes over the same images differ, in any of ten.

        Weights that are zero are drawn anew: a branch that starts at zero would hide what happens on it.
        """
        return self._training_differs(lambda module: {"output": module(self._images)})

    @cached_property
    def dropouts_draw(self) -> bool:
        """As `training_passes_differ`, of what dropouts give: beside a far larger branch, their effect is lost in rounding."""
        names = {op.name for op in self._captured.graph.train.operations if op.kind.family == "dropout"}
        return self._training_differs(lambda module: {k: v for k, v in module.trace(self._images).items() if k in names})

    def _training_differs(self, values: Callable[[GraphModule], dict[str, torch.Tensor]]) -> bool:
        # A copy: training passes move the running statistics, which evaluation reads.
        module = copy.deepcopy(self._evaluating).train()
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            for parameter in module.parameters():
                parameter.copy_(torch.where(parameter == 0, 0.1 * torch.randn_like(parameter), parameter))
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
        """Whether any prediction is finite: nothing shows in others."""
        return bool(self._predictions.isfinite().any())

    @cached_property
    def predictions_vary(self) -> bool:
        """Whether different images get different predictions: an output that is constant or NaN shows no effect."""
        if not self._predictions.ndim or not self.has_predictions:
            return False
        return not self._same(self._predictions[:1].expand_as(self._predictions), self._predictions)

    @cached_property
    def evaluation_repeats(self) -> bool:
        """Whether evaluation passes are equal to the bit."""
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
        order = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(_SEED))
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
        """The gradients after one backward pass over a batch."""
        module = self._captured.to_module().train()
        generator = torch.Generator().manual_seed(_SEED)
        images = self._suitable(torch.randn((4 * IMAGES, *module.graph.input_shape), generator=generator))
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(_SEED)
                output = module(images)
            if output.requires_grad:
                torch.autograd.backward(_loss(output, generator))
        except RuntimeError as error:
            # Such as a value that was changed in place after something else had kept it for the backward pass.
            return Gradients(missing=(), not_finite=(), failure=str(error).partition(". Hint:")[0])
        return Gradients(
            missing=_named(module, lambda gradient: gradient is None or not bool(gradient.any())),
            not_finite=_named(module, lambda gradient: gradient is not None and not bool(gradient.isfinite().all())),
        )

    @cached_property
    def _evaluating(self) -> GraphModule:
        return _in_double(self._captured)[0]

    @cached_property
    def _images(self) -> torch.Tensor:
        images = torch.randn(
            (IMAGES, *self._captured.graph.input_shape), generator=torch.Generator().manual_seed(_SEED)
        )
        return self._suitable(images).to(_in_double(self._captured)[1])

    def _suitable(self, images: torch.Tensor) -> torch.Tensor:
        """The images, or between 0 and 1 where the model needs that, such as one that takes their square root."""
        module, between = self._captured.to_module().eval(), images.abs().clamp(max=1)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            finite = [bool(module(candidate).isfinite().all()) for candidate in (images, between)]
        return between if finite == [False, True] else images

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
        return equal and bool(difference <= _BOUND.get(self._predictions.dtype, 0.0))


def _is_map(field_map: FieldMap) -> bool:
    """Whether rows and columns are the value's last two dimensions, as far as it has them."""
    return all(axes in ((), (axis,)) for axes, axis in zip(field_map.axes[-2:], "HW", strict=False))


def _loss(output: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Cross entropy with random labels; of an output that is no row of scores an image, its mean."""
    if output.ndim < 2 or not output.is_floating_point():  # noqa: PLR2004 - images and scores
        return output.mean()
    scores = output.flatten(1)
    return functional.cross_entropy(scores, torch.randint(scores.shape[1], (len(scores),), generator=generator))


def _in_double(captured: CapturedModel) -> tuple[GraphModule, torch.dtype]:
    """The model in evaluation mode, with the type of its images: double precision, or single where it cannot run in double."""
    module = captured.to_module().double().eval()
    try:
        with torch.no_grad():
            module(torch.zeros((2, *captured.graph.input_shape), dtype=torch.float64))
    except RuntimeError:
        return captured.to_module().eval(), torch.float32
    return module, torch.float64


def _named(module: nn.Module, condition: Callable[[torch.Tensor | None], bool]) -> tuple[str, ...]:
    return tuple(
        name for name, parameter in module.named_parameters() if parameter.requires_grad and condition(parameter.grad)
    )
