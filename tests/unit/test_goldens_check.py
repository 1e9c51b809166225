"""Checking models against goldens: each change is found and located, and nothing passes without a comparison."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.errors import InputError
from harness.findings import Finding, Status
from harness.goldens import check as check_module
from harness.goldens.check import check_golden, unused_goldens
from harness.goldens.golden import golden_path, write_golden
from harness.goldens.measurement import train_briefly
from harness.graph import CapturedModel
from harness.training import Environment, Recipe, environment
from mnist_models import model_card
from tests.golden_models import (
    all_next_floats,
    captured_net,
    net_golden,
    one_next_float,
    one_percent,
    spec_of,
    with_state,
)
from tests.made_up import RECIPE

SHIPPED = Path(__file__).parents[2] / "mnist_models" / "goldens"
REMEDY = "harness golden update net"

pytestmark = [pytest.mark.smoke, pytest.mark.usefixtures("golden_training_once")]  # it captures and trains


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file of the small network's golden."""
    write_golden(net_golden(), tmp_path / "net.safetensors")
    return tmp_path / "net.safetensors"


def check(model: CapturedModel, path: Path, recipe: Recipe = RECIPE) -> dict[str, Finding]:
    """The findings, by requirement."""
    return {
        finding.requirement: finding for finding in check_golden(model, spec_of(model, recipe), path, remedy=REMEDY)
    }


def statuses(findings: dict[str, Finding]) -> str:
    """The first letters of the statuses, in order."""
    return "".join(finding.status.value[0] for finding in findings.values())


def in_environment(monkeypatch: pytest.MonkeyPatch, **changed: object) -> None:
    """Let the check see another environment."""

    def other_environment(device: torch.device) -> Environment:
        return dataclasses.replace(environment(device), **changed)  # type: ignore[arg-type]  # fields by name

    monkeypatch.setattr(check_module, "environment", other_environment)


def test_an_unchanged_model_passes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All four findings pass, bit for bit."""
    monkeypatch.setattr(check_module, "train_briefly", train_briefly)
    findings = check(captured_net(), path)
    assert ["graph", "weights", "outputs", "training"] == list(findings)
    assert "pppp" == statuses(findings)
    assert "bit-equal over 50 steps" == findings["training"].observed


def test_one_unit_in_the_last_place_is_found_in_the_weights(path: Path) -> None:
    """The tensor is named, although the outputs are within tolerance and can even be bit-equal."""
    findings = check(with_state(captured_net(), "conv2.weight", one_next_float), path)
    assert Status.PASS is findings["graph"].status
    assert (Status.FAIL, "conv2.weight has other values") == (findings["weights"].status, findings["weights"].observed)
    assert "outside tolerance" not in findings["outputs"].observed
    assert "differs before the first step in the parameters" == findings["training"].observed
    assert Status.FAIL is findings["training"].status


@pytest.mark.parametrize(
    ("tensor", "place"), [("conv1.weight", "features"), ("norm.weight", "features"), ("head.weight", "logits")]
)
def test_one_percent_is_located_in_the_outputs(
    tensor: str, place: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change of one per cent is outside tolerance at the first depth after it, in a recorded environment or not."""
    changed = with_state(captured_net(), tensor, one_percent)
    recorded = check(changed, path)
    in_environment(monkeypatch, threads=77)
    other = check(changed, path)
    assert ("pfff", "puf") == (statuses(recorded), statuses(other)[:3])
    for findings in (recorded, other):
        assert f"{tensor} has other values" == findings["weights"].observed
        assert f"outside tolerance, first at depth {place!r}" == findings["outputs"].observed


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"padding": 1}, "conv1 (conv2d): padding (0, 0) -> (1, 1)"),
        ({"p": 0.15}, "drop (dropout): p 0.1 -> 0.15"),
    ],
    ids=["padding", "dropout"],
)
def test_a_changed_layer_is_named_in_the_graph(changed: dict[str, Any], expected: str, path: Path) -> None:
    """One padding or one dropout probability: the finding names the layer, with the old and the new value."""
    findings = check(captured_net(**changed), path)
    assert (Status.FAIL, expected) == (findings["graph"].status, findings["graph"].observed)
    assert Status.PASS is findings["weights"].status
    # The evaluation pass has no dropout, so its outputs do not depend on it.
    assert (Status.PASS if "p" in changed else Status.FAIL) is findings["outputs"].status
    assert Status.FAIL is findings["training"].status


def test_a_rounding_is_found_in_the_bits_of_the_outputs(path: Path) -> None:
    """Within tolerance, but a failure where the results must be bit-equal."""
    finding = check(with_state(captured_net(), "conv2.weight", all_next_floats), path)["outputs"]
    expected = "within tolerance, but not bit-equal, first at depth 'features'"
    assert (Status.FAIL, expected) == (finding.status, finding.observed)


