"""A golden: what a model computes, on record.

It holds two kinds of evidence. What no environment changes: the operations, and outputs in double precision with the
error that single precision made beside them. And for each environment that it was made in, by key, what is equal there to
the last bit: digests of the initial tensors, of the outputs at three depths, and of a training of 50 steps.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

import harness
from harness.data import Dataset, load_dataset
from harness.errors import InputError
from harness.files import write_whole
from harness.goldens.changes import Line, as_json, operation_lines, tensor_words, training_change
from harness.graph import CapturedModel, Graph
from harness.tables import read_table
from harness.training import Environment, Recipe, RunSpec, StepDigests, environment, state_digest, train

FORMAT = "harness.golden/1"
SUFFIX = ".safetensors"

# In another environment the error was at most 5.2 times that of the one where the golden was made; one per cent on one
# layer's weights is 180 times as large as what this allows (docs/goldens.md has the measurements).
TOLERANCE = 16

# Depths, by name.
FEATURES, BEFORE_HEAD, LOGITS = "features", "before the head", "logits"

_IMAGES = 4
_KEPT_VALUES = 256
# A prime beyond any number of values: its multiples visit them all, in no pattern that a map has.
_STRIDE = 2_654_435_761
_SEED = 1
_EPOCHS, _STEPS_AN_EPOCH = 5, 10
STEPS = _EPOCHS * _STEPS_AN_EPOCH
# With more, the largest of the shipped models would take a minute.
_MOST_IN_A_BATCH = 16
_TESTED = 50
_SHOWN_DIGITS = 16
_MAP_DIMS = 4


@dataclass(frozen=True, kw_only=True, order=True)
class Key:
    """The environment that bits hold in: PyTorch with its build, device and its name, CPU instruction set, threads."""

    torch: str
    device: str
    accelerator: str
    cpu_capability: str
    threads: int

    def words(self) -> str:
        """The key on one line."""
        device = f"{self.device} ({self.accelerator})" if self.accelerator else self.device
        threads = f"{self.threads} thread{'' if self.threads == 1 else 's'}"
        return f"torch {self.torch}, {device}, {self.cpu_capability}, {threads}"


@dataclass(frozen=True, kw_only=True)
class Bits:
    """What is equal to the last bit in one environment, as the first 16 hex digits of SHA-256 digests.

    Args:
        key: the environment.
        machine: what else about the machine may decide a bit, by name: libraries choose their code by the processor.
        harness: version of this package.
        tensors: of each initial parameter, buffer and constant, by name.
        outputs: of the whole output at each depth.
        training: of 50 training steps, every ten steps.
    """

    key: Key
    machine: Mapping[str, str]
    harness: str
    tensors: Mapping[str, str]
    outputs: Mapping[str, str]
    training: tuple[StepDigests, ...]


@dataclass(frozen=True, kw_only=True)
class Depth:
    """A place in the evaluation pass where outputs are compared.

    Args:
        name: ``features``: the last map of more than one position. ``before the head``: what the last layer with weights
            reads. ``logits``: the output, or what its softmax reads: beside the logarithm's two small scores would not show.
        value: its name in the graph.
        shape: with the batch.
        scale: the largest absolute value in double precision.
        error: the largest absolute difference of single from double precision, where the golden was made.
    """

    name: str
    value: str
    shape: tuple[int, ...]
    scale: float
    error: float

    @property
    def tolerance(self) -> float:
        """How far single precision may be from double precision in an environment that is not on record."""
        # An error that happened to vanish does not forbid a rounding elsewhere.
        return TOLERANCE * max(self.error, torch.finfo(torch.float32).eps * self.scale)

    def size(self, apart: float) -> str:
        """A difference in words, with what it is of the largest value."""
        percent = 100 * apart / self.scale if self.scale else math.nan
        return f"{apart:.2g} ({percent:.2g} % of the largest value)"


@dataclass(frozen=True, kw_only=True, eq=False)
class Golden:
    """A model on record.

    Args:
        model: its name.
        source: what the user named it by.
        arguments: what it was built with.
        graph: exact digest of its graph.
        tensors: kind, type and shape of each tensor it holds, in words, by name.
        operations: what it runs, see `operation_lines`.
        images: digest of the fixed images.
        recipe: the recipe of the 50 steps, every setting spelt out.
        depths: where outputs are compared, in the order of the graph.
        values: at each depth, by name, up to 256 of the outputs in double precision, always the same ones.
        bits: what holds to the bit, an entry an environment.
    """

    model: str
    source: str
    arguments: str
    graph: str
    tensors: Mapping[str, str]
    operations: list[Line]
    images: str
    recipe: Mapping[str, Any]
    depths: tuple[Depth, ...]
    values: Mapping[str, Tensor]
    bits: tuple[Bits, ...]

    def at(self, key: Key) -> Bits | None:
        """The entry of an environment, if it is on record."""
        return next((bits for bits in self.bits if bits.key == key), None)


def golden_path(folder: Path, model: str) -> Path:
    """Where the golden of a model is kept."""
    plain = "".join(character if character.isalnum() or character in "-_" else "-" for character in model)
    return folder / f"{plain}{SUFFIX}"


def read_golden(path: Path) -> Golden:
    """Read a golden.

    Raises:
        InputError: the file cannot be read, is of another format version, or is not what was written.
    """
    try:
        with safe_open(path, framework="pt") as file:
            document = json.loads((file.metadata() or {})["golden"])
            values = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        found = document.pop("format")
        if found == FORMAT and document.pop("content") == _content(document, values):
            return read_table(Golden, {**document, "values": values}, where=str(path), error=InputError)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as problem:
        msg = f"expected a golden, but {path} cannot be read: {type(problem).__name__}: {problem}."
        raise InputError(msg) from problem
    if found != FORMAT:
        msg = f"expected a golden in format {FORMAT!r}, but {path} has format={found!r}: another version wrote it."
    else:
        msg = f"expected a golden as it was written, but {path} is damaged: its content has another digest."
    raise InputError(msg)


def write_golden(golden: Golden, path: Path) -> None:
    """Write a golden, whole or not at all.

    Raises:
        InputError: it cannot be written there.
    """
    write_whole(path, golden_bytes(golden))


def golden_bytes(golden: Golden) -> bytes:
    """The content of a golden's file: the values as tensors, the rest as JSON in the header."""
    document = as_json(
        {
            **{
                field.name: getattr(golden, field.name)
                for field in dataclasses.fields(golden)
                if field.name != "values"
            },
            "depths": [dataclasses.asdict(depth) for depth in golden.depths],
            "bits": [dataclasses.asdict(bits) for bits in golden.bits],
        }
    )
    values = dict(golden.values)
    document = {"format": FORMAT, "content": _content(document, values), **document}
    # One entry only: safetensors writes several in any order.
    return save(values, {"golden": json.dumps(document, separators=(",", ":"))})


