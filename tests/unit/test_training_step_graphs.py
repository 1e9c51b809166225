# ruff: noqa: ANN401, SLF001 - operations and mutants of any kind

"""Whole steps as graphs: a recorder stands in for CUDA, which holds numbers and addresses as fixed as a graph does."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from harness.errors import InputError
from harness.graph import CapturedModel, GraphModule, capture
from harness.reproducibility import Tracer
from harness.training import (
    ENGINES,
    RandomStreams,
    Recipe,
    RunRecord,
    RunSpec,
    SeedOutcome,
    SeedsInterrupted,
    SeedsJob,
    TrainingHooks,
    choose_engine,
    engines,
    graph_optimizers,
    load_weights,
    shuffled_batches,
    state_digest,
    step_graphs,
    train,
    train_seeds,
    train_step,
    verification,
)
from harness.training.dropout import seeded_operations
from harness.training.engines import Engine
from harness.training.group import Member, train_group
from harness.training.step_graphs import StepGraphs, Work
from tests.made_up import dataset, network, spec

pytestmark = pytest.mark.smoke  # it trains a hundred times over, for seconds in all

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
# Batches of 20, 20 and 8; products with these powers of two are exact, so that torch's SGD gives the same bits.
DATA = dataset(train=48)
EXACT = {"name": "sgd", "lr": 0.125, "momentum": 0.5}
SEEDS = (1, 2, 3)
# A seed whose model cannot be loaded.
UNLOADABLE = 9


def recipe(optimizer: Mapping[str, object] = EXACT, epochs: int = 3, **more: object) -> Recipe:
    """A short one."""
    mapping = {"batch_size": 20, "epochs": epochs, "optimizer": dict(optimizer), **more}
    return Recipe.from_mapping(mapping, name="short")


class Tape(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records every operation with the tensors and numbers that it got; `replay` does the same with the same again."""

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._generators = generators
        self._calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(
        self, operation: Any, _: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded in operation.tags:
            seeds = {generator.initial_seed() for generator in self._generators}
            assert kwargs["generator"].initial_seed() in seeds
        result = operation(*args, **kwargs)
        self._calls.append((operation, args, kwargs, result))
        return result

    def replay(self) -> None:
        with torch.no_grad():
            for operation, args, kwargs, result in self._calls:
                again = operation(*args, **kwargs)
                for new, old in zip(tree_leaves(again), tree_leaves(result), strict=True):
                    # Views, and what was changed in place, are where they were.
                    if isinstance(old, Tensor) and old.untyped_storage().data_ptr() != new.untyped_storage().data_ptr():
                        old.copy_(new)


class Recorder:
    """Stands in for CUDA."""

    def __init__(self, _: torch.device, branches: int) -> None:
        self._branches = branches

    def warm_up(self, works: Sequence[Work]) -> None:
        assert len(works) == self._branches
        for work in works:
            work()

    def capture(self, works: Sequence[Work], generators: Sequence[torch.Generator]) -> Work:
        tape = Tape(generators)
        with tape:
            self.warm_up(works)
        return tape.replay


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """The engine graph, with the recorder in CUDA's place."""
    if "as_shipped" not in request.fixturenames:
        rehearsed = dataclasses.replace(ENGINES["graph"], devices=("cpu",), capturer=Recorder)
        monkeypatch.setitem(ENGINES, "graph", rehearsed)


@pytest.fixture
def as_shipped() -> None:
    """The engine graph as it is."""


@pytest.fixture(scope="module")
def captured() -> CapturedModel:
    """Convolution, batch norm, ReLU and dropout."""
    torch.manual_seed(0)
    return capture(network(dropout=0.2), name="net", twice=False)


@pytest.fixture(scope="module")
def without_dropout() -> CapturedModel:
    """The same, drawing nothing; and without a bias before batch norm, whose gradient is rounding that Adam makes large."""
    torch.manual_seed(0)
    plain = network()
    plain.get_submodule("0").register_parameter("bias", None)
    return capture(plain, name="net", twice=False)


class Witness:
    """An observer that does something after an epoch."""

    def __init__(self, epoch: int = 0, then: BaseException | None = None) -> None:
        self._epoch, self._then = epoch, then

    def _nothing(self, *_: object, **__: object) -> None:
        pass

    on_start = on_step = on_warning = _nothing

    def on_epoch(self, result: Any) -> None:
        if result.epoch == self._epoch and self._then:
            raise self._then


def alone(
    model: CapturedModel, seed: int = 1, how: Recipe | None = None, engine: str = "graph", **options: Any
) -> tuple[RunRecord, GraphModule]:
    """One run."""
    module = model.to_module()
    return train(module, spec(how or recipe(), seed=seed, engine=engine, digest_every=1), DATA, **options), module


def together(
    model: CapturedModel,
    folder: Path | None = None,
    observers: Mapping[int, Witness] | None = None,
    *,
    device: torch.device = CPU,
    seeds: Sequence[int] = SEEDS,
    **modules: nn.Module,
) -> dict[int, RunRecord | Exception]:
    """A group of seeds, and how each ended; a module may be given by ``seed2=``."""
    ended: dict[int, RunRecord | Exception] = {}
    members = [
        Member(
            module=modules.get(f"seed{seed}") or model.to_module(),
            spec=spec(recipe(), seed=seed, engine="graph", device=str(device), digest_every=1),
            observer=(observers or {}).get(seed),
            checkpoint_dir=folder and folder / str(seed),
        )
        for seed in seeds
    ]
    try:
        train_group(members, DATA, on_end=lambda member, result: ended.update({member.spec.seed: result}))
    except KeyboardInterrupt:
        assert set(seeds) == set(ended)
    return ended


def bits(result: RunRecord | Exception) -> object:
    """What of a record must come again."""
    assert isinstance(result, RunRecord)
    epochs = [dataclasses.replace(epoch, seconds=0.0) for epoch in result.epochs]
    return result.status, epochs, result.digests, result.state_digest


@pytest.fixture(scope="module")
def solo(captured: CapturedModel) -> dict[int, object]:
    """The bits of each seed alone."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(ENGINES, "graph", dataclasses.replace(ENGINES["graph"], devices=("cpu",), capturer=Recorder))
        return {seed: bits(alone(captured, seed)[0]) for seed in SEEDS}


def plain_steps(model: CapturedModel, seed: int) -> dict[str, Tensor]:
    """The same training as a few lines of PyTorch."""
    module = model.to_module().train()
    streams = RandomStreams(seed, CPU, own_dropout=True)
    assert streams.dropout
    run = module.runner(module.graph.train, seeded_operations(streams.dropout))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.125, momentum=0.5)
    for _ in range(3):
        for batch in shuffled_batches(DATA, recipe(), streams):
            train_step(run, optimizer, batch.images, batch.labels)
    return module.state_dict()


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether no bit differs."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_is_the_steps_and_nothing_else(captured: CapturedModel) -> None:
    """Batches of two sizes, warm-ups and captures: the weights are those of plain steps bit for bit."""
    assert same(plain_steps(captured, 1), alone(captured)[1].state_dict())


RESTORE = step_graphs._Snapshot.restore
NOT_RESTORED: dict[str, Callable[[Any], Iterable[Tensor]]] = {
    "parameters": lambda snapshot: snapshot._branch.module.parameters(),
    "buffers": lambda snapshot: snapshot._branch.module.buffers(),
    "momentum": lambda snapshot: step_graphs._optimizer_state(snapshot._branch.optimizer),
    "generator": lambda _: (),
}


@pytest.mark.parametrize("what", NOT_RESTORED)
def test_a_warm_up_that_leaves_a_trace_is_seen(
    what: str, captured: CapturedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutants: one part of the run's state is not restored."""

    def restore(snapshot: Any) -> None:
        left = [(tensor, tensor.detach().clone()) for tensor in NOT_RESTORED[what](snapshot)]
        generator = snapshot._branch.generator.get_state()
        RESTORE(snapshot)
        with torch.no_grad():
            for tensor, after in left:
                tensor.copy_(after)
        if what == "generator":
            snapshot._branch.generator.set_state(generator)

    monkeypatch.setattr(step_graphs._Snapshot, "restore", restore)
    if what != "generator":
        # The verification runs without dropout, where the generator makes no difference.
        with pytest.raises(InputError, match="graph differs from eager in"):
            choose_engine("graph", captured.to_module(), CPU)
    monkeypatch.setattr(Engine, "reason_against", lambda *_: "")
    assert not same(plain_steps(captured, 1), alone(captured)[1].state_dict())


def test_a_capture_that_fails_leaves_no_trace(captured: CapturedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is told, and the network is as it came."""

    def refuse(*_: object) -> Work:
        raise InputError("cannot be captured")

    monkeypatch.setattr(Recorder, "capture", refuse)
    module = captured.to_module()
    with pytest.raises(InputError, match="cannot be captured"):
        train(module, spec(recipe(), engine="graph"), DATA)
    assert same(captured.to_module().state_dict(), module.state_dict())


ADAM = {"name": "adam", "lr": 0.01}
RECIPES = {
    "sgd": recipe({"name": "sgd", "lr": 0.1}),
    "nesterov": recipe({"name": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    "cycled momentum": recipe(
        {"name": "sgd", "lr": 0.01, "momentum": 0.9}, schedule={"name": "one-cycle", "max_lr": 0.2}
    ),
    "adam": recipe({**ADAM, "weight_decay": 0.01}, schedule={"name": "step", "step_size": 1, "gamma": 0.5}),
    "adamw": recipe({"name": "adamw", "lr": 0.01}, schedule={"name": "one-cycle", "max_lr": 0.02}),
}


def close(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two trainings differ by rounding only."""
    return all(torch.allclose(one[name].double(), other[name].double(), rtol=1e-3, atol=1e-4) for name in one)


@pytest.mark.parametrize("name", RECIPES)
def test_the_update_is_that_of_torch(name: str, without_dropout: CapturedModel) -> None:
    """Every optimizer and what schedules move: as `eager` up to rounding, with the same rates on record."""
    (plain, expected), (record, module) = (
        alone(without_dropout, how=RECIPES[name], engine=engine) for engine in ("eager", "graph")
    )
    assert close(expected.state_dict(), module.state_dict())
    assert [digests.rate for digests in plain.digests] == [digests.rate for digests in record.digests]


@pytest.mark.parametrize("name", ["cycled momentum", "adamw"])
@pytest.mark.parametrize("number", [0, 1], ids=["lr", "momentum"])
def test_a_number_in_the_graph_is_seen(
    name: str, number: int, without_dropout: CapturedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutants: what the rate or the momentum was at the capture is used in every step."""

    def baked(optimizer: torch.optim.Optimizer) -> Any:
        update: Any = update_of(optimizer)
        apply, fixed = update.apply, update.numbers()
        update.apply = lambda gradients, numbers: apply(
            gradients, [torch.tensor(fixed[at]) if at == number else its for at, its in enumerate(numbers)]
        )
        return update

    update_of = graph_optimizers.update_of
    monkeypatch.setattr(step_graphs, "update_of", baked)
    expected, found = (alone(without_dropout, how=RECIPES[name], engine=engine)[1] for engine in ("eager", "graph"))
    assert not close(expected.state_dict(), found.state_dict())


def test_a_seed_in_a_group_has_the_bits_of_its_solo_run(captured: CapturedModel, solo: dict[int, object]) -> None:
    """Records, digests and weights of three seeds in step; and the seeds differ."""
    assert solo == {seed: bits(result) for seed, result in together(captured).items()}
    assert len(SEEDS) == len({str(run) for run in solo.values()})


def test_branches_that_share_a_generator_are_seen(
    captured: CapturedModel, solo: dict[int, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutant: the group draws from one generator."""
    branch, shared = Engine.branch, torch.Generator().manual_seed(0)
    monkeypatch.setattr(
        Engine, "branch", lambda engine, module, optimizer, _: branch(engine, module, optimizer, shared)
    )
    found = {seed: bits(result) for seed, result in together(captured).items()}
    assert not any(solo[seed] == found[seed] for seed in SEEDS)


def test_an_interrupted_group_keeps_whole_epochs_and_goes_on(
    captured: CapturedModel, solo: dict[int, object], tmp_path: Path
) -> None:
    """Ctrl-C while one seed announces an epoch: records of whole epochs, then the bits of runs never stopped."""
    stopped = together(captured, tmp_path, {2: Witness(2, KeyboardInterrupt())})
    states = [(result.status, len(result.epochs)) for result in stopped.values() if isinstance(result, RunRecord)]
    assert [("interrupted", 2), ("interrupted", 2), ("interrupted", 1)] == states
    # The third has one epoch less to go on from.
    assert solo == {seed: bits(result) for seed, result in together(captured, tmp_path).items()}


def test_a_group_goes_on_from_a_solo_run_and_the_reverse(
    captured: CapturedModel, solo: dict[int, object], tmp_path: Path
) -> None:
    """A checkpoint holds the run's generator; it does not matter what made it."""
    with pytest.raises(KeyboardInterrupt):
        alone(captured, 3, checkpoint_dir=tmp_path / "3", observer=Witness(1, KeyboardInterrupt()))
    together(captured, tmp_path, {1: Witness(2, KeyboardInterrupt())})
    assert solo == {seed: bits(alone(captured, seed, checkpoint_dir=tmp_path / str(seed))[0]) for seed in SEEDS}


def test_a_run_that_fails_costs_itself_only(captured: CapturedModel, solo: dict[int, object]) -> None:
    """One diverges from the first step, one's observer breaks: the third does not notice."""
    sick = captured.to_module()
    with torch.no_grad():
        next(iter(sick.parameters())).fill_(torch.nan)
    ended = together(captured, observers={3: Witness(2, RuntimeError("full"))}, seed1=sick)
    assert isinstance(ended[1], RunRecord)
    assert ("diverged", "full") == (ended[1].status, str(ended[3]))
    assert solo[2] == bits(ended[2])


def test_an_engine_that_computes_runs_one_by_one_trains_no_group(captured: CapturedModel) -> None:
    """Each run is told."""
    ended: list[RunRecord | Exception] = []
    member = Member(module=captured.to_module(), spec=spec(recipe()))
    train_group([member], DATA, on_end=lambda _, result: ended.append(result))
    assert "expected an engine that computes several runs at once, got engine='eager'" in str(ended[0])


def test_a_group_without_room_says_what_to_do(captured: CapturedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run is told to come with fewer others."""
    capture_one = Recorder.capture

    def too_much(self: Recorder, works: Sequence[Work], generators: Sequence[torch.Generator]) -> Work:
        if len(works) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.\nStatistics")
        return capture_one(self, works, generators)

    monkeypatch.setattr(Recorder, "capture", too_much)
    expected = "not enough memory for 3 runs at a time: CUDA out of memory. Train fewer runs at a time (--jobs)."
    assert dict.fromkeys(SEEDS, expected) == {seed: str(result) for seed, result in together(captured).items()}


def test_batches_of_a_group_have_one_size() -> None:
    """Anything else is refused."""
    graphs = StepGraphs([], Recorder(CPU, 0))
    with pytest.raises(InputError, match="one size"):
        graphs([(torch.zeros(2, 1), torch.zeros(2)), (torch.zeros(3, 1), torch.zeros(3))])


def test_callbacks_see_the_steps_of_a_captured_run(captured: CapturedModel) -> None:
    """A tracer's digests are the record's, dropout's link among them, and gradients are where they usually are."""
    tracer, seen = Tracer(CPU), []

    class Inspector:
        def before_step(self, step: Any) -> None:
            tracer.before_step(step)

        def after_step(self, step: Any) -> None:
            tracer.after_step(step)
            seen.append(torch.cat([p.grad.flatten().clone() for p in step.module.parameters()]))

    record, _ = alone(captured, how=recipe(epochs=1), hooks=TrainingHooks(callbacks=(Inspector(),)))
    assert record.digests[1:] == tuple(step.end for step in tracer.trace)
    assert len({digests.dropout for digests in record.digests}) == len(record.digests)
    assert all(not torch.equal(one, other) for one, other in itertools.pairwise(seen))


class Noisy(nn.Module):
    """Adds noise to what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.net(images + torch.randn_like(images))
        return scores


@pytest.mark.usefixtures("as_shipped")
def test_graph_is_chosen_by_name_only(captured: CapturedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """On CUDA `auto` is `eager`, without a warning; `graph` is refused for a network that draws other than by dropout."""
    monkeypatch.setattr(verification, "_trained", lambda *_: {})
    monkeypatch.setattr(engines, "preserved_randomness", contextlib.nullcontext)
    assert (ENGINES["eager"], "") == choose_engine("auto", captured.to_module(), CUDA)
    assert (ENGINES["graph"], "") == choose_engine("graph", captured.to_module(), CUDA)
    noisy = capture(Noisy(), name="noisy", twice=False).to_module()
    with pytest.raises(
        InputError, match=r"aten\.randn_like\.default, which draws random numbers and accepts no generator"
    ):
        choose_engine("graph", noisy, CUDA)
    with pytest.raises(InputError, match="graph runs on cuda, not on cpu"):
        choose_engine("graph", captured.to_module(), CPU)


class SeedsWitness:
    """Keeps who has ended, and does something after an epoch of a seed."""

    def __init__(self, at: tuple[int, int] = (0, 0), then: BaseException | None = None) -> None:
        self.begun: list[tuple[int, int]] = []
        self.ended: list[int] = []
        self._at, self._then = at, then

    def _nothing(self, *_: object, **__: object) -> None:
        pass

    on_seed_step = on_seed_warning = _nothing

    def on_seed_start(self, seed: int, *, done: int, **_: object) -> None:
        self.begun.append((seed, done))

    def on_seed_epoch(self, seed: int, result: Any) -> None:
        if (seed, result.epoch) == self._at and self._then:
            raise self._then

    def on_seed_end(self, outcome: SeedOutcome) -> None:
        self.ended.append(outcome.seed)


def seeds_of(model: CapturedModel, folder: Path, witness: SeedsWitness) -> tuple[SeedOutcome, ...]:
    """Train the seeds, two at a time, in this process."""

    def load_model(*, seed: int) -> CapturedModel:
        if seed == UNLOADABLE:
            raise InputError("expected another seed")
        return model

    described = RunSpec.of(model, recipe(), seed=0, engine="graph", digest_every=1)
    job = SeedsJob(load_model=load_model, load_data=lambda: DATA, spec=described)
    return train_seeds(job, (*SEEDS, UNLOADABLE), folder, processes=2, observer=witness)


def test_seeds_are_trained_as_branches(captured: CapturedModel, solo: dict[int, object], tmp_path: Path) -> None:
    """Two at a time: the bits of solo runs, records and weights in their folders; one that cannot be loaded is told."""
    witness = SeedsWitness()
    *outcomes, failed = seeds_of(captured, tmp_path, witness)
    assert ("expected another seed", None) == (failed.problem, failed.record)
    for outcome in outcomes:
        record = RunRecord.read(tmp_path / f"seed-{outcome.seed}" / "record.json")
        module = captured.to_module()
        load_weights(module, outcome.folder / "weights.safetensors")
        assert solo[outcome.seed] == bits(record)
        assert record.state_digest == state_digest(module.state_dict())
    assert sorted((*SEEDS, UNLOADABLE)) == sorted(witness.ended)


def test_interrupted_seeds_are_kept_and_gone_on_with(
    captured: CapturedModel, solo: dict[int, object], tmp_path: Path
) -> None:
    """The first two end, the third is stopped after an epoch; the same call trains what is left of it."""
    with pytest.raises(SeedsInterrupted, match="2 of 4 seeds are finished, and their results are kept"):
        seeds_of(captured, tmp_path, SeedsWitness((3, 1), KeyboardInterrupt()))
    assert "interrupted" == RunRecord.read(tmp_path / "seed-3" / "record.json").status
    witness = SeedsWitness()
    outcomes = seeds_of(captured, tmp_path, witness)
    assert [(3, 1)] == witness.begun
    assert solo == {outcome.seed: bits(outcome.record) for outcome in outcomes if outcome.record}


def test_a_seed_that_cannot_be_written_costs_itself_only(
    captured: CapturedModel, solo: dict[int, object], tmp_path: Path
) -> None:
    """A folder is a file: its seed is told of, the others are trained."""
    (tmp_path / "seed-2").write_text("in the way", encoding="utf-8")
    outcomes = seeds_of(captured, tmp_path, SeedsWitness())
    assert [1, 3] == [
        outcome.seed for outcome in outcomes if outcome.record and solo[outcome.seed] == bits(outcome.record)
    ]
    assert "could not create the folder" in outcomes[1].problem


class Elsewhere(SeedsJob):
    """A job for another kind of device, done here."""

    def train(self, *arguments: Any, **options: Any) -> RunRecord:
        here = dataclasses.replace(self.spec, device="cpu")
        return SeedsJob(load_model=self.load_model, load_data=self.load_data, spec=here).train(*arguments, **options)


def test_an_engine_that_captures_nothing_trains_seeds_in_turn(captured: CapturedModel, tmp_path: Path) -> None:
    """On a GPU, too, each seed has the bits of its solo run, and one that fails costs itself only."""
    (tmp_path / "seed-2").write_text("in the way", encoding="utf-8")
    witness = SeedsWitness()
    job = Elsewhere(
        load_model=lambda **_: captured,
        load_data=lambda: DATA,
        spec=RunSpec.of(captured, recipe(), seed=0, device=CUDA, digest_every=1),
    )
    outcomes = train_seeds(job, SEEDS, tmp_path, processes=2, observer=witness)
    for outcome in (outcomes[0], outcomes[2]):
        record, _ = alone(captured, outcome.seed, engine="eager")
        assert outcome.record
        assert bits(record) == bits(outcome.record)
    assert "seed-2" in outcomes[1].problem
    assert list(SEEDS) == witness.ended


class Stream:
    """A CUDA stream that notes what happens on it."""

    def __init__(self, notes: list[str], name: str) -> None:
        self.name = name
        self._notes = notes

    def wait_stream(self, other: Stream) -> None:
        self._notes.append(f"{self.name} waits for {other.name}")


@pytest.mark.usefixtures("as_shipped")
def test_branches_fork_from_the_capture_and_join_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """All begin before any is waited for, on streams of their own; generators are registered before; cuDNN repeats itself."""
    notes: list[str] = []
    names = iter(["capture", "side 1", "side 2"])
    current = [Stream(notes, "main")]

    @contextlib.contextmanager
    def on(stream: Stream) -> Iterator[None]:
        current.append(stream)
        yield
        current.pop()

    @contextlib.contextmanager
    def graph(_: object, *, pool: str, stream: Stream) -> Iterator[None]:
        notes.append(f"capture into {pool}")
        with on(stream):
            yield
        notes.append("captured")

    class CUDAGraph:
        def register_generator_state(self, generator: torch.Generator) -> None:
            notes.append(f"register {generator.initial_seed()}")

        def replay(self) -> None:
            notes.append("replay")

    def work() -> None:
        assert torch.backends.cudnn.deterministic
        notes.append(f"work on {current[-1].name}")

    for name, stand_in in {
        "device": lambda _: contextlib.nullcontext(),
        "graph_pool_handle": lambda: "the pool",
        "Stream": lambda: Stream(notes, next(names)),
        "current_stream": lambda: current[-1],
        "stream": on,
        "synchronize": lambda: notes.append("synchronize"),
        "CUDAGraph": CUDAGraph,
        "graph": graph,
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    capturer = step_graphs.CudaCapturer(CUDA, 2)

    def parallel(stream: str) -> list[str]:
        sides = ["side 1", "side 2"]
        return [
            *(f"{side} waits for {stream}" for side in sides),
            *(f"work on {side}" for side in sides),
            *(f"{stream} waits for {side}" for side in sides),
        ]

    capturer.warm_up([work, work])
    assert [*parallel("main"), "synchronize"] == notes
    notes.clear()
    replay = capturer.capture([work, work], [torch.Generator().manual_seed(7)])
    assert ["register 7", "capture into the pool", *parallel("capture"), "captured"] == notes
    assert not torch.backends.cudnn.deterministic
    notes.clear()
    replay()
    assert ["replay"] == notes

    def fail() -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    with pytest.raises(InputError, match=r"not permitted when stream is capturing\. Use --engine eager"):
        capturer.capture([fail, work], [])


on_a_gpu = [
    pytest.mark.smoke,
    pytest.mark.usefixtures("as_shipped"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


class TestOnAGpu:
    """The same on CUDA itself."""

    pytestmark = on_a_gpu

    @pytest.mark.parametrize("name", RECIPES)
    def test_the_update_is_that_of_torch(self, name: str, without_dropout: CapturedModel) -> None:
        """Without dropout the run is `eager`'s up to rounding."""
        expected, found = (
            alone(without_dropout, how=RECIPES[name], engine=engine, device=CUDA)[1] for engine in ("eager", "graph")
        )
        assert close(expected.state_dict(), found.state_dict())

    def test_a_run_repeats(self, captured: CapturedModel) -> None:
        """Twice the same bits, with dropout."""
        first, again = (bits(alone(captured, device=CUDA)[0]) for _ in range(2))
        assert first == again

    @pytest.mark.parametrize("count", [3, 40], ids=["fewer than streams", "more than streams"])
    def test_a_seed_in_a_group_has_the_bits_of_its_solo_run(self, count: int, captured: CapturedModel) -> None:
        """Records, digests and weights."""
        found = together(captured, device=CUDA, seeds=range(count))
        for seed in {0, 1, count - 1}:
            assert bits(alone(captured, seed, device=CUDA)[0]) == bits(found[seed])

    def test_an_interrupted_group_goes_on(self, captured: CapturedModel, tmp_path: Path) -> None:
        """After Ctrl-C the bits of runs never stopped, although each epoch's end made a graph for fewer."""
        together(captured, tmp_path, {2: Witness(2, KeyboardInterrupt())}, device=CUDA)
        found = together(captured, tmp_path, device=CUDA)
        assert {seed: bits(alone(captured, seed, device=CUDA)[0]) for seed in SEEDS} == {
            seed: bits(result) for seed, result in found.items()
        }
