"""Contracts: requirements over a captured graph, written in TOML."""

from harness.contracts.contract import Contract, builtin_contracts, contract_from_table, load_contract, parse_contract
from harness.contracts.examination import examine
from harness.contracts.requirements import REQUIREMENTS

__all__ = [
    "REQUIREMENTS",
    "Contract",
    "builtin_contracts",
    "contract_from_table",
    "examine",
    "load_contract",
    "parse_contract",
]
