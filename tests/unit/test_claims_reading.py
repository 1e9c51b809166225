"""Reading: sections, claims, logs and tables of documents as people write them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from harness.claims.documents import Document
from harness.claims.evidence import Reading
from harness.claims.reading import read

Reader = Callable[..., Reading]


@pytest.fixture
def reading(tmp_path: Path) -> Reader:
    """A function that reads a text as a README."""

    def of(text: str, name: str = "README.md") -> Reading:
        path = tmp_path / name
        path.write_text(text, "utf-8")
        return read(Document(path=path, name=name))

    return of


def claims(reading: Reading) -> list[tuple[str, str | None, str, str]]:
    """The kind, part, bound and value of the claims."""
    return [(claim.kind, claim.part, claim.bound, str(claim.value)) for claim in reading.claims if not claim.target]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- Best Test Accuracy: 99.41 (15th Epoch)", ("best", "test", "", "99.41")),
        ("Best Test Accuracy: 9902/10000 (99.02%)", ("best", "test", "", "99.02")),
        ("Best Test Accuracy: 9902/10000 (15th epoch)", ("best", "test", "", "99.02")),
        ("Best Train Accuracy: 59,000 out of 60,000 images", ("best", "train", "", "98.333")),
        ("Best Test Accuracy: 99,02%", ("best", "test", "", "99.02")),
        ("On the test set it attains an accuracy of 98,90 %.", ("accuracy", "test", "", "98.90")),
        ("*   Best Training Accuracy = 93.31", ("best", "train", "", "93.31")),
        ("On the training set it attains an accuracy of 98.90%.", ("accuracy", "train", "", "98.90")),
        ("i have achieved upto 99.2% efficiency", ("best", None, "<=", "99.2")),
        ("- Test Accuracy: >99.4%", ("at least", "test", ">", "99.4")),
        ("Consistently accuracy is at 99.4+", ("consistent", None, ">=", "99.4")),
        ("- Parameters : 9,950", ("parameters", None, "", "9,950")),
        ("| Model 1 | <Li> Total Parameters : 7.3k|", ("parameters", None, "", "7.3k")),
        ("- parameters : >6M", ("parameters", None, ">", "6M")),
        ("with less than 10K parameters", ("parameters", None, "<", "10k")),
        ("- **Epochs**: 20", ("epochs", None, "", "20")),
        ("- Batch Size: 128 (GPU) / 64 (CPU)", ("batch size", None, "", "128")),
        ("Effective receptive field for the network is 38x38", ("receptive field", None, "", "38")),
    ],
)
def test_a_claim_is_read(text: str, expected: tuple[str, str | None, str, str], reading: Reader) -> None:
    """Figures in labels, tables and sentences are claims, with the part of the data and the bound."""
    assert [expected] == claims(reading(f"{text}\n"))


@pytest.mark.parametrize(
    "text",
    [
        "### Target:\n- 99.41% test accuracy\n",
        "Aim:\n- an accuracy of 99.41%\n",
        "It is not able to achieve the accuracy of 99.41%.",
        "The next goal is an accuracy of 99.41%.",
        "```python\n# Best Test Accuracy: 99.41\n```",
        "Dropout rate of 10% and a learning rate of 0.01",
        "Best Test Accuracy: 9902",
        "Best Test Accuracy: 120 %",
        "Best accuracy of 1 seed",
    ],
)
def test_aims_and_code_are_no_claims(text: str, reading: Reader) -> None:
    """What is wanted, not reached, or written in code is not claimed."""
    assert [] == claims(reading(text))


@pytest.mark.parametrize(
    ("line", "percents"),
    [
        ("Test set: Average loss: 0,0572, Accuracy: 98,21%", ["98.21"]),
        ("Test set: Average loss: 0,0572, Accuracy: 9.821/10.000 (98,21%)", []),
        ("Test set: Average loss: 0.0572, Accuracy: 9,821/10,000 (98.21%)", ["98.21"]),
        ("Test Acc: 98,21% | Test Loss: 0,0572", ["98.21"]),
        ("Test Acc: 9821", []),
        ("Test Accuracy: 0,9821", ["98.21"]),
    ],
)
def test_a_percentage_of_a_log_is_one(line: str, percents: list[str], reading: Reader) -> None:
    """Decimals may follow a comma; a count alone is no percentage."""
    runs = reading(f"Epoch: 1\n{line}\n").runs
    assert percents == [str(epoch.test.percent) for run in runs for epoch in run.epochs]


def test_what_a_program_prints_last_is_the_claim(reading: Reader) -> None:
    """Of the best accuracies that a program prints in one place, the last stands; those of two places both stand."""
    text = "```\nBest Test Accuracy: 98.10\nBest Test Accuracy: 99.10\n```\n\n```\nBest Test Accuracy: 99.20\n```\n"
    assert ["99.10", "99.20"] == [value for *_, value in claims(reading(text))]


def test_a_section_ends_where_the_next_model_begins(reading: Reader) -> None:
    """Headings without a model's number stay in the section, at any level; a closing heading ends it."""
    text = "### Step 1\n### Network\nParameters: 1k\n## Step 2.\n#### Results\nParameters: 2k\n## Comparison\nParameters: 3k\n"
    assert ["1", "2", None] == [claim.section.key for claim in reading(text).claims]


def test_code_without_an_opening_fence_does_not_swallow_the_rest(reading: Reader) -> None:
    """A closing fence that nothing opened ends the code, so that headings behind it count."""
    text = "class Net(nn.Module):\n    # Input Block\n    pass\n```\n# Model 2\nParameters: 2k\n"
    assert ["2"] == [claim.section.key for claim in reading(text).claims]


