from __future__ import annotations

import dataclasses
import json
import os
import random
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from harness.data import Dataset
from harness.determinism import axes, conduct, worker
from harness.determinism.axes import Axis
from harness.determinism.evaluation import evaluation_between, pure_evaluation
from harness.determinism.moment import NUMPY_RANDOM, PYTHON_RANDOM, TORCH_RANDOM, Moment
from harness.determinism.procedure import load_procedure
from harness.determinism.subject import Imported, Subject
from harness.determinism.suspects import SUSPECTS, Interventions, Suspect, blame
from harness.errors import ExaminerError, InputError, ModelSourceError
from harness.findings import Finding, Status
from harness.graph import CapturedModel, Fidelity, capture
from harness.sources import eager_source
from harness.sources.worker import eager_builder
from harness.training import Batch, Evaluation, RandomStreams, Recipe, TrainingHooks, loop
from tests import made_up

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE, DATA = conduct.cut(made_up.RECIPE, made_up.dataset(), steps=6)
CONTROLS = Path(__file__).parents[1] / "controls"


@pytest.fixture(autouse=True)
def _known_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare every training a call of git for a record that nobody reads."""
    monkeypatch.setattr(loop, "environment", lambda _: made_up.ENVIRONMENT)


class Net(nn.Module):
    """A small network; what a test is about is said by ``disturb``, called in every forward pass."""

    calls = 0

    def __init__(self, disturb: Callable[[Net, Tensor], Tensor] = lambda _, features: features) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 7, stride=7)
        self.norm = nn.BatchNorm2d(2)
        self.head = nn.Linear(32, 10)
        self.noise = torch.Generator().manual_seed(3)
        self.memory: dict[str, Tensor] = {}
        self.disturb = disturb

    def forward(self, images: Tensor) -> Tensor:
        features = torch.relu(self.norm(self.conv(images))).flatten(1)
        answers: Tensor = self.head(self.disturb(self, features))
        return answers


class Buffered(Net):
    """Counts its passes in a buffer that is not persistent."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Tensor
        self.register_buffer("count", torch.zeros(1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        self.count += self.training
        return super().forward(images) * (1 + self.count)


class Learning(Net):
    """Its batch norm learns in eval mode, too."""

    def forward(self, images: Tensor) -> Tensor:
        self.norm.train()
        return super().forward(images)


def subject_of(build: Callable[[], nn.Module], **procedure: Any) -> Subject:  # noqa: ANN401 - passed on as they are
    """An audited model that is built like this, trained for six steps in two epochs."""
    imported = Imported(build=lambda _: build(), procedure=TrainingHooks(**procedure))
    return Subject(lambda: imported, recipe=RECIPE, data=DATA, seed=1, device=CPU)


def disturbed(disturb: Callable[[Net, Tensor], Tensor]) -> Subject:
    """An audited network with something in its forward pass."""
    return subject_of(lambda: Net(disturb))


def repeated(subject: Subject) -> Finding:
    """The first axis."""
    with Interventions() as interventions:
        return axes.repeat(subject, subject.trace(), interventions)


def pure(subject: Subject) -> Finding:
    """The last axis."""
    with Interventions() as interventions:
        return pure_evaluation(subject, interventions)


def seeds(subject: Subject) -> dict[str, Finding]:
    """The axes of other seeds."""
    return {finding.requirement: finding for finding in axes.another_seed(subject)}


# Suspects


@dataclasses.dataclass(frozen=True)
class Differs:
    text: str = "differs"

    def describe(self) -> str:
        return self.text


SUSPECT, OTHER = (Suspect(name=name, words=f"uses {name}", hint=f"leave {name} out") for name in ("one", "other"))


@pytest.mark.parametrize(
    ("guilty", "causes"),
    [({"one"}, (SUSPECT,)), ({"one", "other"}, (SUSPECT, OTHER)), (set(), ())],
)
def test_those_are_to_blame_whose_release_makes_a_difference(guilty: set[str], causes: tuple[Suspect, ...]) -> None:
    """A cause is a suspect that makes the runs differ when it alone is released."""
    found = blame((SUSPECT, OTHER), lambda released: Differs() if released & guilty else None)

    assert causes == found.causes
    assert len(causes) == sum(line.startswith("cause: it uses") for line in found.evidence)
    assert " ".join(cause.hint for cause in causes) == found.hint


def test_a_suspect_that_may_miss_is_released_again() -> None:
    """What makes a difference only now and then gets as many tries as it is given."""
    calls = []

    def now_and_then(released: frozenset[str]) -> Differs | None:
        calls.append(released)
        return Differs() if released and len(calls) > 2 else None

    assert (dataclasses.replace(SUSPECT, tries=2),) == blame(
        (dataclasses.replace(SUSPECT, tries=2),), now_and_then
    ).causes
    calls.clear()
    assert () == blame((SUSPECT,), now_and_then).causes


def test_nobody_is_blamed_when_holding_all_still_does_not_help() -> None:
    """Where the runs differ with all suspects held still, the cause is none of them alone."""
    found = blame((SUSPECT,), lambda _: Differs("differs at step 3"))

    assert ((), ("cause unknown: with one held still, it still differs at step 3",)) == (found.causes, found.evidence)


DRAWS: dict[str, Callable[[], float]] = {
    "random": random.random,
    "numpy.random": np.random.rand,
    "time": time.time,
    "os.urandom": lambda: secrets.token_bytes(4),  # type: ignore[dict-item,return-value]
    "id()": lambda: id(object()),
}


@pytest.mark.parametrize("name", DRAWS)
def test_a_suspect_held_still_answers_alike(name: str) -> None:
    """Held still, a source gives the same twice; released alone it does not."""
    kept = []

    def draw() -> list[object]:
        if name == "id()":
            # Kept, so that the next one lies elsewhere.
            kept.extend([object(), object()])
            return [id(thing) for thing in kept[-2:]]
        # Looked up anew: the functions of a module are replaced.
        return [time.time() if name == "time" else DRAWS[name]() for _ in range(2)]

    def twice(released: frozenset[str]) -> list[list[object]]:
        drawn = []
        for _ in range(2):
            with interventions.held(released, renew=lambda: None):
                drawn.append(draw())
        return drawn

    with Interventions() as interventions:
        held, free = twice(frozenset()), twice(frozenset({name}))

    assert held[0] == held[1]
    assert held[0][0] != held[0][1]
    assert free[0] != free[1]
    assert name in ("random", "numpy.random") or "test_determinism.py" in interventions.callers[name]


def test_interventions_leave_nothing_behind() -> None:
    """After the block every function is the real one, and an unseeded generator is unseeded."""
    before = (time.time, time.monotonic_ns, os.urandom, random.Random.seed, id)
    with Interventions() as interventions:
        assert time.time is not before[0]
        with interventions.held(frozenset(), renew=lambda: None):
            alike = [random.Random().random() for _ in range(2)]  # noqa: S311 - what this is about

    assert alike[0] == alike[1]
    assert before == (time.time, time.monotonic_ns, os.urandom, random.Random.seed, id)
    assert random.Random().random() != random.Random().random()  # noqa: S311 - as above


def test_the_suspects_have_names_of_their_own() -> None:
    """No two suspects share a name: a name is what is released."""
    assert len(SUSPECTS) == len({suspect.name for suspect in SUSPECTS})


# Moments


def test_a_moment_names_what_changed_and_puts_it_back() -> None:
    """Tensors, attributes that no state_dict holds, and random states are compared, and put back by name."""
    module = Buffered()
    before = Moment(module, CPU)
    with torch.no_grad():
        module.conv.weight += 1
    module.count += 1
    module.calls = 2
    torch.rand(1, generator=module.noise)
    torch.rand(1)
    random.random()  # noqa: S311 - what this is about
    np.random.rand()  # noqa: NPY002 - as above
    changed = before.changed(Moment(module, CPU))
    before.put_back(module, changed)

    assert {
        TORCH_RANDOM,
        PYTHON_RANDOM,
        NUMPY_RANDOM,
        "parameter conv.weight",
        "buffer count",
        "attribute calls",
        "attribute noise",
    } == set(changed)
    assert before.changed(Moment(module, CPU)) == ()


# Axes that must hold


@pytest.mark.smoke
def test_a_sound_network_holds_on_every_axis() -> None:
    """Batch norm and dropout, well behaved: bit-equal wherever it can be asked, another seed differs."""
    subject = Subject(
        lambda: Imported(build=lambda _: made_up.network(dropout=0.3), procedure=TrainingHooks()),
        recipe=RECIPE,
        data=DATA,
        seed=1,
        device=CPU,
    )
    with Interventions() as interventions:
        found = list(worker.vary(subject, subject.trace(), interventions, None, "no graph was asked for"))

    assert {
        Axis.REPEAT: "bit-equal",
        Axis.THREADS: "not applicable: torch computes on one thread here",
        Axis.EVALUATION: "bit-equal",
        Axis.RESUME: "bit-equal",
        Axis.GRAPH: "not applicable: no graph was asked for",
        Axis.DETERMINISTIC: "bit-equal",
        Axis.WEIGHTS: "differs in all 21 pairs of 7 seeds; of a seed only the lower 32 bits count",
        Axis.ORDER: "differs in all 21 pairs of 7 seeds",
        Axis.AUGMENTATION: "not applicable: the recipe augments nothing",
        Axis.DROPOUT: "differs in all 21 pairs of 7 seeds",
        Axis.PURE: "bit-equal, and everything left as it was",
    } == {finding.requirement: finding.observed for finding in found}
    assert {Status.PASS, Status.SKIP} == {finding.status for finding in found}


@pytest.mark.smoke
def test_a_network_that_does_not_repeat_is_compared_with_nothing() -> None:
    """Where two equal trainings differ, the axes that compare with one of them are not applicable."""
    subject = disturbed(lambda _, features: features * (1 + random.random()))  # noqa: S311 - what this is about
    with Interventions() as interventions:
        found = {one.requirement: one for one in worker.vary(subject, subject.trace(), interventions, None, "")}

    assert found[Axis.REPEAT].status is Status.FAIL
    assert found[Axis.REPEAT].evidence[0].startswith("cause: it draws from Python's random")
    assert {"not applicable: the training does not repeat itself"} == {
        found[axis].observed for axis in (Axis.THREADS, Axis.EVALUATION, Axis.RESUME, Axis.GRAPH, Axis.DETERMINISTIC)
    }


@pytest.mark.smoke
def test_state_in_a_global_is_found() -> None:
    """A counter that outlives a training is the file's affair: importing it anew makes the runs equal."""
    calls: list[int] = []

    def count(_: Net, features: Tensor) -> Tensor:
        calls.append(1)
        return features * (1 + len(calls) / 100)

    def load() -> Imported:
        calls.clear()
        return Imported(build=lambda _: Net(count), procedure=TrainingHooks())

    subject = Subject(load, recipe=RECIPE, data=DATA, seed=1, device=CPU)

    assert repeated(subject).evidence[0].startswith("cause: it keeps something from one run to the next in a global")


def test_an_unknown_cause_is_called_unknown() -> None:
    """What no intervention explains is not explained."""
    calls: list[int] = []

    def count(_: Net, features: Tensor) -> Tensor:
        calls.append(1)
        return features * (1 + len(calls) / 100)

    found = repeated(disturbed(count))

    assert Status.FAIL is found.status
    assert found.evidence[0].startswith("cause unknown: with random, numpy.random, time")


def _counting(net: Net, features: Tensor) -> Tensor:
    net.calls += net.training
    return features * (1 + net.calls / 10)


def _remembering(net: Net, features: Tensor) -> Tensor:
    net.memory["mean"] = features.detach().mean().view(1) + sum(net.memory.values())
    return features + net.memory["mean"]


def _noisy(net: Net, features: Tensor) -> Tensor:
    return features + torch.rand(1, generator=net.noise)


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("build", "place"),
    [
        (lambda: Net(_counting), "attribute calls"),
        (lambda: Net(_remembering), "attribute memory"),
        (lambda: Net(_noisy), "attribute noise"),
        (Buffered, "buffer count"),
    ],
)
def test_state_outside_the_state_dict_breaks_a_resume(build: Callable[[], Net], place: str) -> None:
    """What a checkpoint does not hold is named: a plain attribute, a generator, a buffer that is not persistent."""
    subject = subject_of(build)
    found = axes.resume(subject, subject.trace())

    assert (
        Status.FAIL,
        f"cause: it keeps state outside its state_dict, in its {place}, which no checkpoint holds",
    ) == (
        found.status,
        found.evidence[0],
    )
    assert found.observed.startswith(("differs at step 4 ", "differs before step 4 "))
    assert Status.PASS is repeated(subject).status


def test_a_loader_that_goes_on_with_numpy_breaks_a_resume() -> None:
    """A loader that seeds numpy.random in the first epoch and goes on with it later is told."""

    def batches(data: Dataset, _recipe: Recipe, streams: RandomStreams, epoch: int) -> Iterator[Batch]:
        if epoch == 1:
            np.random.seed(streams.seed % 2**32)  # noqa: NPY002 - what this is about
        for _ in range(3):
            chosen = torch.from_numpy(np.random.permutation(48)[:16])  # noqa: NPY002 - as above
            yield Batch(images=data.normalise(data.train_images[chosen]), labels=data.train_labels[chosen])

    subject = subject_of(Net, batches=batches)
    found = axes.resume(subject, subject.trace())

    assert (Status.FAIL, "differs at step 4 in the order of the images") == (found.status, found.observed)
    assert "cause: it goes on with numpy's random state, which no checkpoint holds" == found.evidence[0]


def test_a_loader_that_goes_on_with_a_global_breaks_a_resume() -> None:
    """A generator of the file's own that is seeded in the first epoch only is told; carried over, it does no harm."""

    def load() -> Imported:
        generator = torch.Generator()

        def batches(data: Dataset, _recipe: Recipe, streams: RandomStreams, epoch: int) -> Iterator[Batch]:
            if epoch == 1:
                generator.manual_seed(streams.seed % 2**32)
            for _ in range(3):
                chosen = torch.randperm(48, generator=generator)[:16]
                yield Batch(images=data.normalise(data.train_images[chosen]), labels=data.train_labels[chosen])

        return Imported(build=lambda _: Net(), procedure=TrainingHooks(batches=batches))

    subject = Subject(load, recipe=RECIPE, data=DATA, seed=1, device=CPU)
    found = axes.resume(subject, subject.trace())

    assert (Status.FAIL, "differs at step 4 in the order of the images") == (found.status, found.observed)
    assert found.evidence[0].startswith("cause: it keeps something from one run to the next in a global")
    assert 2 == len(found.evidence)


def test_what_is_drawn_at_import_is_no_matter_of_resuming() -> None:
    """Where files imported anew give another training, a resume shows nothing, and the later axes see the first import."""

    def load() -> Imported:
        scale = random.random()  # noqa: S311 - what this is about
        return Imported(build=lambda _: Net(lambda _, features: features * scale), procedure=TrainingHooks())

    subject = Subject(load, recipe=RECIPE, data=DATA, seed=1, device=CPU)
    plain = subject.trace()

    assert (
        "not applicable: the training differs when its files are imported anew, stopped or not"
        == axes.resume(subject, plain).observed
    )
    assert Status.PASS is repeated(subject).status
    assert Status.PASS is axes.deterministic_algorithms(subject, plain).status


def test_a_module_that_refuses_its_own_state_cannot_be_resumed() -> None:
    """An error while a checkpoint is loaded is a finding, not the end of the audit."""

    class Stubborn(Net):
        def load_state_dict(self, *_: Any, **__: Any) -> Any:  # noqa: ANN401 - as torch has it
            raise KeyError("conv")

    subject = subject_of(Stubborn)
    found = axes.resume(subject, subject.trace())

    assert (Status.FAIL, "cannot be resumed: KeyError: 'conv'") == (found.status, found.observed)


def _remembers_evaluations(net: Net, features: Tensor) -> Tensor:
    net.calls += not net.training
    return features * (1 + net.calls / 10)


@pytest.mark.parametrize(
    ("build", "cause"),
    [
        (lambda: Net(_remembers_evaluations), "cause: it changes attribute calls in an evaluation"),
        (Learning, "cause: it changes buffer norm.running_mean in an evaluation"),
    ],
    ids=["attribute", "buffer"],
)
def test_an_evaluation_that_reaches_into_the_training_is_found(build: Callable[[], Net], cause: str) -> None:
    """What an evaluation leaves behind and the training then uses is named."""
    subject = subject_of(build)
    found = evaluation_between(subject, subject.trace())

    assert Status.FAIL is found.status
    assert "step 4" in found.observed
    assert cause in found.evidence


# Axes that no platform promises


def test_threads_are_reported_and_fail_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A difference between one thread and several has its size, and is no failure."""
    numbers = [2]
    monkeypatch.setattr(torch, "get_num_threads", lambda: numbers[-1])
    monkeypatch.setattr(torch, "set_num_threads", numbers.append)
    subject = disturbed(lambda _, features: features * (1 + torch.get_num_threads() / 100))
    found = axes.one_thread(subject, subject.trace())

    assert ([2, 1, 2], Status.SKIP) == (numbers, found.status)
    assert found.observed.startswith("differs at step 1 in tensor conv.weight by ")
    assert found.observed.endswith("(not promised)")


def test_threads_do_not_matter_on_an_accelerator() -> None:
    """Where the arithmetic is done elsewhere, the axis is not applicable."""
    subject = disturbed(lambda _, features: features)
    plain = subject.trace()
    subject.device = torch.device("meta")

    assert "not applicable: the arithmetic is done on meta" == axes.one_thread(subject, plain).observed


def test_deterministic_algorithms_are_reported_and_fail_nobody() -> None:
    """Another algorithm's last bits are shown with their size."""
    subject = disturbed(lambda _, features: features * (1 + torch.are_deterministic_algorithms_enabled() / 100))
    found = axes.deterministic_algorithms(subject, subject.trace())

    assert Status.SKIP is found.status
    assert found.observed.startswith("differs at step 1 in tensor conv.weight by ")
    assert not torch.are_deterministic_algorithms_enabled()


def test_an_operation_without_a_deterministic_algorithm_is_named() -> None:
    """Where torch refuses, the row says what it refused."""

    def put(_: Net, features: Tensor) -> Tensor:
        return features * torch.ones(1).put_(torch.zeros(1, dtype=torch.int64), torch.ones(1))

    subject = disturbed(put)
    found = axes.deterministic_algorithms(subject, subject.trace())

    assert Status.SKIP is found.status
    assert "torch refuses an operation: put_ " in found.observed


def test_another_error_is_no_refusal_of_torch() -> None:
    """An error that has nothing to do with determinism is not swallowed."""
    subject = disturbed(lambda _, features: features)
    plain = subject.trace()

    def fail(_: Net, __: Tensor) -> Tensor:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        axes.deterministic_algorithms(disturbed(fail), plain)


# The graph


class Constant(Net):
    """Holds a tensor that is neither parameter nor buffer, and one layer under two names."""

    def __init__(self, sign: float = 1.0) -> None:
        super().__init__()
        self.again = self.head
        self.scale = torch.full((1, 32), 0.5 * sign)
        self.disturb = lambda _, features: features * self.scale


@pytest.fixture(scope="module")
def captured() -> CapturedModel:
    """The graph of a network with a constant."""
    return capture(Constant(), name=f"{CONTROLS / 'tiny.py'}:Tiny(width=2)", twice=False)


@pytest.mark.smoke
def test_the_graph_trains_as_the_module(captured: CapturedModel) -> None:
    """A rebuilt graph is bit-equal with its module, and another module's is not."""
    subject, other = subject_of(Constant), subject_of(lambda: Constant(-1.0))

    assert Status.PASS is axes.rebuilt_graph(subject, subject.trace(), captured, "").status
    found = axes.rebuilt_graph(other, other.trace(), captured, "")
    assert (Status.FAIL, "differs at step 1 in tensor conv.weight by ") == (found.status, found.observed[:43])


def test_what_a_graph_cannot_hold_is_named(captured: CapturedModel) -> None:
    """Where graph and module part, the attributes that the module changes in training are told."""
    counting = subject_of(lambda: Net(_counting))
    found = axes.rebuilt_graph(counting, counting.trace(), captured, "")

    assert "the module changes attribute calls in training; a graph holds it as it was when captured" in found.evidence


def test_a_frozen_draw_has_a_row_of_its_own(captured: CapturedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the capture saw to differ is told, beside the comparison of graph and module."""
    unfaithful = dataclasses.replace(
        captured, fidelity=Fidelity(repeatable=False, differences=("two captures differ",))
    )
    for other in ("evaluation_between", "resume", "deterministic_algorithms", "pure_evaluation"):
        monkeypatch.setattr(worker, other, lambda *_: axes.compared(Axis.PURE, None))
    monkeypatch.setattr(worker, "another_seed", lambda _: iter(()))
    subject = subject_of(Constant)
    with Interventions() as interventions:
        found = {one.requirement: one for one in worker.vary(subject, subject.trace(), interventions, unfaithful, "")}

    assert (Status.FAIL, "two captures differ") == (found[Axis.FROZEN].status, found[Axis.FROZEN].observed)
    assert Status.PASS is found[Axis.GRAPH].status


# Another seed


def test_a_constructor_with_a_seed_of_its_own_is_found() -> None:
    """Weights that are the same under every seed fail."""

    def build() -> Net:
        torch.manual_seed(0)
        return Net()

    found = seeds(subject_of(build))[Axis.WEIGHTS]

    assert (Status.FAIL, "bit-equal under seed=1 and seed=2") == (found.status, found.observed)
    assert "cause: the seed is ignored: initial weights alike under all 8 seeds" == found.evidence[0]


def test_a_forward_pass_with_a_seed_of_its_own_is_found() -> None:
    """A network that seeds torch itself draws the same under every seed."""

    def reseed(_: Net, features: Tensor) -> Tensor:
        torch.manual_seed(0)
        return nn.functional.dropout(features, 0.5)

    assert Status.FAIL is seeds(disturbed(reseed))[Axis.DROPOUT].status


def test_a_loader_may_refuse_a_seed() -> None:
    """A loader that cannot take a seed says so, which is better than cutting it short."""

    def batches(data: Dataset, _recipe: Recipe, streams: RandomStreams, _epoch: int) -> Iterator[Batch]:
        order = np.random.RandomState(streams.seed).permutation(48)
        chosen = torch.from_numpy(order[:16])
        for _ in range(3):
            yield Batch(images=data.normalise(data.train_images[chosen]), labels=data.train_labels[chosen])

    found = seeds(subject_of(Net, batches=batches))

    assert (Status.PASS, "differs in all 21 pairs of 7 seeds") == (found[Axis.ORDER].status, found[Axis.ORDER].observed)
    assert (
        "seed=4294967297 is refused: ValueError: Seed must be between 0 and 2**32 - 1" == found[Axis.ORDER].evidence[0]
    )
    assert (
        "not applicable: the loader is your own, and what it draws is in its images"
        == found[Axis.AUGMENTATION].observed
    )


def test_the_declared_seed_may_not_be_refused() -> None:
    """A loader that fails with the declared seed fails the audit."""

    def batches(*_: object) -> Iterator[Batch]:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        seeds(subject_of(Net, batches=batches))


# Evaluation


def test_batch_norm_that_learns_in_evaluation_is_found() -> None:
    """A buffer that an evaluation changes is named, with the module that changes it left to the reader."""
    found = pure(subject_of(Learning))

    assert Status.FAIL is found.status
    assert "the network in eval mode changes buffer norm.running_mean" in found.observed
    assert "cause: the network updates buffer norm.running_mean in eval mode" in found.evidence


def test_dropout_that_is_live_in_evaluation_is_located() -> None:
    """The innermost module that draws is named."""

    class Live(nn.Dropout):
        def forward(self, images: Tensor) -> Tensor:
            return nn.functional.dropout(images, self.p)

    def build() -> nn.Module:
        return nn.Sequential(made_up.network(), Live(0.5))

    found = pure(subject_of(build))

    assert Status.FAIL is found.status
    assert found.evidence[0].endswith("dropout (or the like) is live there, in 1 (Live)")


@pytest.mark.parametrize(
    ("disturb", "cause"),
    [
        (_remembers_evaluations, "cause: it changes attribute calls in an evaluation"),
        (
            lambda net, features: features if net.training else features * os.urandom(1)[0],
            "cause: it draws from os.urandom",
        ),
    ],
    ids=["attribute", "os.urandom"],
)
def test_answers_that_change_are_explained(disturb: Callable[[Net, Tensor], Tensor], cause: str) -> None:
    """Two evaluations that differ without a trace in any random state are looked into."""
    found = pure(disturbed(disturb))

    assert Status.FAIL is found.status
    assert found.observed.startswith("differs between two evaluations, in the outputs, by ")
    assert cause in " ".join(found.evidence)


def test_an_evaluation_that_draws_from_the_trainings_stream_is_found() -> None:
    """It disturbs the training, and is not pure; the network is not to blame."""

    def evaluate(_: nn.Module, data: Dataset) -> Evaluation:
        torch.randperm(len(data.test_images))
        return Evaluation(loss=0.5, correct=1, total=len(data.test_images))

    subject = subject_of(Net, evaluate=evaluate)
    between, alone = evaluation_between(subject, subject.trace()), pure(subject)

    assert "differs at step 4 in the random state that the network draws from" == between.observed
    assert between.evidence[0].startswith("cause: it draws from torch's random state in an evaluation")
    assert "the evaluation changes torch's random state" == alone.observed
    assert alone.evidence[0].startswith("cause: the evaluation itself, since the network in eval mode leaves")


def test_an_evaluation_that_counts_differently_is_found() -> None:
    """Two counts of the same network must agree, and so must two losses."""
    results = iter(range(1000))

    def evaluate(_: nn.Module, data: Dataset) -> Evaluation:
        return Evaluation(loss=0.5, correct=next(results) % 20, total=len(data.test_images))

    def other_loss(_: nn.Module, data: Dataset) -> Evaluation:
        return Evaluation(loss=float(next(results)), correct=1, total=len(data.test_images))

    assert "right answers" in pure(subject_of(Net, evaluate=evaluate)).observed
    assert "give the losses" in pure(subject_of(Net, evaluate=other_loss)).observed


# A procedure of the user's own


def procedure(folder: Path, text: str) -> TrainingHooks:
    """What is read from a file with this text."""
    path = folder / "own.py"
    path.write_text(text, encoding="utf-8")
    return load_procedure(path)


LOADER = "import torch\ndef batches(seed, epoch):\n    for _ in range({}):\n        yield {}\n"
GOOD = "torch.ones(4, 1, 28, 28), torch.arange(4)"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "defines neither"),
        ("import torch\n1 / 0\n", r"failed in line 2: ZeroDivisionError"),
        ("raise SystemExit(3)", "SystemExit"),
        (LOADER.format(2, GOOD), r"expected at least 3 batches of batches\(seed=1, epoch=1\) in .*, got 2"),
        (LOADER.format(3, "torch.ones(4, 28, 28), torch.arange(4)"), r"got torch.float32 of shape \(4, 28, 28\), "),
        (LOADER.format(3, "torch.ones(4, 1, 28, 28), torch.ones(4)"), r"torch.float32 of shape \(4,\)"),
        (LOADER.format(3, "torch.ones(4, 1, 28, 28)"), "got a Tensor"),
        ("def evaluate(*_):\n    return -1\n", "the number of right answers, from 0 to 40, got -1"),
        ("def evaluate(*_):\n    return 'all'\n", "got 'all'"),
    ],
)
def test_a_wrong_procedure_is_refused(tmp_path: Path, text: str, words: str) -> None:
    """What a procedure lacks is said, with the line or the batch."""
    with pytest.raises(InputError, match=words):
        subject_of(Net, **vars(procedure(tmp_path, text))).trace()


def test_what_is_no_python_file_is_refused(tmp_path: Path) -> None:
    """A procedure is a file that ends in .py."""
    with pytest.raises(InputError, match=r"a file that ends in \.py"):
        load_procedure(tmp_path / "own.txt")


def test_a_procedure_replaces_what_it_defines(tmp_path: Path) -> None:
    """Loader and evaluation are used as they are; what is not defined stays the harness's."""
    found = procedure(
        tmp_path, LOADER.format(9, GOOD) + "def evaluate(module, images, labels):\n    return len(labels)\n"
    )
    subject = subject_of(Net, **vars(found))

    assert 6 == len(subject.trace())
    assert 40 == found.evaluate(Net(), DATA).correct
    assert TrainingHooks().batches is procedure(tmp_path, "def evaluate(*_):\n    return 1\n").batches


# The model itself, imported


def write_model(
    folder: Path, forward: str = "return self.head(images.flatten(1))", *, before: str = ""
) -> dict[str, Any]:
    """A file with a model, and what says how to import it."""
    path = folder / "net.py"
    path.write_text(
        f"import os, random, torch\nfrom torch import nn\n{before}\nclass Net(nn.Module):\n    def __init__(self):\n"
        f"        super().__init__()\n        self.head = nn.Linear(784, 10)\n        self.calls = 0\n"
        f"    def forward(self, images):\n        self.calls += 1\n        {forward}\n",
        encoding="utf-8",
    )
    return eager_source(str(path), None)


def test_the_chosen_class_is_found_again(captured: CapturedModel) -> None:
    """The source of a captured model is its class, with its arguments; of a shipped one its name."""
    found = eager_source(str(CONTROLS), captured, arguments="width=2")

    assert (str(CONTROLS / "tiny.py"), "Tiny", "width=2") == (found["path"], found["class"], found["args"])
    assert "cloud_1" == eager_source("cloud_1", None)["shipped"]


def test_a_folder_of_several_models_is_asked_about() -> None:
    """Without a captured class, a folder with several files says too little."""
    with pytest.raises(ModelSourceError, match=r"name the one that you mean, out of .*counts_calls.py"):
        eager_source(str(CONTROLS), None)


def test_a_builder_gives_lazy_modules_their_shapes(tmp_path: Path) -> None:
    """A lazy layer is drawn when it is built, so that an optimizer can have it."""
    model = write_model(
        tmp_path,
        before="class Lazy(nn.Sequential):\n    def __init__(self):\n"
        "        super().__init__(nn.Flatten(), nn.LazyLinear(10))\n",
    ) | {"class": "Lazy"}
    imports = worker._Imports({"model": model, "procedure": None})  # noqa: SLF001 - takes the file out of this process again
    module = imports.load().build(1)
    imports.forget()

    assert (10, 784) == module[1].weight.shape  # type: ignore[index]
    assert module.training


def test_a_file_with_several_models_is_asked_about(tmp_path: Path) -> None:
    """Two classes are one too many where nobody chose."""
    model = write_model(tmp_path, before="class Other(nn.Module):\n    pass\n")
    with pytest.raises(ModelSourceError, match=r"holds several models: .*net.py:Other, .*net.py:Net"):
        worker._Imports({"model": model, "procedure": None}).load()  # noqa: SLF001 - as above


def test_a_shipped_model_is_built_under_the_seed() -> None:
    """The builder of a shipped model draws what the model's constructor draws under that seed."""
    _, build = eager_builder(eager_source("cloud_2", None))

    assert all(torch.equal(one, other) for one, other in zip(build(1).parameters(), build(1).parameters(), strict=True))
    assert not all(
        torch.equal(one, other) for one, other in zip(build(1).parameters(), build(2).parameters(), strict=True)
    )


@pytest.mark.parametrize(
    ("file", "users"),
    [
        (__file__, True),
        (torch.__file__, False),
        (conduct.__file__, False),
        (json.__file__, False),
        (None, False),
        ("x.so", False),
    ],
)
def test_the_users_own_files_are_told_apart(file: str | None, users: bool) -> None:  # noqa: FBT001 - a table's column
    """Only the user's own Python files are imported a second time."""
    assert users is worker.is_users(file)


# The audit


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do the child processes' work in this one."""

    def run(_: object, folders: Mapping[Path, Any]) -> dict[Path, str]:
        for folder, task in folders.items():
            with monkeypatch.context() as child:
                child.setenv("PYTHONHASHSEED", task.hash_seed)
                worker.answer(folder)
        return dict.fromkeys(folders, "")

    monkeypatch.setattr(conduct._Children, "_run_side_by_side", run)  # noqa: SLF001 - spares each case imports of PyTorch


def audited(model: dict[str, Any], *, steps: int = 8, stall: float = 10.0) -> dict[str, Finding]:
    """What an audit finds, by axis."""
    found = conduct.audit(model, made_up.RECIPE, made_up.dataset(), seed=1, device="cpu", steps=steps, stall=stall)
    assert [Axis(finding.requirement) for finding in found.findings] == [
        axis for axis in Axis if axis is not Axis.FROZEN
    ]
    return {finding.requirement: finding for finding in found.findings}


@pytest.mark.smoke
@pytest.mark.usefixtures("in_this_process")
def test_an_audit_of_a_file_has_every_axis_in_order(tmp_path: Path) -> None:
    """A sound model in a file passes; the graph that was not captured is not applicable."""
    found = audited(write_model(tmp_path))

    assert "not applicable: it was not captured" == found[Axis.GRAPH].observed
    assert [] == [finding.describe() for finding in found.values() if finding.status is Status.FAIL]


@pytest.mark.smoke
@pytest.mark.usefixtures("in_this_process")
def test_what_is_drawn_at_import_differs_in_a_fresh_process(tmp_path: Path) -> None:
    """A number drawn when the file is imported is the same for a whole process and another in the next; the cause is named."""
    model = write_model(
        tmp_path, "return self.head(images.flatten(1)) * SCALE", before="SCALE = random.Random().random()"
    )
    found = audited(model)

    assert Status.PASS is found[Axis.REPEAT].status
    assert Status.FAIL is found[Axis.FRESH].status
    assert "cause: it draws from Python's random, which the run's seed does not reach" == found[Axis.FRESH].evidence[0]
    assert "not applicable: the training differs in a fresh process already" == found[Axis.HASH].observed


@pytest.mark.smoke
@pytest.mark.usefixtures("in_this_process")
def test_what_depends_on_the_hash_seed_is_found(tmp_path: Path) -> None:
    """Where only another PYTHONHASHSEED makes a difference, hashing is the cause."""
    model = write_model(tmp_path, "return self.head(images.flatten(1)) * float(os.environ['PYTHONHASHSEED'])")
    found = audited(model)

    assert Status.PASS is found[Axis.FRESH].status
    assert Status.FAIL is found[Axis.HASH].status
    assert found[Axis.HASH].evidence[0].startswith("cause: it depends on how Python hashes text")


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize(
    ("forward", "words"),
    [
        (
            "assert self.calls < 3, 'enough'; return self.head(images.flatten(1))",
            r"net.py failed in line 11 of net.py in the middle of a training: AssertionError: enough",
        ),
        ("return self.head(images)", "net.py failed in line 11 of net.py in the middle of a training: RuntimeError"),
        ("return images", r"expected the model's output to have shape=\(16, 10\)"),
    ],
)
def test_a_model_that_fails_is_told_with_its_line(tmp_path: Path, forward: str, words: str) -> None:
    """An error of the model's own is an input error."""
    with pytest.raises(InputError, match=words):
        audited(write_model(tmp_path, forward))


@pytest.mark.usefixtures("in_this_process")
def test_a_training_that_diverges_is_refused(tmp_path: Path) -> None:
    """A loss that is no number leaves nothing to compare."""
    with pytest.raises(InputError, match="whose loss stays a finite number, got one that was none by step "):
        audited(write_model(tmp_path, "return self.head(images.flatten(1)) * (1 if self.calls < 3 else float('nan'))"))


@pytest.mark.usefixtures("in_this_process")
def test_an_error_of_ours_is_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that the harness raises by mistake is never the model's."""
    monkeypatch.setattr(worker, "write_trace", None)
    with pytest.raises(ExaminerError, match="the process of the audit failed: TypeError: 'NoneType'"):
        audited(write_model(tmp_path))


@pytest.mark.parametrize(("steps", "cut"), [(50, (5, 10)), (51, (6, 10)), (9, (3, 4)), (2, (2, 1)), (10, (2, 5))])
def test_an_audit_is_cut_to_whole_epochs(steps: int, cut: tuple[int, int]) -> None:
    """Epochs have ten steps where the images suffice, and there are two at least."""
    recipe, data = conduct.cut(made_up.RECIPE, made_up.dataset(train=500, test=200), steps=steps)

    assert cut == (recipe.epochs, len(data.train_images) // 16)
    assert 100 == len(data.test_images)


def test_an_audit_is_cut_to_the_images_there_are() -> None:
    """Where the images do not suffice for ten steps, there are more epochs."""
    recipe, data = conduct.cut(made_up.RECIPE, made_up.dataset(train=40), steps=9)

    assert (5, 32) == (recipe.epochs, len(data.train_images))


def test_one_step_is_too_few() -> None:
    """A training is to be stopped and gone on with."""
    with pytest.raises(InputError, match="at least 2 steps"):
        conduct.cut(made_up.RECIPE, made_up.dataset(), steps=1)


@pytest.fixture
def child_that(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make the child processes run these lines in place of the worker; ``folder`` is theirs."""

    def replace(lines: str) -> None:
        def start(_: str, folder: Path, *, output: Path, **__: object) -> subprocess.Popen[bytes]:
            text = f"import os, sys, time, pathlib\nfolder = pathlib.Path(sys.argv[1])\n{lines}\n"
            with output.open("wb") as sink:
                command = [sys.executable, "-S", "-c", text, str(folder)]
                return subprocess.Popen(command, stdout=sink, stderr=sink, start_new_session=True)

        monkeypatch.setattr(conduct, "start_child", start)

    return replace


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (
            "print('farewell', flush=True); os._exit(3)",
            "ended the process that trained it: expected .* Its last words: farewell",
        ),
        ("os.kill(os.getpid(), 9)", "It was ended by signal 9; was there memory enough"),
        (
            "(folder / 'progress.txt').write_text('fresh process: pass\\n'); os._exit(0)",
            "after saying 'fresh process: pass'.*It said nothing",
        ),
        ("time.sleep(60)", "made no step in 0 seconds: expected a training that goes on"),
    ],
    ids=["exit", "kill", "progress", "stall"],
)
def test_a_child_that_ends_or_hangs_is_told(
    tmp_path: Path, child_that: Callable[[str], None], lines: str, words: str
) -> None:
    """A process that leaves no answer is the model's doing; no child outlives the audit."""
    child_that(f"pathlib.Path({str(tmp_path)!r}, str(os.getpid())).touch()\n{lines}")
    model = write_model(tmp_path)
    with pytest.raises(InputError, match=words):
        audited(model, stall=0.4 if "sleep" in lines else 10.0)

    children = [int(path.name) for path in tmp_path.iterdir() if path.name.isdigit()]
    assert children
    for child in children:
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)


def test_an_unreadable_answer_is_an_error_of_ours(tmp_path: Path, child_that: Callable[[str], None]) -> None:
    """What cannot be read is not taken for a verdict."""
    child_that("(folder / 'result.json').write_text('{')")
    with pytest.raises(ExaminerError, match="handed back something unreadable"):
        audited(write_model(tmp_path))
