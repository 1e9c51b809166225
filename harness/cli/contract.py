"""`harness contract`: lists the built-in contracts, and explains the requirements of any contract."""

from __future__ import annotations

import click

from harness.cli.console import Output
from harness.cli.inputs import rule_for
from harness.cli.options import debug_option


@click.group()
def contract() -> None:
    """List the built-in contracts, or explain the requirements of a contract."""


@contract.command(name="list")
@debug_option
def list_contracts() -> None:
    """List the built-in contracts."""
    from harness.contracts import builtin_contracts, load_contract
    from harness.reporting import plain_table

    rows = [(name, load_contract(name).description) for name in builtin_contracts()]
    Output(None).print(plain_table(("name", "requirements"), rows))


@contract.command()
@click.argument("name", metavar="NAME|FILE")
@debug_option
def explain(name: str) -> None:
    """Explain the requirements of a contract, one sentence for each."""
    from harness.contracts import load_contract

    loaded = load_contract(name)
    lines = list(loaded.explain())
    if rule := rule_for(loaded):
        lines += [f"{finding.requirement.capitalize()}: {finding.expected}." for finding in rule.skipped("")]
    title = f"{loaded.name}: {loaded.description}" if loaded.description else loaded.name
    Output(None).print_unwrapped("\n* ".join((title, *lines)))
