"""All shipped models against their goldens: as they are, and with one thing changed, which is to be found in its place."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from harness.findings import Finding, Status
from harness.goldens import check as golden_check
from harness.goldens.check import check_golden
from harness.goldens.golden import golden_path, key_of, machine_of, read_golden
from harness.graph import CapturedModel, capture
from harness.training import Recipe, RunSpec, environment, initialise
from mnist_models import create_model, list_models, model_card

pytestmark = [pytest.mark.smoke, pytest.mark.usefixtures("one_thread")]

CPU = torch.device("cpu")
FOLDER = Path(__file__).parents[2] / "mnist_models" / "goldens"
WITHOUT_DROPOUT = ("five_step_1",)

every_model = pytest.mark.parametrize("name", list_models())
every_model_with_dropout = pytest.mark.parametrize(
    "name", [name for name in list_models() if name not in WITHOUT_DROPOUT]
)


@pytest.fixture
def untrained(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare a test that is not about it the training."""
    digests = read_golden(golden_path(FOLDER, name)).bits[0].training
    monkeypatch.setattr(golden_check, "train_shortly", lambda *_: digests)


def drawn(name: str, change: Callable[[nn.Module], object] = lambda _: None) -> CapturedModel:
    """A shipped model under seed 1, changed before it is captured."""
    module = initialise(lambda: create_model(name), seed=1)
    change(module)
    return capture(module, name=name, twice=False)


shipped = functools.cache(drawn)


def check(captured: CapturedModel) -> dict[str, Finding]:
    """The findings against the golden that is shipped, by name."""
    recipe = Recipe.from_mapping(model_card(captured.name).recipe, name=captured.name)
    path = golden_path(FOLDER, captured.name)
    spec = RunSpec.of(captured, recipe, seed=1)
    found = check_golden(captured, spec, path, remedy=f"harness golden update {captured.name}")
    return {finding.requirement: finding for finding in found}


def comparable(name: str) -> bool:
    """Whether bits can be compared here: this environment is on record, from such a machine."""
    here = environment(CPU)
    bits = read_golden(golden_path(FOLDER, name)).at(key_of(here, CPU))
    return bits is not None and bits.machine == machine_of(here)


def with_weight(captured: CapturedModel, name: str, change: Callable[[Tensor], Tensor]) -> CapturedModel:
    """The model with one tensor changed."""
    return dataclasses.replace(captured, state={**captured.state, name: change(captured.state[name])})


def kernels(captured: CapturedModel) -> list[str]:
    """The names of the weights of its convolutions and linear layers, in the order in which they are read."""
    found = {spec.name for spec in captured.graph.tensors if spec.kind == "parameter" and len(spec.shape) > 1}
    return [ref for operation in captured.graph.evaluate.operations for ref in operation.refs() if ref in found]


@every_model
def test_a_shipped_model_holds_to_its_golden(name: str) -> None:
    """Bit for bit where this environment is on record; elsewhere within tolerance, which is no pass."""
    found = {finding: said.status for finding, said in check(shipped(name)).items()}
    if comparable(name):
        assert dict.fromkeys(("graph", "weights", "outputs", "training"), Status.PASS) == found
    else:
        assert Status.PASS is found["graph"]
        assert Status.FAIL not in found.values()


@every_model
@pytest.mark.usefixtures("untrained")
def test_a_unit_in_the_last_place_is_seen_by_the_weights(name: str) -> None:
    """One number of the last kernel: the tensor is named, where bits can be compared as a failure."""

    def by_a_unit(tensor: Tensor) -> Tensor:
        changed = tensor.clone()
        changed.view(-1)[0] = torch.nextafter(changed.view(-1)[0], torch.tensor(torch.inf))
        return changed

    last = kernels(shipped(name))[-1]
    finding = check(with_weight(shipped(name), last, by_a_unit))["weights"]
    expected = Status.FAIL if comparable(name) else Status.UNKNOWN
    assert expected is finding.status
    assert last in finding.observed or not comparable(name)


@every_model
@pytest.mark.usefixtures("untrained")
def test_a_per_cent_is_seen_by_the_outputs(name: str) -> None:
    """One per cent of the first kernel is beyond tolerance from the first depth on, of the last one from the head on."""
    weights = kernels(shipped(name))
    depths = [depth.name for depth in read_golden(golden_path(FOLDER, name)).depths]
    first, last = (
        check(with_weight(shipped(name), weight, lambda tensor: tensor * 1.01))["outputs"]
        for weight in (weights[0], weights[-1])
    )
    assert (Status.FAIL, f"beyond tolerance, first at {depths[0]}") == (first.status, first.observed)
    behind = depths[depths.index("before the head") + 1 :]
    assert (Status.FAIL, f"beyond tolerance, first at {behind[0]}") == (last.status, last.observed)


@every_model
@pytest.mark.usefixtures("untrained")
def test_one_padding_is_named(name: str) -> None:
    """The first convolution's padding: which layer, what it was and what it is."""

    def wider(module: nn.Module) -> None:
        convolution = next(layer for layer in module.modules() if isinstance(layer, nn.Conv2d))
        convolution.padding = (2, 2)

    finding = check(drawn(name, wider))["graph"]
    before = (1, 1) if name == "five_step_1" else (0, 0)
    assert (Status.FAIL, f"block1.0 (conv2d): padding {before} -> (2, 2)") == (finding.status, finding.evidence[0])


@every_model_with_dropout
@pytest.mark.usefixtures("untrained")
def test_one_dropout_is_named(name: str) -> None:
    """The first dropout's probability, likewise, though no weight and no output of an evaluation depends on it."""

    def rarer(module: nn.Module) -> None:
        dropout = next(layer for layer in module.modules() if isinstance(layer, nn.Dropout))
        dropout.p /= 2

    findings = check(drawn(name, rarer))
    assert Status.FAIL is findings["graph"].status
    assert "(dropout): p " in findings["graph"].observed
    assert Status.FAIL not in (findings["weights"].status, findings["outputs"].status)
