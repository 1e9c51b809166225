"""The axes of the audit that concern evaluation: does it disturb the training, and is it pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from harness.determinism.axes import Axis, called, compared, finding
from harness.determinism.moment import RANDOM_STATES, TORCH_RANDOM, Moment
from harness.determinism.subject import Subject
from harness.determinism.suspects import SUSPECTS, HasWords, Interventions, Suspect, blame
from harness.findings import Finding, Status
from harness.reproducibility.comparison import Difference, first_difference
from harness.reproducibility.trace import Trace
from harness.training import Step

_STEPS_BETWEEN_EVALUATIONS = 5
_EVALUATION_BATCH = 1000


def evaluation_between(subject: Subject, plain: Trace) -> Finding:
    """Evaluated after every fifth step (or halfway, if that is sooner), too, and not only after each epoch."""
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
    """Evaluates every few steps, and undoes what has these names."""

    def __init__(self, subject: Subject, undone: Sequence[str] = ()) -> None:
        self._subject = subject
        self._every = min(_STEPS_BETWEEN_EVALUATIONS, subject.steps // 2)
        self._undone = undone
        self.changed: tuple[str, ...] = ()

    def before_step(self, _: Step) -> None:
        """Nothing to do yet."""

    def after_step(self, step: Step) -> None:
        if step.number % self._every:
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


def pure_evaluation(subject: Subject, interventions: Interventions) -> Finding:
    """Evaluated twice: alike, and everything left as it was."""
    module = subject.module()
    subject.trace(module, upto=_STEPS_BETWEEN_EVALUATIONS)
    module.eval()
    device = subject.device
    draws, begin = _Draws(module, device), Moment(module, device)
    with draws.watched():
        first, second = _outputs(subject, module), _outputs(subject, module)
    changed = begin.changed(Moment(module, device))
    before = Moment(module, device)
    counted = [subject.procedure.evaluate(module, subject.data) for _ in range(2)]
    module.eval()
    by_network = _shared(changed)
    by_evaluation = [name for name in _shared(before.changed(Moment(module, device))) if name not in by_network]
    observed, evidence, hints = [], [], []
    if (difference := _compare_outputs(first, second)) is not None:
        observed.append(difference.describe())
    if counted[0].correct != counted[1].correct:
        observed.append(f"two evaluations count {counted[0].correct} and {counted[1].correct} right answers")
    elif difference is None and counted[0] != counted[1]:
        observed.append(f"two evaluations give the losses {counted[0].loss} and {counted[1].loss}")
    for name in by_network:
        observed.append(f"the network in eval mode changes {name}")
        evidence.append(f"cause: {_network_cause(name, draws.places.get(name))}")
        hints.append("Do in eval mode nothing that belongs to training: F.dropout(x, p, training=self.training).")
    for name in by_evaluation:
        observed.append(f"the evaluation changes {name}")
        evidence.append(f"cause: the evaluation itself, since the network in eval mode leaves {name} as it was")
        hints.append(_evaluation_suspect(name).hint)
    if not observed:
        return finding(Axis.PURE, Status.PASS, "bit-equal, and everything left as it was")
    if not evidence:

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
    return finding(Axis.PURE, Status.FAIL, "; ".join(observed), evidence, " ".join(dict.fromkeys(hints)))


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

    def describe(self) -> str:
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
