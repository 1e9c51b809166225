"""The axes of the determinism audit that one process can vary: each trains again with one thing changed, and compares."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harness.determinism.moment import RANDOM_STATES, TORCH_RANDOM, Moment
from harness.determinism.subject import Subject
from harness.determinism.suspects import (
    GLOBALS,
    SUSPECTS,
    Interventions,
    Suspect,
    blame,
    deterministic,
)
from harness.errors import HarnessError
from harness.findings import Finding, Status
from harness.graph import CapturedModel, computing_threads
from harness.reproducibility.comparison import Difference, first_difference
from harness.reproducibility.trace import Trace, Tracer
from harness.training import (
    EpochResult,
    RandomStreams,
    Step,
    TrainingInterrupted,
    preserved_randomness,
    shuffled_batches,
    state_digest,
)
from harness.training.randomness import device_random_state


class Axis(StrEnum):
    """What is varied, in the order of a report."""

    REPEAT = "repeat in the process"
    FRESH = "fresh process"
    HASH = "other PYTHONHASHSEED"
    THREADS = "one thread against all"
    EVALUATION = "evaluation in between or not"
    RESUME = "stop and resume from a checkpoint"
    GRAPH = "original module against rebuilt graph"
    FROZEN = "captured graph draws anew"
    DETERMINISTIC = "deterministic algorithms on or off"
    WEIGHTS = "another seed: initial weights"
    ORDER = "another seed: order of images"
    AUGMENTATION = "another seed: augmentation"
    DROPOUT = "another seed: dropout stream"
    PURE = "evaluation alone is pure"


# No platform promises these: where they differ, they are shown with their size and fail nobody.
_NOT_PROMISED = (Axis.THREADS, Axis.DETERMINISTIC)
_EXPECTED = {
    Axis.THREADS: "the same bits, or a difference in rounding",
    Axis.DETERMINISTIC: "the same bits, or a difference in rounding",
    Axis.FROZEN: "nothing frozen into the graph",
    **dict.fromkeys((Axis.WEIGHTS, Axis.ORDER, Axis.AUGMENTATION, Axis.DROPOUT), "no two seeds alike"),
    Axis.PURE: "the same answers twice, and everything left as it was",
}
# So many steps are run again for each suspect, or as many as it took to differ.
_STEPS_OF_AN_INVESTIGATION = 10
_OTHER_SEEDS = (1, 2, 3, 10, 100, 2**16, 2**32)


def compared(axis: Axis, difference: Difference | None, *, evidence: Sequence[str] = (), hint: str = "") -> Finding:
    """The finding of an axis on which the bits are to be the same."""
    if difference is None:
        return finding(axis, Status.PASS, "bit-equal")
    evidence = evidence or (f"what differs first points to: {difference.cause.value}",)
    if axis in _NOT_PROMISED:
        return finding(axis, Status.SKIP, f"{difference.describe()} (not promised)", evidence, hint)
    return finding(axis, Status.FAIL, difference.describe(), evidence, hint)


def not_applicable(axis: Axis, why: str) -> Finding:
    """The finding of an axis that cannot be varied here."""
    return finding(axis, Status.SKIP, f"not applicable: {why}")


def finding(axis: Axis, status: Status, observed: str, evidence: Iterable[str] = (), hint: str = "") -> Finding:
    """The finding of an axis."""
    return Finding(
        requirement=axis.value,
        status=status,
        expected=_EXPECTED.get(axis, "the same bits"),
        observed=observed,
        evidence=tuple(evidence),
        hint=hint,
    )


def repeat(subject: Subject, plain: Trace, interventions: Interventions) -> Finding:
    """The same training a second time; where it differs, the causes are looked for."""
    difference = first_difference(plain, subject.trace())
    if difference is None:
        return compared(Axis.REPEAT, None)
    upto = steps_of_an_investigation(difference, subject.steps)

    def twice(released: frozenset[str]) -> Difference | None:
        return first_difference(*(investigated(subject, interventions, released, upto) for _ in range(2)))

    found = blame(SUSPECTS, twice)
    subject.renew()
    evidence = (*found.evidence, *called(found.causes, interventions.callers))
    return compared(Axis.REPEAT, difference, evidence=evidence, hint=found.hint)


def steps_of_an_investigation(difference: Difference, steps: int) -> int:
    """How many of all steps are trained again for each suspect."""
    return min(max(difference.step, _STEPS_OF_AN_INVESTIGATION), steps)


def investigated(subject: Subject, interventions: Interventions, released: frozenset[str], upto: int) -> Trace:
    """A short training with all suspects held still but those released."""
    with interventions.held(released, renew=subject.renew):
        return subject.trace(upto=upto)


def called(causes: Iterable[Suspect], callers: Mapping[str, str]) -> tuple[str, ...]:
    """Where the causes are called, as far as it is known."""
    return tuple(f"{cause.name} is called {callers[cause.name]}" for cause in causes if cause.name in callers)


def one_thread(subject: Subject, plain: Trace) -> Finding:
    """On one thread; the usual number is what the process has."""
    if subject.device.type != "cpu":
        return not_applicable(Axis.THREADS, f"the arithmetic is done on {subject.device}")
    if torch.get_num_threads() == 1:
        return not_applicable(Axis.THREADS, "torch computes on one thread here")
    with computing_threads(1):
        return compared(Axis.THREADS, first_difference(plain, subject.trace()))


def deterministic_algorithms(subject: Subject, plain: Trace) -> Finding:
    """With torch's deterministic algorithms on where they were off, and the other way round."""
    try:
        with deterministic(on=not torch.are_deterministic_algorithms_enabled()):
            return compared(Axis.DETERMINISTIC, first_difference(plain, subject.trace()))
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        refused = str(error).partition(". ")[0]
        return not_applicable(Axis.DETERMINISTIC, f"torch refuses an operation: {refused}")


