"""Holding a model to its golden: bits where this environment is on record, tolerances where it is not."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import torch

from harness.errors import InputError
from harness.findings import Finding, Status
from harness.goldens.changes import (
    by,
    operation_changes,
    operation_lines,
    setting_changes,
    tensor_words,
    training_change,
)
from harness.goldens.golden import (
    STEPS,
    SUFFIX,
    Bits,
    Golden,
    apart,
    digest,
    fixed_images,
    key_of,
    machine_of,
    read_golden,
    recipe_settings,
    run_to_depths,
    sample,
    train_shortly,
)
from harness.graph import CapturedModel
from harness.training import RunSpec, environment

_MOST_LINES = 8


def check_golden(captured: CapturedModel, spec: RunSpec, path: Path, *, remedy: str) -> tuple[Finding, ...]:
    """Hold a model to its golden: the findings ``graph``, ``weights``, ``outputs`` and ``training``.

    ``fail``: something is not as on record. ``unknown``: this environment is not on record, or only from another kind of
    machine, so that other bits would be no fault. A golden that is not there or cannot be read is one failed finding
    ``golden``.

    Args:
        captured: the model, with its initial weights as drawn under seed 1.
        spec: the device to compute on and the recipe, of which 50 steps are trained where this environment is on record.
        path: the golden's file.
        remedy: the command that puts the model as it is now on record.
    """
    try:
        golden = read_golden(path) if path.exists() else None
        observed = f"there is none: {path} does not exist"
    except InputError as problem:
        golden, observed = None, str(problem)
    if golden is None:
        return (
            Finding(
                requirement="golden",
                status=Status.FAIL,
                expected="a golden to compare with",
                observed=observed,
                hint=f"Bring the file back, or make it anew with `{remedy}`.",
            ),
        )
    return _Check(captured, spec, golden, remedy).findings()


def unused_goldens(folder: Path, used: Collection[Path]) -> tuple[Finding, ...]:
    """A failed finding for each golden in a folder that no model is held to: nobody would notice what it says."""
    return tuple(
        Finding(
            requirement="unused golden",
            status=Status.FAIL,
            expected="a model for each golden",
            observed=f"{path.name} belongs to no model",
            hint=f"Delete {path}, or bring its model back.",
        )
        for path in sorted(folder.glob(f"*{SUFFIX}"))
        if path not in used
    )


class _Check:
    """One model, one golden, one environment."""

    def __init__(self, captured: CapturedModel, spec: RunSpec, golden: Golden, remedy: str) -> None:
        self.captured = captured
        self.spec = spec
        self.golden = golden
        self.device = torch.device(spec.device)
        self.remedy = remedy
        here = environment(self.device)
        self.key = key_of(here, self.device)
        self.bits = golden.at(self.key)
        self.unlike = setting_changes(self.bits.machine, machine_of(here)) if self.bits else []
        # Whether other bits are a fault.
        self.comparable = self.bits is not None and not self.unlike

    def findings(self) -> tuple[Finding, ...]:
        return self._graph(), self._weights(), self._outputs(), self._training()

    def _graph(self) -> Finding:
        golden, graph = self.golden, self.captured.graph
        now = graph.exact_digest()
        changes: list[str] = []
        if now != golden.graph:
            changes = operation_changes(golden.operations, operation_lines(graph)) + self._reshaped()
            changes = changes or ["the same operations and arguments, but other constants or types"]
        return self._finding(
            "graph",
            Status.FAIL if changes else Status.PASS,
            expected="the operations on record, in both modes",
            observed=_first(changes) if changes else f"the same {len(golden.operations)} operations",
            evidence=(*changes[:_MOST_LINES], f"exact digest {now}, on record {golden.graph}"),
        )

    def _weights(self) -> Finding:
        now = {name: digest(tensor) for name, tensor in self.captured.state.items()}
        # Where other bits are no fault, those of any environment will do.
        entries = [self.bits] if self.bits and self.comparable else self.golden.bits
        differing = min(([name for name in now if bits.tensors.get(name) != now[name]] for bits in entries), key=len)
        # Names and shapes are the same everywhere.
        reshaped = self._reshaped()
        if reshaped or differing:
            status = Status.FAIL if reshaped or self.comparable else Status.UNKNOWN
            observed = _first(reshaped or [f"{name} has other numbers" for name in differing])
        else:
            status, observed = Status.PASS, f"{len(now)} tensors, bit-equal"
        return self._finding(
            "weights",
            status,
            expected="the initial parameters, buffers and constants on record, bit for bit",
            observed=observed,
            evidence=(reshaped or [f"{name}: digest {now[name]}" for name in differing])[:_MOST_LINES],
        )

    def _reshaped(self) -> list[str]:
        on_record, now = self.golden.tensors, tensor_words(self.captured.graph)
        return [
            f"{name}: {on_record.get(name, 'not on record')} -> {now.get(name, 'no longer there')}"
            for name in dict.fromkeys((*on_record, *now))
            if on_record.get(name) != now.get(name)
        ]

    def _outputs(self) -> Finding:
        lines, differing, beyond = [], [], []
        outputs = run_to_depths(self.captured, self.device)
        for depth in self.golden.depths:
            output = outputs[depth.name]
            place = f"{depth.name} ({depth.value}, {by(depth.shape)})"
            if output.shape != depth.shape:
                beyond.append(depth.name)
                lines.append(f"{place}: {by(output.shape)} now")
                continue
            size = apart(sample(output.double()), self.golden.values[depth.name])
            # So that a NaN is beyond, too.
            if not size <= depth.tolerance:
                beyond.append(depth.name)
            bits = ""
            if self.bits:
                equal = digest(output) == self.bits.outputs[depth.name]
                differing += [] if equal else [depth.name]
                bits = "bit-equal, " if equal else "other bits, "
            lines.append(f"{place}: {bits}{depth.size(size)} from double precision; tolerance {depth.tolerance:.2g}")
        if digest(fixed_images()) != self.golden.images:
            status, observed = Status.FAIL, "the fixed images are not those on record"
        elif beyond:
            status, observed = Status.FAIL, f"beyond tolerance, first at {beyond[0]}"
        elif self.bits is None:
            status, observed = Status.UNKNOWN, f"within tolerance, but no golden for {self.key.words()}"
        elif differing:
            status = Status.FAIL if self.comparable else Status.UNKNOWN
            observed = f"within tolerance, but other bits, first at {differing[0]}"
        else:
            status, observed = Status.PASS, f"bit-equal at {len(lines)} depths"
        return self._finding(
            "outputs", status, expected="the outputs on record at three depths", observed=observed, evidence=lines
        )

    def _training(self) -> Finding:
        recipe = setting_changes(self.golden.recipe, recipe_settings(self.spec.recipe))
        if recipe:
            status, observed = Status.FAIL, f"the recipe is another: {_first(recipe)}"
        elif self.bits is None:
            status, observed = Status.UNKNOWN, f"not trained, since there is no golden for {self.key.words()}"
        else:
            status, observed = self._trained(self.bits)
        return self._finding(
            "training",
            status,
            expected=f"the digests of {STEPS} training steps on record",
            observed=observed,
            evidence=recipe[:_MOST_LINES],
        )

    def _trained(self, on_record: Bits) -> tuple[Status, str]:
        try:
            digests = train_shortly(self.captured, self.spec)
        except InputError as problem:
            return Status.FAIL, f"it cannot be trained any more: {problem}"
        if parted := training_change(on_record.training, digests):
            return Status.FAIL if self.comparable else Status.UNKNOWN, parted
        return Status.PASS, f"bit-equal over {digests[-1].step} steps"

    def _finding(
        self, requirement: str, status: Status, *, expected: str, observed: str, evidence: Sequence[str]
    ) -> Finding:
        """A finding with what there is to say about its status."""
        reasons: tuple[str, ...] = ()
        hint = f"If the change is meant, `{self.remedy}` puts it on record." if status is Status.FAIL else ""
        if status is Status.UNKNOWN:
            hint = f"Check where the golden was made; once it passes there, `{self.remedy}` adds this environment."
            keys = "; ".join(bits.key.words() for bits in self.golden.bits)
            reasons = tuple(f"the golden was made on another machine: {line}" for line in self.unlike)
            reasons = reasons or (f"on record: {keys}",)
        return Finding(
            requirement=requirement,
            status=status,
            expected=expected,
            observed=observed,
            evidence=(*evidence, *reasons),
            hint=hint,
        )


def _first(lines: Sequence[str]) -> str:
    """The first of some lines, and how many more there are."""
    return lines[0] + (f", and {len(lines) - 1} more" if len(lines) > 1 else "")
