"""The axes of the determinism audit that one process can vary: each trains again with one thing changed, and compares."""

from __future__ import annotations

import copy
import random
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harness.data import Dataset
from harness.errors import HarnessError, InputError
from harness.findings import Finding, Status
from harness.graph import CapturedModel
from harness.reproducibility.comparison import Difference, first_difference
from harness.reproducibility.moment import NUMPY_RANDOM, PYTHON_RANDOM, RANDOM_STATES, TORCH_RANDOM, Moment
from harness.reproducibility.suspects import (
    ARITHMETIC,
    GLOBALS,
    SUSPECTS,
    HasWords,
    Interventions,
    Suspect,
    blame,
    deterministic,
    threads,
)
from harness.reproducibility.trace import Trace, TracedEnoughError, Tracer
from harness.training import (
    EpochResult,
    Procedure,
    RandomStreams,
    Recipe,
    Step,
    TrainingInterrupted,
    Watcher,
    initialise,
    one_epoch,
    preserved_randomness,
    state_digest,
    train,
)


class Axis(StrEnum):
    """What is varied, in the order of a report."""

    REPEAT = "repeat in the process"
    FRESH = "fresh process"
    HASH = "other PYTHONHASHSEED"
    THREADS = "one thread against all"
    EVALUATION = "evaluation in between or not"
    RESUME = "stop and resume from a checkpoint"
    GRAPH = "original module against rebuilt graph"
    FROZEN = "captured graph draws as the module does"
    DETERMINISTIC = "deterministic algorithms on or off"
    WEIGHTS = "another seed: initial weights"
    ORDER = "another seed: order of images"
    AUGMENTATION = "another seed: augmentation"
    DROPOUT = "another seed: dropout stream"
    PURE = "evaluation alone is pure"


# No platform promises these: where they differ, they are shown with their size and fail nobody.
_NOT_PROMISED = (Axis.THREADS, Axis.DETERMINISTIC)
# So many steps are run again for each suspect, or as many as it took to differ.
_STEPS_OF_AN_INVESTIGATION = 10
# Additions in no fixed order may come out alike by chance.
_TRIES = 3
_STEPS_BETWEEN_EVALUATIONS = 5
_OTHER_SEEDS = (1, 2, 3, 10, 100, 2**16, 2**32)
_EVALUATION_BATCH = 1000


def compared(axis: Axis, difference: Difference | None, *, evidence: Sequence[str] = (), hint: str = "") -> Finding:
    """The finding of an axis on which the bits are to be the same."""
    promised = axis not in _NOT_PROMISED
    if difference is None:
        return _finding(axis, Status.PASS, "bit-equal")
    evidence = evidence or (f"what differs first points to: {difference.cause.value}",)
    if not promised:
        return _finding(axis, Status.SKIP, f"{difference.words()} (not promised)", evidence, hint)
    return _finding(axis, Status.FAIL, difference.words(), evidence, hint)


def not_applicable(axis: Axis, why: str) -> Finding:
    """The finding of an axis that cannot be varied here."""
    return _finding(axis, Status.SKIP, f"not applicable: {why}")


