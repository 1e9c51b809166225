"""The axes varied within one process, which trains the model again with one condition changed and explains differences.

The axes of the evaluation are in `harness.determinism.evaluation`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harness.determinism.attribution import GLOBALS, SOURCES, NondeterminismSource, attribute
from harness.determinism.axes import Axis, compared, finding, not_applicable
from harness.determinism.evaluation import evaluation_between, pure_evaluation
from harness.determinism.interventions import Interventions, deterministic_algorithms
from harness.determinism.model_under_test import ModelUnderTest
from harness.determinism.snapshot import RANDOM_STATES, TORCH_RANDOM, StateSnapshot
from harness.errors import HarnessError
from harness.files import temporary_folder
from harness.findings import Finding, Status
from harness.graph import CapturedModel, computing_threads
from harness.reproducibility.comparison import Difference, describe_difference, first_difference
from harness.reproducibility.trace import Trace, Tracer
from harness.training import (
    EpochResult,
    NullObserver,
    RandomStreams,
    Step,
    TrainingInterrupted,
    preserved_randomness,
    shuffled_batches,
    state_digest,
)
from harness.training.randomness import device_random_state

# The cause of a difference is looked for in trainings of at least this many steps.
_MIN_ATTRIBUTION_STEPS = 10
# Differences between the seed of the run and the other seeds.
_OFFSETS = (1, 2, 3, 10, 100, 2**16, 2**32)
_HINTS = {
    Axis.WEIGHTS: "Draw the weights with torch's initialisers, and set no seed in the constructor.",
    Axis.ORDER: "Seed the loader's generator with the whole seed: torch.Generator().manual_seed(seed).",
    Axis.AUGMENTATION: "Draw the augmentation from the run's own random stream.",
    Axis.DROPOUT: "Set no seed in forward.",
}


def vary(
    model: ModelUnderTest,
    reference: Trace,
    interventions: Interventions,
    captured: CapturedModel | None,
    why_not_captured: str,
) -> Iterator[Finding]:
    """Vary each axis that one process can vary, and yield the findings.

    ``reference`` is the trace of the unchanged training; ``interventions`` must be entered before the model is
    imported.
    """
    repeated = repeat(model, reference, interventions)
    yield repeated
    dependent: dict[Axis, Callable[[], Finding]] = {
        Axis.THREADS: lambda: one_thread(model, reference),
        Axis.EVALUATION: lambda: evaluation_between(model, reference),
        Axis.RESUME: lambda: resume(model, reference),
        Axis.GRAPH: lambda: rebuilt_graph(model, reference, captured, why_not_captured),
        Axis.DETERMINISTIC: lambda: other_algorithms(model, reference),
    }
    for axis, variation in dependent.items():
        repeats = repeated.status is Status.PASS
        yield variation() if repeats else not_applicable(axis, "the training does not repeat itself")
    if captured is not None and not captured.fidelity.holds:
        evidence = (
            "`harness train` and `harness verify` train the graph, which repeats what the module drew during capture"
        )
        hint = "Draw with torch in forward, and keep counts in buffers."
        yield finding(Axis.FROZEN, Status.FAIL, "; ".join(captured.fidelity.differences), (evidence,), hint)
    yield from other_seeds(model)
    yield pure_evaluation(model, interventions)


def repeat(model: ModelUnderTest, reference: Trace, interventions: Interventions) -> Finding:
    """Repeat the training; if the trace differs from ``reference``, look for the causes."""
    difference = first_difference(reference, model.trace())
    if difference is None:
        return compared(Axis.REPEAT, None)
    upto = attribution_steps(difference, model.steps)

    def twice(released: frozenset[str]) -> str | None:
        return describe_difference(*(pinned_trace(model, interventions, released, upto) for _ in range(2)))

    found = attribute(SOURCES, twice)
    model.reimport()
    evidence = (*found.evidence, *found.locations(interventions.callers))
    return compared(Axis.REPEAT, difference, evidence=evidence, hint=found.hint)


def attribution_steps(difference: Difference, steps: int) -> int:
    """Return how many of ``steps`` steps to repeat for each source of nondeterminism to find the cause of a difference."""
    return min(max(difference.step, _MIN_ATTRIBUTION_STEPS), steps)


def pinned_trace(model: ModelUnderTest, interventions: Interventions, released: frozenset[str], upto: int) -> Trace:
    """Train for ``upto`` steps with all sources of nondeterminism pinned except those named in ``released``."""
    with interventions.pinned(released, reimport=model.reimport):
        return model.trace(upto=upto)


def one_thread(model: ModelUnderTest, reference: Trace) -> Finding:
    """Train on one thread, if the process uses several threads, and compare with ``reference``."""
    if model.device.type != "cpu":
        return not_applicable(Axis.THREADS, f"the arithmetic is done on {model.device}")
    if torch.get_num_threads() == 1:
        return not_applicable(Axis.THREADS, "torch computes on one thread here")
    with computing_threads(1):
        return compared(Axis.THREADS, first_difference(reference, model.trace()))


def other_algorithms(model: ModelUnderTest, reference: Trace) -> Finding:
    """Train with ``torch.use_deterministic_algorithms`` switched to the opposite, and compare with ``reference``."""
    try:
        with deterministic_algorithms(on=not torch.are_deterministic_algorithms_enabled()):
            return compared(Axis.DETERMINISTIC, first_difference(reference, model.trace()))
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        refused = str(error).partition(". ")[0]
        return not_applicable(Axis.DETERMINISTIC, f"torch refuses an operation: {refused}")


class _StopAfter(NullObserver):
    """An observer that stops the training after an epoch by a KeyboardInterrupt, as Ctrl-C does."""

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch

    def on_epoch(self, result: EpochResult) -> None:  # type: ignore[override] # NullObserver accepts any arguments
        if result.epoch == self._epoch:
            raise KeyboardInterrupt


def resume(model: ModelUnderTest, reference: Trace) -> Finding:
    """Stop the training and resume it; if the trace differs from ``reference``, find the state that the checkpoint lacks."""
    original = model.imported
    try:
        return _resume(model, reference)
    finally:
        # Random values drawn during the import of the files are those of the reference training again.
        model.imported = original


def _resume(model: ModelUnderTest, reference: Trace) -> Finding:
    try:
        trace, lost = _stop_and_resume(model)
    except HarnessError:
        raise
    except Exception as error:  # noqa: BLE001 - a module's own load_state_dict may raise anything
        words = f"the training cannot be resumed: {type(error).__name__}: {error}"
        return finding(Axis.RESUME, Status.FAIL, words, hint="Let load_state_dict accept what state_dict returns.")
    difference = first_difference(reference, trace)
    if difference is None:
        return compared(Axis.RESUME, None)
    upto = difference.step
    model.reimport()
    if first_difference(reference[:upto], model.trace(upto=upto)) is not None:
        return not_applicable(
            Axis.RESUME, "the training differs when its files are imported again, even if it is not stopped"
        )
    sources = [*map(_lost_state, lost), GLOBALS]

    def again(released: frozenset[str]) -> str | None:
        kept = [source.name for source in sources if source.name not in released]
        model.reimport()
        return describe_difference(reference[:upto], _stop_and_resume(model, kept, upto=upto)[0])

    found = attribute(sources, again)
    return compared(Axis.RESUME, difference, evidence=found.evidence, hint=found.hint)


def _stop_and_resume(
    model: ModelUnderTest, kept: Sequence[str] = (), *, upto: int | None = None
) -> tuple[Trace, list[str]]:
    """Stop a training and resume it as a new process would, except that the state items in ``kept`` are carried over.

    Returns the trace of all steps and the names of the items that are not in the checkpoint and differ in a new module.
    """
    with temporary_folder("determinism") as folder:
        module, tracer = model.module(), Tracer(model.device)
        stop = _StopAfter((model.spec.recipe.epochs + 1) // 2)
        with suppress(TrainingInterrupted):
            model.trace(module, tracer=tracer, observer=stop, folder=folder)
        stopped = StateSnapshot(module, model.device)
        if GLOBALS.name not in kept:
            model.reimport()
        random.seed()
        np.random.seed()  # noqa: NPY002 - the legacy global generator is the one that others may share
        again = model.module()
        changed = stopped.changed(StateSnapshot(again, model.device))
        in_checkpoint = module.state_dict()
        lost = [name for name in changed if name != TORCH_RANDOM and name.partition(" ")[2] not in in_checkpoint]
        stopped.restore(again, kept)
        return model.trace(again, tracer=tracer, folder=folder, upto=upto), lost


def _lost_state(name: str) -> NondeterminismSource:
    if name in RANDOM_STATES:
        words = f"depends on {name}, which no checkpoint holds"
        hint = "Draw with torch, whose state a checkpoint holds."
    else:
        words = f"keeps state outside the state_dict, in {name}, which no checkpoint holds"
        hint = "Register state that has to survive as a buffer (register_buffer)."
    return NondeterminismSource(name=name, words=words, hint=hint)


def rebuilt_graph(
    model: ModelUnderTest, reference: Trace, captured: CapturedModel | None, why_not_captured: str
) -> Finding:
    """Train the module rebuilt from the graph, with the original module's initial tensors; compare with ``reference``.

    If ``captured`` is None, the axis is not applicable, for the reason ``why_not_captured``.
    """
    if captured is None:
        return not_applicable(Axis.GRAPH, why_not_captured)
    module, rebuilt = model.module(), captured.to_module()
    tensors: dict[str, Tensor] = dict(rebuilt.named_parameters(remove_duplicate=False))
    tensors |= rebuilt.named_buffers(remove_duplicate=False)
    initial = dict((*module.named_parameters(), *module.named_buffers()))
    with torch.no_grad():
        for name, tensor in initial.items():
            tensors[name].copy_(tensor)
    tracer = _PartTracer(model.device, frozenset(initial))
    difference = first_difference(reference, model.trace(rebuilt, tracer=tracer))
    if difference is None:
        return compared(Axis.GRAPH, None)
    before = StateSnapshot(module, model.device)
    model.trace(module, upto=difference.step)
    changed = before.changed(StateSnapshot(module, model.device))
    attributes = [name for name in changed if name.startswith("attribute ")]
    evidence = [*captured.fidelity.differences]
    if attributes:
        listed = ", ".join(attributes)
        evidence.append(
            f"the module changes {listed} in training; a graph holds the value from the time of its capture"
        )
    hint = "`harness train` trains the graph. Keep values that change in a buffer, and draw with torch."
    return compared(Axis.GRAPH, difference, evidence=evidence, hint=hint)


class _PartTracer(Tracer):
    """Traces only the tensors in ``names``, since the module of a graph also has the graph's constants as buffers."""

    def __init__(self, device: torch.device, names: frozenset[str]) -> None:
        super().__init__(device)
        self._names = names

    def before_step(self, step: Step) -> None:
        super().before_step(replace(step, module=_Part(step.module, self._names)))

    def after_step(self, step: Step) -> None:
        super().after_step(replace(step, module=_Part(step.module, self._names)))


