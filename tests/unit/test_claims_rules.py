"""The rules of the audit, and their examples, which the documentation shows."""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest

from harness.claims import RULES, Rule, audit
from harness.claims.evidence import Figure

_CODE = {"total-against-code", "never-called", "shapes-against-code", "field-against-code"}
EXAMPLES = [
    # Importing PyTorch and capturing take some seconds.
    pytest.param(rule, id=rule.name, marks=[pytest.mark.smoke] if rule.name in _CODE else [])
    for rule in RULES
]


def found(text: str, folder: Path) -> list[tuple[str, int]]:
    """The rules and lines of the findings on a README, whose code is not captured."""
    path = folder / "README.md"
    path.write_text(text, "utf-8")
    return [(finding.rule, finding.said.place.line) for finding in audit(path, code=False).findings]


@pytest.mark.parametrize("rule", EXAMPLES)
def test_the_example_of_a_rule_triggers_only_that_rule(rule: Rule, tmp_path: Path) -> None:
    """The documentation's example of each rule yields one finding, of that rule and its kind."""
    path = tmp_path / "README.md"
    path.write_text(rule.example, "utf-8")
    judged = audit(path)
    assert [(rule.name, rule.kind)] == [(finding.rule, finding.kind) for finding in judged.findings]
    assert (rule.kind in {"contradiction", "overstatement"}) == any(one.failed for one in judged.findings)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rule_says_when_and_what_to_do(rule: Rule) -> None:
    """Each rule has sentences for the documentation."""
    assert (".", ".") == (rule.what[-1], rule.fix[-1])


@pytest.mark.parametrize(
    ("printed", "value", "right"),
    [
        ("99.4", "99.36", True),
        ("99.4", "99.35", True),
        ("99.4", "99.34", False),
        ("99.40", "99.36", False),
        ("99", "98.5", True),
    ],
)
def test_a_figure_is_compared_to_its_last_digit(printed: str, value: str, right: bool) -> None:  # noqa: FBT001 - a table
    """A printed number is right if it is the value, rounded to the printed digits; halfway either way."""
    assert right == Figure(printed=Decimal(printed)).rounds(Fraction(value))


@pytest.mark.parametrize(
    ("claim", "rules"),
    [
        ("Best Test Accuracy: 99.02", []),
        ("Best Test Accuracy: 99.0", []),
        ("Best Test Accuracy: 99.0%(3rd epoch)", []),
        ("Best Test Accuracy: 99.1", ["best-above-log"]),
        ("Best Test Accuracy: 9902/10000 (99.02%)", []),
        ("Best Test Accuracy: 9902/10000", []),
        ("Best Test Accuracy: 9912/10000", ["best-above-log"]),
        ("Best Test Accuracy: 99,02%", []),
        ("Best Test Accuracy: 99,12%", ["best-above-log"]),
        ("Test accuracy: >= 99.02%", []),
        ("Test accuracy: > 99.02%", ["target-not-met"]),
        ("The goal is more than 99.4% test accuracy.", []),
        ("The model could not reach 99.41% accuracy.", []),
        ("Epochs: 3", []),
        ("Parameters: < 8,000", []),
        ("Parameters: 7.8k", []),
        ("Parameters: 7.7k", []),
        ("Parameters: 7.6k", ["parameters-claimed"]),
        ("less than 7,752 parameters", ["over-budget"]),
        ("at most 7,752 parameters", []),
    ],
)
def test_a_rounded_figure_is_right_and_a_bound_is_strict(claim: str, rules: list[str], tmp_path: Path) -> None:
    """A figure rounded rightly, and an aim, are no findings; "less than" and "more than" do not include the number."""
    correct = {1: 9830, 2: 9871, 3: 9902}
    log = "".join(
        f"Epoch: {n}\nTest set: Average loss: 0.05, Accuracy: {c}/10000 ({c / 100:.2f}%)\n" for n, c in correct.items()
    )
    assert rules == [rule for rule, _ in found(f"{claim}\n\nTotal params: 7,752\n\n{log}", tmp_path)]