def _finding(axis: Axis, status: Status, observed: str, evidence: Iterable[str] = (), hint: str = "") -> Finding:
    expected = "the same bits"
    if axis in _NOT_PROMISED:
        expected = "the same bits, or a difference in rounding"
    if axis in (Axis.WEIGHTS, Axis.ORDER, Axis.AUGMENTATION, Axis.DROPOUT):
        expected = "no two seeds alike"
    return Finding(
        requirement=axis.value,
        status=status,
        expected=expected,
        observed=observed,
        evidence=tuple(evidence),
        hint=hint,
    )


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What came of importing a model's file and the procedure's.

    Args:
        build: the module, drawn under a seed.
        procedure: batches and evaluation.
    """

    build: Callable[[int], nn.Module]
    procedure: Procedure


class Subject:
    """A model and everything that its training is made of, in the process that imported it.

    Args:
        load: imports the model and the procedure, each time anew.
        recipe: how it is trained, with the epochs of the audit.
        data: what on, cut for the audit.
        seed: the declared seed.
        device: where.
        alive: called before each step, so that whoever waits knows that something happens.
    """

    def __init__(  # noqa: PLR0913 - all by name
        self,
        load: Callable[[], Imported],
        *,
        recipe: Recipe,
        data: Dataset,
        seed: int,
        device: torch.device,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        self._load = load
        self._alive = alive
        self.recipe = recipe
        self.data = data.to(device)
        self.seed = seed
        self.device = device
        self.steps = recipe.epochs * -(-len(data.train_images) // recipe.batch_size)
        self.imported = load()

    @property
    def procedure(self) -> Procedure:
        """Batches and evaluation."""
        return self.imported.procedure

    def renew(self) -> None:
        """Import the files anew: their globals and class attributes are as at the beginning."""
        self.imported = self._load()

    def module(self, seed: int | None = None) -> nn.Module:
        """The module with its initial weights."""
        seed = self.seed if seed is None else seed
        return initialise(lambda: self.imported.build(seed), seed=seed)

    def trace(  # noqa: PLR0913 - all by name
        self,
        module: nn.Module | None = None,
        *,
        tracer: Tracer | None = None,
        seed: int | None = None,
        upto: int | None = None,
        watchers: Sequence[Watcher] = (),
        observer: _StopAfter | None = None,
        folder: Path | None = None,
    ) -> Trace:
        """Train once and keep what the steps saw and made.

        Args:
            module: what to train; the module with its initial weights without.
            tracer: what keeps it; a new one without.
            seed: of weights and streams; the declared one without.
            upto: the last step.
            watchers: who else looks at the steps; each comes after the tracer.
            observer: who is told of the epochs.
            folder: where checkpoints are.

        Raises:
            InputError: a loss was no finite number.
        """
        tracer = tracer or Tracer(self.device)
        with suppress(TracedEnoughError):
            record = train(
                self.module(seed) if module is None else module,
                self.recipe,
                self.data,
                seed=self.seed if seed is None else seed,
                device=self.device,
                model_name="audited",
                graph_digest="",
                observer=observer,
                checkpoint_dir=folder,
                procedure=self.procedure,
                watcher=_Several(self._alive, [tracer, *watchers], upto),
            )
            if record.status == "diverged":
                msg = (
                    f"expected a training of {self.steps} steps whose loss stays a finite number, got one that was none "
                    f"by step {len(tracer.trace)}: there is nothing to compare. Use another --recipe or fewer --steps."
                )
                raise InputError(msg)
        return tracer.trace


class _Several:
    """Watchers one after another; ends the training after step ``upto``."""

    def __init__(self, alive: Callable[[], None], watchers: Sequence[Watcher], upto: int | None) -> None:
        self._alive = alive
        self._watchers = watchers
        self._upto = upto

    def before_step(self, step: Step) -> None:
        self._alive()
        for watcher in self._watchers:
            watcher.before_step(step)

    def after_step(self, step: Step) -> None:
        for watcher in self._watchers:
            watcher.after_step(step)
        if step.number == self._upto:
            raise TracedEnoughError


def audit_in_process(
    subject: Subject, plain: Trace, interventions: Interventions, captured: CapturedModel | None, why_not: str
) -> Iterator[Finding]:
    """Vary each axis that one process can vary.

    Args:
        subject: the model.
        plain: its first training in this process.
        interventions: in place since before the model was imported.
        captured: its graph; None where it could not be captured.
        why_not: why not, then.
    """
    yield (repeated := repeat(subject, plain, interventions))
    dependent: dict[Axis, Callable[[], Finding]] = {
        Axis.THREADS: lambda: one_thread(subject, plain),
        Axis.EVALUATION: lambda: evaluation_between(subject, plain),
        Axis.RESUME: lambda: resume(subject, plain),
        Axis.GRAPH: lambda: rebuilt_graph(subject, plain, captured, why_not),
        Axis.DETERMINISTIC: lambda: deterministic_algorithms(subject, plain),
    }
    for axis, vary in dependent.items():
        if repeated.status is Status.PASS:
            yield vary()
        else:
            yield not_applicable(axis, "the training does not repeat itself")
    if captured is not None and not captured.fidelity.holds:
        yield _finding(
            Axis.FROZEN,
            Status.FAIL,
            "; ".join(captured.fidelity.differences),
            (
                "`harness train` and `harness verify` train the graph, which repeats what the module drew at its capture",
            ),
            "Draw with torch in forward, and keep counts in buffers.",
        )
    yield from another_seed(subject)
    yield pure_evaluation(subject, interventions)


def repeat(subject: Subject, plain: Trace, interventions: Interventions) -> Finding:
    """The same training a second time; where it differs, the causes are looked for."""
    difference = first_difference(plain, subject.trace())
    if difference is None:
        return compared(Axis.REPEAT, None)
    upto = steps_of_an_investigation(subject, difference)

    def twice(released: frozenset[str]) -> Difference | None:
        for _ in range(_TRIES if ARITHMETIC.name in released else 1):
            traces = [investigated(subject, interventions, released, upto) for _ in range(2)]
            if (found := first_difference(*traces)) is not None:
                return found
        return None

    found = blame(SUSPECTS, twice)
    subject.renew()
    evidence = (*found.evidence, *called(found.causes, interventions.callers))
    return compared(Axis.REPEAT, difference, evidence=evidence, hint=found.hint)


def steps_of_an_investigation(subject: Subject, difference: Difference) -> int:
    """How many steps are trained again for each suspect."""
    return min(max(difference.step, _STEPS_OF_AN_INVESTIGATION), subject.steps)


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
    with threads(1):
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


def evaluation_between(subject: Subject, plain: Trace) -> Finding:
    """Evaluated after every fifth step, too, and not only after each epoch."""
    watcher = _EvaluatesBetween(subject)
    difference = first_difference(plain, subject.trace(watchers=[watcher]))
    if difference is None:
        return compared(Axis.EVALUATION, None)
    suspects = [_evaluation_suspect(name) for name in watcher.changed]

    def again(released: frozenset[str]) -> Difference | None:
        held = [name for name in watcher.changed if name not in released]
        varied = subject.trace(watchers=[_EvaluatesBetween(subject, held)], upto=difference.step)
        return first_difference(plain[: difference.step], varied)

    found = blame(suspects, again)
    return compared(Axis.EVALUATION, difference, evidence=found.evidence, hint=found.hint)


class _EvaluatesBetween:
    """Evaluates after every fifth step, and undoes what has these names."""

    def __init__(self, subject: Subject, undone: Sequence[str] = ()) -> None:
        self._subject = subject
        self._undone = undone
        self.changed: tuple[str, ...] = ()

    def before_step(self, _: Step) -> None:
        """Nothing to do yet."""

    def after_step(self, step: Step) -> None:
        if step.number % _STEPS_BETWEEN_EVALUATIONS:
            return
        before = Moment(step.module, self._subject.device)
        self._subject.procedure.evaluate(step.module, self._subject.data)
        step.module.train()
        changed = before.changed(Moment(step.module, self._subject.device))
        self.changed = tuple(dict.fromkeys((*self.changed, *changed)))
        before.put_back(step.module, self._undone)


def _evaluation_suspect(name: str) -> Suspect:
    if name == TORCH_RANDOM:
        return Suspect(
            name=name,
            words="draws from torch's random state in an evaluation, and so takes numbers from the training's dropout stream",
            hint="Evaluate with a generator of its own, or put torch's random state back afterwards (torch.random.fork_rng).",
        )
    return Suspect(
        name=name, words=f"changes {name} in an evaluation", hint=f"Let an evaluation leave {name} as it was."
    )


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
    with tempfile.TemporaryDirectory(prefix="harness-audit-") as name:
        folder = Path(name)
        module, tracer = subject.module(), Tracer(subject.device)
        stop = _StopAfter((subject.recipe.epochs + 1) // 2)
        with suppress(TrainingInterrupted):
            subject.trace(module, tracer=tracer, observer=stop, folder=folder / "stopped")
        stopped = Moment(module, subject.device)
        resuming = _Resuming(subject=subject, folder=folder, tracer=tracer, stopped=stopped)
        try:
            difference = first_difference(plain, resuming.trace())
        except HarnessError:
            raise
        except Exception as error:  # noqa: BLE001 - a module's own load_state_dict may raise anything
            words = f"cannot be resumed: {type(error).__name__}: {error}"
            hint = "Let load_state_dict take what state_dict gives."
            return _finding(Axis.RESUME, Status.FAIL, words, hint=hint)
        if difference is None:
            return compared(Axis.RESUME, None)
        # What the checkpoint does not hold, and a new module and a new process do not have as it was.
        changed = stopped.changed(Moment(subject.module(), subject.device))
        outside = [
            name for name in changed if name not in RANDOM_STATES and name.partition(" ")[2] not in module.state_dict()
        ]
        suspects = [_resume_suspect(name) for name in (*outside, PYTHON_RANDOM, NUMPY_RANDOM)] + [GLOBALS]

        def again(released: frozenset[str]) -> Difference | None:
            kept = [suspect.name for suspect in suspects if suspect.name not in released]
            return first_difference(plain[: difference.step], resuming.trace(kept, upto=difference.step))

        found = blame(suspects, again)
        subject.renew()
        return compared(Axis.RESUME, difference, evidence=found.evidence, hint=found.hint)


@dataclass(frozen=True, kw_only=True)
class _Resuming:
    """Goes on from a stopped run's checkpoint, as often as asked."""

    subject: Subject
    folder: Path
    tracer: Tracer
    stopped: Moment

    def trace(self, kept: Sequence[str] = (), *, upto: int | None = None) -> Trace:
        """The whole training, the first part from the stopped run; what has the names ``kept`` is carried over."""
        folder = Path(tempfile.mkdtemp(dir=self.folder)) / "resumed"
        shutil.copytree(self.folder / "stopped", folder)
        if GLOBALS.name not in kept:
            self.subject.renew()
        random.seed()
        np.random.seed()  # noqa: NPY002 - the old global generator is the one that others may share
        module = self.subject.module()
        self.stopped.put_back(module, kept)
        return self.subject.trace(module, tracer=copy.deepcopy(self.tracer), folder=folder, upto=upto)


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
    tensors = {**dict(rebuilt.named_parameters()), **dict(rebuilt.named_buffers())}
    names = []
    with torch.no_grad():
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            tensors[name].copy_(tensor)
            names.append(name)
    tracer = _TracerOf(subject.device, frozenset(names))
    difference = first_difference(plain, subject.trace(rebuilt, tracer=tracer))
    hint = "" if difference is None else "What is trained is the graph; it is not the module that you wrote."
    return compared(Axis.GRAPH, difference, evidence=captured.fidelity.differences, hint=hint)


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
        return ((name, tensor) for name, tensor in self._whole[0].named_parameters() if name in self._names)

    def named_buffers(self, *_: Any, **__: Any) -> Iterator[tuple[str, Tensor]]:  # noqa: ANN401
        return ((name, tensor) for name, tensor in self._whole[0].named_buffers() if name in self._names)


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
    own = subject.procedure.batches is not one_epoch
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
            found[seed] = state_digest({"output": output, "state": torch.get_rng_state()})
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
        return _finding(axis, Status.PASS, f"differs in all {pairs} pairs of {len(distinct)} seeds{cut}", refused)
    stream = axis.value.partition(": ")[2]
    if len(alike) == 1:
        cause = f"cause: the seed is ignored: one {stream} for all of {len(digests)} seeds"
    else:
        cause = f"cause: seeds collapse: {len(alike)} different for {len(digests)} seeds"
    listed = (f"alike: seeds {', '.join(map(str, seeds))}" for seeds in groups)
    first, second = groups[0][:2]
    observed = f"bit-equal under seed={first} and seed={second}"
    return _finding(axis, Status.FAIL, observed, (cause, *listed, *refused), _SEED_HINTS[axis])


