"""Two axes of the determinism check: an evaluation has no effect on the training, and is repeatable without side effects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from harness.determinism.attribution import SOURCES, NondeterminismSource, attribute
from harness.determinism.axes import Axis, compared, finding
from harness.determinism.interventions import Interventions
from harness.determinism.model_under_test import ModelUnderTest
from harness.determinism.snapshot import RANDOM_STATES, TORCH_RANDOM, StateSnapshot
from harness.findings import Finding, Status
from harness.reproducibility.comparison import describe_difference, first_difference
from harness.reproducibility.trace import Trace
from harness.training import Step

_STEPS_BETWEEN_EVALUATIONS = 5
_BATCH_SIZE = 1000


def evaluation_between(model: ModelUnderTest, reference: Trace) -> Finding:
    """Train with additional evaluations and compare the steps with the training without them, ``reference``.

    The model is evaluated after every fifth step or, in a training of fewer than 10 steps, after half of the steps.
    """
    callback = _EvaluateBetween(model)
    difference = first_difference(reference, model.trace(callbacks=[callback]))
    if difference is None:
        return compared(Axis.EVALUATION, None)

    def again(released: frozenset[str]) -> str | None:
        restored = [name for name in callback.changed if name not in released]
        varied = model.trace(callbacks=[_EvaluateBetween(model, restored)], upto=difference.step)
        return describe_difference(reference[: difference.step], varied)

    found = attribute(map(_evaluation_source, callback.changed), again)
    return compared(Axis.EVALUATION, difference, evidence=found.evidence, hint=found.hint)


class _EvaluateBetween:
    """A callback that evaluates every few steps and then restores the state items named in ``restored``.

    ``changed`` collects the names of the items that an evaluation changes.
    """

    def __init__(self, model: ModelUnderTest, restored: Sequence[str] = ()) -> None:
        self._model = model
        self._every = min(_STEPS_BETWEEN_EVALUATIONS, model.steps // 2)
        self._restored = restored
        self.changed: tuple[str, ...] = ()

    def before_step(self, _: Step) -> None:
        pass

    def after_step(self, step: Step) -> None:
        if step.number % self._every:
            return
        before = StateSnapshot(step.module, self._model.device)
        self._model.hooks.evaluate(step.module, self._model.data)
        step.module.train()
        changed = before.changed(StateSnapshot(step.module, self._model.device))
        self.changed = tuple(dict.fromkeys((*self.changed, *changed)))
        before.restore(step.module, self._restored)


def _evaluation_source(name: str) -> NondeterminismSource:
    if name == TORCH_RANDOM:
        return NondeterminismSource(
            name=name,
            words="draws from torch's random state in an evaluation, so that dropout in the training draws other numbers",
            hint="Draw from another generator in the evaluation, or restore torch's random state (torch.random.fork_rng).",
        )
    return NondeterminismSource(
        name=name, words=f"changes {name} in an evaluation", hint=f"Leave {name} unchanged in an evaluation."
    )


def pure_evaluation(model: ModelUnderTest, interventions: Interventions) -> Finding:
    """Evaluate the model twice and check that the outputs are equal and that no state is changed."""
    module = model.module()
    model.trace(module, upto=_STEPS_BETWEEN_EVALUATIONS)
    module.eval()
    start = StateSnapshot(module, model.device)
    with _drawing_modules(module, model.device) as drawing:
        first, second = _outputs(model, module), _outputs(model, module)
    changed = start.changed(StateSnapshot(module, model.device))
    before = StateSnapshot(module, model.device)
    counted = [model.hooks.evaluate(module, model.data) for _ in range(2)]
    module.eval()
    by_network = _shared(changed)
    by_evaluation = [n for n in _shared(before.changed(StateSnapshot(module, model.device))) if n not in by_network]
    observed, evidence, hints = [], [], []
    if (difference := _compare_outputs(first, second)) is not None:
        observed.append(difference)
    if counted[0].correct != counted[1].correct:
        observed.append(f"two evaluations count {counted[0].correct} and {counted[1].correct} correct predictions")
    elif difference is None and counted[0] != counted[1]:
        observed.append(f"two evaluations return the losses {counted[0].loss} and {counted[1].loss}")
    for name in by_network:
        observed.append(f"the network in eval mode changes {name}")
        evidence.append(f"cause: {_network_cause(name, drawing.get(name))}")
        hints.append("Draw and update nothing in eval mode; for example, use F.dropout(x, p, training=self.training).")
    for name in by_evaluation:
        observed.append(f"the evaluation changes {name}")
        evidence.append(f"cause: the evaluation itself, since the network in eval mode leaves {name} unchanged")
        hints.append(_evaluation_source(name).hint)
    if not observed:
        return finding(Axis.PURE, Status.PASS, "bit-equal, and all state unchanged")
    if not evidence:

        def again(released: frozenset[str]) -> str | None:
            start.restore(module, changed)
            first = _outputs(model, module)
            start.restore(module, [name for name in changed if name not in released])
            return _compare_outputs(first, _outputs(model, module))

        found = attribute(map(_evaluation_source, changed), again)
        if not found.causes:
            found = attribute(SOURCES, lambda released: _evaluated_twice(model, interventions, released))
            model.reimport()
        evidence.extend((*found.evidence, *found.locations(interventions.callers)))
        hints.append(found.hint)
    return finding(Axis.PURE, Status.FAIL, "; ".join(observed), evidence, " ".join(dict.fromkeys(hints)))


def _shared(changed: Sequence[str]) -> list[str]:
    """Return the names of changed items without the module's plain attributes, which an evaluation may change."""
    return [name for name in changed if not name.startswith("attribute ")]