@pytest.mark.parametrize(
    ("claim", "rules"),
    [
        ("We trained the model for 3 epochs and the best accuracy was 99.02%.", []),
        ("After training for 3 epochs the best accuracy was 99.02%.", []),
        ("We train for 3 epochs and reach a highest accuracy of 99.02%.", []),
        ("Trained on the training set, the best accuracy is 99.02%.", []),
        ("With more training data the best accuracy is 99.02%.", []),
        ("The highest accuracy after 3 epochs of training is 99.02%.", []),
        ("Best accuracy: 99.60% (train), 99.02% (test)", []),
        ("Best accuracy: 99.02% (train)", ["best-below-log"]),
        ("Best Accuracy on training data: 99.61%", ["figure-of-no-run"]),
        ("Best training accuracy: 99.65%", ["best-above-log"]),
        ("Best val accuracy: 99.60%", ["best-above-log"]),
        ("Highest eval accuracy: 99.02%", []),
        ("The training accuracy is consistently above 99.2%.", []),
        ("The training accuracy is consistently above 99.4%.", ["not-consistent"]),
        ("The test accuracy is consistently above 99.2%.", ["not-consistent"]),
        ("The accuracy is consistently above 99.2%.", ["not-consistent"]),
    ],
)
def test_a_claim_is_judged_by_its_part_of_the_data(claim: str, rules: list[str], tmp_path: Path) -> None:
    """The words for the training and the test data count where they name the part of an accuracy."""
    figures = (("99.30", "98.30"), ("99.50", "98.71"), ("99.60", "99.02"))
    log = "".join(
        f"Epoch {number}: Train Loss: 0.05 | Train Acc: {train}% || Test Loss: 0.04 | Test Acc: {test}%\n"
        for number, (train, test) in enumerate(figures, start=1)
    )
    assert rules == [rule for rule, _ in found(f"{claim}\n\n{log}", tmp_path)]


def test_a_log_without_train_accuracies_contradicts_none(tmp_path: Path) -> None:
    """A claim on the training data is not judged by a log that shows test results only."""
    log = "".join(f"Epoch: {n}\nTest set: Average loss: 0.05, Accuracy: 98{n}0/10000 (98.{n}0%)\n" for n in range(1, 4))
    assert [] == found(f"The training accuracy is consistently above 99.2%.\n\n{log}", tmp_path)


@pytest.mark.parametrize(
    "claim",
    [
        "Total parameters: 7,752\nNon-trainable parameters: 0",
        "The dropout parameter is 0.05.",
        "Momentum parameter: 0.9",
        "Hyper-parameters: 15 epochs, SGD",
        "Training parameters: 15 epochs, batch size 128",
        "Parameters: 15 epochs",
        "Conv1 parameters: 72",
        "Layer 1: Parameters: 72",
        "Batch norm adds less than 200 parameters.",
        "Each block has less than 3,000 parameters.",
        "A block with less than 3,000 parameters.",
        "Less than 200 parameters per layer",
        "We removed more than 10,000 parameters.",
        "The model has no more than 7,752 parameters.",
        "Parameters: 7 752",
        "Parameters: 7'752",
        "Parameters: 7.752",
        "Total params: 7 752",
        "Total params: 7.8k",
        "Parameters: 7-8k",
        "Parameters: 7,000 to 8,000",
        "Parameters: 7,000+",
        "Parameters: ~8,000",
        "Parameters: about 7,800",
        "Parameters: 8,000 (max.)",
        "- Baseline model: Parameters: 13,808\n- Slim model: Parameters: 7,752",
    ],
)
def test_a_figure_that_is_not_the_total_contradicts_nothing(claim: str, tmp_path: Path) -> None:
    """Parts of a model, differences, other settings, ranges and rounded figures are no other total."""
    assert [] == found(f"{claim}\n\nTotal params: 7,752\n", tmp_path)


@pytest.mark.parametrize(
    ("claim", "rule"),
    [
        ("Number of parameters: 7 753", "parameters-claimed"),
        ("Parameters: ~9,000", "parameters-claimed"),
        ("Total Params: 13.8k", "parameters-claimed"),
        ("Trainable parameters: 5,000", "parameters-claimed"),
        ("The total number of parameters is 5,000.", "parameters-claimed"),
        ("- Slim model: Parameters: 5,000", "parameters-claimed"),
        ("Parameters: 7,000 (max.)", "over-budget"),
        ("The model has no more than 7,000 parameters.", "over-budget"),
        ("We added batch norm, and the model has less than 7,000 parameters.", "over-budget"),
    ],
)
def test_another_total_is_a_contradiction(claim: str, rule: str, tmp_path: Path) -> None:
    """The total of the model is judged in each of its forms."""
    assert [(rule, 1)] == found(f"{claim}\n\nTotal params: 7,752\n", tmp_path)


