"""Contracts as documents: the built-in ones say what they should, and a mistake is named with the right spelling."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from harness.contracts import Contract, builtin_contracts, load_contract, parse_contract, requirement_names
from harness.errors import ContractError

ERA_S7 = {"gap": "required", "dropout": "required", "batch_norm": "required"}
# Name: parameters below, required features, any_of, accuracy rule.
BUILTIN: dict[str, tuple[int | None, dict[str, str], tuple[str, ...], dict[str, Any]]] = {
    "digits": (None, {}, (), {"rule": "last", "last": 3, "max_epochs": 15}),
    "era-s6": (
        20_000,
        {"dropout": "required", "batch_norm": "required"},
        ("gap", "linear"),
        {"target": 99.4, "rule": "best", "max_epochs": 19},
    ),
    "era-s7": (8_000, ERA_S7, (), {"target": 99.4, "rule": "last", "last": 3, "max_epochs": 15}),
    "five-steps": (10_000, {}, (), {"target": 99.4, "rule": "last", "last": 3, "max_epochs": 20}),
    "reference": (8_000, ERA_S7, (), {"target": 99.4, "rule": "last", "last": 5, "max_epochs": 15}),
}


def parsed(text: str) -> Contract:
    """A contract from its text."""
    return parse_contract(text, name="mine", place="mine.toml")


def test_all_builtin_contracts_are_known_here() -> None:
    """The table of this test is complete."""
    assert tuple(BUILTIN) == builtin_contracts()


@pytest.mark.parametrize("name", BUILTIN)
def test_builtin_contracts(name: str) -> None:
    """A built-in contract asks what the course asks."""
    below, features, any_of, accuracy = BUILTIN[name]
    contract = load_contract(name)
    assert name == contract.name
    assert contract.description
    assert below == (contract.parameters.below if contract.parameters else None)
    assert contract.parameters is None or contract.parameters.hidden_state
    assert features == contract.features
    assert any_of == contract.any_of
    assert contract.accuracy is not None
    # The target of the digits is measured, not asked by a course.
    assert accuracy == {key: value for key, value in contract.accuracy.items() if key != "target" or name != "digits"}
    if below is not None:
        assert ((1, 28, 28), 10) == (contract.input, contract.classes)


def test_everything_that_can_be_asked() -> None:
    """Every section is read, and every requirement that it asks is named."""
    contract = parsed(
        """
        name = "all"
        input = [3, 32, 32]
        classes = 7
        any_of = ["gap", "linear"]
        [parameters]
        max = 10
        min = 1
        hidden_state = false
        [receptive_field]
        min = 20
        max = 30
        including_pool = true
        [head]
        output = "logits"
        bare = true
        [gap]
        required = true
        [linear]
        forbidden = true
        [batch]
        independent = true
        [gradients]
        complete = true
        [cost]
        max_macs = 1000
        [accuracy]
        whatever = "the certification room reads this"
        """
    )
    assert ("all", (3, 32, 32), 7, ("logits",), True) == (
        contract.name,
        contract.input,
        contract.classes,
        contract.outputs,
        contract.bare_head,
    )
    assert contract.parameters is not None
    assert (None, 10, 1, False) == (
        contract.parameters.below,
        contract.parameters.max,
        contract.parameters.min,
        contract.parameters.hidden_state,
    )
    assert contract.receptive_field is not None
    assert (20, 30, True) == (
        contract.receptive_field.min,
        contract.receptive_field.max,
        contract.receptive_field.including_pool,
    )
    assert {"gap": "required", "linear": "forbidden"} == contract.features
    assert {"whatever": "the certification room reads this"} == contract.accuracy
    names = "capture input output head parameters receptive_field gap linear any_of batch gradients cost"
    assert tuple(names.split()) == requirement_names(contract)


def test_an_empty_contract_asks_for_a_faithful_capture_only() -> None:
    """A section that is absent, or says false, asks nothing."""
    contract = parsed("[gap]\nrequired = false\n[batch]\n[gradients]\ncomplete = false")
    assert ("mine", {}, None, None) == (contract.name, contract.features, contract.parameters, contract.accuracy)
    assert ("capture",) == requirement_names(contract)


def test_extending_a_builtin_contract() -> None:
    """What a document does not say itself comes from the contract it extends; a section replaces the section whole."""
    contract = parsed('extends = "era-s7"\n[parameters]\nmax = 9000\n[dropout]\n')
    assert contract.parameters is not None
    assert (None, 9000) == (contract.parameters.below, contract.parameters.max)
    assert {"gap": "required", "batch_norm": "required"} == contract.features
    assert load_contract("era-s7").accuracy == contract.accuracy
    assert "mine" == contract.name


def test_another_contracts_accuracy() -> None:
    """A structure can be joined with another contract's accuracy; the name says so."""
    joined = load_contract("era-s7").with_accuracy_of(load_contract("digits"))
    assert "era-s7 with the accuracy of digits" == joined.name
    assert load_contract("digits").accuracy == joined.accuracy
    assert load_contract("era-s7").parameters == joined.parameters