def test_a_damaged_figure_is_reported_as_unread(reading: Reader) -> None:
    """Damage in a figure is named with its line, damage elsewhere is not."""
    line = "Test set: Average loss: 0.05, Accuracy: {}/10000 (98.21%)\n"
    found = reading("Epoch: 1\n" + line.format("98\ufffd1") + "Epoch: 2\n" + line.format(9821) + "100%|\ufffd| 9/9\n")
    assert [2] == [one.place.line for one in found.unread]
    assert [(1, 1)] == [(len(run.epochs), run.damaged) for run in found.runs]


def test_an_evaluation_after_the_last_epoch_is_no_epoch(reading: Reader) -> None:
    """A closing test line has no heading, and does not count."""
    line = "Test set: Average loss: 0.05, Accuracy: {}/10000 ({}%)\n"
    found = reading("Epoch: 1\n" + line.format(9821, 98.21) + "\nFinal:\n" + line.format(9830, "98.30"))
    assert [1] == [len(run.epochs) for run in found.runs]


TORCHSUMMARY = """\
        Layer (type)               Output Shape         Param #
================================================================
            Conv2d-1           [-1, 16, 26, 26]             144
       BatchNorm2d-2           [-1, 16, 26, 26]              32
================================================================
Total params: 176
"""
TORCHINFO = """\
Layer (type:depth-idx)                   Output Shape      Param #
├─Sequential: 1-1                        [1, 16, 26, 26]   176
|    └─Conv2d: 2-1                       [1, 16, 26, 26]   144
|    ���─BatchNorm2d: 2-2                [1, 16, 26, 26]   32
├─MaxPool2d: 1-2                         --                --
Total params: 176
"""
KERAS = """\
Layer (type)                 Output Shape              Param #
conv2d_1 (Conv2D)            (None, 26, 26, 16)        160
max_pooling2d_1 (MaxPooling2 (None, 13, 13, 16)        0
Total params: 160
"""
PRINTED = """\
Net(
  (conv1): Conv2d(1, 16, kernel_size=(3, 3), stride=(1, 1), bias=False)
  (bn): BatchNorm2d(16, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
  (fc): Linear(in_features=16, out_features=10, bias=True)
)
"""


@pytest.mark.parametrize(
    ("text", "form", "sizes", "total"),
    [
        (TORCHSUMMARY, "torchsummary", [144, 32], 176),
        (TORCHINFO, "torchinfo", [144, 32, 0], 176),
        (KERAS, "keras", [160], 160),
        (PRINTED, "print", [144, 32, 170], None),
    ],
)
def test_a_layer_summary_is_read(text: str, form: str, sizes: list[int], total: int | None, reading: Reader) -> None:
    """Rows and total of each form; the row of a container is left out."""
    (table,) = reading(f"```\n{text}```\n").tables
    assert (form, sizes, total) == (table.form, [row.parameters for row in table.rows], table.total)


@pytest.mark.parametrize(
    "row",
    [
        "Linear(in_features=num_ftrs, out_features=10, bias=True)",
        "Linear(in_features=10, out_features=10, bias=use_bias)",
        "Linear(in_features=10)",
        "Conv2d(1, 32, kernel_size=k, stride=1)",
        "Conv2d(1, 32, kernel_size=(k, 3), stride=1)",
        "Conv2d(1, 32, kernel_size=2 * k, stride=1)",
        "Conv2d(channels, 32, kernel_size=3, stride=1)",
        "Conv2d(8, 32, kernel_size=3, stride=1, groups=in_channels)",
        "Conv2d(8, 32, kernel_size=3, stride=1, groups=0)",
        "BatchNorm2d(channels, affine=True)",
        "BatchNorm2d(8, affine=flag)",
    ],
)
def test_a_module_with_arguments_that_are_no_numbers_is_not_counted(row: str, reading: Reader) -> None:
    """Source code has names where `print(model)` has numbers; such a table is incomplete, and no error."""
    (table,) = reading(f"  (conv1): {row}\n  (relu): ReLU()\n").tables
    assert not table.complete


@pytest.mark.parametrize(
    "line",
    [
        "Total params: ,x",
        "Total params: ,",
        "Layer (type:depth-idx)  Param #",
        "\u017fecond model: 3",
        "# F\u0131rst model",
    ],
)
def test_a_line_that_only_looks_like_evidence_is_no_error(line: str, reading: Reader) -> None:
    """Commas without digits are no number, letters that only look alike no words, and a head without rows no summary."""
    found = reading(f"{line}\nThe {line} has an accuracy of 99.02%.\n")
    assert ((), ()) == (found.tables, found.sections)


def test_a_repeated_end_of_a_summary_is_no_table(reading: Reader) -> None:
    """Rows without a head, and a total printed again, are not another summary."""
    assert 1 == len(reading(f"```\n{TORCHSUMMARY}{TORCHSUMMARY.splitlines()[3]}\nTotal params: 176\n```\n").tables)


def test_a_receptive_field_table_is_read_in_any_order_of_columns(reading: Reader) -> None:
    """The columns are known by their titles."""
    piped = "| RF | Layer | Stride | Kernel |\n|--|--|--|--|\n| 3x3 | Conv1 | 1 | 3x3 |\n"
    spaced = "Layer           RF       n_in     n_out\n-----\nConv1 (3x3)     3x3      28       26\n"
    for text in (piped, spaced):
        ((row,),) = reading(text).fields
        assert ("Conv1", 3, 3) == (row.name.split()[0], row.field, row.kernel)