def _content(document: Mapping[str, Any], values: Mapping[str, Tensor]) -> str:
    text = json.dumps([document, state_digest(values)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def measure(captured: CapturedModel, spec: RunSpec) -> Golden:
    """The golden of a model, with entries for this environment only. Everything is computed twice.

    Args:
        captured: the model, with its initial weights as drawn under seed 1.
        spec: its recipe, the device to compute on, and what the user named the model by.

    Raises:
        InputError: two runs here differ, the model does not run in double precision, or an output is not finite.
    """
    device = torch.device(spec.device)
    outputs, training = run_to_depths(captured, device), train_shortly(captured, spec)
    again = run_to_depths(captured, device)
    unequal = [f"the outputs differ at {name}" for name in outputs if digest(outputs[name]) != digest(again[name])]
    parted = training_change(training, train_shortly(captured, spec))
    if unequal or parted:
        msg = (
            f"expected {captured.name} to give the same bits twice on {device}, but "
            f"{unequal[0] if unequal else f'the training {parted}'}. A golden of this environment would prove nothing; "
            "`harness repro` shows on which axis the model does not repeat."
        )
        raise InputError(msg)
    doubles, values = _run_in_double(captured), depth_values(captured.graph)
    here = environment(device)
    return Golden(
        model=captured.name,
        source=spec.source,
        arguments=spec.arguments,
        graph=spec.graph_digest,
        tensors=tensor_words(captured.graph),
        operations=operation_lines(captured.graph),
        images=digest(fixed_images()),
        recipe=recipe_settings(spec.recipe),
        depths=tuple(_depth(name, values[name], outputs[name], doubles[name]) for name in values),
        values={name: sample(double) for name, double in doubles.items()},
        bits=(
            Bits(
                key=key_of(here, device),
                machine=machine_of(here),
                harness=harness.__version__,
                tensors={name: digest(tensor) for name, tensor in captured.state.items()},
                outputs={name: digest(output) for name, output in outputs.items()},
                training=training,
            ),
        ),
    )


def _depth(name: str, value: str, output: Tensor, double: Tensor) -> Depth:
    if not bool(output.isfinite().all()):
        msg = f"expected finite outputs of the model as it is initialised, got an infinity or NaN at {name} ({value})."
        raise InputError(msg)
    return Depth(
        name=name,
        value=value,
        shape=tuple(output.shape),
        scale=float(double.abs().max()),
        error=apart(output.double(), double),
    )


def key_of(here: Environment, device: torch.device) -> Key:
    """The key of an environment, seen from a run on a device."""
    return Key(
        torch=here.torch,
        device=device.type,
        accelerator=here.accelerator or "",
        cpu_capability=here.cpu_capability,
        threads=here.threads,
    )


def machine_of(here: Environment) -> dict[str, str]:
    """What else may decide a bit: libraries choose their code by the processor, and the C library computes logarithms."""
    facts = {
        "processor": here.processor,
        "system library": here.platform.rpartition("-with-")[2],
        "CUDA": here.cuda,
        "driver": here.driver,
    }
    return {name: fact for name, fact in facts.items() if fact is not None}


def fixed_images() -> Tensor:
    """(4, 1, 28, 28) float32: the first test images of the embedded digits, normalised."""
    return _digits().normalise(_digits().test_images[:_IMAGES])


@functools.cache
def _digits() -> Dataset:
    return load_dataset("digits")


def depth_values(graph: Graph) -> dict[str, str]:
    """The name of the value at each depth, in the order of the graph. Two depths may be the same value."""
    logits = graph.evaluate.output
    needed = {logits}
    for operation in reversed(graph.evaluate.operations):
        if operation.name in needed:
            needed.update(operation.refs())
        if operation.name == graph.evaluate.output and operation.kind.family in ("softmax", "log-softmax"):
            logits = next(operation.refs())
    weights = {spec.name for spec in graph.tensors if spec.kind == "parameter" and len(spec.shape) > 1}
    order = {graph.input_name: 0}
    features, before_head = "", logits
    for operation in graph.evaluate.operations:
        seen = [ref for ref in operation.refs() if ref in order]
        if not seen:
            # What is made of weights alone, such as a normalised kernel, is a weight.
            weights |= {operation.name} if weights & set(operation.refs()) else set()
            continue
        order[operation.name] = len(order)
        if operation.name in needed:
            is_map = len(operation.shape) == _MAP_DIMS and operation.shape[2:] != (1, 1)
            features = operation.name if is_map else features
            before_head = seen[0] if weights & set(operation.refs()) else before_head
    values = {FEATURES: features or before_head, BEFORE_HEAD: before_head, LOGITS: logits}
    return dict(sorted(values.items(), key=lambda item: order[item[1]]))


def run_to_depths(captured: CapturedModel, device: torch.device) -> dict[str, Tensor]:
    """What an evaluation pass over the fixed images gives at each depth, on the CPU."""
    module, images = captured.to_module().to(device).eval(), fixed_images()
    with torch.no_grad(), _single_precision():
        return _at_depths(captured.graph, images, module.trace(images.to(device)))


def _run_in_double(captured: CapturedModel) -> dict[str, Tensor]:
    images = fixed_images().double()
    try:
        with torch.no_grad():
            outputs = _at_depths(captured.graph, images, captured.to_module().double().eval().trace(images))
        reason = "an operation rounds to another precision"
    except RuntimeError as problem:
        outputs, reason = {}, str(problem).splitlines()[0]
    if {output.dtype for output in outputs.values()} != {torch.float64}:
        msg = (
            f"expected {captured.name} to run in double precision, too, which single precision is measured against, but "
            f"{reason}. Leave conversions such as .float() out of its forward."
        )
        raise InputError(msg)
    return outputs


def _at_depths(graph: Graph, images: Tensor, trace: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = {graph.input_name: images, **trace}
    return {name: found[value].cpu() for name, value in depth_values(graph).items()}


@contextmanager
def _single_precision() -> Iterator[None]:
    """Keep cuDNN from shortening the mantissa to ten bits, and from choosing its method by the clock."""
    cudnn = torch.backends.cudnn
    with cudnn.flags(enabled=cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=False):
        yield


def recipe_settings(recipe: Recipe) -> dict[str, Any]:
    """The recipe of the 50 steps, every setting spelt out, as JSON data."""
    settings: dict[str, Any] = as_json(_short(recipe).to_mapping())
    return settings


def _short(recipe: Recipe) -> Recipe:
    batch_size = min(recipe.batch_size, _MOST_IN_A_BATCH)
    return dataclasses.replace(recipe, batch_size=batch_size, epochs=_EPOCHS)


def train_shortly(captured: CapturedModel, spec: RunSpec) -> tuple[StepDigests, ...]:
    """The digests of 50 training steps on the embedded digits, every ten steps; fewer where the loss becomes infinite or NaN.

    Recipe and device are those of ``spec``; seed, engine, epochs and batch size are those of every golden.
    """
    recipe, data = _short(spec.recipe), _digits()
    images = recipe.batch_size * _STEPS_AN_EPOCH
    data = dataclasses.replace(
        data,
        train_images=data.train_images[:images],
        train_labels=data.train_labels[:images],
        test_images=data.test_images[:_TESTED],
        test_labels=data.test_labels[:_TESTED],
    )
    with _single_precision():
        short = dataclasses.replace(spec, recipe=recipe, seed=_SEED, engine="eager", digest_every=_STEPS_AN_EPOCH)
        return train(captured.to_module(), short, data).digests


def digest(tensor: Tensor) -> str:
    """The first 16 hex digits of the SHA-256 of a tensor's type, shape and bytes."""
    return state_digest({"": tensor})[:_SHOWN_DIGITS]


def sample(values: Tensor) -> Tensor:
    """(N,) up to 256 of the values, always the same ones."""
    flat = values.flatten()
    if len(flat) <= _KEPT_VALUES:
        # A copy: two depths may be one value, and safetensors refuses tensors that share memory.
        return flat.clone()
    return flat[torch.arange(_KEPT_VALUES) * _STRIDE % len(flat)]


def apart(one: Tensor, other: Tensor) -> float:
    """The largest absolute difference of two tensors of one shape."""
    return float((one - other).abs().max())
