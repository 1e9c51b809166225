"""Contracts as documents: what the built-in ones ask, and how a malformed one is named."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from harness.contracts import REQUIREMENTS, Contract, builtin_contracts, load_contract, parse_contract
from harness.contracts.features import AnyOf, Feature, GlobalAveragePooling, Linear
from harness.contracts.interface import BareHead, FaithfulCapture, InputShape, Output
from harness.contracts.requirement import section_of
from harness.contracts.requirements import (
    BatchRule,
    CompleteGradients,
    CostBound,
    ParameterBudget,
    ReceptiveFieldBound,
)
from harness.errors import ContractError

ERA_S7 = ("capture", "input", "output", "parameters", "gap", "dropout", "batch_norm")
# Name: parameters below, requirements, accuracy rule.
BUILTIN: dict[str, tuple[int | None, tuple[str, ...], dict[str, Any]]] = {
    "digits": (None, ("capture",), {"rule": "last", "last": 3, "max_epochs": 15}),
    "era-s6": (
        20_000,
        ("capture", "input", "output", "parameters", "dropout", "batch_norm", "any_of"),
        {"target": 99.4, "rule": "best", "max_epochs": 19},
    ),
    "era-s7": (8_000, ERA_S7, {"target": 99.4, "rule": "last", "last": 3, "max_epochs": 15}),
    "five-steps": (
        10_000,
        ("capture", "input", "output", "parameters"),
        {"target": 99.4, "rule": "last", "last": 3, "max_epochs": 20},
    ),
    "reference": (8_000, ERA_S7, {"target": 99.4, "rule": "last", "last": 5, "max_epochs": 15}),
}


def parsed(text: str) -> Contract:
    """A contract from its text."""
    return parse_contract(text, name="mine", place="mine.toml")


def test_all_builtin_contracts_are_known_here() -> None:
    """The table of this test is complete."""
    assert tuple(BUILTIN) == builtin_contracts()


@pytest.mark.parametrize("name", BUILTIN)
def test_builtin_contracts(name: str) -> None:
    """A built-in contract asks what the course behind it asks."""
    below, requirements, accuracy = BUILTIN[name]
    contract = load_contract(name)
    assert name == contract.name
    assert contract.description
    assert requirements == contract.requirement_names
    assert (None if below is None else ParameterBudget(below=below)) == contract.find(ParameterBudget)
    assert all(requirement.required for requirement in contract.requirements if isinstance(requirement, Feature))
    assert (None if name != "era-s6" else AnyOf(any_of=("gap", "linear"))) == contract.find(AnyOf)
    assert (None if below is None else Output(classes=10)) == contract.find(Output)
    assert (1, 28, 28) == contract.input_shape
    assert contract.accuracy is not None
    # The target of the digits is measured, not asked by a course.
    assert accuracy == {key: value for key, value in contract.accuracy.items() if key != "target" or name != "digits"}


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
        whatever = "certification reads this"
        """
    )
    assert "all" == contract.name
    assert (
        FaithfulCapture(),
        InputShape(input=(3, 32, 32)),
        Output(classes=7, output="logits"),
        BareHead(bare=True),
        ParameterBudget(max=10, min=1, hidden_state=False),
        ReceptiveFieldBound(min=20, max=30, including_pool=True),
        GlobalAveragePooling(required=True),
        Linear(forbidden=True),
        AnyOf(any_of=("gap", "linear")),
        BatchRule(independent=True),
        CompleteGradients(complete=True),
        CostBound(max_macs=1000),
    ) == contract.requirements
    assert (3, 32, 32) == contract.input_shape
    assert {"whatever": "certification reads this"} == contract.accuracy
    names = "capture input output head parameters receptive_field gap linear any_of batch gradients cost"
    assert tuple(names.split()) == contract.requirement_names


def test_an_empty_contract_asks_for_a_faithful_capture_only() -> None:
    """A section that is absent, or says false, asks nothing."""
    contract = parsed("[gap]\nrequired = false\n[gradients]\ncomplete = false")
    assert ("mine", ("capture",), None) == (contract.name, contract.requirement_names, contract.accuracy)


def test_names_of_requirements_and_keys_are_unique() -> None:
    """No two requirements share a name, and no two read the same key of a section."""
    names = [requirement.name for requirement in REQUIREMENTS]
    assert sorted(set(names)) == sorted(names)
    keys = [(section_of(kind, field), field.name) for kind in REQUIREMENTS for field in fields(kind)]
    assert sorted(set(keys)) == sorted(keys)


def test_extending_a_builtin_contract() -> None:
    """Absent keys come from the contract that is extended; a section replaces the whole section."""
    contract = parsed('extends = "era-s7"\n[parameters]\nmax = 9000\n[dropout]\nrequired = false\n')
    assert ParameterBudget(max=9000) == contract.find(ParameterBudget)
    assert ("capture", "input", "output", "parameters", "gap", "batch_norm") == contract.requirement_names
    assert load_contract("era-s7").accuracy == contract.accuracy
    assert "mine" == contract.name


def test_another_contracts_accuracy() -> None:
    """A contract can take the accuracy rule of another one, and is named after both."""
    joined = load_contract("era-s7").with_accuracy_of(load_contract("digits"))
    assert "era-s7 with the accuracy of digits" == joined.name
    assert load_contract("digits").accuracy == joined.accuracy
    assert load_contract("era-s7").requirements == joined.requirements


