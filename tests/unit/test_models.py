"""The shipped networks are the published ones: same sizes, same operations in the same order, same answers' shape."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from mnist_models import Summary, SummaryRow, create_model, list_models, model_card

if TYPE_CHECKING:
    from collections.abc import Callable

PARAMETERS = {
    "reference": 7_752,
    "reference_small": 6_012,
    "cloud_1": 13_808,
    "cloud_2": 5_048,
    "cloud_3": 7_902,
    "pipeline_first": 13_808,
    "pipeline_second": 5_048,
    "pipeline_third": 7_902,
    "rf_study_1": 14_620,
    "rf_study_2": 14_796,
    "rf_study_3": 3_928,
    "rf_study_4": 7_416,
    "rf_study_5": 8_018,
    "five_step_1": 6_379_786,
    "five_step_2": 9_950,
    "five_step_3": 5_050,
    "five_step_4": 7_752,
    "five_step_5": 7_752,
}
ACTIVATIONS = {"ReLU", "GELU", "SiLU"}
PUBLISHED_TABLES = {
    name: summary for name in PARAMETERS if (summary := model_card(name).summary) is not None and summary.rows
}


def own_parameters(module: nn.Module) -> int:
    """Parameters of a module without those of its children."""
    return sum(parameter.numel() for parameter in module.parameters(recurse=False))


def calls(model: nn.Module) -> list[tuple[nn.Module, SummaryRow]]:
    """The modules without children that one image passes, in the order of execution, with what each gives."""
    seen = []

    def record(module: nn.Module, _: object, output: Tensor) -> None:
        _, channels, height, width = output.shape
        operation = type(module).__name__
        shape = (channels, height, width)
        seen.append((module, SummaryRow(operation=operation, shape=shape, parameters=own_parameters(module))))

    hooks = [module.register_forward_hook(record) for module in model.modules() if not list(module.children())]
    with torch.no_grad():
        model.eval()(torch.zeros(1, 1, 28, 28))
    for hook in hooks:
        hook.remove()
    return seen


def table_in_the_form_of(summary: Summary, model: nn.Module) -> list[SummaryRow]:
    """A model's layer table as the tool behind a published one prints it."""
    if summary.format == "torchinfo":
        leaves = [module for module in model.modules() if not list(module.children())]
        return [SummaryRow(operation=type(leaf).__name__, parameters=own_parameters(leaf)) for leaf in leaves]
    rows = [row for _, row in calls(model)]
    if ACTIVATIONS.isdisjoint(row.operation for row in summary.rows):
        # An activation called as a function leaves no row; that a table lists none says nothing about the network.
        rows = [row for row in rows if row.operation not in ACTIVATIONS]
    return rows


def test_the_list_names_ours_first_then_the_published_ones() -> None:
    """Listing gives the 17 names in the documented order."""
    assert tuple(PARAMETERS) == list_models()


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name: str) -> None:
    """Each network has exactly the published number of parameters, all of them trainable."""
    parameters = list(create_model(name).parameters())

    assert PARAMETERS[name] == sum(parameter.numel() for parameter in parameters)
    assert all(parameter.requires_grad for parameter in parameters)


@pytest.mark.parametrize("name", PARAMETERS)
def test_output_is_a_log_probability_for_each_of_ten_classes(name: str) -> None:
    """Two images give two rows of ten, each a distribution."""
    torch.manual_seed(0)
    model = create_model(name).eval()

    with torch.no_grad():
        output = model(torch.randn(2, 1, 28, 28))

    assert (2, 10) == output.shape
    assert output.exp().sum(dim=1).tolist() == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize("name", PARAMETERS)
