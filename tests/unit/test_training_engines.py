"""Engines: a fused step computes what the network says, or another engine is taken."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.errors import CheckpointError, InputError
from harness.graph import CapturedModel, capture
from harness.graph.form import Program
from harness.training import RunRecord, choose_engine, fusion, train
from harness.training.fusion import fused
from tests.made_up import dataset, network, spec

# A capture takes a third of a second: what needs one of its own is marked smoke.
CPU = torch.device("cpu")
DATA = dataset()


class Witness:
    """An observer that keeps warnings, and stops a run after an epoch when told to."""

    def __init__(self, *, stop_after: int | None = None) -> None:
        self.warnings: list[str] = []
        self._stop_after = stop_after

    def _nothing(self, **_: object) -> None:
        pass

    on_start = on_step = _nothing

    def on_epoch(self, result: object) -> None:
        if getattr(result, "epoch", None) == self._stop_after:
            raise KeyboardInterrupt

    def on_warning(self, message: str) -> None:
        self.warnings.append(message)


@pytest.fixture(scope="module")
def captured() -> CapturedModel:
    """Convolution, batch norm, ReLU and dropout, captured."""
    torch.manual_seed(0)
    return capture(network(dropout=0.1), name="net", twice=False)


def run(captured: CapturedModel, engine: str, **options: Any) -> RunRecord:  # noqa: ANN401 - those of train
    """Train on the made-up data."""
    return train(captured.to_module(), spec(engine=engine), DATA, **options)


def of(build: Callable[[], nn.Module]) -> CapturedModel:
    """A network captured."""
    torch.manual_seed(0)
    return capture(build(), name="net", twice=False)


class Tail(nn.Module):
    """A network whose last part is given."""

    def __init__(self, *middle: nn.Module) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 7, stride=7)
        self.middle = nn.Sequential(*middle)
        self.head = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 10) logits."""
        scores: Tensor = self.head(self.middle(self.first(images)).flatten(1))
        return scores


def operations(program: Program) -> list[str]:
    """What the program runs, without what counts batches."""
    return [operation.op for operation in program.operations if operation.op != "aten.add_.Tensor"]


def test_batch_norm_relu_and_dropout_become_one_pass(captured: CapturedModel) -> None:
    """The factor of dropout goes into the batch norm, the ReLU into the dropout."""
    assert operations(fused(captured.graph.train)) == [
        "aten.conv2d.default",
        "fused.batch_norm",
        "fused.relu_dropout",
        "aten.flatten.using_ints",
        "aten.linear.default",
    ]


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("middle", "expected"),
    [
        ((nn.BatchNorm2d(4), nn.Dropout(0.1)), ["fused.batch_norm", "fused.dropout"]),
        ((nn.ReLU(), nn.Dropout(0.1)), ["fused.relu_dropout"]),
        ((nn.ReLU(inplace=True), nn.BatchNorm2d(4), nn.Dropout(0.1)), ["aten.relu_.default",
         "fused.batch_norm", "fused.dropout"]),
        ((nn.GELU(), nn.Dropout(0.1)), ["aten.gelu.default", "fused.dropout"]),
        ((nn.BatchNorm2d(4, affine=False), nn.ReLU(), nn.Dropout(0.1)), ["aten.batch_norm.default",
         "fused.relu_dropout"]),
        ((nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5)), ["aten.batch_norm.default",
         "aten.relu_.default", "aten.dropout.default"]),
        ((nn.Dropout2d(0.1),), ["aten.feature_dropout.default"]),
    ],
)  # fmt: skip
def test_what_is_fused_computes_the_same(middle: tuple[nn.Module, ...], expected: list[str]) -> None:
    """Each order of layers is rewritten as it may be, and the fast engine finds nothing to object to."""
    model = of(lambda: Tail(*middle))

    assert operations(fused(model.graph.train))[1:-2] == expected
    engine, reason = choose_engine("auto", model.to_module(), CPU)
    assert (engine.name, reason) == ("fast", "")


class Twice(nn.Module):
    """A ReLU's result that dropout is not alone in reading."""

    def forward(self, maps: Tensor) -> Tensor:
        """Same shape."""
        kept = maps.relu()
        return nn.functional.dropout(kept, 0.1, self.training) + kept


@pytest.mark.smoke
def test_a_value_that_somebody_else_reads_is_left_alone() -> None:
    """Neither is the ReLU taken into the dropout, nor is its result written into."""
    model = of(lambda: Tail(nn.BatchNorm2d(4), Twice()))
    program = fused(model.graph.train)

    assert operations(program)[1:4] == ["aten.batch_norm.default", "aten.relu_.default", "fused.dropout"]
    dropout = next(operation for operation in program.operations if operation.op == "fused.dropout")
    assert (dropout.args[2:], dropout.kwargs) == ((1 / 0.9,), {"in_place": False})
    assert choose_engine("auto", model.to_module(), CPU)[0].name == "fast"


class Strided(nn.Module):
    """Reads its maps by where they lie in memory."""

    def forward(self, maps: Tensor) -> Tensor:
        """Same shape."""
        return maps.as_strided(maps.shape, (64, 16, 4, 1)) * 2.0


@pytest.mark.smoke
def test_auto_falls_back_to_eager_where_fast_differs() -> None:
    """With the reason; fast, asked for by name, is refused."""
    module = of(lambda: Tail(nn.BatchNorm2d(4), Strided())).to_module()

    engine, reason = choose_engine("auto", module, CPU)

    assert ("eager", "fast differs from eager in the output") == (engine.name, reason)
    with pytest.raises(InputError, match=r"engine='fast': fast differs from eager in the output\. Use eager"):
        choose_engine("fast", module, CPU)