MALFORMED = {
    "classes = ": r"^mine.toml is not valid TOML: ",
    "clases = 10": r"^mine.toml: 'clases' is not a known key. Did you mean 'classes'\? Known keys: accuracy, any_of, ",
    "zzz = 1": r"^mine.toml: 'zzz' is not a known key. Known keys: accuracy, any_of, ",
    "[parameters]\nbellow = 3": r"^mine.toml, \[parameters\]: 'bellow' is not a known key. Did you mean 'below'\?",
    "[receptive_field]\nminimum = 3": r"\[receptive_field\]: 'minimum' is not a known key. Did you mean 'min'\?",
    "[gap]\noutput = 3": r"^mine.toml, \[gap\]: 'output' is not a known key. Known keys: forbidden, required\.$",
    "[parameters]": r"\[parameters\]: expected at least one of the keys below, hidden_state, max, min, got none, which requires",
    "[parameters]\nhidden_state = true": r"\[parameters\]: expected a value for at least one of below, max, min, got none\.$",
    "[gap]": r"\[gap\]: expected at least one of the keys forbidden, required, got none, which requires nothing\.",
    'extends = "era-s7"\n[dropout]': r"\[dropout\]: expected at least one of the keys forbidden, required, got none",
    "[parameters]\nmin = 100\nmax = 10": r"bounds that a model can meet, got min=100, max=10\. Did you mean min=10, max=100\?$",
    "[parameters]\nmin = 100\nbelow = 100": r"bounds that a model can meet, got min=100, below=100\.",
    "[parameters]\nbelow = 0": r"bounds that a model can meet, got min=0, below=0\.",
    "[receptive_field]\nmin = 28\nmax = 20": r"bounds that a model can meet, got min=28, max=20\.",
    "[receptive_field]\nincluding_pool = true": r"\[receptive_field\]: expected a value for at least one of min, max",
    "[cost]": r"\[cost\]: expected at least one of the keys max_activation_bytes, max_macs, got none",
    "parameters = 8000": r"^mine.toml, \[parameters\]: expected a table of keys and values, got 8000 \(int\)",
    "[parameters]\nbelow = 8e3": r"\[parameters\]: expected below to be a whole number, got below=8000.0 \(float\)",
    "[parameters]\nmax = -1": r"\[parameters\]: expected max >= 0, got max=-1",
    "[parameters]\nmax = 1\nhidden_state = 0": r"expected hidden_state to be true or false, got hidden_state=0 \(int\)",
    "[gap]\nrequired = 1": r"^mine.toml, \[gap\]: expected required to be true or false, got required=1 \(int\)",
    "[gap]\nrequired = true\nforbidden = true": r"\[gap\]: expected at most one of required and forbidden to be true, got",
    'any_of = ["gap", "attention"]': r"^mine.toml: expected any_of\[1\] to be one of 'gap', .* got any_of\[1\]='attention'",
    'any_of = "gap"': r"^mine.toml: expected any_of to be a list, got any_of='gap' \(str\)",
    '[head]\noutput = "softmax"': r"^mine.toml, \[head\]: expected output to be one of 'log-probabilities', 'logits', got",
    'classes = 3\n[head]\noutput = "softmax"': r"^mine.toml: expected output to be one of 'log-probabilities', 'logits',",
    "input = [1, 28, 0]": r"^mine.toml: expected input to be a list of at most 8 sizes above 0, .*, got input=\[1, 28, 0\]",
    "input = []": r"expected input to be a list of at most 8 sizes above 0",
    "input = [1, true]": r"expected input\[1\] to be a whole number, got input\[1\]=True",
    'classes = "10"': r"expected classes to be a whole number, got classes='10' \(str\)",
    "classes = 0": r"^mine.toml: expected classes >= 1, got classes=0",
    "name = 7": r"expected name to be a text, got name=7 \(int\)",
    "accuracy = 3": r"^mine.toml, accuracy: expected a table of keys and values, got 3 \(int\)",
    'extends = "era"': r"^mine.toml: expected extends to name a built-in contract, digits or .* or reference, got 'era'",
}


@pytest.mark.parametrize("text", MALFORMED)
def test_a_mistake_is_named(text: str) -> None:
    """A malformed contract is refused with the place, the value, and what was expected."""
    with pytest.raises(ContractError) as refused:
        parsed(text)
    assert re.search(MALFORMED[text], str(refused.value)), str(refused.value)


def test_contract_files(tmp_path: Path) -> None:
    """A path is read as a contract named after the file; a missing file or one that is not text is refused."""
    path = tmp_path / "strict.toml"
    path.write_text("[parameters]\nmax = 5000\n", encoding="utf-8")
    assert "strict" == load_contract(str(path)).name
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ContractError, match=r"strict\.toml is not valid TOML: 'utf-8' codec"):
        load_contract(str(path))
    with pytest.raises(ContractError, match=r"no contract 'era-s8': did you mean era-s7 or era-s6\? Expected one of"):
        load_contract("era-s8")


def test_the_kind_of_output_is_asked_without_a_number_of_classes() -> None:
    """`[head] output` alone is a requirement."""
    assert ("capture", "output") == parsed('[head]\noutput = "logits"\n').requirement_names
