"""`harness contract`: the built-in contracts, and any contract in words."""

from __future__ import annotations

import click

from harness.cli.console import results
from harness.cli.options import debug_option, rule_for


@click.group()
def contract() -> None:
    """List contracts, or say one in words."""


@contract.command(name="list")
@debug_option
def list_contracts() -> None:
    """List the built-in contracts."""
    from harness.contracts import builtin_contracts, load_contract
    from harness.reporting import plain_table

    rows = [(name, load_contract(name).description) for name in builtin_contracts()]
    results().print(plain_table(("name", "asks for"), rows))


@contract.command()
@click.argument("name", metavar="NAME|FILE")
@debug_option
def explain(name: str) -> None:
    """Say in words what a contract asks."""
    from harness.contracts import load_contract

    asked = load_contract(name)
    rule = rule_for(asked)
    lines = list(asked.explain())
    lines += (
        [f"{finding.requirement.capitalize()}: {finding.expected}." for finding in rule.skipped("")] if rule else []
    )
    click.echo(f"{asked.name}: {asked.description}" if asked.description else asked.name)
    for line in lines:
        click.echo(f"* {line}")
