"""The golden of a model: recorded results of the model, and the file that stores the results.

A golden holds two kinds of results. Independent of the environment are the operations, and outputs in double precision with
the measured error of single precision. For each environment in which the golden was updated, there are digests of the initial
tensors, of the outputs at three depths and of a training of 50 steps, which must be equal in this environment.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from harness.errors import InputError
from harness.files import file_name, write_whole
from harness.goldens.changes import OperationEntry, as_json
from harness.tables import expect_mapping, parse_document, read_table, shown
from harness.training import StepDigests, state_digest

FORMAT = "harness.golden/1"
SUFFIX = ".safetensors"

# In other environments, the error was at most 5.2 times the error measured where the golden was recorded; a change of 1 % in
# the weights of one layer changes the outputs by at least 180 times the tolerance (measurements: docs/goldens.md).
TOLERANCE = 16


@dataclass(frozen=True, kw_only=True, order=True)
class EnvironmentKey:
    """Properties of an environment that results depend on bit for bit.

    ``torch``: version and build of PyTorch; ``device``: device type, such as ``cpu``; ``accelerator``: name of the GPU, empty
    on a CPU; ``cpu_capability``: instruction set that PyTorch uses; ``threads``: number of CPU threads.
    """

    torch: str
    device: str
    accelerator: str
    cpu_capability: str
    threads: int

    def describe(self) -> str:
        """Format the properties as one line."""
        device = f"{self.device} ({self.accelerator})" if self.accelerator else self.device
        threads = f"{self.threads} thread{'' if self.threads == 1 else 's'}"
        return f"torch {self.torch}, {device}, {self.cpu_capability}, {threads}"


@dataclass(frozen=True, kw_only=True)
class BitExactResults:
    """The results of a model in one environment, as the first 16 hex digits of SHA-256 digests.

    ``tensors``: the digest of each initial parameter, buffer and constant, by name. ``outputs``: the digest of the output
    at each depth, by the name of the depth. ``training``: the digests after every ten of 50 training steps. ``machine``:
    further properties that can change the last bits of results, see `machine_properties`. ``harness``: the version of
    this package.
    """

    key: EnvironmentKey
    machine: Mapping[str, str]
    harness: str
    tensors: Mapping[str, str]
    outputs: Mapping[str, str]
    training: tuple[StepDigests, ...]


@dataclass(frozen=True, kw_only=True)
class Depth:
    """A tensor of the evaluation-mode forward pass that is recorded in the golden and compared.

    ``name`` is ``features`` (the last feature map with more than one position), ``before the head`` (the input of the
    last layer with weights) or ``logits`` (the input of a final softmax or log-softmax, otherwise the output; after a
    log-softmax, differences between small scores would be lost). ``value`` is the name of the tensor in the graph;
    ``shape`` includes the batch dimension. ``scale`` is the largest absolute value in double precision and ``error`` the
    largest absolute difference between single and double precision, both measured when the golden was recorded.
    """

    name: str
    value: str
    shape: tuple[int, ...]
    scale: float
    error: float

    @property
    def tolerance(self) -> float:
        """The largest accepted absolute difference between the tensor in single and the recorded one in double precision."""
        # The measured error can be zero by chance, so that at least the error of one rounding is accepted.
        return TOLERANCE * max(self.error, torch.finfo(torch.float32).eps * self.scale)

    def describe_difference(self, difference: float) -> str:
        """Format an absolute difference, and the ratio of the difference to ``scale`` in percent."""
        percent = 100 * difference / self.scale if self.scale else math.nan
        return f"{difference:.2g} ({percent:.2g} % of the largest value)"


@dataclass(frozen=True, kw_only=True, eq=False)
class Golden:
    """The recorded results of a model; the names of the fields are the keys in the golden's file.

    ``source``: how the user specified the model; ``arguments``: arguments of the model's constructor; ``graph``: exact
    digest of the graph; ``images``: digest of the fixed images; ``recipe``: all settings of the 50 training steps;
    ``tensors``: from `describe_tensors`; ``operations``: from `list_operations`; ``depths``: the compared tensors, in
    graph order; ``values``: by name of the depth, up to 256 numbers of the tensor in double precision, see `sample`;
    ``bits``: one entry per environment.
    """

    model: str
    source: str
    arguments: str
    graph: str
    tensors: Mapping[str, str]
    operations: list[OperationEntry]
    images: str
    recipe: Mapping[str, Any]
    depths: tuple[Depth, ...]
    values: Mapping[str, Tensor]
    bits: tuple[BitExactResults, ...]

    def entry_for(self, key: EnvironmentKey) -> BitExactResults | None:
        """The results in the environment ``key``; None if the golden has none."""
        return next((entry for entry in self.bits if entry.key == key), None)


def golden_path(folder: Path, model: str) -> Path:
    """The path of the golden of the model called ``model`` in ``folder``."""
    return folder / f"{file_name(model)}{SUFFIX}"


def read_golden(path: Path) -> Golden:
    """Read a golden from a file.

    Raises:
        InputError: the file cannot be read, has another format version, or has a content that does not match the digest.
    """
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {})["golden"]
            values = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as problem:
        raise InputError(
            f"expected a golden, but {path} cannot be read: {type(problem).__name__}: {problem}. Restore the file, or record the "
            "golden again with `harness golden update`."
        ) from problem
    document = parse_document(text.encode(), "JSON", where=str(path), error=InputError)
    document = dict(expect_mapping(document, where=str(path), error=InputError))
    found = document.pop("format", None)
    if found == FORMAT and document.pop("content", None) == _content_digest(document, values):
        return read_table(Golden, {**document, "values": values}, where=str(path), error=InputError)
    if found != FORMAT:
        raise InputError(
            f"expected a golden in format {FORMAT!r}, but {path} has format={shown(found)}. Record the golden again with "
            "`harness golden update`."
        )
    raise InputError(
        f"expected an unchanged golden, but {path} is damaged: the content does not match the recorded digest. Restore the "
        "file, or record the golden again with `harness golden update`."
    )


def write_golden(golden: Golden, path: Path) -> None:
    """Write a golden to a file, which either keeps the old or gets the new content completely.

    Raises:
        InputError: the file cannot be written.
    """
    write_whole(path, golden_bytes(golden))


def golden_bytes(golden: Golden) -> bytes:
    """The content of a golden's safetensors file: ``values`` as tensors, all other fields as JSON in the header."""
    fields = {field.name: getattr(golden, field.name) for field in dataclasses.fields(golden) if field.name != "values"}
    for name in ("depths", "bits"):
        fields[name] = [dataclasses.asdict(item) for item in fields[name]]
    document, values = as_json(fields), dict(golden.values)
    document = {"format": FORMAT, "content": _content_digest(document, values), **document}
    # A single header entry, since safetensors writes several entries in no fixed order.
    return save(values, {"golden": json.dumps(document, separators=(",", ":"))})


def _content_digest(document: Mapping[str, Any], values: Mapping[str, Tensor]) -> str:
    text = json.dumps([document, state_digest(values)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