def pure_evaluation(subject: Subject, interventions: Interventions) -> Finding:
    """Evaluated twice: alike, and everything left as it was."""
    module = subject.module()
    subject.trace(module, upto=_STEPS_BETWEEN_EVALUATIONS)
    module.eval()
    device = subject.device
    draws, begin = _Draws(module, device), Moment(module, device)
    with draws.watched():
        first = _outputs(subject, module)
    changed = begin.changed(Moment(module, device))
    second = _outputs(subject, module)
    before = Moment(module, device)
    counted = [subject.procedure.evaluate(module, subject.data) for _ in range(2)]
    module.eval()
    by_network = _shared(changed)
    by_evaluation = [name for name in _shared(before.changed(Moment(module, device))) if name not in by_network]
    observed, evidence, hints = [], [], []
    if (difference := _compare_outputs(first, second)) is not None:
        observed.append(difference.words())
    if counted[0].correct != counted[1].correct:
        observed.append(f"two evaluations count {counted[0].correct} and {counted[1].correct} right answers")
    elif counted[0] != counted[1]:
        observed.append(f"two evaluations give the losses {counted[0].loss} and {counted[1].loss}")
    for name in by_network:
        observed.append(f"the network in eval mode changes {name}")
        evidence.append(f"cause: {_network_cause(name, draws.places.get(name))}")
        hints.append("Let what the network does in training end with self.training: F.dropout(x, p, self.training).")
    for name in by_evaluation:
        observed.append(f"the evaluation changes {name}")
        evidence.append(f"cause: the evaluation itself, since the network in eval mode leaves {name} as it was")
        hints.append(_evaluation_suspect(name).hint)
    if not observed:
        return _finding(Axis.PURE, Status.PASS, "bit-equal, and everything left as it was")
    if difference is not None and not evidence:

        def again(released: frozenset[str]) -> HasWords | None:
            begin.put_back(module, changed)
            first = _outputs(subject, module)
            begin.put_back(module, [name for name in changed if name not in released])
            return _compare_outputs(first, _outputs(subject, module))

        found = blame([_evaluation_suspect(name) for name in changed], again)
        if not found.causes:
            found = blame(SUSPECTS, lambda released: _evaluated_twice(subject, interventions, released))
            subject.renew()
        evidence.extend((*found.evidence, *called(found.causes, interventions.callers)))
        hints.append(found.hint)
    return _finding(Axis.PURE, Status.FAIL, "; ".join(observed), evidence, " ".join(dict.fromkeys(hints)))


