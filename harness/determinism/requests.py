"""The requests of the determinism check; a worker process performs each by importing and training the user's module."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from harness.data import Dataset
from harness.determinism.attribution import GLOBALS, SOURCES
from harness.determinism.interventions import Interventions, ordered_arithmetic
from harness.determinism.model_under_test import ModelUnderTest
from harness.determinism.user_files import UserFiles, explained_error
from harness.determinism.variations import pinned_trace, vary
from harness.errors import InputError
from harness.findings import Finding
from harness.graph import read_captured
from harness.reproducibility.trace import Trace, write_trace
from harness.sandbox import Request, Workspace
from harness.sources import ModelSource
from harness.sources.copying import private_copy
from harness.training import RunSpec, train_step

DATA_FILE, GRAPH_STEM = "data.safetensors", "graph"
REFERENCE_TRACE = "reference.safetensors"
ALL_PINNED = "all pinned"


@dataclass(frozen=True, kw_only=True)
class TrainingSetup:
    """The training that each worker process of a check performs: the run, the model's source and the data.

    ``spec`` has the number of epochs of the check. ``data`` has the fields of the data set except its tensors, which
    are in the file `DATA_FILE` of the folder ``inputs``. The model's graph, if there is one, is in the same folder,
    with the file stem `GRAPH_STEM`.
    """

    spec: RunSpec
    source: ModelSource
    hooks_file: str | None
    data: Mapping[str, Any]
    inputs: str


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """The result of a worker process, which also writes traces to its workspace.

    An `AxesRequest` returns ``findings``, one for each axis that one process can vary; a `PinnedRequest` returns
    ``callers``, the line of the first call for each source that user code has called.
    """

    findings: tuple[Finding, ...] = ()
    callers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TrainingRequest(Request[TrainingResult]):
    """A request to import the user's model and train it."""

    setup: TrainingSetup

    result_type = TrainingResult

    def fields(self) -> dict[str, Any]:
        """Return the fields of the request as plain data."""
        spec = self.setup.spec
        plain = {**spec.declared(), "recipe": {"name": spec.recipe.name, **spec.recipe.to_mapping()}}
        return super().fields() | {"setup": dataclasses.asdict(self.setup) | {"spec": plain}}

    def prepare(self) -> None:
        """Train a linear layer for one step, so that the Python modules needed for training are already imported."""
        layer = nn.Linear(1, 10)
        with ordered_arithmetic():
            train_step(layer, torch.optim.SGD(layer.parameters(), lr=0.1), torch.zeros(1, 1), torch.zeros(1).long())

    def perform(self, workspace: Workspace) -> TrainingResult:
        """Import the model, perform `examine` and return its result.

        Raises:
            InputError: the model or the hooks cannot be imported or trained with.
        """
        setup = self.setup
        with private_copy(setup.source, workspace.folder) as (source, copy):
            hooks_file = copy.inside(Path(setup.hooks_file)) if setup.hooks_file else None
            files = UserFiles(source, setup.spec.arguments, hooks_file)
            try:
                # Before the import: a file may contain `from time import time`.
                with Interventions() as interventions:
                    data = Dataset(**{**setup.data, **load_file(Path(setup.inputs) / DATA_FILE)})
                    model = ModelUnderTest(files.load, spec=setup.spec, data=data, keep_alive=workspace.keep_alive)
                    return self.examine(model, interventions, workspace)
            except Exception as error:
                explained = explained_error(error, source.text)
                if explained is error:
                    raise
                raise explained from error
            finally:
                files.forget()

    @abstractmethod
    def examine(self, model: ModelUnderTest, interventions: Interventions, workspace: Workspace) -> TrainingResult:
        """Train the imported model in the way that the request defines, and return the result."""


@dataclass(frozen=True, kw_only=True)
class ReferenceRequest(TrainingRequest):
    """A request to train once and write the trace to the file `REFERENCE_TRACE` in the workspace."""

    def examine(self, model: ModelUnderTest, _: Interventions, workspace: Workspace) -> TrainingResult:
        """Train once and write the trace."""
        _train_reference(model, workspace)
        return TrainingResult()


@dataclass(frozen=True, kw_only=True)
class AxesRequest(TrainingRequest):
    """A request to train as `ReferenceRequest` does, then to vary each axis that one process can vary.

    There is one progress line for each axis. ``why_not_captured`` is the reason why there is no graph; None if there is
    one.
    """

    why_not_captured: str | None

    def examine(self, model: ModelUnderTest, interventions: Interventions, workspace: Workspace) -> TrainingResult:
        """Train once, then vary the axes and return the findings."""
        reference = _train_reference(model, workspace)
        graph, reason = Path(self.setup.inputs) / GRAPH_STEM, self.why_not_captured
        captured = read_captured(graph, self.setup.source.text) if reason is None else None
        findings = []
        for finding in vary(model, reference, interventions, captured, reason or ""):
            findings.append(finding)
            workspace.report(f"{finding.requirement}: {finding.status.value}")
        return TrainingResult(findings=tuple(findings))


@dataclass(frozen=True, kw_only=True)
class PinnedRequest(TrainingRequest):
    """A request to train with all sources of nondeterminism pinned, then with one at a time released.

    The globals of the file are never released. The traces, each of ``upto`` steps, are written to the workspace, see
    `trace_file`.
    """

    upto: int

    def examine(self, model: ModelUnderTest, interventions: Interventions, workspace: Workspace) -> TrainingResult:
        """Train with all sources pinned and with each source released, and write a trace of each training."""
        for name in (ALL_PINNED, *(source.name for source in SOURCES if source is not GLOBALS)):
            workspace.report(f"training with {name}" if name == ALL_PINNED else f"training with {name} released")
            trace = pinned_trace(model, interventions, frozenset({name}), self.upto)
            write_trace(trace, workspace.folder / trace_file(name))
        return TrainingResult(callers=interventions.callers)


def trace_file(name: str) -> str:
    """Return the name of the trace file of a training with source ``name`` released; for `ALL_PINNED`, with none released."""
    return f"{''.join(character if character.isalnum() else '-' for character in name)}.safetensors"


def _train_reference(model: ModelUnderTest, workspace: Workspace) -> Trace:
    """Train once as reference for the comparisons; raise an `InputError` if the loss becomes infinite or NaN."""
    workspace.report(f"a training of {model.steps} steps")
    reference = model.trace()
    if len(reference) < model.steps:
        raise InputError(
            f"expected a training of {model.steps} steps with a finite loss, got a loss that is infinite or NaN by "
            f"step {len(reference)}: there is nothing to compare. Use another --recipe or fewer --steps."
        )
    write_trace(reference, workspace.folder / REFERENCE_TRACE)
    return reference