class _Part(nn.Module):
    """A view of a module that lists only the parameters and buffers with the given names."""

    def __init__(self, module: nn.Module, names: frozenset[str]) -> None:
        super().__init__()
        self._whole = [module]
        self._names = names

    def named_parameters(self, *_: Any, **__: Any) -> Iterator[tuple[str, nn.Parameter]]:  # noqa: ANN401
        named = self._whole[0].named_parameters(remove_duplicate=False)
        return ((name, tensor) for name, tensor in named if name in self._names)

    def named_buffers(self, *_: Any, **__: Any) -> Iterator[tuple[str, Tensor]]:  # noqa: ANN401
        named = self._whole[0].named_buffers(remove_duplicate=False)
        return ((name, tensor) for name, tensor in named if name in self._names)


def other_seeds(model: ModelUnderTest) -> Iterator[Finding]:
    """Check that initial weights, order of the images, augmentation and dropout differ between seeds."""
    recipe, own_seed = model.spec.recipe, model.spec.seed
    seeds = [(own_seed + offset) % 2**63 for offset in (0, *_OFFSETS)]
    weights, order, augmentation, refused = {}, {}, {}, []
    for seed in seeds:
        try:
            (first,) = model.trace(seed=seed, upto=1)
        except Exception as error:
            if seed == own_seed:
                raise
            refused.append(f"seed={seed} is refused: {type(error).__name__}: {error}")
            continue
        weights[seed] = first.start.parameters
        order[seed] = first.start.order
        augmentation[seed] = first.start.augmentation
    yield _all_differ(Axis.WEIGHTS, weights, refused)
    yield _all_differ(Axis.ORDER, order, refused)
    if model.hooks.batches is not shuffled_batches:
        yield not_applicable(Axis.AUGMENTATION, "the images of your own loader already include its random draws")
    elif recipe.augmentation is None:
        yield not_applicable(Axis.AUGMENTATION, "the recipe has no augmentation")
    else:
        yield _all_differ(Axis.AUGMENTATION, augmentation, refused)
    dropout = _dropout_streams(model, seeds)
    unused = not_applicable(Axis.DROPOUT, "the network draws no random numbers in training")
    yield _all_differ(Axis.DROPOUT, dropout, ()) if dropout else unused