def _shared(changed: Iterable[str]) -> list[str]:
    """What no evaluation may change; an attribute of the module's own, such as a cache, it may."""
    return [name for name in changed if not name.startswith("attribute ")]


def _outputs(subject: Subject, module: nn.Module) -> Tensor:
    """The module's answers to the test images, with torch's random state unprotected."""
    images = subject.data.normalise(subject.data.test_images)
    with torch.no_grad():
        return torch.cat([module(part) for part in torch.split(images, _EVALUATION_BATCH)]).cpu()


@dataclass(frozen=True, kw_only=True)
class _OtherOutputs:
    size: float

    def words(self) -> str:
        return f"differs between two evaluations, in the outputs, by {self.size:.2g}"


def _compare_outputs(one: Tensor, other: Tensor) -> _OtherOutputs | None:
    if torch.equal(one.view(torch.uint8), other.view(torch.uint8)):
        return None
    return _OtherOutputs(size=float((one - other).abs().max()))


def _evaluated_twice(subject: Subject, interventions: Interventions, released: frozenset[str]) -> _OtherOutputs | None:
    outputs = []
    for _ in range(2):
        with interventions.held(released, renew=subject.renew):
            outputs.append(_outputs(subject, subject.module().to(subject.device).eval()))
    return _compare_outputs(*outputs)


def _network_cause(name: str, place: str | None) -> str:
    where = f", in {place}" if place else ""
    if name == TORCH_RANDOM:
        return f"the network draws from torch's random state in eval mode: dropout (or the like) is live there{where}"
    if name in RANDOM_STATES:
        return f"the network draws from {name} in eval mode{where}"
    return f"the network updates {name} in eval mode{where}"


class _Draws:
    """Which part of a module changes a random state in its forward pass: the innermost."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self._module = module
        self._device = device
        self.places: dict[str, str] = {}

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Watch the forward passes in the block."""
        handles = []
        nothing = nn.Module()
        for path, part in self._module.named_modules():
            begun: list[Moment] = []
            title = f"{path or 'the module itself'} ({type(part).__name__})"

            def begin(_: nn.Module, __: object, begun: list[Moment] = begun) -> None:
                begun.append(Moment(nothing, self._device))

            def end(_: nn.Module, __: object, ___: object, begun: list[Moment] = begun, title: str = title) -> None:
                for name in begun.pop().changed(Moment(nothing, self._device)):
                    self.places.setdefault(name, title)

            handles += [part.register_forward_pre_hook(begin), part.register_forward_hook(end)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