def test_one_seed_draws_one_model(name: str) -> None:
    """The same seed gives the same weights, another seed gives others."""

    def weights(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return next(create_model(name).parameters())

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize("name", PUBLISHED_TABLES)
def test_layers_are_those_of_the_published_table(name: str) -> None:
    """Operations, shapes and counts agree with the published table row by row."""
    summary = PUBLISHED_TABLES[name]

    assert list(summary.rows) == table_in_the_form_of(summary, create_model(name))


def test_a_published_table_is_known_for_twelve_models() -> None:
    """The comparison with published tables covers every model that has one."""
    published = {name for name in PARAMETERS if name.startswith(("cloud", "pipeline", "rf_study"))}

    assert published | {"five_step_1"} == set(PUBLISHED_TABLES)


@pytest.mark.parametrize(
    ("table", "model"),
    [("cloud_1", "cloud_2"), ("rf_study_3", "rf_study_4"), ("pipeline_second", "pipeline_third")],
)
def test_a_table_fits_no_other_network(table: str, model: str) -> None:
    """The comparison distinguishes networks that differ only in width or layers."""
    summary = PUBLISHED_TABLES[table]

    assert list(summary.rows) != table_in_the_form_of(summary, create_model(model))


def test_cloud_1_declares_a_dropout_that_is_never_called() -> None:
    """Of the seven dropouts of cloud_1, one is declared and no image passes it."""
    model = create_model("cloud_1")
    called = {module for module, _ in calls(model)}

    idle = [name for name, module in model.named_modules() if not list(module.children()) and module not in called]

    assert idle == ["dropout"]


@pytest.mark.parametrize("name", ["five_step_2", "five_step_3"])
def test_one_dropout_is_called_three_times(name: str) -> None:
    """The slim networks call a single dropout after their third, fifth and seventh block."""
    sequence = calls(create_model(name))
    dropouts = [module for module, _ in sequence if isinstance(module, nn.Dropout)]

    before = [sequence[at - 1][1].shape for at, (module, _) in enumerate(sequence) if isinstance(module, nn.Dropout)]

    assert 3 == len(dropouts)
    assert 1 == len(set(dropouts))
    assert before == [(20, 22, 22), (10, 9, 9), (10, 7, 7)]


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("cloud_1", 0.1),
        ("cloud_2", 0.1),
        ("cloud_3", 0.03),
        ("pipeline_first", 0.03),
        ("pipeline_second", 0.1),
        ("pipeline_third", 0.03),
        ("rf_study_1", 0.1),
        ("five_step_2", 0.1),
        ("five_step_4", 0.025),
    ],
)
def test_dropout_rate(name: str, rate: float) -> None:
    """Each network drops out at its one published rate."""
    rates = {module.p for module in create_model(name).modules() if isinstance(module, nn.Dropout)}

    assert rates == {rate}


def test_five_step_4_orders_its_blocks_and_clips_its_scores() -> None:
    """Blocks run convolution, batch norm, ReLU, dropout; a ReLU follows the last convolution."""
    operations = [row.operation for _, row in calls(create_model("five_step_4"))]

    assert operations[:4] == ["Conv2d", "BatchNorm2d", "ReLU", "Dropout"]
    assert operations[-2:] == ["Conv2d", "ReLU"]


@pytest.mark.parametrize("name", ["cloud_3", "pipeline_third"])
def test_channels_are_gated_by_their_own_average(name: str) -> None:
    """What reaches the head is each channel's average times the sigmoid of that average."""
    torch.manual_seed(0)
    model = create_model(name).eval()
    passed = {}
    for stage in ("block6", "gap"):
        model.get_submodule(stage).register_forward_hook(lambda _, __, output, at=stage: passed.update({at: output}))

    with torch.no_grad():
        model(torch.randn(2, 1, 28, 28))
    average = passed["block6"].mean(dim=(2, 3))

    assert torch.allclose(passed["gap"].flatten(1), average * torch.sigmoid(average), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("skip", "block", "after"), [("skip1", "block3", "block4"), ("skip2", "block5", "block6")])
def test_shortcuts_are_added_after_their_block(skip: str, block: str, after: str) -> None:
    """The input of the next block is the block's output plus that of the shortcut."""
    torch.manual_seed(0)
    model = create_model("cloud_3").eval()
    passed = {}
    for stage in (skip, block):
        model.get_submodule(stage).register_forward_hook(lambda _, __, output, at=stage: passed.update({at: output}))
    model.get_submodule(after).register_forward_pre_hook(lambda _, inputs: passed.update({after: inputs[0]}))

    with torch.no_grad():
        model(torch.randn(2, 1, 28, 28))

    assert torch.equal(passed[block] + passed[skip], passed[after])


@pytest.mark.parametrize("ask", [create_model, model_card])
def test_an_unknown_name_suggests_close_ones(ask: Callable[[str], object]) -> None:
    """A misspelt name is refused with the name that was probably meant."""
    with pytest.raises(ValueError, match=r"got name='clod_3'; did you mean cloud_3"):
        ask("clod_3")


def test_a_name_like_no_other_is_answered_with_all_names() -> None:
    """Where no name is close, the message lists them all."""
    with pytest.raises(ValueError, match=r"choose one of reference, reference_small, cloud_1, .*five_step_5"):
        create_model("zzz")


def test_names_and_cards_do_not_import_torch() -> None:
    """Listing models and reading cards leaves PyTorch alone."""
    code = (
        "import sys, mnist_models\n"
        "for name in mnist_models.list_models(): mnist_models.model_card(name)\n"
        "print('torch' in sys.modules)"
    )

    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "False" == result.stdout.strip()
