"""Contracts: requirements over a captured graph, written in TOML."""

from harness.contracts.contract import Contract, builtin_contracts, load_contract, parse_contract
from harness.contracts.examination import examine
from harness.contracts.requirements import REQUIREMENTS

__all__ = ["REQUIREMENTS", "Contract", "builtin_contracts", "examine", "load_contract", "parse_contract"]
