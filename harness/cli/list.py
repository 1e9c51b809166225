"""`harness list`: lists the shipped models."""

from __future__ import annotations

import click

import mnist_models
from harness.cli.console import Output
from harness.cli.options import report_options


@click.command(name="list")
@report_options
def list_models(output: Output) -> None:
    """List the shipped models with their parameters, contract, claimed accuracy and expected outcome."""
    from harness.reporting import plain_table

    cards = [mnist_models.model_card(name) for name in mnist_models.list_models()]
    rows = [
        (
            card.name,
            f"{card.parameters:,}",
            card.contract,
            f"{card.claim.test_percent} %" if card.claim else "-",
            card.expected.outcome,
            f"{card.cpu_minutes:.0f}",
            card.title,
        )
        for card in cards
    ]
    headers = ("name", "parameters", "contract", "claimed", "expected", "CPU min", "title")
    output.print(plain_table(headers, rows, right=(1, 3, 5), whole=(0,)))
    content = [
        {
            "name": card.name,
            "title": card.title,
            "parameters": card.parameters,
            "contract": card.contract,
            "claimed_percent": card.claim.test_percent if card.claim else None,
            "expected": card.expected.outcome,
            "reason": card.expected.reason.strip(),
            "cpu_minutes": card.cpu_minutes,
        }
        for card in cards
    ]
    output.write("list", {"models": content})