@pytest.mark.parametrize(
    ("claim", "rules"),
    [
        ("The model hits 99.02% accuracy in the 3rd epoch, but not consistently.", []),
        ("The accuracy of 99.02% is not yet very consistent.", []),
        ("The 99.0% accuracy is inconsistent.", []),
        ("An accuracy of 99.02% is consistent with the literature.", []),
        ("Accuracy is consistently below 99.4%.", []),
        ("In the last 3 epochs the accuracy is at most 99.02%.", []),
        ("In the last 3 epochs the accuracy rises from 98.30% to 99.02%.", []),
        ("The accuracy improves consistently to 99.02%.", []),
        ("In the last 3 epochs the test accuracy reaches 99.02% once.", []),
        ("The accuracy is 99.0% in one of the last 3 epochs, and consistent in its loss.", []),
        ("Accuracy is consistently around 99%.", []),
        ("Accuracy is consistently between 98.30% and 99.10%.", []),
        ("Test accuracy is 98.7-99.1% in the last 2 epochs.", []),
        ("Test accuracy is 98.7% in each of the last 2 epochs.", []),
        ("Accuracy is consistently between 98.90% and 99.10%.", ["not-consistent"]),
        ("Test accuracy is 98.8-99.1% in the last 2 epochs.", ["not-consistent"]),
        ("The accuracy is more than 98.9% in the last 3 epochs.", ["not-consistent"]),
        ("The model consistently achieves an accuracy of 99.0%.", ["not-consistent"]),
    ],
)
def test_only_a_figure_of_each_epoch_is_judged_in_each(claim: str, rules: list[str], tmp_path: Path) -> None:
    """Denials, upper bounds, changes and estimates are no claims of consistency; of a range the lower end is one."""
    log = "".join(
        f"Epoch: {n}\nTest set: Average loss: 0.05, Accuracy: {c}/10000 ({c / 100:.2f}%)\n"
        for n, c in ((1, 9830), (2, 9871), (3, 9902))
    )
    assert rules == [rule for rule, _ in found(f"{claim}\n\n{log}", tmp_path)]


@pytest.mark.parametrize(
    ("claim", "rules"),
    [
        ("Unlike Model 1, it has less than 8,000 parameters.", []),
        ("Compared to the model 1, it has fewer parameters: less than 8,000 parameters.", []),
        ("Model 1 was too large, and this model has less than 8,000 parameters.", []),
        ("It is smaller than Model 1 with less than 8,000 parameters.", []),
        ("Unlike Model 1, this model is consistently above 99.4% accuracy.", []),
        ("In contrast to Model 1, the accuracy is above 99.4%.", []),
        ("Unlike Model 1, it has less than 7,000 parameters.", ["over-budget"]),
        ("Model 1 has less than 8,000 parameters.", ["over-budget"]),
        ("Unlike Model 1, the accuracy is above 99.6%.", ["target-not-met"]),
        ("The accuracy of Model 1 is above 99.4%.", ["target-not-met"]),
    ],
)
def test_a_model_named_for_comparison_is_not_the_subject(claim: str, rules: list[str], tmp_path: Path) -> None:
    """A sentence that compares with another model speaks of the model of its section."""
    log = "".join(f"Epoch: {n}\nTest set: Average loss: 0.05, Accuracy: {{}}{n}/10000\n" for n in range(1, 4))
    text = (
        f"# Model 1\n\nTotal params: 13,808\n\n{log.replace('{}', '990')}\n"
        f"# Model 2\n{claim}\n\nTotal params: 7,752\n\n{log.replace('{}', '995')}"
    )
    assert rules == [rule for rule, _ in found(text, tmp_path)]


