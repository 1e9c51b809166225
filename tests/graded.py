"""A small assignment, builds of the made-up network, and a stand-in for the process that builds it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from harness.errors import HarnessError
from harness.grading import Assignment, Grader, Verdict, parse_assignment
from harness.graph import CapturedModel, capture
from harness.sources import LoadedModel, ModelSource
from tests.made_up import network

TEXT = """
inconclusive = "fail"

[contract]
classes = 10
[contract.parameters]
below = 1000
[contract.batch_norm]
required = true
[contract.accuracy]
target = 70
rule = "last"
last = 2
max_epochs = 3

[recipe]
batch_size = 16
epochs = 3
[recipe.optimizer]
name = "sgd"
lr = 0.1

[points]
build = 1
capture = 2
output = 3
parameters = 4
batch_norm = 5
"initial weights" = 6
"state budget" = 7
"batch independence" = 8
"pure evaluation" = 9
"permuted labels" = 10
epochs = 11
accuracy = 12

[penalties]
"initial weights" = 20
"""


def assignment(text: str = TEXT, *, folder: Path = Path()) -> Assignment:
    """The assignment that a text describes."""
    return parse_assignment(text.encode(), name="small", place="small.toml", folder=folder)


@functools.cache
def built(seed: int = 1, build: Callable[[], nn.Module] = network) -> CapturedModel:
    """A network, the made-up one by default, built after a seed and captured."""
    torch.manual_seed(seed)
    return capture(build(), name="net.py:Net", twice=False)


class Builds:
    """Stands in for `harness.sources.load_builds`: returns given models, counts the calls, and keeps the last seeds."""

    def __init__(self, *models: CapturedModel | HarnessError) -> None:
        self.models = models
        self.calls = 0
        self.seeds: tuple[int, ...] = ()

    def __call__(self, _: str, *, seeds: tuple[int, ...], **__: object) -> tuple[LoadedModel | HarnessError, ...]:
        """Return a model for each seed, the last one again if there are more seeds than models."""
        self.calls, self.seeds = self.calls + 1, seeds
        models = (*self.models, *(self.models[-1:] * len(seeds)))[: len(seeds)]
        source = ModelSource(text="net.py:Net", path="net.py")
        return tuple(
            model if isinstance(model, HarnessError) else LoadedModel(model=model, source=source) for model in models
        )


def outcomes(verdict: Verdict) -> dict[str, str]:
    """The status of each requirement."""
    return {one.finding.requirement: one.finding.status.value for one in verdict.requirements}


def grader(**changes: object) -> Grader:
    """A grader by the small assignment, which examines the structure only."""
    fields: dict[str, object] = {"assignment": assignment()}
    return Grader(**(fields | changes))  # type: ignore[arg-type]  # the types of the fields
