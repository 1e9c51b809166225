"""Contracts: requirements over a captured graph, written in TOML."""

from harness.contracts.contract import (
    BatchRule,
    Contract,
    CostBound,
    FieldBound,
    ParameterBudget,
    builtin_contracts,
    load_contract,
    parse_contract,
)
from harness.contracts.explain import explain
from harness.contracts.requirements import examine, requirement_names

__all__ = [
    "BatchRule",
    "Contract",
    "CostBound",
    "FieldBound",
    "ParameterBudget",
    "builtin_contracts",
    "examine",
    "explain",
    "load_contract",
    "parse_contract",
    "requirement_names",
]