def log_of(*numbers: int | str) -> str:
    """A log with epochs of these numbers, or other lines."""
    line = "Epoch: {0}\nTest set: Average loss: 0.05, Accuracy: 99{0:02d}/10000 (99.{0:02d}%)\n"
    return "".join(one + "\n" if isinstance(one, str) else line.format(one) for one in numbers)


@pytest.mark.parametrize(
    ("claim", "log", "rules"),
    [
        ("Epochs: 15", log_of(13, 14, 15), []),
        ("Epochs: 15", log_of(1, 2, "...", 14, 15), []),
        ("Epochs: 15", log_of(1, 2, "[output truncated]", 3), []),
        ("Epochs: 15", log_of(*range(1, 11)) + "# Log\n" + log_of(*range(11, 16)), []),
        ("Epochs: 3", "".join(f"{log_of(n)}==========\n" for n in (1, 2, 3)), []),
        ("Epochs: 3", log_of(1, 2, 3).replace("Epoch:", "### Epoch"), []),
        ("Best Test Accuracy: 99.44 (12th epoch)", log_of(13, 14, 15), []),
        ("Best Test Accuracy: 99.44", log_of(1, 2, "\u2026", 14, 15), []),
        ("The accuracy is more than 99.4%.", log_of(13, 14, 15), []),
        ("Epochs: 14", log_of(13, 14, 15), ["epochs-run"]),
        ("Epochs: 15", log_of(1, 2, 3), ["epochs-run"]),
        ("Best Test Accuracy: 99.44 (14th epoch)", log_of(13, 14, 15), ["best-above-log"]),
        ("Best Test Accuracy: 99.44", log_of(1, 2, 3), ["best-above-log"]),
        ("Epochs: 4", log_of(1, 2, 4), ["joined-log"]),
    ],
)
def test_an_excerpt_is_not_the_whole_log(claim: str, log: str, rules: list[str], tmp_path: Path) -> None:
    """Numbers and dots that show what is left out, lines between epochs and headings of epochs contradict nothing."""
    assert rules == [rule for rule, _ in found(f"{claim}\n\n{log}", tmp_path)]


@pytest.mark.parametrize(
    ("second", "total", "rules"),
    [
        ("...", 13_808, []),
        ("            Conv2d-9          [-1, 10, 24, 24]             720", 13_808, []),
        ("            Conv2d-2          [-1, 10, 24, 24]             720", 13_808, ["summary-total"]),
    ],
)
def test_a_summary_with_rows_left_out_is_incomplete(second: str, total: int, rules: list[str], tmp_path: Path) -> None:
    """Dots, and numbers of rows that are missing, show that the rows do not add up to the total."""
    text = f"Layer (type)  Output Shape  Param #\n  Conv2d-1  [-1, 8, 26, 26]  72\n{second}\nTotal params: {total:,}\n"
    assert rules == [rule for rule, _ in found(text, tmp_path)]


@pytest.mark.parametrize(
    ("claim", "rules"),
    [
        ("This model achieves 99.9% test accuracy.", ["target-not-met"]),
        ("Test accuracy: 99.9%", ["target-not-met"]),
        ("The model reaches an accuracy of 99.5%.", ["target-not-met"]),
        ("Test accuracy: 99.0%", []),
        ("**Accuracy:** 99 %", []),
        ("Humans have 99.8% accuracy.", []),
        ("Test accuracy: 99.9% is the target", []),
        ("| Best Test Accuracy | 99.95 |", ["best-above-log"]),
        ("| Best Test Accuracy (%) | 99.02 |", []),
        ("| Parameters | 5,000 |", ["parameters-claimed"]),
        ("| Parameters | 7,752 |", []),
        ("The accuracy is not 99.4\ufffd as in that paper.\n\nBest Test Accuracy: 99.95", ["best-above-log"]),
        ("```\nLayer (type)  Param #\nConv2d-1  [-1, 8, 26, 26]  72\n```\nParameters: 5,000", ["parameters-claimed"]),
    ],
)
@pytest.mark.parametrize("form", ["lines", "best in each line"])
def test_a_plain_contradiction_is_found(claim: str, rules: list[str], form: str, tmp_path: Path) -> None:
    """Figures with few digits, cells of tables, and claims beside damage or a summary without a total are judged."""
    line = {
        "lines": "Epoch: {0}\nTest set: Average loss: 0.05, Accuracy: {1}/10000 ({2}%)\n",
        "best in each line": "Epoch {0}: Test Accuracy: {2}%, Best Accuracy: {2}%\n",
    }[form]
    log = "".join(line.format(n, c, f"{c / 100:.2f}") for n, c in ((1, 9830), (2, 9871), (3, 9902)))
    assert rules == [rule for rule, _ in found(f"{claim}\n\nTotal params: 7,752\n\n{log}", tmp_path)]


