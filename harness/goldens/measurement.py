"""Compute the results that a golden records: outputs of a model at three depths, and a training of 50 steps."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

import harness
from harness.data import Dataset, load_dataset
from harness.errors import InputError
from harness.goldens.changes import as_json, describe_tensors, list_operations, training_change
from harness.goldens.golden import BitExactResults, Depth, EnvironmentKey, Golden
from harness.graph import CapturedModel, Graph
from harness.training import Environment, Recipe, RunSpec, StepDigests, environment, state_digest, train

# Names of the depths.
FEATURES, BEFORE_HEAD, LOGITS = "features", "before the head", "logits"

_IMAGES = 4
_SAMPLE_SIZE = 256
# A prime larger than the size of any output: multiples of the prime, modulo the size, are positions without regular pattern.
_STRIDE = 2_654_435_761
_SEED = 1
_EPOCHS, _STEPS_PER_EPOCH = 5, 10
STEPS = _EPOCHS * _STEPS_PER_EPOCH
# With more images per step, the largest of the shipped models would take a minute.
_MAX_BATCH_SIZE = 16
_TEST_IMAGES = 50
_SHOWN_DIGITS = 16
_MAP_DIMS = 4


def measure_golden(captured: CapturedModel, spec: RunSpec) -> Golden:
    """Compute the golden of a model with the initial weights of seed 1, with results for this environment only.

    All results are computed twice and must be equal. Device, recipe, source and arguments are taken from ``spec``.

    Raises:
        InputError: two runs differ, the model does not run in double precision, or an output is infinite or NaN.
    """
    device = torch.device(spec.device)
    outputs, training = depth_outputs(captured, device), train_briefly(captured, spec)
    again = depth_outputs(captured, device)
    differing = [f"the outputs differ at {name}" for name in outputs if digest(outputs[name]) != digest(again[name])]
    change = training_change(training, train_briefly(captured, spec))
    if differing or change:
        raise InputError(
            f"expected bit-equal results in two runs of {captured.name} on {device}, but "
            f"{differing[0] if differing else f'the training {change}'}. Find the cause with `harness repro`; only a model "
            "that repeats bit for bit can have a golden."
        )
    doubles, values = _double_precision_outputs(captured), depth_values(captured.graph)
    here = environment(device)
    return Golden(
        model=captured.name,
        source=spec.source,
        arguments=spec.arguments,
        graph=spec.graph_digest,
        tensors=describe_tensors(captured.graph),
        operations=list_operations(captured.graph),
        images=digest(fixed_images()),
        recipe=recipe_settings(spec.recipe),
        depths=tuple(_measure_depth(name, values[name], outputs[name], doubles[name]) for name in values),
        values={name: sample(double) for name, double in doubles.items()},
        bits=(
            BitExactResults(
                key=environment_key(here, device),
                machine=machine_properties(here),
                harness=harness.__version__,
                tensors={name: digest(tensor) for name, tensor in captured.state.items()},
                outputs={name: digest(output) for name, output in outputs.items()},
                training=training,
            ),
        ),
    )


def _measure_depth(name: str, value: str, output: Tensor, double: Tensor) -> Depth:
    if not bool(output.isfinite().all()):
        raise InputError(
            f"expected finite outputs of the model with its initial weights, got an infinity or NaN at {name} ({value})."
        )
    scale, error = float(double.abs().max()), max_abs_difference(output.double(), double)
    return Depth(name=name, value=value, shape=tuple(output.shape), scale=scale, error=error)


def environment_key(here: Environment, device: torch.device) -> EnvironmentKey:
    """The key of the environment ``here`` in goldens, for computations on ``device``."""
    return EnvironmentKey(
        torch=here.torch,
        device=device.type,
        accelerator=here.accelerator or "",
        cpu_capability=here.cpu_capability,
        threads=here.threads,
    )


def machine_properties(here: Environment) -> dict[str, str]:
    """Properties of an environment, other than those in `EnvironmentKey`, that can change the last bits of results.

    Math libraries, for example, select code by the processor.
    """
    properties = {
        "processor": here.processor,
        "system library": here.platform.rpartition("-with-")[2],
        "CUDA": here.cuda,
        "driver": here.driver,
    }
    return {name: value for name, value in properties.items() if value is not None}


def fixed_images() -> Tensor:
    """The images on which outputs are recorded: the first test images of the embedded digits, normalised.

    Returns:
        A float32 tensor of shape (4, 1, 28, 28).
    """
    return _digits().normalise(_digits().test_images[:_IMAGES])


@functools.cache
def _digits() -> Dataset:
    return load_dataset("digits")


def depth_values(graph: Graph) -> dict[str, str]:
    """Map the name of each depth to the name of the tensor in the graph, in graph order.

    Two depths can be the same tensor.
    """
    logits = graph.evaluate.output
    needed = {logits}
    for operation in reversed(graph.evaluate.operations):
        if operation.name in needed:
            needed.update(operation.refs())
        if operation.name == graph.evaluate.output and operation.kind.family in ("softmax", "log-softmax"):
            logits = next(operation.refs())
    weights = {spec.name for spec in graph.tensors if spec.kind == "parameter" and len(spec.shape) > 1}
    position = {graph.input_name: 0}
    features, before_head = "", logits
    for operation in graph.evaluate.operations:
        inputs = [ref for ref in operation.refs() if ref in position]
        if not inputs:
            # A value computed from weights alone, such as a normalised kernel, counts as a weight.
            weights |= {operation.name} if weights & set(operation.refs()) else set()
            continue
        position[operation.name] = len(position)
        if operation.name in needed:
            is_map = len(operation.shape) == _MAP_DIMS and operation.shape[2:] != (1, 1)
            features = operation.name if is_map else features
            before_head = inputs[0] if weights & set(operation.refs()) else before_head
    values = {FEATURES: features or before_head, BEFORE_HEAD: before_head, LOGITS: logits}
    return dict(sorted(values.items(), key=lambda item: position[item[1]]))


def depth_outputs(captured: CapturedModel, device: torch.device) -> dict[str, Tensor]:
    """The tensor at each depth, by name and on the CPU, of an evaluation-mode forward pass over the fixed images."""
    module, images = captured.to_module().to(device).eval(), fixed_images()
    with torch.no_grad(), _full_single_precision():
        return _select_depths(captured.graph, images, module.trace(images.to(device)))


def _double_precision_outputs(captured: CapturedModel) -> dict[str, Tensor]:
    images = fixed_images().double()
    try:
        with torch.no_grad():
            outputs = _select_depths(captured.graph, images, captured.to_module().double().eval().trace(images))
        reason = "an operation converts to another precision"
    except RuntimeError as problem:
        outputs, reason = {}, str(problem).splitlines()[0]
    if {output.dtype for output in outputs.values()} != {torch.float64}:
        raise InputError(
            f"expected {captured.name} to run in double precision, to measure the error of single precision, but {reason}. "
            "Remove conversions such as .float() from forward."
        )
    return outputs


def _select_depths(graph: Graph, images: Tensor, trace: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = {graph.input_name: images, **trace}
    return {name: found[value].cpu() for name, value in depth_values(graph).items()}


@contextmanager
def _full_single_precision() -> Iterator[None]:
    """Disable TF32, whose mantissa has ten bits, and the benchmark mode of cuDNN inside the block."""
    cudnn = torch.backends.cudnn
    with cudnn.flags(enabled=cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=False):
        yield


def recipe_settings(recipe: Recipe) -> dict[str, Any]:
    """All settings of the recipe that is used for 50 training steps, as JSON data.

    Number of epochs and maximal batch size are the same for all goldens; other settings are those of ``recipe``.
    """
    settings: dict[str, Any] = as_json(_shortened(recipe).to_mapping())
    return settings


def _shortened(recipe: Recipe) -> Recipe:
    return dataclasses.replace(recipe, batch_size=min(recipe.batch_size, _MAX_BATCH_SIZE), epochs=_EPOCHS)


def train_briefly(captured: CapturedModel, spec: RunSpec) -> tuple[StepDigests, ...]:
    """Train 50 steps on the embedded digits, and return digests after every ten steps.

    If the loss becomes infinite or NaN, the training ends early. Recipe and device are those of ``spec``; seed, engine,
    number of epochs and maximal batch size are the same for all goldens.
    """
    recipe = _shortened(spec.recipe)
    data = _digits().shortened(train=recipe.batch_size * _STEPS_PER_EPOCH, test=_TEST_IMAGES)
    short = dataclasses.replace(spec, recipe=recipe, seed=_SEED, engine="eager", digest_every=_STEPS_PER_EPOCH)
    with _full_single_precision():
        return train(captured.to_module(), short, data).digests


def digest(tensor: Tensor) -> str:
    """The first 16 hex digits of the SHA-256 of a tensor's dtype, shape and bytes."""
    return state_digest({"": tensor})[:_SHOWN_DIGITS]


def sample(values: Tensor) -> Tensor:
    """Select up to 256 numbers of a tensor as an (N,) tensor, at positions that depend only on the size of the tensor."""
    flat = values.flatten()
    if len(flat) <= _SAMPLE_SIZE:
        # A copy, since two depths can be the same tensor, and safetensors does not save tensors that share memory.
        return flat.clone()
    return flat[torch.arange(_SAMPLE_SIZE) * _STRIDE % len(flat)]


def max_abs_difference(one: Tensor, other: Tensor) -> float:
    """The largest absolute difference between two tensors of the same shape."""
    return float((one - other).abs().max())
