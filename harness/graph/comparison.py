"""Compare a captured graph with its module, bit for bit: outputs, gradients and buffers.

A graph holds only the forward pass, so custom backward functions, hooks and checkpoints are found only by comparing
training steps.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch
from torch import autograd, nn
from torch.nn import functional
from torch.utils import checkpoint

from harness.errors import first_line
from harness.graph.captured import Fidelity, OtherSize
from harness.graph.form import Graph
from harness.graph.module_state import ModuleState, named_tensors, same_tensor
from harness.graph.places import place_of, place_of_error
from harness.graph.rebuild import GraphModule

SEED = 20_011
_IMAGE_BATCH_DIMS = 4
_LISTED = 3
# How large the gradient of the output is in each training step: a clipped or rounded gradient shows at one size or another.
_GRADIENT_SIZES = (1.0, 1e6, 1e-6)
_LEARNING_RATE = 0.01


def compare(
    module: nn.Module,
    graph: Graph,
    state: Mapping[str, torch.Tensor],
    example: torch.Tensor,
    *,
    before: ModuleState,
    repeatable: bool,
) -> Fidelity:
    """Compare the module and its graph on the same images, starting from the state ``before``."""
    differences = []
    if not repeatable:
        differences.append("two captures of the model differ: forward draws from Python, or keeps a count of its calls")
    rebuilt = GraphModule(graph, state)
    rebuilt_before = ModuleState(rebuilt)

    def restored() -> tuple[nn.Module, nn.Module]:
        before.restore()
        rebuilt_before.restore()
        return module, rebuilt

    passes = {"": example, "in another pass ": example, "for one image ": example[:1]}
    own, others = ([_evaluated(candidate, images) for images in passes.values()] for candidate in restored())
    # What the model itself refuses, its graph need not: a group norm of single values is an error for one image only.
    compared = own[:-1] if own[-1].failure else own
    in_eval = next(filter(None, map(_difference, ["eval"] * len(compared), compared, others, passes)), "")
    in_eval += _changes(before) if in_eval else ""
    in_training, training_failure = _training_difference(*(_training_steps(one, example) for one in restored()))
    if in_training:
        changes = _changes(before)
        before.restore()
        in_training += _explanation(module, example) + changes
    differences += [words for words in (in_eval, in_training) if words]
    single = own[-1].values.get("output")
    before.restore()
    other_size = _other_size(module, example)
    before.restore()
    # A model may be meant for numbers between 0 and 1.
    finite = any(_is_finite(_evaluated(module, images)) for images in (example, example.abs().clamp(max=1)))
    return Fidelity(
        repeatable=repeatable,
        eval_equal=not in_eval,
        train_equal=not in_training,
        other_size=other_size,
        single_image=None if single is None else tuple(single.shape),
        single_image_failure=own[-1].failure,
        finite=finite,
        training_failure=training_failure,
        differences=tuple(differences),
    )


@dataclass
class _Pass:
    """The tensors from a forward pass or a training step, by description, and its error if it failed."""

    values: dict[str, torch.Tensor | None] = field(default_factory=dict)
    failure: str = ""


def _evaluated(module: nn.Module, images: torch.Tensor) -> _Pass:
    result = _Pass()
    module.eval()
    torch.manual_seed(SEED)
    try:
        with torch.no_grad():
            result.values["output"] = module(images.clone())
    except Exception as error:  # noqa: BLE001 - a user's own code may raise anything
        result.failure = _failure(error)
    result.values.update((f"buffer {name}", tensor.clone()) for name, tensor in module.named_buffers())
    return result


def _training_steps(module: nn.Module, images: torch.Tensor) -> Iterator[_Pass]:
    """Run training steps with random output gradients until one fails; later steps may change the yielded tensors."""
    module.train()
    generator = torch.Generator().manual_seed(SEED)
    for number, size in enumerate(_GRADIENT_SIZES):
        result = _Pass()
        torch.manual_seed(SEED + number)
        try:
            output = module(images.clone())
            result.values["output"] = output.detach().clone()
            if output.requires_grad:
                weights = torch.randn(output.shape, generator=generator).to(output.dtype)
                autograd.backward((output * weights * size).sum())
            for name, tensor in named_tensors(module):
                is_parameter = isinstance(tensor, nn.Parameter)
                result.values[f"{'parameter' if is_parameter else 'buffer'} {name}"] = tensor.detach()
                if is_parameter:
                    result.values[f"gradient of {name}"] = tensor.grad
        except Exception as error:  # noqa: BLE001 - a user's own code may raise anything
            result.failure = _failure(error)
        yield result
        if result.failure:
            return
        try:
            with torch.no_grad():
                for parameter in module.parameters():
                    if parameter.grad is not None and not number:
                        parameter.sub_(parameter.grad, alpha=_LEARNING_RATE)
                    parameter.grad = None
        except RuntimeError as error:
            yield _Pass(failure=_failure(error))
            return


def _failure(error: Exception) -> str:
    """The error on one line, with its location in the user's own file."""
    return f"{type(error).__name__}: {first_line(error).partition('. Hint:')[0]}{place_of_error(error)}"


