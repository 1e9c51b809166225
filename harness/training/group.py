"""Training a group of runs together: each step is computed for all runs at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from harness.data import Dataset
from harness.errors import InputError
from harness.training.engines import Engine, choose_engine
from harness.training.loop import DivergedError, Run, Steps
from harness.training.observer import Observer
from harness.training.randomness import preserved_randomness
from harness.training.record import RunRecord
from harness.training.run_spec import RunSpec
from harness.training.steps import Batch


@dataclass(frozen=True, kw_only=True, eq=False)
class Member:
    """One run of a group; the fields have the meaning of the arguments of `train`."""

    module: nn.Module
    spec: RunSpec
    observer: Observer | None = None
    checkpoint_dir: Path | None = None


OnEnd = Callable[[Member, RunRecord | Exception], None]


def train_group(members: Sequence[Member], data: Dataset, *, on_end: OnEnd) -> None:
    """Train several runs step by step together; the results of each are bit-equal to those of `train` for that run alone.

    A run that ends, diverges or fails does not affect the others. A run that resumes from a later checkpoint than the
    others ends earlier.

    All specs must have the same recipe, engine, device and graph. ``on_end`` is called as soon as a run ends, with the
    member and either the run's record (``complete`` or ``diverged``) or the exception that ended the run, for example
    because the engine cannot train this model or cannot compute groups.

    Raises:
        KeyboardInterrupt: after ``on_end`` was called with the record so far of every run that had started and not ended.
    """
    if not members:
        return
    device = torch.device(members[0].spec.device)
    data = data.to(device)
    started: list[_GroupMember] = []
    engine: Engine | None = None
    with preserved_randomness(device):
        try:
            for member in members:
                try:
                    # All have the same graph, so the engine is verified once.
                    engine = engine or choose_engine(member.spec.engine, member.module, device)[0]
                    run = Run(member.module, member.spec, data, engine, member.observer)
                    steps = run.steps(run.checkpoints(member.checkpoint_dir, resume=True))
                except Exception as error:  # noqa: BLE001 - any failure ends this run only
                    on_end(member, error)
                else:
                    started.append(_GroupMember(member, run, steps, on_end))
            _drive([member for member in started if member.advance(None)])
        except KeyboardInterrupt:
            for running in started:
                if running.run.has_started:
                    running.end(running.run.record_so_far())
            raise


class _GroupMember:
    """A run of a group in progress; ``batch`` holds the images and labels of the next step."""

    batch: Batch

    def __init__(self, member: Member, run: Run, steps: Steps, on_end: OnEnd) -> None:
        self._member = member
        self.run = run
        self._steps = steps
        self._on_end = on_end
        self._ended = False

    def advance(self, done: tuple[Tensor, Tensor] | None) -> bool:
        """Pass the result of a step (None before the first) to the run; return False if the run has ended."""
        try:
            self.batch = self._steps.send(done) if done else next(self._steps)
        except StopIteration:
            self.end(self.run.record("complete"))
        except DivergedError:
            self.end(self.run.record("diverged"))
        except Exception as error:  # noqa: BLE001 - any failure ends this run only
            self.end(error)
        return not self._ended

    def end(self, result: RunRecord | Exception) -> None:
        """Call ``on_end`` with the run's record or exception, unless it was called before."""
        if not self._ended:
            self._ended = True
            self._on_end(self._member, result)


def _drive(running: list[_GroupMember]) -> None:
    """Compute the steps of a group until all runs have ended; the runs share a recipe, so their batches have the same size."""
    while running:
        group = running
        try:
            compute = group[0].run.engine.group([member.run.branch() for member in group])
            while len(running) == len(group):
                done = compute([(member.batch.images, member.batch.labels) for member in group])
                # A graph always computes all its branches. When a run ends, a graph of the remaining runs is captured, since
                # the state of the ended run must not change any more.
                running = [member for member, result in zip(group, done, strict=True) if member.advance(result)]
        except torch.OutOfMemoryError as error:
            detail = str(error).splitlines()[0]
            msg = f"not enough memory for {len(group)} runs at a time: {detail} Train fewer runs at a time (--jobs)."
            running = _fail(running, InputError(msg))
        except Exception as error:  # noqa: BLE001 - reported as the failure of each run
            running = _fail(running, error)


def _fail(members: list[_GroupMember], error: Exception) -> list[_GroupMember]:
    """End all runs with the same exception; return the list of remaining runs, which is empty."""
    for member in members:
        member.end(error)
    return []
