"""Traces: the digests and tensors of each training step, kept for comparison with another training."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from json import dumps  # bound before a user's file can replace it
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from harness.training import STATES, DigestChain, Step, StepDigests, training_tensors

# Fifty steps of a model with 8,000 parameters take 3 MB. Of the largest shipped model, five steps fit.
_MAX_BYTES = 256 * 2**20


@dataclass(frozen=True, kw_only=True, eq=False)
class StepTrace:
    """One training step: digests and tensors before and after the step, and the optimizer's learning rates before it.

    The digests of ``start`` cover the inputs of this step and the state before it, those of ``end`` the state after it.
    The tensors are empty if they were not kept; ``before`` is also empty if it would equal ``after`` of the previous
    step.
    """

    start: StepDigests
    end: StepDigests
    rates: tuple[float, ...]
    before: dict[str, Tensor] = field(repr=False)
    after: dict[str, Tensor] = field(repr=False)

    @property
    def number(self) -> int:
        """The number of the step, from 1, over all epochs."""
        return self.end.step


Trace = tuple[StepTrace, ...]


class TraceCompleteError(Exception):
    """Raised by a `Tracer` after its last step to end the training, which is no failure; the caller of ``train`` catches it."""


class Tracer:
    """A `StepCallback` that traces the steps ``after + 1`` to ``upto`` of a training on ``device``.

    If ``upto`` is None, all later steps are traced; otherwise the training ends with `TraceCompleteError` after step
    ``upto``. Tensors are kept up to a total size of ``max_bytes``; for later steps, only the digests are kept.
    """

    def __init__(
        self, device: torch.device, *, after: int = 0, upto: int | None = None, max_bytes: int = _MAX_BYTES
    ) -> None:
        self._steps: list[StepTrace] = []
        self._chain = DigestChain(device)
        self._after = after
        self._upto = upto
        self._bytes_left = max_bytes
        self._start: StepDigests | None = None
        self._rates: tuple[float, ...] = ()
        self._before: dict[str, Tensor] = {}

    @property
    def trace(self) -> Trace:
        """The trace of the steps so far."""
        return tuple(self._steps)

    def before_step(self, step: Step) -> None:
        """Add the step's inputs to the digest chains, and keep the state before the step."""
        self._chain.add(step.batch, step.optimizer)
        if step.number <= self._after:
            return
        self._start = self._chain.after(step.number - 1, step.module, step.optimizer)
        self._rates = tuple(float(group["lr"]) for group in step.optimizer.param_groups)
        previous = self._steps[-1].end if self._steps else None
        unchanged = previous and all(getattr(previous, kind) == getattr(self._start, kind) for kind in STATES)
        self._before = {} if unchanged else self._copy_tensors(step)

    def after_step(self, step: Step) -> None:
        """Keep the state after the step; end the training after step ``upto``."""
        if self._start is not None:
            end = self._chain.after(step.number, step.module, step.optimizer)
            before, after = self._before, self._copy_tensors(step)
            self._steps.append(StepTrace(start=self._start, end=end, rates=self._rates, before=before, after=after))
        if step.number == self._upto:
            raise TraceCompleteError

    def _copy_tensors(self, step: Step) -> dict[str, Tensor]:
        by_kind = training_tensors(step.module, step.optimizer)
        tensors = {name: tensor for kind in STATES for name, tensor in by_kind[kind].items()}
        size = sum(tensor.nbytes for tensor in tensors.values())
        if size > self._bytes_left:
            self._bytes_left = 0
            return {}
        self._bytes_left -= size
        return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}


def write_trace(trace: Trace, path: Path) -> None:
    """Write a trace as one safetensors file, which `read_trace` reads in another process."""
    tensors = {
        f"{step.number}/{moment}/{name}": tensor.contiguous()
        for step in trace
        for moment, kept in (("before", step.before), ("after", step.after))
        for name, tensor in kept.items()
    }
    steps = [
        {"start": dataclasses.asdict(step.start), "end": dataclasses.asdict(step.end), "rates": step.rates}
        for step in trace
    ]
    save_file(tensors, path, metadata={"steps": dumps(steps)})


def read_trace(path: Path) -> Trace:
    """Read a trace from a file that `write_trace` wrote."""
    with safe_open(path, framework="pt") as file:
        steps = json.loads(file.metadata()["steps"])
        kept: dict[tuple[int, str], dict[str, Tensor]] = {}
        for key in file.keys():  # noqa: SIM118 - no mapping, it only has this method
            number, moment, name = key.split("/", 2)
            kept.setdefault((int(number), moment), {})[name] = file.get_tensor(key)
    return tuple(
        StepTrace(
            start=StepDigests(**step["start"]),
            end=StepDigests(**step["end"]),
            rates=tuple(step["rates"]),
            before=kept.get((step["end"]["step"], "before"), {}),
            after=kept.get((step["end"]["step"], "after"), {}),
        )
        for step in steps
    )
