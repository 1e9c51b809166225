"""Goldens: every change of a model is seen, in its place, and nothing passes that was not compared."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.errors import InputError
from harness.findings import Finding, Status
from harness.goldens import check as golden_check
from harness.goldens import golden as room
from harness.goldens.changes import operation_changes
from harness.goldens.check import check_golden, unused_goldens
from harness.goldens.golden import (
    Golden,
    depth_values,
    golden_bytes,
    measure,
    read_golden,
    train_shortly,
    write_golden,
)
from harness.goldens.update import update_golden
from harness.graph import CapturedModel, capture
from harness.structure import Structure
from harness.training import Environment, Recipe, RunSpec, StepDigests, environment, state_digest
from mnist_models import list_models, model_card
from tests.made_up import RECIPE

CPU = torch.device("cpu")
SHIPPED = Path(__file__).parents[2] / "mnist_models" / "goldens"
REMEDY = "harness golden update net"

pytestmark = pytest.mark.smoke  # it captures and trains


class Net(nn.Module):
    """Two convolutions, pooled, and a linear layer; any padding fits."""

    def __init__(self, *, padding: int = 0, p: float = 0.1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 5, stride=3, padding=padding)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(p)
        self.conv2 = nn.Conv2d(4, 8, 3, stride=2)
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(torch.relu(self.norm(self.conv1(x))))
        x = torch.relu(self.conv2(x)).mean((2, 3))
        return torch.log_softmax(self.head(x), dim=1)


def captured(build: Callable[[], nn.Module]) -> CapturedModel:
    """A network as it is drawn under seed 1."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return capture(build(), name="net", twice=False)


def spec_of(model: CapturedModel, recipe: Recipe = RECIPE) -> RunSpec:
    """What the golden of a network is computed with."""
    return RunSpec.of(model, recipe, seed=1, source="net.py:Net")


@functools.cache
def captured_net(*, padding: int = 0, p: float = 0.1) -> CapturedModel:
    """The network, or a variant of it."""
    return captured(lambda: Net(padding=padding, p=p))


@pytest.fixture(scope="module")
def net() -> CapturedModel:
    """The network that is on record."""
    return captured_net()


@pytest.fixture(autouse=True)
def _trained_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the tests a training that one of them has done."""
    for module in (room, golden_check):
        monkeypatch.setattr(module, "train_shortly", trained)


trainings: dict[str, tuple[StepDigests, ...]] = {}


def trained(model: CapturedModel, spec: RunSpec) -> tuple[StepDigests, ...]:
    """What `train_shortly` gives, computed once for equal models and recipes."""
    key = f"{model.graph.exact_digest()} {state_digest(model.state)} {spec.recipe}"
    if key not in trainings:
        trainings[key] = train_shortly(model, spec)
    return trainings[key]


@pytest.fixture(scope="module")
def golden(net: CapturedModel) -> Golden:
    """Its golden, made here."""
    return measure(net, spec_of(net))


@pytest.fixture
def path(golden: Golden, tmp_path: Path) -> Path:
    """Its file."""
    write_golden(golden, tmp_path / "net.safetensors")
    return tmp_path / "net.safetensors"


def check(model: CapturedModel, path: Path, recipe: Recipe = RECIPE) -> dict[str, Finding]:
    """The findings, by name."""
    return {
        finding.requirement: finding for finding in check_golden(model, spec_of(model, recipe), path, remedy=REMEDY)
    }


def statuses(findings: dict[str, Finding]) -> str:
    """The first letters of the statuses, in order."""
    return "".join(finding.status.value[0] for finding in findings.values())


def with_state(model: CapturedModel, name: str, change: Callable[[Tensor], Tensor]) -> CapturedModel:
    """The model with one tensor changed."""
    return dataclasses.replace(model, state={**model.state, name: change(model.state[name])})


def one_unit(tensor: Tensor) -> Tensor:
    """One number moved by one unit in the last place."""
    changed = tensor.clone()
    changed.view(-1)[3] = torch.nextafter(changed.view(-1)[3], torch.tensor(torch.inf))
    return changed


def all_by_a_unit(tensor: Tensor) -> Tensor:
    """All numbers moved by one unit in the last place."""
    return torch.nextafter(tensor, torch.tensor(torch.inf))


def one_percent(tensor: Tensor) -> Tensor:
    """All numbers one per cent larger."""
    return tensor * 1.01


def elsewhere(monkeypatch: pytest.MonkeyPatch, **facts: object) -> None:
    """Pretend that the check runs in another environment."""

    def there(device: torch.device) -> Environment:
        return dataclasses.replace(environment(device), **facts)  # type: ignore[arg-type]  # fields by name

    monkeypatch.setattr(golden_check, "environment", there)


def test_a_model_passes_its_own_golden(net: CapturedModel, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing changed all four findings pass, bit for bit."""
    monkeypatch.setattr(golden_check, "train_shortly", train_shortly)
    findings = check(net, path)
    assert ["graph", "weights", "outputs", "training"] == list(findings)
    assert "pppp" == statuses(findings)
    assert "bit-equal over 50 steps" == findings["training"].observed


