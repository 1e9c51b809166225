"""Check a model against its golden: bit for bit in a recorded environment, within tolerances in other environments."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import torch

from harness.errors import InputError
from harness.findings import Finding, Status
from harness.goldens.changes import (
    describe_tensors,
    format_shape,
    list_operations,
    operation_changes,
    tensor_changes,
    training_change,
)
from harness.goldens.golden import SUFFIX, BitExactResults, Golden, read_golden
from harness.goldens.measurement import (
    STEPS,
    depth_outputs,
    digest,
    environment_key,
    fixed_images,
    machine_properties,
    max_abs_difference,
    recipe_settings,
    sample,
    train_briefly,
)
from harness.graph import CapturedModel
from harness.reproducibility import setting_differences
from harness.training import RunSpec, environment

_MAX_LINES = 8
_EXPECTED = {
    "graph": "the recorded operations, in training and in evaluation",
    "weights": "the recorded initial parameters, buffers and constants, bit for bit",
    "outputs": "the recorded outputs at three depths",
    "training": f"the recorded digests of {STEPS} training steps",
}


def check_golden(captured: CapturedModel, spec: RunSpec, path: Path, *, remedy: str) -> tuple[Finding, ...]:
    """Check a model against the golden in the file ``path``; the findings are ``graph``, ``weights``, ``outputs``, ``training``.

    A finding is ``fail`` if a result differs from the golden, and ``unknown`` if results are not equal bit for bit and the
    golden has no results for this environment, or only from another machine. If the file is missing or unreadable, the only
    finding is a failed ``golden``.

    The model must have the initial weights of seed 1. ``spec`` gives the recipe and the device; if the golden has results for
    this environment, 50 steps are trained. ``remedy`` is the command that updates the golden, for hints.
    """
    try:
        golden = read_golden(path) if path.exists() else None
        observed = f"{path} does not exist"
    except InputError as problem:
        golden, observed = None, str(problem)
    if golden is None:
        expected, hint = "a golden to compare with", f"Restore the file, or create it with `{remedy}`."
        missing = Finding(requirement="golden", status=Status.FAIL, expected=expected, observed=observed, hint=hint)
        return (missing,)
    return _Check(captured, spec, golden, remedy).findings()


def unused_goldens(folder: Path, used: Collection[Path]) -> tuple[Finding, ...]:
    """A failed finding for each golden file in a folder that is not in ``used``, the golden files of all models."""
    return tuple(_unused(path) for path in sorted(folder.glob(f"*{SUFFIX}")) if path not in used)


def _unused(path: Path) -> Finding:
    observed = f"{path.name} belongs to no model"
    try:
        read_golden(path)
    except InputError as problem:
        observed = str(problem)
    return Finding(
        requirement="unused golden",
        status=Status.FAIL,
        expected="a model for each golden",
        observed=observed,
        hint=f"Delete {path}, or restore the model of this golden.",
    )


class _Check:
    """The check of one model against one golden in one environment."""

    def __init__(self, captured: CapturedModel, spec: RunSpec, golden: Golden, remedy: str) -> None:
        self.captured = captured
        self.spec = spec
        self.golden = golden
        self.device = torch.device(spec.device)
        self.remedy = remedy
        here = environment(self.device)
        self.key = environment_key(here, self.device)
        self.entry = golden.entry_for(self.key)
        recorded_here = self.entry.machine if self.entry else machine_properties(here)
        self.machine_differences = setting_differences(recorded_here, machine_properties(here))
        # Whether a result that is not bit-equal is a failure.
        self.must_be_bit_equal = self.entry is not None and not self.machine_differences
        self.tensor_changes = tensor_changes(golden.tensors, describe_tensors(captured.graph))

    def findings(self) -> tuple[Finding, ...]:
        return self._graph(), self._weights(), self._outputs(), self._training()

    def _graph(self) -> Finding:
        golden, graph = self.golden, self.captured.graph
        now = graph.exact_digest()
        if now != golden.graph:
            changes = operation_changes(golden.operations, list_operations(graph)) + self.tensor_changes
            changes = changes or ["operations and arguments are equal, but constants or dtypes differ"]
            evidence = [*changes[:_MAX_LINES], f"exact digest: recorded {golden.graph}, now {now}"]
            return self._finding("graph", Status.FAIL, _first_of(changes), evidence)
        observed = f"all {len(golden.operations)} operations are equal"
        return self._finding("graph", Status.PASS, observed, [f"exact digest {now}"])

    def _weights(self) -> Finding:
        now = {name: digest(tensor) for name, tensor in self.captured.state.items()}
        # If no bit-equality with this environment is required, weights equal to those of any environment pass.
        entries = [self.entry] if self.entry and self.must_be_bit_equal else self.golden.bits
        differing = min(([name for name in now if entry.tensors.get(name) != now[name]] for entry in entries), key=len)
        # Names, dtypes and shapes do not depend on the environment.
        changes = self.tensor_changes
        if changes or differing:
            status = Status.FAIL if changes or self.must_be_bit_equal else Status.UNKNOWN
            observed = _first_of(changes or [f"{name} has other values" for name in differing])
        else:
            status, observed = Status.PASS, f"{len(now)} tensors, bit-equal"
        evidence = changes or [f"{name}: digest {now[name]}" for name in differing]
        return self._finding("weights", status, observed, evidence[:_MAX_LINES])

    def _outputs(self) -> Finding:
        lines, differing, outside = [], [], []
        outputs = depth_outputs(self.captured, self.device)
        for depth in self.golden.depths:
            output = outputs[depth.name]
            place = f"{depth.name} ({depth.value}, {format_shape(depth.shape)})"
            if output.shape != depth.shape:
                outside.append(depth.name)
                lines.append(f"{place}: now of shape {format_shape(output.shape)}")
                continue
            difference = max_abs_difference(sample(output.double()), self.golden.values[depth.name])
            # Negated, so that a difference of NaN counts as outside the tolerance.
            if not difference <= depth.tolerance:
                outside.append(depth.name)
            bits = ""
            if self.entry:
                equal = digest(output) == self.entry.outputs[depth.name]
                differing += [] if equal else [depth.name]
                bits = "bit-equal, " if equal else "not bit-equal, "
            lines.append(
                f"{place}: {bits}differs from double precision by {depth.describe_difference(difference)}; tolerance "
                f"{depth.tolerance:.2g}"
            )
        if digest(fixed_images()) != self.golden.images:
            status, observed = Status.FAIL, "the fixed images differ from the recorded images"
        elif outside:
            status, observed = Status.FAIL, f"outside tolerance, first at depth {outside[0]!r}"
        elif self.entry is None:
            status, observed = Status.UNKNOWN, f"within tolerance, but no results recorded for {self.key.describe()}"
        elif differing:
            status = Status.FAIL if self.must_be_bit_equal else Status.UNKNOWN
            observed = f"within tolerance, but not bit-equal, first at depth {differing[0]!r}"
        else:
            status, observed = Status.PASS, f"bit-equal at {len(lines)} depths"
        return self._finding("outputs", status, observed, lines)

    def _training(self) -> Finding:
        changes = setting_differences(self.golden.recipe, recipe_settings(self.spec.recipe))
        if changes:
            status, observed = Status.FAIL, f"the recipe differs: {_first_of(changes)}"
        elif self.entry is None:
            status, observed = Status.UNKNOWN, f"not trained, since no results are recorded for {self.key.describe()}"
        else:
            status, observed = self._compare_training(self.entry)
        return self._finding("training", status, observed, changes[:_MAX_LINES])

    def _compare_training(self, recorded: BitExactResults) -> tuple[Status, str]:
        try:
            digests = train_briefly(self.captured, self.spec)
        except InputError as problem:
            return Status.FAIL, f"the training fails: {problem}"
        if change := training_change(recorded.training, digests):
            return Status.FAIL if self.must_be_bit_equal else Status.UNKNOWN, change
        return Status.PASS, f"bit-equal over {digests[-1].step} steps"

    def _finding(self, requirement: str, status: Status, observed: str, evidence: Sequence[str]) -> Finding:
        """Create a finding with a hint; the evidence of an ``unknown`` finding includes the reasons for ``unknown``."""
        reasons: tuple[str, ...] = ()
        hint = (
            f"If the change is intended, record the new results with `{self.remedy}`." if status is Status.FAIL else ""
        )
        if status is Status.UNKNOWN:
            effect = (
                "replace the results of that machine by those of this machine" if self.entry else "add this environment"
            )
            hint = f"Check on the machine that recorded the golden; if the check passes, run `{self.remedy}` here to {effect}."
            keys = "; ".join(entry.key.describe() for entry in self.golden.bits)
            reasons = tuple(f"recorded on another machine: {line}" for line in self.machine_differences)
            reasons = reasons or (f"recorded environments: {keys}",)
        return Finding(
            requirement=requirement,
            status=status,
            expected=_EXPECTED[requirement],
            observed=observed,
            evidence=(*evidence, *reasons),
            hint=hint,
        )


def _first_of(lines: Sequence[str]) -> str:
    """The first line, followed by the number of further lines if there are any."""
    return lines[0] + (f", and {len(lines) - 1} more" if len(lines) > 1 else "")
