"""A trace: what each step of a training saw and made, kept to be compared with another's."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from harness.training import INPUTS, STATES, DigestChain, Step, StepDigests, training_tensors

# Fifty steps of a network with 8,000 parameters take three megabytes; of the largest that is shipped five steps fit.
_MOST_BYTES = 256 * 2**20


@dataclass(frozen=True, kw_only=True, eq=False)
class StepTrace:
    """One step.

    Args:
        start: digests before the step is computed: what goes into it is in the chains already, the state is that before.
        end: digests after the step.
        rates: the optimizer's learning rates, before the step.
        before: the tensors before the step, by name; empty where they are those after the step before, or not kept.
        after: the tensors after the step, by name; empty where they are not kept.
    """

    start: StepDigests
    end: StepDigests
    rates: tuple[float, ...]
    before: dict[str, Tensor] = field(repr=False)
    after: dict[str, Tensor] = field(repr=False)

    @property
    def number(self) -> int:
        """Which step, from 1, over all epochs."""
        return self.end.step


Trace = tuple[StepTrace, ...]


class TracedEnoughError(Exception):
    """A tracer has seen what it was to see, and ends the training; nobody's error."""


class Tracer:
    """A watcher that keeps what the steps ``after + 1`` to ``upto`` saw and made.

    Args:
        device: where the network runs.
        after: the last step that is of no interest.
        upto: the last step that is; the training ends there with `TracedEnoughError`. None: all the rest.
        most_bytes: room for tensors; of steps beyond it only the digests are kept.
    """

    def __init__(
        self, device: torch.device, *, after: int = 0, upto: int | None = None, most_bytes: int = _MOST_BYTES
    ) -> None:
        self.steps: list[StepTrace] = []
        self._chain = DigestChain(device)
        self._after = after
        self._upto = upto
        self._room = most_bytes
        self._start: StepDigests | None = None
        self._rates: tuple[float, ...] = ()
        self._before: dict[str, Tensor] = {}

    @property
    def trace(self) -> Trace:
        """The steps so far."""
        return tuple(self.steps)

    def before_step(self, step: Step) -> None:
        """Take in what goes into the step."""
        self._chain.add(step.batch, step.optimizer)
        if step.number <= self._after:
            return
        self._start = self._chain.after(step.number - 1, step.module, step.optimizer)
        self._rates = tuple(float(group["lr"]) for group in step.optimizer.param_groups)
        untouched = bool(self.steps) and same_state(self.steps[-1].end, self._start)
        self._before = {} if untouched else self._copy(step)

    def after_step(self, step: Step) -> None:
        """Keep what came of it."""
        if self._start is not None:
            end = self._chain.after(step.number, step.module, step.optimizer)
            self.steps.append(
                StepTrace(start=self._start, end=end, rates=self._rates, before=self._before, after=self._copy(step))
            )
        if step.number == self._upto:
            raise TracedEnoughError

    def _copy(self, step: Step) -> dict[str, Tensor]:
        by_kind = training_tensors(step.module, step.optimizer)
        tensors = {name: tensor for kind in STATES for name, tensor in by_kind[kind].items()}
        size = sum(tensor.nbytes for tensor in tensors.values())
        if size > self._room:
            self._room = 0
            return {}
        self._room -= size
        return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}


def same_state(one: StepDigests, other: StepDigests) -> bool:
    """Whether parameters, buffers and optimizer have the same digests."""
    return all(getattr(one, kind) == getattr(other, kind) for kind in STATES)


def same_inputs(one: StepDigests, other: StepDigests) -> bool:
    """Whether everything that went into the steps so far has the same digests."""
    return all(getattr(one, kind) == getattr(other, kind) for kind in INPUTS)


def write_trace(trace: Trace, path: Path) -> None:
    """Write a trace as one safetensors file, for another process."""
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
    save_file(tensors, path, metadata={"steps": json.dumps(steps)})


def read_trace(path: Path) -> Trace:
    """Read what `write_trace` wrote."""
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
