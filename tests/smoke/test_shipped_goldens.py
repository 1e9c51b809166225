"""All shipped models against their goldens: unchanged, and with one change, which must be located."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from harness.findings import Finding, Status
from harness.goldens import check as golden_check
from harness.goldens.check import check_golden
from harness.goldens.golden import golden_path, read_golden
from harness.goldens.measurement import environment_key, machine_properties
from harness.graph import CapturedModel, capture
from harness.training import Recipe, RunSpec, environment, initialise
from mnist_models import create_model, list_models, model_card
from tests.golden_models import one_next_float, one_percent, with_state

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
    """Replace the training by its recorded digests, in tests of other findings."""
    digests = read_golden(golden_path(FOLDER, name)).bits[0].training
    monkeypatch.setattr(golden_check, "train_briefly", lambda *_: digests)


def captured_model(name: str, change: Callable[[nn.Module], object] = lambda _: None) -> CapturedModel:
    """A shipped model with the initial weights of seed 1, changed before it is captured."""
    module = initialise(lambda: create_model(name), seed=1)
    change(module)
    return capture(module, name=name, twice=False)


shipped = functools.cache(captured_model)


def check(captured: CapturedModel) -> dict[str, Finding]:
    """The findings of the check against the shipped golden, by requirement."""
    recipe = Recipe.from_mapping(model_card(captured.name).recipe, name=captured.name)
    path = golden_path(FOLDER, captured.name)
    spec = RunSpec.of(captured, recipe, seed=1)
    found = check_golden(captured, spec, path, remedy=f"harness golden update {captured.name}")
    return {finding.requirement: finding for finding in found}


def must_be_bit_equal(name: str) -> bool:
    """Whether this environment is recorded, on a machine like this one."""
    here = environment(CPU)
    entry = read_golden(golden_path(FOLDER, name)).entry_for(environment_key(here, CPU))
    return entry is not None and entry.machine == machine_properties(here)


def kernels(captured: CapturedModel) -> list[str]:
    """The names of the weights of its convolutions and linear layers, in graph order."""
    found = {spec.name for spec in captured.graph.tensors if spec.kind == "parameter" and len(spec.shape) > 1}
    return [ref for operation in captured.graph.evaluate.operations for ref in operation.refs() if ref in found]


@every_model
def test_a_shipped_model_agrees_with_its_golden(name: str) -> None:
    """Bit for bit in a recorded environment; in any other within tolerance, which is unknown."""
    found = {requirement: finding.status for requirement, finding in check(shipped(name)).items()}
    if must_be_bit_equal(name):
        assert dict.fromkeys(("graph", "weights", "outputs", "training"), Status.PASS) == found
    else:
        assert Status.PASS is found["graph"]
        assert Status.FAIL not in found.values()


@every_model
@pytest.mark.usefixtures("untrained")
def test_one_unit_in_the_last_place_is_found_in_the_weights(name: str) -> None:
    """One value of the last kernel: a failure that names the tensor, where results must be bit-equal."""
    last = kernels(shipped(name))[-1]
    finding = check(with_state(shipped(name), last, one_next_float))["weights"]
    expected = Status.FAIL if must_be_bit_equal(name) else Status.UNKNOWN
    assert expected is finding.status
    assert last in finding.observed or not must_be_bit_equal(name)


@every_model
@pytest.mark.usefixtures("untrained")
def test_one_percent_is_located_in_the_outputs(name: str) -> None:
    """A change of the first kernel shows from the first depth on, a change of the last one from the logits on."""
    weights = kernels(shipped(name))
    depths = [depth.name for depth in read_golden(golden_path(FOLDER, name)).depths]
    first, last = (
        check(with_state(shipped(name), weight, one_percent))["outputs"] for weight in (weights[0], weights[-1])
    )
    assert (Status.FAIL, f"outside tolerance, first at depth {depths[0]!r}") == (first.status, first.observed)
    later = depths[depths.index("before the head") + 1 :]
    assert (Status.FAIL, f"outside tolerance, first at depth {later[0]!r}") == (last.status, last.observed)


@every_model
@pytest.mark.usefixtures("untrained")
def test_a_changed_padding_is_named(name: str) -> None:
    """The first convolution's padding: the layer, and the old and new value."""

    def wider(module: nn.Module) -> None:
        convolution = next(layer for layer in module.modules() if isinstance(layer, nn.Conv2d))
        convolution.padding = (2, 2)

    finding = check(captured_model(name, wider))["graph"]
    before = (1, 1) if name == "five_step_1" else (0, 0)
    assert (Status.FAIL, f"block1.0 (conv2d): padding {before} -> (2, 2)") == (finding.status, finding.evidence[0])


@every_model_with_dropout
@pytest.mark.usefixtures("untrained")
def test_a_changed_dropout_is_named(name: str) -> None:
    """The first dropout's probability: the layer, and the old and new value. Weights and outputs do not depend on it."""

    def rarer(module: nn.Module) -> None:
        dropout = next(layer for layer in module.modules() if isinstance(layer, nn.Dropout))
        dropout.p /= 2

    findings = check(captured_model(name, rarer))
    assert Status.FAIL is findings["graph"].status
    assert "(dropout): p " in findings["graph"].observed
    assert Status.FAIL not in (findings["weights"].status, findings["outputs"].status)