def test_a_golden_comes_back_as_it_was_written(golden: Golden, path: Path) -> None:
    """What is read and written again has the same bytes: a golden that did not change makes no difference in git."""
    assert path.read_bytes() == golden_bytes(golden) == golden_bytes(read_golden(path))


def test_one_unit_in_the_last_place_is_seen_by_the_weights(net: CapturedModel, path: Path) -> None:
    """The tensor is named, though the outputs are within tolerance, and may even be the same to the bit."""
    findings = check(with_state(net, "conv2.weight", one_unit), path)
    assert Status.PASS is findings["graph"].status
    assert (Status.FAIL, "conv2.weight has other numbers") == (findings["weights"].status, findings["weights"].observed)
    assert "beyond tolerance" not in findings["outputs"].observed
    assert "differs before the first step in the parameters" == findings["training"].observed


@pytest.mark.parametrize(
    ("tensor", "place"), [("conv1.weight", "features"), ("norm.weight", "features"), ("head.weight", "logits")]
)
def test_one_percent_is_located_by_the_outputs(
    tensor: str, place: str, net: CapturedModel, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change of one per cent is beyond tolerance at the first depth behind it, on record or not."""
    changed = with_state(net, tensor, one_percent)
    here = check(changed, path)
    elsewhere(monkeypatch, threads=77)
    there = check(changed, path)
    assert ("pfff", "puf") == (statuses(here), statuses(there)[:3])
    for findings in (here, there):
        assert f"{tensor} has other numbers" == findings["weights"].observed
        assert f"beyond tolerance, first at {place}" == findings["outputs"].observed


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"padding": 1}, "conv1 (conv2d): padding (0, 0) -> (1, 1)"),
        ({"p": 0.15}, "drop (dropout): p 0.1 -> 0.15"),
    ],
    ids=["padding", "dropout"],
)
def test_a_changed_layer_is_named_by_the_graph(changed: dict[str, Any], expected: str, path: Path) -> None:
    """One padding, one dropout probability: the graph's finding says which layer, and what it was."""
    findings = check(captured_net(**changed), path)
    assert (Status.FAIL, expected) == (findings["graph"].status, findings["graph"].observed)
    assert Status.PASS is findings["weights"].status
    # The evaluation pass leaves dropout out, so only the training shows it beside the graph.
    assert (Status.PASS if "p" in changed else Status.FAIL) is findings["outputs"].status
    assert Status.FAIL is findings["training"].status


def test_a_rounding_is_seen_by_the_bits_of_the_outputs(net: CapturedModel, path: Path) -> None:
    """All weights of a layer moved by a unit: within tolerance, and a failure all the same where bits can be compared."""
    findings = check(with_state(net, "conv2.weight", all_by_a_unit), path)
    expected = "within tolerance, but other bits, first at features"
    assert (Status.FAIL, expected) == (findings["outputs"].status, findings["outputs"].observed)


def test_layers_that_come_and_go_are_named(golden: Golden) -> None:
    """In the mode in which they do; what a layer reads is told where nothing else is."""
    lines = golden.operations
    shorter = [line for line in lines if line[:3] != ["train", "drop", "dropout"]]
    rewired = [[*line[:3], {**line[3], "input": {"ref": "-9"}}] if line[1] == "conv2" else line for line in lines]
    assert [] == operation_changes(lines, lines)
    assert ["drop (dropout): no longer there (only in train mode)"] == operation_changes(lines, shorter)
    assert ["drop (dropout): new (only in train mode)"] == operation_changes(shorter, lines)
    before = next(line[3]["input"]["ref"] for line in lines if line[1] == "conv2")
    assert f"conv2 (conv2d): input {before} -> -9" == operation_changes(lines, rewired)[0].partition(" (only")[0]


def test_an_environment_that_is_not_on_record_is_no_pass(
    net: CapturedModel, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Graph and weights are decided; the outputs are within tolerance, which shows no equality, and nothing is trained."""
    elsewhere(monkeypatch, threads=77)
    monkeypatch.setattr(golden_check, "train_shortly", lambda *_: pytest.fail("it was trained"))
    findings = check(net, path)
    assert "ppuu" == statuses(findings)
    assert "within tolerance, but no golden for torch" in findings["outputs"].observed
    assert "77 threads" in findings["outputs"].observed
    assert "on record: torch" in findings["training"].evidence[-1]
    assert f"`{REMEDY}` adds this environment" in findings["training"].hint


def test_weights_drawn_elsewhere_are_undecided(net: CapturedModel, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the environment is not on record, a weight that differs by a rounding is no fault, and no pass."""
    elsewhere(monkeypatch, cpu_capability="DEFAULT")
    assert "puuu" == statuses(check(with_state(net, "conv2.weight", one_unit), path))


def test_other_bits_on_another_machine_are_undecided(
    net: CapturedModel, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal bits pass on another processor, too; other bits within tolerance may be its doing."""
    elsewhere(monkeypatch, processor="another")
    assert "pppp" == statuses(check(net, path))
    findings = check(with_state(net, "conv2.weight", all_by_a_unit), path)
    assert "puuu" == statuses(findings)
    assert "the golden was made on another machine: processor" in findings["outputs"].evidence[-1]


def test_another_recipe_is_named(net: CapturedModel, path: Path) -> None:
    """A changed setting of the recipe is told, without training."""
    recipe = dataclasses.replace(RECIPE, optimizer=dataclasses.replace(RECIPE.optimizer, lr=0.05))
    assert "the recipe is another: optimizer.lr 0.1 -> 0.05" == check(net, path, recipe)["training"].observed


def test_a_changed_training_is_located(
    net: CapturedModel, golden: Golden, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first digest that differs says the step and what of it."""
    digests = list(golden.bits[0].training)
    digests[2] = dataclasses.replace(digests[2], order="0" * 16)
    monkeypatch.setattr(golden_check, "train_shortly", lambda *_: tuple(digests))
    expected = "differs at step 20 in the order of the images; the digests of step 10 agree"
    assert expected == check(net, path)["training"].observed
    monkeypatch.setattr(golden_check, "train_shortly", lambda *_: golden.bits[0].training[:3])
    assert "ends after step 20, not 50" == check(net, path)["training"].observed


def test_what_cannot_be_trained_any_more_is_a_failure(
    net: CapturedModel, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that gives another shape now is no error of the check."""

    def refuse(*_: object) -> None:
        raise InputError("expected the model's output to have shape=(16, 10).")

    monkeypatch.setattr(golden_check, "train_shortly", refuse)
    finding = check(net, path)["training"]
    expected = "it cannot be trained any more: expected the model's output to have shape=(16, 10)."
    assert (Status.FAIL, expected) == (finding.status, finding.observed)


def test_other_images_are_a_failure(net: CapturedModel, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the fixed images are not those on record nothing is compared as if they were."""
    monkeypatch.setattr(golden_check, "fixed_images", lambda: torch.zeros(4, 1, 28, 28))
    assert "the fixed images are not those on record" == check(net, path)["outputs"].observed


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda content: content[:-1] + bytes([content[-1] ^ 1]), "is damaged: its content has another digest"),
        (lambda content: content.replace(b"net.py:Net", b"not.py:Net"), "is damaged: its content has another digest"),
        (lambda content: content[:-100], "cannot be read: SafetensorError"),
        (lambda _: b"", "cannot be read: SafetensorError"),
        (lambda content: content.replace(b"golden/1", b"golden/9"), "has format='harness.golden/9': another version"),
        (lambda content: content.replace(b'"golden"', b'"silver"'), "cannot be read: KeyError: 'golden'"),
        (None, "there is none"),
    ],
    ids=["number", "word", "cut", "empty", "version", "other file", "missing"],
)
def test_a_golden_that_cannot_be_used_is_a_failure(
    damage: Callable[[bytes], bytes] | None, expected: str, net: CapturedModel, path: Path
) -> None:
    """Damaged, of another version, no golden at all, not there: each says so, and none passes."""
    if damage:
        path.write_bytes(damage(path.read_bytes()))
    else:
        path.unlink()
    (finding,) = check(net, path).values()
    assert ("golden", Status.FAIL) == (finding.requirement, finding.status)
    assert expected in finding.observed
    assert f"`{REMEDY}`" in finding.hint


def test_unused_goldens_are_failures(path: Path) -> None:
    """A golden that no model is held to is named."""
    assert () == unused_goldens(path.parent, [path])
    (finding,) = unused_goldens(path.parent, [])
    assert (Status.FAIL, "net.safetensors belongs to no model") == (finding.status, finding.observed)


def of_another(golden: Golden) -> Golden:
    """The golden with another environment on record, too."""
    (bits,) = golden.bits
    other = dataclasses.replace(bits, key=dataclasses.replace(bits.key, threads=77))
    return dataclasses.replace(golden, bits=(bits, other))


def renew(model: CapturedModel, old: Golden | None, recipe: Recipe = RECIPE) -> tuple[Golden, tuple[str, ...]]:
    """The golden made anew, and what is new."""
    made = update_golden(model, spec_of(model, recipe), old)
    return made.golden, made.changes


def test_an_update_without_a_change_changes_nothing(net: CapturedModel, golden: Golden) -> None:
    """The golden stays the one it was."""
    assert (golden, ()) == renew(net, golden)


def test_a_new_environment_is_added(net: CapturedModel, golden: Golden) -> None:
    """What is on record of another environment stays, and what no environment changes stays what it was."""
    (_, other) = of_another(golden).bits
    old = dataclasses.replace(golden, bits=(other,))
    made, changes = renew(net, old)
    (bits,) = golden.bits
    assert (f"new: {bits.key.words()}",) == changes
    assert ((bits, other), old.depths) == (made.bits, made.depths)
    assert (f"new, with {bits.key.words()}",) == renew(net, None)[1]


def test_changed_weights_drop_what_others_have_on_record(net: CapturedModel, golden: Golden) -> None:
    """A rounding: the tensor, the depths and the training are told, and what is dropped and why."""
    made, changes = renew(with_state(net, "conv2.weight", all_by_a_unit), of_another(golden))
    assert ["conv2.weight", "features", "before the head", "logits", "training"] == [
        line.partition(":")[0] for line in changes[:-1]
    ]
    assert f"conv2.weight: {golden.bits[0].tensors['conv2.weight']} -> " in changes[0]
    assert changes[-1].startswith("dropped, since the initial weights changed: torch")
    assert changes[-1].endswith("77 threads")
    assert golden.bits[0].key == made.bits[0].key
    assert 1 == len(made.bits)


def test_changed_weights_are_seen_by_their_outputs_where_bits_cannot_be_compared(
    net: CapturedModel, golden: Golden
) -> None:
    """Of another environment a rounding is let pass, and one per cent drops it; the size is told by depth."""
    old = dataclasses.replace(golden, bits=of_another(golden).bits[1:])
    assert 2 == len(renew(with_state(net, "conv2.weight", all_by_a_unit), old)[0].bits)
    made, changes = renew(with_state(net, "head.weight", one_percent), old)
    assert 1 == len(made.bits)
    assert ["logits", f"new: {golden.bits[0].key.words()}"] == [changes[0].partition(":")[0], changes[1]]
    assert "% of the largest value" in changes[0]


def test_a_changed_recipe_or_graph_drops_what_others_have_on_record(golden: Golden, net: CapturedModel) -> None:
    """Both are told by their settings."""
    recipe = dataclasses.replace(RECIPE, optimizer=dataclasses.replace(RECIPE.optimizer, lr=0.05))
    _, changes = renew(net, of_another(golden), recipe)
    assert "recipe: optimizer.lr 0.1 -> 0.05" == changes[0]
    assert changes[-1].startswith("dropped, since the recipe changed")
    _, changes = renew(captured_net(padding=1), of_another(golden))
    assert "graph: conv1 (conv2d): padding (0, 0) -> (1, 1)" in changes
    assert changes[-1].startswith("dropped, since the graph changed")


def test_another_source_or_other_images_are_told(net: CapturedModel, golden: Golden) -> None:
    """A golden of another file, or of other images, says what it was."""
    old = dataclasses.replace(of_another(golden), source="old.py:Net", images="0" * 16)
    made, changes = renew(net, old)
    assert ("made from net.py:Net, not old.py:Net", f"images: {'0' * 16} -> {golden.images}") == changes[:2]
    assert changes[2].startswith("dropped, since the fixed images changed")
    assert "net.py:Net" == made.source


def test_what_does_not_repeat_gets_no_golden(
    net: CapturedModel, golden: Golden, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs that differ in the training or in an output prove nothing."""
    training = golden.bits[0].training
    runs = iter([training, training[:3]])
    monkeypatch.setattr(room, "train_shortly", lambda *_: next(runs))
    with pytest.raises(InputError, match="same bits twice on cpu, but the training ends after step 20, not 50"):
        measure(net, spec_of(net))
    outputs = iter([{"logits": torch.zeros(1)}, {"logits": torch.ones(1)}])
    monkeypatch.setattr(room, "run_to_depths", lambda *_: next(outputs))
    monkeypatch.setattr(room, "train_shortly", lambda *_: training)
    with pytest.raises(InputError, match="the outputs differ at logits"):
        measure(net, spec_of(net))


def test_what_is_not_finite_gets_no_golden(net: CapturedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A NaN differs from itself."""
    monkeypatch.setattr(room, "train_shortly", lambda *_: ())
    monkeypatch.setattr(room, "training_change", lambda *_: "")
    broken = with_state(net, "head.weight", lambda weight: weight * torch.nan)
    with pytest.raises(InputError, match="an infinity or NaN at logits"):
        measure(broken, spec_of(broken))


class Rounding(nn.Module):
    """A linear layer with a conversion before or after it."""

    def __init__(self, *, before: bool) -> None:
        super().__init__()
        self.before = before
        self.head = nn.Linear(784, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        scores: Tensor = self.head(x.float()) if self.before else self.head(x).float()
        return scores


@pytest.mark.parametrize(
    ("before", "reason"), [(True, "must have the same dtype"), (False, "an operation rounds to another precision")]
)
def test_what_does_not_run_in_double_precision_gets_no_golden(
    before: bool,  # noqa: FBT001 - a case
    reason: str,
) -> None:
    """Its error cannot be measured; the conversion is named as what to leave out."""
    model = captured(lambda: Rounding(before=before))
    with pytest.raises(InputError, match=rf"{reason}.*Leave conversions such as .float\(\) out"):
        measure(model, spec_of(model))


def test_a_network_without_maps_has_depths(shipped: Callable[[str], CapturedModel]) -> None:
    """The features are what the last layer reads; with a pooled head they are the map before the pooling."""
    linear = captured(lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 10), nn.LogSoftmax(1))).graph
    flat, scores, _ = (operation.name for operation in linear.evaluate.operations)
    assert {"features": flat, "before the head": flat, "logits": scores} == depth_values(linear)
    for name in ("reference", "cloud_2"):
        graph = shipped(name).graph
        assert Structure(graph).field_before_head[0] == depth_values(graph)["features"]


def test_two_depths_may_be_one_value(tmp_path: Path) -> None:
    """Where the last layer reads the map itself the golden holds it twice, and is written all the same."""
    whole = captured(lambda: nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Conv2d(1, 10, 4), nn.Flatten()))
    made = measure(whole, spec_of(whole))
    write_golden(made, tmp_path / "net.safetensors")
    first, second, _ = made.depths
    assert ("features", "before the head", first.value) == (first.name, second.name, second.value)
    assert "pppp" == statuses(check(whole, tmp_path / "net.safetensors"))