class _StopAfter:
    """An observer that stops the training after an epoch, as Ctrl-C would."""

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch

    def on_start(self, **_: object) -> None:
        """Nothing to do yet."""

    def on_step(self, **_: object) -> None:
        """Nothing to do yet."""

    def on_epoch(self, result: EpochResult) -> None:
        if result.epoch == self._epoch:
            raise KeyboardInterrupt

    def on_warning(self, message: str) -> None:
        """No damaged checkpoint is expected."""


def resume(subject: Subject, plain: Trace) -> Finding:
    """Stopped after an epoch, and gone on with from the checkpoint as a new process would."""
    original = subject.imported
    try:
        return _resume(subject, plain)
    finally:
        # What the files drew when they were imported is as it was in the plain training.
        subject.imported = original


def _resume(subject: Subject, plain: Trace) -> Finding:
    try:
        first = _stopped_and_resumed(subject)
    except HarnessError:
        raise
    except Exception as error:  # noqa: BLE001 - a module's own load_state_dict may raise anything
        words = f"cannot be resumed: {type(error).__name__}: {error}"
        return finding(Axis.RESUME, Status.FAIL, words, hint="Let load_state_dict take what state_dict gives.")
    difference = first_difference(plain, first.trace)
    if difference is None:
        return compared(Axis.RESUME, None)
    upto = difference.step
    subject.renew()
    if first_difference(plain[:upto], subject.trace(upto=upto)) is not None:
        return not_applicable(Axis.RESUME, "the training differs when its files are imported anew, stopped or not")
    suspects = [_resume_suspect(name) for name in first.lost] + [GLOBALS]

    def again(released: frozenset[str]) -> Difference | None:
        kept = [suspect.name for suspect in suspects if suspect.name not in released]
        subject.renew()
        return first_difference(plain[:upto], _stopped_and_resumed(subject, kept, upto=upto).trace)

    found = blame(suspects, again)
    return compared(Axis.RESUME, difference, evidence=found.evidence, hint=found.hint)


@dataclass(frozen=True, kw_only=True)
class _Resumed:
    """A training that was stopped and gone on with.

    Args:
        trace: all its steps, before the stop and after it.
        lost: names of what the checkpoint did not hold, and the new module and a new process do not have as it was.
    """

    trace: Trace
    lost: tuple[str, ...]