def _dropout_streams(model: ModelUnderTest, seeds: Sequence[int]) -> dict[int, str]:
    """Map each seed to a digest of the module's outputs in train mode for the same images and weights.

    The result is empty if the module draws no random numbers.
    """
    images = model.data.normalise(model.data.train_images[: model.spec.recipe.batch_size])
    found, draws = {}, False
    for seed in seeds:
        module = model.module().to(model.device)
        module.train()
        with preserved_randomness(model.device), torch.no_grad():
            RandomStreams(seed, model.device)
            before = StateSnapshot(module, model.device)
            output: Tensor = module(images)
            draws |= TORCH_RANDOM in before.changed(StateSnapshot(module, model.device))
            found[seed] = state_digest({"output": output, "state": device_random_state(model.device)})
    return found if draws else {}


def _all_differ(axis: Axis, digests: Mapping[int, str], refused: Sequence[str]) -> Finding:
    equal: dict[str, list[int]] = {}
    for seed, digest in digests.items():
        equal.setdefault(digest, []).append(seed)
    # Torch's generator on the CPU uses only the lower 32 bits of a seed, so seeds that agree in these may give equal streams.
    distinct = {seed % 2**32 for seed in digests}
    groups = [seeds for seeds in equal.values() if len({seed % 2**32 for seed in seeds}) > 1]
    if not groups:
        pairs = len(distinct) * (len(distinct) - 1) // 2
        cut = "; only the lower 32 bits of a seed are used" if len(equal) < len(digests) else ""
        return finding(axis, Status.PASS, f"differs in all {pairs} pairs of {len(distinct)} seeds{cut}", refused)
    stream = axis.value.partition(": ")[2]
    if len(equal) == 1:
        cause = f"cause: the seed is ignored: {stream} equal under all {len(digests)} seeds"
    else:
        cause = f"cause: seeds have equal effects: {len(equal)} different values of {stream} under {len(digests)} seeds"
    listed = (f"equal: seeds {', '.join(map(str, seeds))}" for seeds in groups)
    first, second = groups[0][:2]
    observed = f"bit-equal under seed={first} and seed={second}"
    return finding(axis, Status.FAIL, observed, (cause, *listed, *refused), _HINTS[axis])