def test_the_output_of_a_network_without_weights_is_every_depth() -> None:
    """Nothing but a sum over the image."""

    class Sum(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :10]

    graph = captured(Sum).graph
    assert {graph.evaluate.output} == set(depth_values(graph).values())


@pytest.mark.parametrize("name", list_models())
def test_every_shipped_model_has_a_small_golden(name: str) -> None:
    """It is there, whole and smaller than 50 kB, and made of the model of that name."""
    path = SHIPPED / f"{name}.safetensors"
    assert path.stat().st_size < 50_000
    golden = read_golden(path)
    assert (name, name, "") == (golden.model, golden.source, golden.arguments)
    assert () != golden.bits


@pytest.mark.parametrize("name", ["cloud_2", "reference", "rf_study_1"])
def test_shipped_models_are_within_tolerance_everywhere(
    name: str, shipped: Callable[[str], CapturedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On whatever machine this runs: the graph is the one on record, and the outputs are near those on record."""
    elsewhere(monkeypatch, threads=77)
    recipe = Recipe.from_mapping(model_card(name).recipe, name=name)
    findings = check(shipped(name), SHIPPED / f"{name}.safetensors", recipe)
    assert (Status.PASS, Status.UNKNOWN) == (findings["graph"].status, findings["outputs"].status)
    assert "not trained" in findings["training"].observed
