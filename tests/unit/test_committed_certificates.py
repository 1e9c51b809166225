"""The committed certificates: each can be read, and is of today's model, recipe and accuracy rule, on MNIST."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import small_network_search
from benchmarks.replication import RECORDS
from harness.certification import Certificate, ConsistencyRule, FixedDesign
from harness.contracts import load_contract
from harness.errors import InputError
from harness.graph import CapturedModel
from harness.training import Recipe
from mnist_models import list_models, model_card
from tests.certificates import made_up_certificate

OWN = Path(__file__).parents[2] / "mnist_models" / "certificates"
COMMITTED = sorted([*OWN.glob("*"), *RECORDS.glob("*")])
# SHA-256 of the decoded images and labels of MNIST, as every run record states it.
MNIST = "b2d8f5bf39174ee5ffeefa97e42d673c35432b411bb5d1f74fbbeddae7f1690a"


def faults(path: Path, graph_digest: str) -> Iterator[str]:
    """What a committed certificate says that is not true of today's shipped model, one sentence each.

    Args:
        path: the certificate, named after its model.
        graph_digest: exact digest of the model of that name today.

    Raises:
        InputError: the file is not a certificate, or contradicts itself.
    """
    declared, card = Certificate.read(path).declaration, model_card(path.stem)
    again = f"certify {card.name} again, or restore it"
    facts = (
        ("model", card.name, declared.model),
        ("arguments", "", declared.arguments),
        ("network", graph_digest, declared.graph_digest),
        ("recipe", Recipe.from_mapping(card.recipe, name=card.name).to_mapping(), declared.recipe.to_mapping()),
        ("contract", card.contract, declared.contract),
        ("rule", ConsistencyRule.from_table(load_contract(card.contract).accuracy or {}), declared.rule),
        ("data set", ("mnist", MNIST), (declared.data_name, declared.data_digest)),
    )
    for name, today, certified in facts:
        if today != certified:
            yield f"{path.name} is not of today's {name}: expected {today}, the certificate has {certified}; {again}."


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_committed_certificate_is_of_the_shipped_model(path: Path, shipped: Callable[[str], CapturedModel]) -> None:
    """Summary and seeds follow from the runs; the network, the recipe and the rule have not changed since; the data is MNIST."""
    assert ".json" == path.suffix
    assert path.stem in list_models()
    assert bool(model_card(path.stem).sources) == (path.parent == RECORDS)
    assert [] == list(faults(path, shipped(path.stem).graph.exact_digest()))


EARLIER = [path for path in small_network_search.CERTIFIED.values() if path.parent != OWN]


@pytest.mark.parametrize("path", EARLIER, ids=lambda path: path.stem)
def test_an_earlier_candidate_was_certified_by_the_same_rule(path: Path) -> None:
    """Of networks that are no longer shipped: the recipe, rule, seeds and data of `reference`, 50 runs declared."""
    declared = Certificate.read(path).declaration
    card = model_card("reference")

    assert Recipe.from_mapping(card.recipe, name=card.name).to_mapping() == declared.recipe.to_mapping()
    assert ConsistencyRule.from_table(load_contract(card.contract).accuracy or {}) == declared.rule
    assert ("1", MNIST, FixedDesign(runs=50)) == (declared.salt, declared.data_digest, declared.design)


def test_no_certificate_of_a_candidate_is_left_out() -> None:
    """Every file in the folder of earlier candidates is in the declared order, and every candidate has results on record."""
    assert {path.name for path in EARLIER} == {path.name for path in EARLIER[0].parent.iterdir()}
    on_record = {one["name"] for one in json.loads(small_network_search.RESULTS.read_text("utf-8"))}
    assert on_record >= {*small_network_search.CERTIFIED, *small_network_search.CANDIDATES}


def test_an_unchanged_model_has_no_fault(tmp_path: Path, shipped: Callable[[str], CapturedModel]) -> None:
    """A certificate of the model as it is, on MNIST."""
    path = tmp_path / "cloud_2.json"
    made_up_certificate("cloud_2", [9_900, 9_910], runs=3, data_digest=MNIST).write(path)

    assert [] == list(faults(path, shipped("cloud_2").graph.exact_digest()))


CLOUD_2 = model_card("cloud_2")
CHANGES: dict[str, dict[str, Any]] = {
    "model": {"model": "cloud_3"},
    "arguments": {"arguments": "width=8"},
    "network": {"graph_digest": "a" * 64},
    "recipe": {"recipe": Recipe.from_mapping(CLOUD_2.recipe | {"batch_size": 32}, name="cloud_2")},
    "contract": {"contract": "mine"},
    "rule": {"rule": ConsistencyRule.from_table(load_contract("reference").accuracy or {})},
    "data set": {"data_name": "digits", "data_title": "embedded digits, NOT MNIST"},
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_certificate_of_something_else_is_noticed(change: str, tmp_path: Path) -> None:
    """A changed network, recipe, rule or data set invalidates the certificate; the message names it and says what to do."""
    path = tmp_path / "cloud_2.json"
    valid = made_up_certificate("cloud_2", [9_900], runs=3).declaration.graph_digest
    made_up_certificate("cloud_2", [9_900, 9_910], runs=3, **{"data_digest": MNIST} | CHANGES[change]).write(path)
    (fault,) = faults(path, valid)

    assert f"cloud_2.json is not of today's {change}: expected " in fault
    assert fault.endswith("certify cloud_2 again, or restore it.")


def test_a_certificate_that_was_edited_is_refused(tmp_path: Path) -> None:
    """A better count in the file contradicts its summary."""
    path = tmp_path / "cloud_2.json"
    made_up_certificate("cloud_2", [9_900, 9_910], runs=3, data_digest=MNIST).write(path)
    path.write_text(path.read_text("utf-8").replace("9910, 9910, 9910]", "9910, 9950, 9910]"), "utf-8")

    with pytest.raises(InputError, match="expected summary="):
        list(faults(path, "a" * 64))