def both(number: int, validated: int, tested: int) -> str:
    """An epoch with a result on validation data and one on test data."""
    line = "{} set: Average loss: 0.05, Accuracy: {}/10000 ({}%)\n"
    results = (("Val", validated), ("Test", tested))
    return f"Epoch: {number}\n" + "".join(line.format(part, n, f"{n / 100:.2f}") for part, n in results)


@pytest.mark.parametrize(
    ("claim", "rules"),
    [
        ("Best test accuracy: 99.02", []),
        ("Best validation accuracy: 98.72", []),
        ("Best test accuracy: 99.12", ["best-above-log"]),
        ("Epochs: 3", []),
        ("Epochs: 6", ["epochs-run"]),
    ],
)
@pytest.mark.parametrize("numbered", [True, False])
def test_an_epoch_has_a_validation_and_a_test_result(
    claim: str,
    rules: list[str],
    numbered: bool,  # noqa: FBT001 - a table
    tmp_path: Path,
) -> None:
    """Both are results of the same epoch, in lines with or without its number."""
    log = both(1, 9810, 9830) + both(2, 9850, 9871) + both(3, 9872, 9902)
    log = log if numbered else re.sub(r"Epoch: \d\n", "", log)
    assert rules == [rule for rule, _ in found(f"{claim}\n\n{log}", tmp_path)]


@pytest.mark.parametrize(("claim", "rules"), [("test accuracy: 99.02", []), ("val accuracy: 98.72", [])])
def test_a_line_may_have_a_validation_and_a_test_result(claim: str, rules: list[str], tmp_path: Path) -> None:
    """The order of both results does not matter."""
    log = "Epoch 1: Test Acc: 98.30 | Val Acc: 98.10\nEpoch 2: Test Acc: 99.02 | Val Acc: 98.72\n"
    assert rules == [rule for rule, _ in found(f"Best {claim}\n\n{log}", tmp_path)]


@pytest.mark.parametrize(
    ("claim", "rules"),
    [
        ("Best test accuracy: 99.02% (3rd epoch)", []),
        ("Best test accuracy: 99.02% (2nd epoch)", ["best-epoch"]),
        ("Best test accuracy: 99.02%, reached in epoch 2", ["best-epoch"]),
        ("Best test accuracy is 99.02%, already above 98% in epoch 1.", []),
        ("Best test accuracy is 99.02%, up from 98.30% in epoch 1.", []),
        ("Best test accuracy: 99.02%, which takes longer than epoch 2", []),
        ("Best train accuracy: 99.50%", []),
        ("Epochs: 3", []),
    ],
)
def test_the_progress_of_batches_is_no_result(claim: str, rules: list[str], tmp_path: Path) -> None:
    """Lines of the progress within an epoch have neither counts of correct predictions nor accuracies of an epoch."""
    bar = "Train Epoch: {} [{}/60000 ({}%)]\tLoss: 0.02\tAccuracy: 97.66%\n"
    log = "".join(
        f"{bar.format(n, 58_880, 98)}{bar.format(n, 44_928, 100)}Test set: Average loss: 0.05, Accuracy: {c}/10000 "
        f"({c / 100:.0f}%)\n"
        for n, c in ((1, 9830), (2, 9871), (3, 9902))
    )
    assert rules == [rule for rule, _ in found(f"{claim}\n\n{log}", tmp_path)]


@pytest.mark.parametrize(("last", "rules"), [("99.02", []), ("99.10", ["best-above-log"])])
def test_the_best_so_far_is_no_claim(last: str, rules: list[str], tmp_path: Path) -> None:
    """Of the best accuracies that stand between the epochs of a log, the last one is final."""
    log = "".join(
        f"Epoch: {n}\nTest set: Average loss: 0.05, Accuracy: {c}/10000 ({c / 100:.2f}%)\nBest accuracy: {best}\n"
        for n, c, best in ((1, 9830, "98.30"), (2, 9871, "98.71"), (3, 9902, last))
    )
    assert rules == [rule for rule, _ in found(log, tmp_path)]