@pytest.mark.parametrize(
    ("operation", "broken", "where"),
    [
        ("fused.batch_norm", lambda _, maps, weight, *rest: torch.ops.aten.batch_norm.default(
            maps, weight * 1.01, *rest), "output"),
        ("fused.relu_dropout", lambda maps, *_, **__: maps.clone(), "output"),
        ("fused.relu_dropout", lambda maps, *_, **__: maps.detach().relu() + 0 * maps, "gradient"),
        ("fused.batch_norm", lambda p, maps, weight, bias, mean, var, *rest: torch.ops.aten.batch_norm.default(
            maps, weight / (1 - p), bias / (1 - p), mean.clone(), var, *rest), "running_mean"),
    ],
)  # fmt: skip
def test_a_fused_operation_that_is_wrong_is_noticed(
    operation: str, broken: Callable[..., Tensor], where: str, captured: CapturedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A factor, a lost ReLU, a lost gradient, a buffer that is not moved: each by what comes out differently."""
    monkeypatch.setitem(fusion.FUSED_OPERATIONS, operation, broken)

    engine, reason = choose_engine("auto", captured.to_module(), CPU)

    assert engine.name == "eager"
    assert where in reason


@pytest.mark.parametrize("engine", ["eager", "fast", "bf16"])
def test_a_run_says_its_engine_and_comes_again_bit_for_bit(captured: CapturedModel, engine: str) -> None:
    """Twice the same bits, and the network learns."""
    one, other = run(captured, engine), run(captured, engine)

    assert one.engine == engine
    assert one.state_digest == other.state_digest
    assert one.digests == other.digests
    assert one.epochs[-1].train_loss < one.epochs[0].train_loss


@pytest.mark.parametrize("engine", ["fast", "bf16"])
def test_a_stopped_run_goes_on_to_the_same_bits(captured: CapturedModel, engine: str, tmp_path: Path) -> None:
    """Dropout's numbers go on where they were."""
    whole = run(captured, engine)
    with pytest.raises(KeyboardInterrupt):
        run(captured, engine, checkpoint_dir=tmp_path, observer=Witness(stop_after=1))

    resumed = run(captured, engine, checkpoint_dir=tmp_path)

    assert resumed.state_digest == whole.state_digest
    assert resumed.digests == whole.digests


def test_engines_differ_in_their_bits_and_start_alike(captured: CapturedModel) -> None:
    """Order and initial weights are those of eager; what comes of the steps is not."""
    records = {engine: run(captured, engine) for engine in ("eager", "fast", "bf16")}

    assert len({record.state_digest for record in records.values()}) == 3
    assert len({record.digests[0] for record in records.values()}) == 1
    assert len({(record.digests[-1].order, record.digests[-1].rate) for record in records.values()}) == 1


@pytest.mark.smoke
def test_without_dropout_fast_stays_close_to_eager() -> None:
    """After three epochs the losses differ by rounding only; in bfloat16 by more, and by little."""
    model = of(network)
    eager, fast, bf16 = (run(model, engine).epochs[-1].train_loss for engine in ("eager", "fast", "bf16"))

    assert fast == pytest.approx(eager, rel=1e-4)
    assert bf16 == pytest.approx(eager, rel=0.1)
    assert bf16 != pytest.approx(eager, rel=1e-6)


def test_evaluation_is_the_same_whatever_the_engine(captured: CapturedModel) -> None:
    """The weights of a bf16 run are float32, and are tested in float32."""
    module = captured.to_module()
    train(module, spec(engine="bf16"), DATA)

    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}


def test_a_checkpoint_of_another_engine_is_refused(captured: CapturedModel, tmp_path: Path) -> None:
    """Half a run by one engine and half by another would be neither's."""
    run(captured, "eager", checkpoint_dir=tmp_path)

    with pytest.raises(CheckpointError, match="engine"):
        run(captured, "fast", checkpoint_dir=tmp_path)


def test_an_unknown_engine_is_refused_by_name(captured: CapturedModel) -> None:
    """The message lists what there is."""
    with pytest.raises(InputError, match=r"engine='warp'.*auto, eager, fast, bf16"):
        run(captured, "warp")


def test_a_plain_module_is_trained_by_eager_only() -> None:
    """Auto takes eager without a word; fast needs a captured network and says so."""
    plain = network()

    assert choose_engine("auto", plain, CPU)[0].name == "eager"
    with pytest.raises(InputError, match="needs a captured network, got a Sequential"):
        choose_engine("fast", plain, CPU)


def test_an_engine_of_another_device_is_refused(captured: CapturedModel) -> None:
    """The fast engine is written for the CPU."""
    with pytest.raises(InputError, match="fast runs on cpu, not on cuda"):
        choose_engine("fast", captured.to_module(), torch.device("cuda"))


@pytest.mark.smoke
def test_a_view_becomes_a_copy_where_it_must(captured: CapturedModel) -> None:
    """With channels last in memory a view of maps as rows does not exist."""

    class Rows(nn.Module):
        def forward(self, maps: Tensor) -> Tensor:
            """(B, 64)."""
            return maps.view(-1, 64)

    model = of(lambda: Tail(nn.ReLU(), Rows()))

    assert "aten.view.default" in operations(model.graph.train)
    assert choose_engine("auto", model.to_module(), CPU) == choose_engine("fast", captured.to_module(), CPU)


def test_the_graph_itself_stays_as_it_was(captured: CapturedModel) -> None:
    """Fusing gives a new program; after a fast run the module in train mode runs its own operations."""
    module = captured.to_module()
    before = dataclasses.replace(captured.graph)
    train(module, spec(engine="fast"), DATA)

    assert captured.graph == before
    assert module.graph == before