def _training_difference(own: Iterator[_Pass], rebuilt: Iterator[_Pass]) -> tuple[str, str]:
    """Describe how the training steps of module and graph differ, and the error if both fail in the same way."""
    for number, (a, b) in enumerate(zip(own, rebuilt, strict=False), start=1):
        difference = _difference("train", a, b, f"in step {number} " if number > 1 else "")
        if difference or a.failure:
            return difference, "" if difference else a.failure
    return "", ""


def _difference(mode: str, own: _Pass, rebuilt: _Pass, when: str = "") -> str:
    """Describe how a pass of the module differs from the same pass of its graph; empty if it does not."""
    if own.failure or rebuilt.failure:
        if bool(own.failure) == bool(rebuilt.failure):
            return ""
        failing, other = ("model", "graph") if own.failure else ("graph", "model")
        return f"in {mode} mode {when}the {failing} fails ({own.failure or rebuilt.failure}), the {other} does not"
    unequal = [name for name, value in own.values.items() if not _same(value, rebuilt.values.get(name))]
    if not unequal:
        return ""
    what = unequal[0]
    if what.startswith("gradient"):
        listed = ", ".join(name.removeprefix("gradient of ") for name in unequal if name.startswith("gradient"))
        what = f"gradient of {', '.join(listed.split(', ')[:_LISTED])}"
    a, b = own.values[unequal[0]], rebuilt.values.get(unequal[0])
    return f"in {mode} mode {when}the model's {what} differs from its captured graph's{_amount(a, b)}"


def _same(a: torch.Tensor | None, b: torch.Tensor | None) -> bool:
    return a is b if a is None or b is None else same_tensor(a, b)


def _amount(a: torch.Tensor | None, b: torch.Tensor | None) -> str:
    if a is None or b is None:
        return ": it has none" if a is None else ", which has none"
    if a.shape != b.shape:
        return f" in shape: {tuple(a.shape)} against {tuple(b.shape)}"
    return f" by up to {(a.double() - b.double()).abs().max().item():.3g}"


def _is_finite(result: _Pass) -> bool:
    output = result.values.get("output")
    return output is None or bool(output.isfinite().all())


def _other_size(module: nn.Module, example: torch.Tensor) -> OtherSize:
    """Classify the module's result for larger images; ``view(-1, classes)``, for instance, returns extra rows."""
    larger = functional.pad(example, (2, 2, 2, 2)) if example.ndim == _IMAGE_BATCH_DIMS else example.clone()
    output = _evaluated(module, larger).values.get("output")
    if output is None:
        return "refused"
    return "one prediction each" if output.shape[:1] == larger.shape[:1] else "other predictions"


def _explanation(module: nn.Module, example: torch.Tensor) -> str:
    """Name the module's custom backward functions, hooks and checkpoints, which a graph cannot hold; empty if none."""
    found: dict[str, None] = {}

    def watch(frame: FrameType, event: str, called: Any) -> None:  # noqa: ANN401 - as a profile function is called
        words = _hidden_part(frame, event, called)
        if words:
            found[f"{words}{place_of(frame)}"] = None

    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        list(_training_steps(module, example))
    finally:
        sys.setprofile(before)
    # Afterwards, as forward may register them.
    found |= dict.fromkeys(_hooks(module))
    return f"; a graph does not hold: {'; '.join(list(found)[:_LISTED])}" if found else ""


def _changes(before: ModuleState) -> str:
    """Name the attributes that forward passes have changed since the state ``before``; empty if there are none."""
    changed = ", ".join(dict.fromkeys(before.changed_attributes()))
    return f"; forward changes {changed}, which no buffer holds" if changed else ""


def _hidden_part(frame: FrameType, event: str, called: Any) -> str:  # noqa: ANN401 - as a profile function is called
    """Describe what a profiled call adds to the backward pass; empty if it adds nothing."""
    code = frame.f_code
    owner: Any = getattr(called, "__self__", None) if event == "c_call" else None
    if event == "call" and code.co_name == "apply" and code.co_filename == autograd.function.__file__:
        owner = frame.f_locals.get("cls")
    elif event == "c_call" and called.__name__ != "apply":
        owner = None
    if issubclass(type(owner), type) and issubclass(owner, autograd.Function) and not _is_torchs(owner):
        return f"{owner.__name__}, an autograd.Function with a backward of its own"
    if event != "call":
        return ""
    if code is torch.Tensor.register_hook.__code__:
        return "a hook on a tensor"
    if code.co_filename == checkpoint.__file__ and code.co_name == "checkpoint":
        return "a checkpoint, which runs its part of forward again in the backward pass"
    return ""


def _is_torchs(owner: type) -> bool:
    return owner.__module__.partition(".")[0] == "torch"


def _hooks(module: nn.Module) -> Iterator[str]:
    for path, child in module.named_modules():
        if child._backward_hooks or child._backward_pre_hooks:  # noqa: SLF001 - torch has no public way to list hooks
            yield f"a backward hook of {path or 'the model'}"
    for name, parameter in module.named_parameters():
        if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):  # noqa: SLF001
            yield f"a hook on the gradient of {name}"