FIELDS = """\
| Layer | Kernel | In | Out | RF |
|---|---|---|---|---|
| Conv1 | 3 | 1x28x28 | 8x26x26 | 3 |
| MaxPool | 2 | 26x26x8 | 13x13x8 | {} |
| Conv2 ({}) | 3 | 8x13x13 | 16x9x9 | {} |
"""


@pytest.mark.parametrize(
    ("pool", "layer", "field", "lines"),
    [
        (4, "dilation 2", 12, []),
        (4, "dilation=2", 8, [5]),
        (4, "dilated", 12, []),
        (4, "no bias", 8, []),
        (6, "no bias", 8, [4]),
        (4, "transposed", 12, []),
    ],
)
def test_a_receptive_field_follows_maps_and_dilation(
    pool: int, layer: str, field: int, lines: list[int], tmp_path: Path
) -> None:
    """The sides of maps with channels, and a dilation in a layer's name, enter the computation."""
    text = FIELDS.format(pool, layer, field)
    assert [("receptive-field-table", line) for line in lines] == found(text, tmp_path)


def test_a_run_belongs_to_the_section_of_its_first_line(tmp_path: Path) -> None:
    """A table of epochs is of the model above it, and an interrupted epoch ends with its section."""
    table = "| Epoch | Train Acc | Test Acc |\n|---|---|---|\n| 1 | 97.1 | {}.30 |\n| 2 | 97.5 | {} |\n"
    begun = "\nEpoch: 3\nLoss=0.1 Batch_id=9 Accuracy=99.90: 100%|##| 10/10 [00:01<00:00]\n"
    models = [
        f"# Model {number}\n\n## Log\n\n{table.format(98, best)}\n## Results\n\nBest Test Accuracy: {best}\n"
        "Best Train Accuracy: 97.50\n\n"
        for number, best in ((1, "99.40"), (2, "99.20"), (3, "98.90"))
    ]
    assert [] == found("# MNIST\nThree models.\n\n" + "".join(models), tmp_path)
    models[1] = models[1].replace("Best Test Accuracy: 99.20", "Best Test Accuracy: 99.21")
    assert ["best-above-log"] == [rule for rule, _ in found("".join(models), tmp_path)]
    log = "Test set: Average loss: 0.05, Accuracy: 9910/10000 (99.10%)\n"
    assert [] == found(f"# Model 1\n{begun}# Model 2\nBest train accuracy: 98.00%\n\n{log}", tmp_path)


def test_a_log_of_one_variant_does_not_contradict_the_others(tmp_path: Path) -> None:
    """Among several variants of a model, each with its claims, only that of the log can be judged."""
    log = "Epoch: 1\nTest set: Average loss: 0.05, Accuracy: 9778/10000 (97.78%)\n"
    text = (
        f"# Model 1\n#### With batch norm\nBest test accuracy: 99.26\n#### With GAP\nBest test accuracy: 97.78\n\n{log}"
    )
    assert [] == found(text, tmp_path)
    assert [("best-above-log", 2)] == found(f"# Model 1\nBest test accuracy: 99.26\n\n{log}", tmp_path)


def test_claims_are_paired_with_the_evidence_of_their_model(tmp_path: Path) -> None:
    """A claim about a model is judged by the notebook or document of that number, and by no other."""
    (tmp_path / "README.md").write_text(
        "# Model 1\nBest test accuracy: 99.10\n# Model 2\nBest test accuracy: 99.20\n", "utf-8"
    )
    for number, correct in ((1, 9910), (2, 9915)):
        text = f"Epoch: 1\nTest set: Average loss: 0.05, Accuracy: {correct}/10000 ({correct / 100:.2f}%)\n"
        (tmp_path / f"train_{number}.log").write_text(text, "utf-8")
    judged = audit(tmp_path, code=False)
    assert [("best-above-log", "README.md:4: Best test accuracy: 99.20", "same name")] == [
        (one.rule, str(one.said), one.confidence) for one in judged.findings
    ]
