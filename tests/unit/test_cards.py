"""The cards are consistent: figures, sums, claims and expected outcomes agree wherever no discrepancy is recorded."""

from __future__ import annotations

from decimal import Decimal
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from mnist_models import Discrepancy, PublishedEpoch, create_model, list_models, model_card, parse_card

CARDS = {name: model_card(name) for name in list_models()}
LOGS = {name: card.log.epochs for name, card in CARDS.items() if card.log is not None}
NEEDED = 9_940
LAST_AND_MOST_EPOCHS = {"era-s7": (3, 15), "five-steps": (3, 20), "reference": (5, 15)}
RECIPE_KEYS = {
    "": {"batch_size", "epochs", "optimizer", "schedule", "augmentation"},
    "optimizer": {"name", "lr", "momentum", "nesterov", "weight_decay"},
    "schedule": {"name", "factor", "patience", "max_lr", "warmup", "until", "floor"},
    "augmentation": {"rotation", "rotation_fill", "shift", "shift_fill", "scale", "interpolation"},
}
GOOD = (resources.files("mnist_models") / "cards" / "cloud_3.toml").read_text("utf-8")


def percent_contradicts_count(row: PublishedEpoch) -> bool:
    """Whether the printed percentage is more than half a unit of its last digit away from the counts."""
    printed = Decimal(row.printed_percent)
    half_unit = Decimal(5).scaleb(int(printed.as_tuple().exponent) - 1)
    return abs(printed - Decimal(100 * row.correct) / row.total) > half_unit


def inside(discrepancy: Discrepancy, lines: tuple[int, int]) -> bool:
    """Whether a discrepancy lies within a range of lines."""
    return lines[0] <= discrepancy.lines[0] and discrepancy.lines[1] <= lines[1]


def unknown_keys(recipe: dict[str, Any]) -> set[str]:
    """Keys of a recipe that the recipe format does not have."""
    sections = {"": recipe, **{key: value for key, value in recipe.items() if isinstance(value, dict)}}
    return {key for section, table in sections.items() for key in table.keys() - RECIPE_KEYS.get(section, set())}


def outcome(counts: list[int], contract: str) -> str:
    """The outcome of a contract's consistency rule for the correct predictions of each epoch."""
    last, most = LAST_AND_MOST_EPOCHS[contract]
    kept = len(counts) <= most and all(correct >= NEEDED for correct in counts[-last:])
    return "meets" if kept else "misses"


@pytest.mark.parametrize("name", CARDS)
def test_card_describes_the_model_of_its_name(name: str) -> None:
    """The card's name and number of parameters are those of the model that is built."""
    card = CARDS[name]

    assert name == card.name
    assert card.parameters == sum(parameter.numel() for parameter in create_model(name).parameters())


def test_every_card_that_is_shipped_is_listed() -> None:
    """There is no card without a model."""
    shipped = {Path(card.name).stem for card in (resources.files("mnist_models") / "cards").iterdir()}

    assert set(list_models()) == shipped


@pytest.mark.parametrize("name", [name for name in CARDS if not name.startswith("reference")])
def test_published_models_name_their_source(name: str) -> None:
    """Each published model has a source, and everything cited from the first one lies in a known document."""
    card = CARDS[name]

    assert card.sources
    assert {discrepancy.document for discrepancy in card.discrepancies} <= {source.document for source in card.sources}
    assert all(first <= last for first, last in (source.lines for source in card.sources))


def test_cloud_1_is_published_twice() -> None:
    """Two documents publish the first cloud model."""
    assert ["000", "001"] == [source.document for source in CARDS["cloud_1"].sources]


@pytest.mark.parametrize("name", CARDS)
def test_recipe_is_plain_data_with_known_keys(name: str) -> None:
    """Recipes use the keys of the recipe format and name optimizer and schedule."""
    recipe = CARDS[name].recipe

    assert set() == unknown_keys(recipe)
    assert {"batch_size", "epochs", "optimizer"} <= recipe.keys()
    assert "sgd" == recipe["optimizer"]["name"]
    assert recipe.get("schedule", {}).get("name") in {None, "plateau", "one-cycle", "warmup-cosine"}


def test_an_unknown_recipe_key_is_found() -> None:
    """`unknown_keys` finds a misspelt key in a section and one at the top."""
    assert {"epoch", "momentun"} == unknown_keys({"epoch": 15, "optimizer": {"name": "sgd", "momentun": 0.9}})


@pytest.mark.parametrize("name", CARDS)
def test_cards_are_independent_copies(name: str) -> None:
    """Changing the recipe of one card does not change the card that is read next."""
    model_card(name).recipe["epochs"] = 1

    assert CARDS[name].recipe == model_card(name).recipe


@pytest.mark.parametrize("name", [name for name, card in CARDS.items() if card.summary is not None])
def test_summary_adds_up(name: str) -> None:
    """The rows of a published table add up to its total, and the total is the model's."""
    card = CARDS[name]
    assert card.summary is not None

    assert card.summary.total == card.parameters
    if card.summary.rows:
        assert card.summary.total == sum(row.parameters for row in card.summary.rows)


@pytest.mark.parametrize("name", LOGS)
def test_epochs_are_consecutive_and_in_the_order_of_the_document(name: str) -> None:
    """Logs hold every epoch of the recipe once, and their lines ascend within the log's range."""
    card, rows = CARDS[name], LOGS[name]
    assert card.log is not None

    assert list(range(1, card.recipe["epochs"] + 1)) == [row.epoch for row in rows]
    assert all(before.line < after.line for before, after in pairwise(rows))
    assert card.log.lines[0] < rows[0].line
    assert rows[-1].line <= card.log.lines[1]