MALFORMED = {
    "classes = ": r"mine.toml is not valid TOML: ",
    "clases = 10": r"mine.toml: unknown key 'clases': did you mean 'classes'\?",
    "zzz = 1": r"mine.toml: unknown key 'zzz': expected some of name, description",
    "[parameters]\nbellow = 3": r"mine.toml: \[parameters\]: unknown key 'bellow': did you mean 'below'\?",
    "[receptive_field]\nminimum = 3": r"\[receptive_field\]: unknown key 'minimum': did you mean 'min'\?",
    "[parameters]": r"\[parameters\] bounds nothing: expected at least one of below \(strict\), max, min \(inclusive\)",
    "[receptive_field]\nincluding_pool = true": r"\[receptive_field\] bounds nothing: expected min or max",
    "[cost]": r"\[cost\] bounds nothing: expected max_macs or max_activation_bytes",
    "parameters = 8000": r"mine.toml: parameters=8000 \(int\); expected a section \[parameters\]",
    "[parameters]\nbelow = 8e3": r"\[parameters\]: below=8000.0 \(float\); expected a whole number from 0",
    "[parameters]\nbelow = true": r"below=True \(bool\); expected a whole number from 0",
    "[parameters]\nmax = -1": r"max=-1 \(int\); expected a whole number from 0",
    "[parameters]\nmax = 1\nhidden_state = 0": r"hidden_state=0; expected true or false",
    "[gap]\nrequired = 1": r"mine.toml: \[gap\]: required=1 \(int\); expected true or false",
    "[gap]\nrequired = true\nforbidden = true": r"\[gap\] is both required and forbidden; keep one",
    'any_of = ["gap", "attention"]': r"any_of names 'attention'; expected some of gap, dropout, batch_norm, linear",
    'any_of = "gap"': r"any_of='gap' \(str\); expected a list of texts",
    '[head]\noutput = "softmax"': r"\[head\] output is 'softmax'; expected one of log-probabilities, logits",
    "input = [1, 28, 0]": r"input=\[1, 28, 0\] \(list\); expected a list of sizes such as \[1, 28, 28\]",
    "input = []": r"expected a list of sizes",
    'classes = "10"': r"classes='10' \(str\); expected a whole number from 1",
    "name = 7": r"name=7 \(int\); expected a text in quotes",
    'extends = "era"': r"mine.toml: extends 'era'; expected one of digits, era-s6, era-s7, five-steps, reference",
}


@pytest.mark.parametrize("text", MALFORMED)
def test_a_mistake_is_named(text: str) -> None:
    """A malformed contract is refused with the place, the value, and what was expected."""
    with pytest.raises(ContractError) as refused:
        parsed(text)
    assert re.search(MALFORMED[text], str(refused.value)), str(refused.value)


def test_contract_files(tmp_path: Path) -> None:
    """A path is read as a contract named after the file; what is not there or no text is refused."""
    path = tmp_path / "strict.toml"
    path.write_text("[parameters]\nmax = 5000\n", encoding="utf-8")
    assert "strict" == load_contract(str(path)).name
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ContractError, match=r"strict\.toml cannot be read"):
        load_contract(str(path))
    with pytest.raises(ContractError, match=r"no contract 'era-s8': did you mean era-s7 or era-s6\? Expected one of"):
        load_contract("era-s8")


def test_the_kind_of_output_is_asked_without_a_number_of_classes() -> None:
    """`[head] output` alone is a requirement; zero classes are none."""
    contract = parse_contract('[head]\noutput = "logits"\n', name="c", place="c.toml")

    assert ("capture", "output") == requirement_names(contract)
    with pytest.raises(ContractError, match=r"classes=0 \(int\); expected a whole number from 1"):
        parse_contract("classes = 0\n", name="c", place="c.toml")
