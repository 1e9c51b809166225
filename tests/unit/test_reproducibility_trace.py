"""Traces of training steps: what they keep, and their files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.reproducibility.comparison import first_differing_kind
from harness.reproducibility.trace import Trace, TraceCompleteError, Tracer, read_trace, write_trace
from harness.training import STATES, Step, TrainingHooks
from tests.training_runs import run

CPU = torch.device("cpu")


class Doubling:
    """A step callback that doubles a weight before step 2 and then forwards to a tracer."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def before_step(self, step: Step) -> None:
        if step.number == 2:
            step.module.get_parameter("5.bias").detach().mul_(2)
        self._tracer.before_step(step)

    def after_step(self, step: Step) -> None:
        self._tracer.after_step(step)


def traced(tracer: Tracer) -> Trace:
    """The trace of a training of the made-up network."""
    with pytest.raises(TraceCompleteError):
        run(hooks=TrainingHooks(callbacks=(Doubling(tracer),)))
    return tracer.trace


def test_only_the_steps_of_a_range_are_traced() -> None:
    """Tensors before a step are kept only if they differ from those after the previous step, as in step 2 here."""
    trace = traced(Tracer(CPU, upto=3))
    assert [(1, True), (2, True), (3, False)] == [(step.number, bool(step.before)) for step in trace]
    assert "parameters" == first_differing_kind(trace[0].end, trace[1].start, STATES)
    assert first_differing_kind(trace[1].end, trace[2].start, STATES) is None
    assert (0.1,) == trace[0].rates
    later = traced(Tracer(CPU, after=1, upto=3))
    assert [2, 3] == [step.number for step in later]
    assert [step.end for step in trace[1:]] == [step.end for step in later]


def test_beyond_the_limit_only_digests_are_kept() -> None:
    """The limit is the size of all tensors together."""
    whole = traced(Tracer(CPU, upto=3))
    size = sum(tensor.nbytes for step in whole[:1] for kept in (step.before, step.after) for tensor in kept.values())
    limited = traced(Tracer(CPU, upto=3, max_bytes=size))
    assert [True, False, False] == [bool(step.after) for step in limited]
    assert [step.end for step in whole] == [step.end for step in limited]


def test_a_trace_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Digests, rates and every tensor."""
    trace = traced(Tracer(CPU, upto=3))
    write_trace(trace, tmp_path / "trace.safetensors")
    read = read_trace(tmp_path / "trace.safetensors")
    assert [(step.start, step.end, step.rates) for step in trace] == [
        (step.start, step.end, step.rates) for step in read
    ]
    for expected, actual in zip(trace, read, strict=True):
        for kept, kept_read in ((expected.before, actual.before), (expected.after, actual.after)):
            assert set(kept) == set(kept_read)
            assert all(torch.equal(tensor, kept_read[name]) for name, tensor in kept.items())
