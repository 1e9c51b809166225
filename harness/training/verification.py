"""Verification of an engine: before a training, the results of the engine on the model are compared with the reference."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from harness.graph import GraphModule
from harness.training.dropout import NothingDropped, unseedable_operation, without_dropout

if TYPE_CHECKING:
    from harness.training.engines import Engine

_IMAGES = 16
# Unit roundoffs of formats with a significand of p bits: 2^-p (Higham, Accuracy and Stability of Numerical Algorithms,
# 2nd ed., 2002, section 2.1).
FLOAT32 = 2.0**-24
BFLOAT16 = 2.0**-8
# Tolerance in float64, see `_difference`; the errors of a wrong operation are far larger.
_EXACT = 1e-9
# Tolerance in float32, after two steps on the training device.
_AFTER_TWO_STEPS = 1e-3
# Number of values of each operation that rounding may move across the threshold of a ReLU, even if fewer are expected.
_STRAY_FLIPS = 4


class Verification(Protocol):
    """Compares the results of an engine on a model with those of the reference, which are correct by definition."""

    def difference(self, engine: Engine, reference: Engine, module: GraphModule, device: torch.device) -> str:
        """Return what ``engine`` computes differently from ``reference``, as a noun phrase; empty if nothing.

        ``module`` is on the CPU and is not changed; ``device`` is where it is to be trained.

        Raises:
            RuntimeError: an operation does not run in the engine.
        """


@dataclass(frozen=True)
class OneStep:
    """Compares output and gradients of one training pass on a CPU, in float64 and in float32.

    * In float64, which no engine rounds to a narrower format, output, gradients and buffers must agree to 1e-9, which
      detects any wrong operation.
    * In float32, as in training, output and gradients must agree within the `rounding_bounds` for the ``unit_roundoff``
      of the engine's narrowest format, always with relative errors below 1, and log-probabilities must be normalised as
      accurately as in float32.

    Dropout multiplies all values by its factor but drops none (`NothingDropped`), since engines may draw different
    random numbers.
    """

    unit_roundoff: float

    def difference(self, engine: Engine, reference: Engine, module: GraphModule, device: torch.device) -> str:
        """Return what differs in one training pass, as a noun phrase; see `Verification.difference`."""
        del device  # all engines with this verification run on the CPU only
        with NothingDropped():  # type: ignore[no-untyped-call]
            found, expected = (_step(each, module, torch.float64) for each in (engine, reference))
            if difference := _difference(found.tensors(), expected.tensors(), _EXACT):
                return difference
            found, expected = (_step(each, module, torch.float32) for each in (engine, reference))
        bounds = rounding_bounds(module, self.unit_roundoff)
        for name, error, bound in (
            ("the output", _error(_per_image(found.output), _per_image(expected.output)), bounds.output),
            ("the gradient", _error(found.gradient(), expected.gradient()), bounds.gradient),
        ):
            # NaN fails every comparison; a result of zeros has an error of 1, which must never be accepted.
            if not (error <= bound and error < 1):
                return f"{name}, by a relative error of {error:.2g} where rounding explains up to {bound:.2g}"
        if _normalisation_error(expected.output) <= 1 < _normalisation_error(found.output):
            return "the sum of the probabilities, which is less accurate than in float32"
        return ""


@dataclass(frozen=True)
class TwoStepsOnDevice:
    """Compares parameters and buffers after two optimizer steps without dropout, on the training device.

    This verification is for engines that give each run its own generator. A model with random operations other than
    dropout is refused, since these accept no generator.
    """

    def difference(self, engine: Engine, reference: Engine, module: GraphModule, device: torch.device) -> str:
        """Return what differs after two steps, as a noun phrase; see `Verification.difference`."""
        if operation := unseedable_operation(module.graph.train):
            return f"{operation}, which draws random numbers and accepts no generator"
        found, expected = (_trained(each, module, device) for each in (engine, reference))
        return _difference(found, expected, _AFTER_TWO_STEPS)


@dataclass(frozen=True)
class Bounds:
    """The largest relative errors, in the 2-norm, that rounding explains.

    ``output`` is for the outputs minus their mean over the images, ``gradient`` for the gradient of all parameters
    together.
    """

    output: float
    gradient: float


def rounding_bounds(module: GraphModule, unit_roundoff: float) -> Bounds:
    """Bound the errors of output and gradients that rounding with unit roundoff u explains; infinite if n w >= 1 (see below).

    *One operation.* Its result is stored in the engine's format, with a relative error of at most u. Sums of products are
    accumulated in float32; over K products they add gamma_K = K v / (1 - K v) with v = 2^-24 (N. J. Higham, Accuracy and
    Stability of Numerical Algorithms, 2nd ed., 2002, section 3.1). K is the largest number of products in
    one output value of a layer. Each operation thus has the error w = u + gamma_K.

    *The output.* The images, each operation's result and each weight where it is used are rounded: n roundings, which
    by Higham's lemma 3.1 multiply to 1 + theta with abs(theta) <= gamma_n = n w / (1 - n w). The bound assumes that no
    operation amplifies relative errors of its input, in the mean over the values of a tensor; batch norm keeps them at
    the scale of the values, ReLU and pooling are Lipschitz with constant 1. The bound is a worst case: on the shipped
    models the error of bfloat16 is at most a quarter of it. The mean over the images is subtracted from the output,
    since what is common to all images would hide a wrong operation.

    *The gradient.* Its smooth part depends on the forward and on the backward pass: gamma_2n. ReLU and max pooling have jumps
    in their derivative: if r roundings came before one of them, its input is off by up to gamma_r, and for normally distributed
    values a share of about gamma_r / pi changes sign (W. F. Sheppard, Phil. Trans. R. Soc. A 192, 1899: the angle between
    two vectors, as a share of pi); in small tensors, a few more by chance. A value that changes sign loses or gains its
    gradient, which half of the values have: the squared relative error is twice the share, summed over operations.
    """
    weights = {name: weight for name, weight in module.named_parameters() if weight.dim() > 1}
    products = max((weight[0].numel() for weight in weights.values()), default=1)
    w = unit_roundoff + gamma(products, FLOAT32)
    roundings, flipped = 1, 0.0
    for operation in module.graph.train.operations:
        if not operation.outputs or not operation.outputs[0].dtype.startswith("float"):
            continue
        if operation.kind.name in {"relu", "max_pool2d"}:
            values = _IMAGES * math.prod(size for size in operation.outputs[0].shape if isinstance(size, int))
            flipped += gamma(roundings, w) / math.pi + _STRAY_FLIPS / values
        roundings += 1 + sum(name in weights for name in operation.refs())
    return Bounds(output=gamma(roundings, w), gradient=math.hypot(gamma(2 * roundings, w), math.sqrt(2 * flipped)))


def gamma(n: int, u: float) -> float:
    """Bound the relative error of n roundings by n u / (1 - n u) (Higham, 2002, lemma 3.1); infinite if n u >= 1."""
    return n * u / (1 - n * u) if n * u < 1 else math.inf


@dataclass(frozen=True)
class _Step:
    output: Tensor
    gradients: dict[str, Tensor]
    buffers: dict[str, Tensor]

    def tensors(self) -> dict[str, Tensor]:
        gradients = {f"the gradient of {name}": gradient for name, gradient in self.gradients.items()}
        return {"the output": self.output, **gradients, **self.buffers}

    def gradient(self) -> Tensor:
        return torch.cat([gradient.flatten() for gradient in self.gradients.values()])


def _step(engine: Engine, module: GraphModule, dtype: torch.dtype) -> _Step:
    model = copy.deepcopy(module).to(dtype).train()
    drawn = torch.Generator().manual_seed(0)
    images = torch.randn(_IMAGES, *module.graph.input_shape, dtype=torch.float64, generator=drawn).to(dtype)
    torch.manual_seed(0)
    output = engine.network(model, None)(images)
    torch.autograd.backward((output * torch.randn(output.shape, dtype=torch.float64, generator=drawn)).sum())
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return _Step(output.detach(), gradients, dict(model.named_buffers()))


def _trained(engine: Engine, module: GraphModule, device: torch.device) -> dict[str, Tensor]:
    """Return the parameters and buffers of a module after two optimizer steps of an engine without dropout."""
    graph = replace(module.graph, train=without_dropout(module.graph.train))
    model = GraphModule(graph, {**dict(module.named_parameters()), **dict(module.named_buffers())}).to(device).train()
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.01, momentum=0.9)
    compute = engine.prepare(model, optimizer, torch.Generator(device) if engine.has_own_random_generator else None)
    drawn = torch.Generator().manual_seed(0)
    for _ in range(2):
        images = torch.randn(_IMAGES, *graph.input_shape, generator=drawn)
        labels = torch.randint(0, 10, (_IMAGES,), generator=drawn)
        compute(images.to(device), labels.to(device))
    return {name: tensor.detach() for name, tensor in (*model.named_parameters(), *model.named_buffers())}


def _difference(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> str:
    """Return the name of the first tensor of ``expected`` that differs from ``found``; empty if none does.

    A tensor differs if the error of a value exceeds ``tolerance`` times the largest absolute value in the tensor, or
    times 1 if that is larger.
    """
    for name, tensor in expected.items():
        scale = max(float(tensor.abs().nan_to_num().max()), 1.0) if tensor.numel() else 1.0
        if name not in found or not torch.allclose(
            found[name].to(tensor.dtype), tensor, rtol=0, atol=tolerance * scale, equal_nan=True
        ):
            return name
    return ""


def _per_image(output: Tensor) -> Tensor:
    """Subtract from the outputs, (B, 10), their mean over the images."""
    return output - output.mean(dim=0)


def _error(found: Tensor, expected: Tensor) -> float:
    """Return the relative error of ``found`` in the 2-norm, over the values that are finite in ``expected``."""
    finite = expected.isfinite()
    off = float((found.double() - expected.double())[finite].norm())
    size = float(expected.double()[finite].norm())
    return off / size if size else off


def _normalisation_error(output: Tensor) -> float:
    """Return how far sums of probabilities are from 1, divided by the accuracy of such sums in float32.

    ``output`` holds log-probabilities, (B, C). Each log-probability x has an absolute error of about gamma_C (1 +
    abs(x)), which is also the relative error of its exponential.
    """
    accuracy = gamma(output.shape[1], FLOAT32) * (1 + float(output.abs().max()))
    return float((output.double().exp().sum(dim=1) - 1).abs().max()) / accuracy