@pytest.mark.parametrize("name", LOGS)
def test_published_figures_are_in_range(name: str) -> None:
    """Counts are at most 10,000, percentages at most 100, and losses below 1."""
    for row in LOGS[name]:
        assert 10_000 == row.total
        assert 0 <= row.correct <= row.total
        assert row.train_percent is not None
        assert 0 < row.train_percent <= 100
        assert 0 < row.test_loss < 1


@pytest.mark.parametrize("name", LOGS)
def test_printed_percentages_agree_with_their_counts_unless_recorded(name: str) -> None:
    """A printed percentage contradicts its count exactly where the card records a discrepancy."""
    recorded = [found.lines for found in CARDS[name].discrepancies if found.kind == "count"]

    assert recorded == [(row.line, row.line) for row in LOGS[name] if percent_contradicts_count(row)]


def test_three_lines_of_one_log_contradict_themselves() -> None:
    """Exactly three published lines print a percentage that contradicts their count."""
    found = [(name, row.line) for name, rows in LOGS.items() for row in rows if percent_contradicts_count(row)]

    assert [("pipeline_third", 952), ("pipeline_third", 957), ("pipeline_third", 967)] == found


@pytest.mark.parametrize("name", LOGS)
def test_claims_agree_with_the_log_unless_recorded(name: str) -> None:
    """The claimed best accuracies are the log's best, except exactly where the card records a discrepancy."""
    card, rows = CARDS[name], LOGS[name]
    assert card.claim is not None
    claim = card.claim
    best = max(rows, key=lambda row: row.correct)
    best_train = max(Decimal(str(row.train_percent)) for row in rows)
    agrees = (
        Decimal(claim.test_percent) == Decimal(best.correct) / 100
        and (claim.train_percent is None or Decimal(claim.train_percent) == best_train)
        and claim.epoch in (None, best.epoch)
    )

    recorded = any(found.kind == "claim" and inside(found, claim.lines) for found in card.discrepancies)

    assert agrees != recorded


@pytest.mark.parametrize("name", CARDS)
def test_claims_target_says_whether_the_document_claims_it(name: str) -> None:
    """A model claims the target if its document states 99.4 % or more as its best."""
    card = CARDS[name]

    assert card.claims_target == (card.claim is not None and Decimal(card.claim.test_percent) >= Decimal("99.4"))


@pytest.mark.parametrize("name", LOGS)
def test_expected_outcome_is_the_rule_applied_to_the_log(name: str) -> None:
    """The expected outcome is that of the consistency rule on the published counts."""
    card = CARDS[name]

    assert card.expected.outcome == outcome([row.correct for row in LOGS[name]], card.contract)
    assert all(f"{row.correct:,}" in card.expected.reason for row in LOGS[name][-3:])


def test_expected_outcome_where_no_log_is_published() -> None:
    """Without a log a best below the target is expected to miss it; our own models are expected to meet it."""
    without = {name: card.expected.outcome for name, card in CARDS.items() if name not in LOGS}

    assert {"reference": "meets", "reference_small": "meets", "rf_study_3": "misses"} == without
    assert all(CARDS[name].expected.reason for name in without)


def test_the_rule_counts_each_late_epoch() -> None:
    """One image too few in one of the last epochs, or one epoch too many, misses."""
    assert "meets" == outcome([9_000] * 12 + [9_940] * 3, "era-s7")
    assert "misses" == outcome([9_990] * 12 + [9_940, 9_939, 9_940], "era-s7")
    assert "misses" == outcome([9_990] * 16, "era-s7")
    assert "meets" == outcome([9_990] * 16, "five-steps")


@pytest.mark.parametrize("name", CARDS)
def test_every_model_says_how_long_it_takes(name: str) -> None:
    """Only the model with six million parameters takes more than ten minutes on a CPU."""
    assert (CARDS[name].cpu_minutes > 10) == (name == "five_step_1")


def test_the_good_card_is_good() -> None:
    """The text that the bad cards below are made from parses."""
    assert CARDS["cloud_3"] == parse_card(GOOD, file="good.toml")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "parameters = 7902",
            'parameters = "7902"',
            "expected a value of type int at parameters, got parameters='7902'",
        ),
        ("parameters = 7902", "parameters = true", "expected a value of type int at parameters"),
        ("parameters = 7902\n", "", "expected a key parameters at the top"),
        ("title =", "titel =", "expected only known keys at the top, got titel=.*did you mean title"),
        ('repository = "', 'wiki = "', r"expected only known keys at sources\[0\], got wiki=.*remove it"),
        ('contract = "era-s7"', 'contract = "era-s8"', "expected one of reference, era-s7, five-steps at contract"),
        ('outcome = "misses"', 'outcome = "fails"', "expected one of meets, misses at expected.outcome"),
        ("lines = [475, 769]", "lines = [475]", r"expected 2 values at sources\[0\]\.lines"),
        ("lines = [475, 769]", "lines = 475", r"expected an array at sources\[0\]\.lines"),
        ("shape = [10, 26, 26]", 'shape = [10, "26", 26]', r"a value of type int at summary\.rows\[0\]\.shape\[1\]"),
        ("[recipe]", "[[recipe]]", "expected a value of type dict at recipe"),
        ("[claim]", "[[claim]]", "expected a table at claim"),
        ("[claim]", "[claim", "expected a card in TOML, got text that does not parse"),
    ],
)
def test_a_bad_card_is_refused_by_file_and_key(old: str, new: str, message: str) -> None:
    """A malformed card is refused with a message that names the file and the key."""
    assert old in GOOD

    with pytest.raises(ValueError, match=message) as refusal:
        parse_card(GOOD.replace(old, new, 1), file="bad.toml")

    assert str(refusal.value).startswith("bad.toml: ")