def _outputs(model: ModelUnderTest, module: nn.Module) -> Tensor:
    """Return the module's outputs for the test images, (N, ...) on the CPU. Torch's random state is not restored."""
    images = model.data.normalise(model.data.test_images)
    with torch.no_grad():
        return torch.cat([module(part) for part in torch.split(images, _BATCH_SIZE)]).cpu()


def _compare_outputs(one: Tensor, other: Tensor) -> str | None:
    if torch.equal(one.view(torch.uint8), other.view(torch.uint8)):
        return None
    return f"differs between two evaluations, in the outputs, by {float((one - other).abs().max()):.2g}"


def _evaluated_twice(model: ModelUnderTest, interventions: Interventions, released: frozenset[str]) -> str | None:
    outputs = []
    for _ in range(2):
        with interventions.pinned(released, reimport=model.reimport):
            module = model.module().to(model.device)
            module.eval()
            outputs.append(_outputs(model, module))
    return _compare_outputs(*outputs)


def _network_cause(name: str, place: str | None) -> str:
    act = f"draws from {name}" if name in RANDOM_STATES else f"updates {name}"
    why = ": dropout or a similar layer is active there" if name == TORCH_RANDOM else ""
    return f"the network {act} in eval mode{why}{f', in {place}' if place else ''}"


@contextmanager
def _drawing_modules(module: nn.Module, device: torch.device) -> Iterator[dict[str, str]]:
    """Within the block, map each random state to the innermost module whose forward pass changes it first."""
    drawing: dict[str, str] = {}
    no_module = nn.Module()
    titles = {part: f"{path or 'the module itself'} ({type(part).__name__})" for path, part in module.named_modules()}
    started: dict[nn.Module, list[StateSnapshot]] = {part: [] for part in titles}

    def start(part: nn.Module, _: object) -> None:
        started[part].append(StateSnapshot(no_module, device))

    def end(part: nn.Module, _: object, __: object) -> None:
        for name in started[part].pop().changed(StateSnapshot(no_module, device)):
            drawing.setdefault(name, titles[part])

    with ExitStack() as hooks:
        for part in titles:
            hooks.callback(part.register_forward_pre_hook(start).remove)
            hooks.callback(part.register_forward_hook(end).remove)
        yield drawing
