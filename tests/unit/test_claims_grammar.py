"""The forms of lines: every pattern matches its example, and none takes more than linear time."""

from __future__ import annotations

import re

import pytest

from harness.claims.grammar import PATTERNS, model_key, model_keys, percentage

# A quantifier behind a group that itself repeats without bound
_NESTED = re.compile(r"[*+]\)[*+]|[*+]")


@pytest.mark.parametrize("name", PATTERNS)
def test_a_pattern_matches_its_example(name: str) -> None:
    """The example of a pattern is a line of its form, and passes the filter of words."""
    pattern = PATTERNS[name]
    assert pattern.find(pattern.example, pattern.example.lower())


@pytest.mark.parametrize("name", PATTERNS)
def test_repetitions_are_bounded(name: str) -> None:
    """No pattern has a repetition without an upper bound."""
    without_classes = re.sub(r"\\.|\[(?:\\.|[^\]])*\]", "x", PATTERNS[name].regex.pattern)
    assert [] == _NESTED.findall(without_classes)


@pytest.mark.parametrize(
    ("title", "key"),
    [
        ("Model 3", "3"),
        ("Third Model", "3"),
        ("Model0 : Preparing Structure", "0"),
        ("Training and Testing Results for Model 5", "5"),
        ("Step 2.", "2"),
        ("7. Model Simplification", None),
        ("Model Summary", None),
        ("Results", None),
    ],
)
def test_a_heading_names_a_model(title: str, key: str | None) -> None:
    """A model is named by its number, in digits or words."""
    assert key == model_key(title)


def test_a_sentence_names_several_models() -> None:
    """All models of a sentence are found, each once."""
    assert ("2", "1") == model_keys("Model 2 is better than Model 1, as model 2 shows.")


@pytest.mark.parametrize(("text", "percent"), [("0.9934", "99.34"), ("99.34", "99.34"), ("1.0", "1.0"), ("0.99", "99")])
def test_an_accuracy_may_be_a_fraction(text: str, percent: str) -> None:
    """A number of at most 1 with two or more decimals is a fraction of one."""
    assert percent == str(percentage(text).printed)