def test_an_environment_that_is_not_recorded_is_unknown(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Graph and weights are compared; outputs within tolerance do not show equality, and nothing is trained."""
    in_environment(monkeypatch, threads=77)
    monkeypatch.setattr(check_module, "train_briefly", lambda *_: pytest.fail("it was trained"))
    findings = check(captured_net(), path)
    assert "ppuu" == statuses(findings)
    assert "within tolerance, but no results recorded for torch" in findings["outputs"].observed
    assert "77 threads" in findings["outputs"].observed
    assert "recorded environments: torch" in findings["training"].evidence[-1]
    assert f"`{REMEDY}` here to add this environment" in findings["training"].hint


def test_other_weights_in_another_environment_are_unknown(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same seed can give weights that differ by a rounding there."""
    in_environment(monkeypatch, cpu_capability="DEFAULT")
    assert "puuu" == statuses(check(with_state(captured_net(), "conv2.weight", one_next_float), path))


def test_a_tensor_of_another_shape_fails_in_every_environment(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No environment changes a shape."""
    golden = net_golden()
    tensors = {**golden.tensors, "head.bias": "parameter float32 9"}
    write_golden(dataclasses.replace(golden, tensors=tensors), path)
    in_environment(monkeypatch, threads=77)
    finding = check(captured_net(), path)["weights"]
    expected = "head.bias: parameter float32 9 -> parameter float32 10"
    assert (Status.FAIL, expected) == (finding.status, finding.observed)


def test_other_bits_on_another_machine_are_unknown(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal bits pass with another processor, too; other bits within tolerance can be its effect."""
    in_environment(monkeypatch, processor="another")
    assert "pppp" == statuses(check(captured_net(), path))
    findings = check(with_state(captured_net(), "conv2.weight", all_next_floats), path)
    assert "puuu" == statuses(findings)
    assert "recorded on another machine: processor: " in findings["outputs"].evidence[-1]
    assert f"`{REMEDY}` here to replace the results" in findings["outputs"].hint


def test_another_recipe_is_named(path: Path) -> None:
    """The changed setting is reported, without training."""
    recipe = dataclasses.replace(RECIPE, optimizer=dataclasses.replace(RECIPE.optimizer, lr=0.05))
    finding = check(captured_net(), path, recipe)["training"]
    expected = "the recipe differs: optimizer.lr: 0.1 -> 0.05"
    assert (Status.FAIL, expected) == (finding.status, finding.observed)


def test_a_model_that_cannot_be_trained_fails(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the training is a finding, not an error of the check."""

    def refuse(*_: object) -> None:
        raise InputError("expected the model's output to have shape=(16, 10).")

    monkeypatch.setattr(check_module, "train_briefly", refuse)
    finding = check(captured_net(), path)["training"]
    expected = "the training fails: expected the model's output to have shape=(16, 10)."
    assert (Status.FAIL, expected) == (finding.status, finding.observed)


def test_other_images_fail(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs for other images cannot be compared with the recorded ones."""
    monkeypatch.setattr(check_module, "fixed_images", lambda: torch.zeros(4, 1, 28, 28))
    finding = check(captured_net(), path)["outputs"]
    assert (Status.FAIL, "the fixed images differ from the recorded images") == (finding.status, finding.observed)


@pytest.mark.parametrize("damaged", [True, False], ids=["damaged", "missing"])
def test_a_golden_that_cannot_be_used_fails(damaged: bool, path: Path) -> None:  # noqa: FBT001 - a case
    """Nothing passes; the hint is the command that makes a new one."""
    if damaged:
        path.write_bytes(b"")
    else:
        path.unlink()
    (finding,) = check(captured_net(), path).values()
    assert ("golden", Status.FAIL) == (finding.requirement, finding.status)
    assert ("cannot be read: SafetensorError" if damaged else "net.safetensors does not exist") in finding.observed
    assert f"`{REMEDY}`" in finding.hint


def test_unused_goldens_fail(path: Path) -> None:
    """A golden that belongs to no model is named."""
    assert () == unused_goldens(path.parent, [path])
    (finding,) = unused_goldens(path.parent, [])
    assert (Status.FAIL, "net.safetensors belongs to no model") == (finding.status, finding.observed)


@pytest.mark.parametrize("name", ["cloud_2", "reference", "rf_study_1"])
def test_shipped_models_are_within_tolerance_in_any_environment(
    name: str, shipped: Callable[[str], CapturedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On every machine that runs this test, the graph equals the recorded one and the outputs are close."""
    in_environment(monkeypatch, threads=77)
    recipe = Recipe.from_mapping(model_card(name).recipe, name=name)
    findings = check(shipped(name), golden_path(SHIPPED, name), recipe)
    assert (Status.PASS, Status.UNKNOWN) == (findings["graph"].status, findings["outputs"].status)
    assert "not trained" in findings["training"].observed