def _stopped_and_resumed(subject: Subject, kept: Sequence[str] = (), *, upto: int | None = None) -> _Resumed:
    """Train up to a stop, and go on as a new process would; what has the names ``kept`` is carried over."""
    with tempfile.TemporaryDirectory(prefix="harness-determinism-") as name:
        module, tracer = subject.module(), Tracer(subject.device)
        stop = _StopAfter((subject.recipe.epochs + 1) // 2)
        with suppress(TrainingInterrupted):
            subject.trace(module, tracer=tracer, observer=stop, folder=Path(name))
        stopped = Moment(module, subject.device)
        if GLOBALS.name not in kept:
            subject.renew()
        random.seed()
        np.random.seed()  # noqa: NPY002 - the old global generator is the one that others may share
        again = subject.module()
        changed = stopped.changed(Moment(again, subject.device))
        in_checkpoint = module.state_dict()
        lost = (name for name in changed if name != TORCH_RANDOM and name.partition(" ")[2] not in in_checkpoint)
        stopped.put_back(again, kept)
        trace = subject.trace(again, tracer=tracer, folder=Path(name), upto=upto)
        return _Resumed(trace=trace, lost=tuple(lost))


def _resume_suspect(name: str) -> Suspect:
    if name in RANDOM_STATES:
        words, hint = (
            f"goes on with {name}, which no checkpoint holds",
            "Draw with torch, whose state a checkpoint holds.",
        )
    else:
        words = f"keeps state outside its state_dict, in its {name}, which no checkpoint holds"
        hint = "Register what has to survive as a buffer (register_buffer)."
    return Suspect(name=name, words=words, hint=hint)


def rebuilt_graph(subject: Subject, plain: Trace, captured: CapturedModel | None, why_not: str) -> Finding:
    """The rebuilt graph, with the module's initial tensors, in the module's place."""
    if captured is None:
        return not_applicable(Axis.GRAPH, why_not)
    module, rebuilt = subject.module(), captured.to_module()
    tensors = {
        **dict(rebuilt.named_parameters(remove_duplicate=False)),
        **dict(rebuilt.named_buffers(remove_duplicate=False)),
    }
    names = []
    with torch.no_grad():
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            tensors[name].copy_(tensor)
            names.append(name)
    tracer = _TracerOf(subject.device, frozenset(names))
    difference = first_difference(plain, subject.trace(rebuilt, tracer=tracer))
    if difference is None:
        return compared(Axis.GRAPH, None)
    begin = Moment(module, subject.device)
    subject.trace(module, upto=difference.step)
    changing = [name for name in begin.changed(Moment(module, subject.device)) if name.startswith("attribute ")]
    evidence = [*captured.fidelity.differences]
    if changing:
        evidence.append(
            f"the module changes {', '.join(changing)} in training; a graph holds it as it was when captured"
        )
    hint = "`harness train` trains the graph. Keep in a buffer what changes, and draw with torch."
    return compared(Axis.GRAPH, difference, evidence=evidence, hint=hint)


class _TracerOf(Tracer):
    """Sees only the tensors of these names: a graph's constants are buffers of its module, too."""

    def __init__(self, device: torch.device, names: frozenset[str]) -> None:
        super().__init__(device)
        self._names = names

    def before_step(self, step: Step) -> None:
        super().before_step(replace(step, module=_Part(step.module, self._names)))

    def after_step(self, step: Step) -> None:
        super().after_step(replace(step, module=_Part(step.module, self._names)))


class _Part(nn.Module):
    """A module as its tensors of some names."""

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


def frozen_draws(captured: CapturedModel) -> Finding:
    """A graph that does not stand for its module."""
    return finding(
        Axis.FROZEN,
        Status.FAIL,
        "; ".join(captured.fidelity.differences),
        (
            "`harness train` and `harness verify` train the graph, which repeats what the module drew when it was captured",
        ),
        "Draw with torch in forward, and keep counts in buffers.",
    )


def another_seed(subject: Subject) -> Iterator[Finding]:
    """Every stream under several seeds: no two may be alike."""
    seeds = [(subject.seed + more) % 2**63 for more in (0, *_OTHER_SEEDS)]
    weights, order, augmentation, refused = {}, {}, {}, []
    for seed in seeds:
        try:
            (first,) = subject.trace(seed=seed, upto=1)
        except Exception as error:
            if seed == subject.seed:
                raise
            refused.append(f"seed={seed} is refused: {type(error).__name__}: {error}")
            continue
        weights[seed] = first.start.parameters
        order[seed] = first.start.order
        augmentation[seed] = first.start.augmentation
    own = subject.procedure.batches is not shuffled_batches
    yield _seeds_differ(Axis.WEIGHTS, weights, refused)
    yield _seeds_differ(Axis.ORDER, order, refused)
    if own or subject.recipe.augmentation is None:
        why = "the loader is your own, and what it draws is in its images" if own else "the recipe augments nothing"
        yield not_applicable(Axis.AUGMENTATION, why)
    else:
        yield _seeds_differ(Axis.AUGMENTATION, augmentation, refused)
    dropout = _dropout_streams(subject, seeds)
    if dropout:
        yield _seeds_differ(Axis.DROPOUT, dropout, ())
    else:
        yield not_applicable(Axis.DROPOUT, "the network draws nothing in training")


def _dropout_streams(subject: Subject, seeds: Sequence[int]) -> dict[int, str]:
    """What the network makes of the same images with the same weights under each seed; nothing if it draws nothing."""
    images = subject.data.normalise(subject.data.train_images[: subject.recipe.batch_size])
    found, drew = {}, False
    for seed in seeds:
        module = subject.module().to(subject.device).train()
        with preserved_randomness(subject.device), torch.no_grad():
            RandomStreams(seed, subject.device)
            before = Moment(module, subject.device)
            output: Tensor = module(images)
            after = Moment(module, subject.device)
            drew |= TORCH_RANDOM in before.changed(after)
            found[seed] = state_digest({"output": output, "state": device_random_state(subject.device)})
    return found if drew else {}


_SEED_HINTS = {
    Axis.WEIGHTS: "Draw the weights with torch's initialisers, and set no seed in the constructor.",
    Axis.ORDER: "Seed the loader's generator with the whole seed: torch.Generator().manual_seed(seed).",
    Axis.AUGMENTATION: "Draw it from the run's own stream.",
    Axis.DROPOUT: "Set no seed in forward.",
}


def _seeds_differ(axis: Axis, digests: Mapping[int, str], refused: Sequence[str]) -> Finding:
    alike: dict[str, list[int]] = {}
    for seed, digest in digests.items():
        alike.setdefault(digest, []).append(seed)
    # Torch's generator on the CPU takes the lower 32 bits of a seed, so nobody can be asked to tell these apart.
    distinct = {seed % 2**32 for seed in digests}
    groups = [seeds for seeds in alike.values() if len({seed % 2**32 for seed in seeds}) > 1]
    if not groups:
        pairs = len(distinct) * (len(distinct) - 1) // 2
        cut = "; of a seed only the lower 32 bits count" if len(alike) < len(digests) else ""
        return finding(axis, Status.PASS, f"differs in all {pairs} pairs of {len(distinct)} seeds{cut}", refused)
    stream = axis.value.partition(": ")[2]
    if len(alike) == 1:
        cause = f"cause: the seed is ignored: {stream} alike under all {len(digests)} seeds"
    else:
        cause = f"cause: seeds collapse: {stream} of {len(alike)} kinds under {len(digests)} seeds"
    listed = (f"alike: seeds {', '.join(map(str, seeds))}" for seeds in groups)
    first, second = groups[0][:2]
    observed = f"bit-equal under seed={first} and seed={second}"
    return finding(axis, Status.FAIL, observed, (cause, *listed, *refused), _SEED_HINTS[axis])
