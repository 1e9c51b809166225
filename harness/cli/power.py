"""`harness power`: computes how often a model of a given true accuracy passes an accuracy rule."""

from __future__ import annotations

import dataclasses
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli.certificates import design_options
from harness.cli.console import Output, announce
from harness.cli.inputs import contract_for, rule_for, shipped_certificate
from harness.cli.options import DEFAULT_RECIPE, plot_option, report_options
from harness.errors import InputError

if TYPE_CHECKING:
    from harness.certification import ConsistencyRule, Design, EpochNoise

# The rows of the table: differences between the true mean accuracy and the target, in standard deviations.
_DISTANCES = tuple(step / 2 for step in range(-4, 13))


@click.command()
@click.option(
    "--contract",
    "contract_name",
    default="reference",
    show_default=True,
    metavar="NAME|FILE",
    help="Contract whose accuracy rule to examine.",
)
@click.option("--target", metavar="PERCENT", help="Target accuracy, instead of the contract's target.")
@click.option(
    "--last",
    type=click.IntRange(min=1),
    metavar="K",
    help="Number of last epochs that must all reach the target, instead of the contract's rule.",
)
@click.option(
    "--sd",
    type=float,
    metavar="POINTS",
    help="Standard deviation of one epoch's accuracy over seeds, in percentage points. Default: the value in the shipped "
    "certificate of the model 'reference'.",
)
@click.option(
    "--correlation",
    type=float,
    metavar="R",
    help="Correlation over seeds between the accuracies of two counted epochs of a run. Default: the value in the shipped "
    "certificate of the model 'reference'.",
)
@click.option(
    "--images",
    default=10_000,
    show_default=True,
    type=click.IntRange(min=1),
    metavar="N",
    help="Number of test images.",
)
@design_options
@plot_option("the probabilities")
@report_options
def power(
    contract_name: str,
    target: str | None,
    last: int | None,
    sd: float | None,
    correlation: float | None,
    images: int,
    design: Design,
    plot: Path | None,
    output: Output,
) -> None:
    """Show how often models pass an accuracy rule, by their true mean accuracy.

    For each true mean accuracy the table shows the probability that one run passes, the probabilities that a
    certificate ends with pass, fail or inconclusive, and the expected number of seeds. Use the table to choose a target
    before the rule is published: a pass is an error if one run passes with a probability of at most --p0, a failure is
    an error if it passes with at least --p1.
    """
    from harness.certification import EpochNoise, power_table
    from harness.reporting import facts_table, plain_table, plot_curves

    rule = _rule(contract_name, target, last)
    origin = "given"
    if sd is None or correlation is None:
        of = "" if sd is None and correlation is None else "the sd " if sd is None else "the correlation "
        certificate = shipped_certificate(DEFAULT_RECIPE)
        measured = certificate.noise()
        sd, correlation = (
            measured.sd if sd is None else sd,
            measured.correlation if correlation is None else correlation,
        )
        declared = certificate.declaration
        origin = f"{of}of the recorded certificate of {declared.model} on {declared.data_title}, {certificate.progress}"
    noise = EpochNoise(sd=sd, correlation=correlation, images=images)
    means = list(dict.fromkeys(_mean(rule, noise, distance) for distance in _DISTANCES))
    rows = power_table(rule, means, noise, design)
    when = f"each of the last {rule.last} epochs" if rule.last else f"the best of {rule.max_epochs} epochs"
    facts = [
        ("rule", f"{rule.target} % or more ({rule.required(images):,} of {images:,}) in {when}"),
        ("noise", f"sd {sd:.3f} points, correlation {correlation:.2f}, {origin}"),
        ("certificate", f"{design.name}, at most {design.runs} seeds, p0 {design.p0:g}, p1 {design.p1:g}"),
    ]
    headers = ("true mean %", "one run passes", "pass", "fail", "inconclusive", "seeds")
    cells = [
        (
            f"{row.mean:.3f}",
            *(f"{100 * share:.1f} %" for share in (row.run_passes, *row.certificate.shares)),
            f"{row.certificate.runs:.1f}",
        )
        for row in rows
    ]
    output.print(facts_table(facts), plain_table(headers, cells, right=range(6)))
    content = {
        "rule": {"target": float(rule.target), "rule": rule.rule, "last": rule.last, "max_epochs": rule.max_epochs},
        "noise": {"sd": sd, "correlation": correlation, "images": images, "origin": origin},
        "design": {"name": design.name, **dataclasses.asdict(design)},
        "rows": [dataclasses.asdict(row) for row in rows],
    }
    output.write("power", content)
    if plot:
        curves = {
            "one run passes": [row.run_passes for row in rows],
            "certificate: pass": [row.certificate.passed for row in rows],
            "certificate: fail": [row.certificate.failed for row in rows],
            "certificate: inconclusive": [row.certificate.inconclusive for row in rows],
        }
        plot_curves(
            plot,
            title=f"{rule.target} % in {when}",
            labels=("true mean accuracy of an epoch, %", "probability"),
            places=[row.mean for row in rows],
            curves=curves,
        )
        announce(f"picture: {plot}")


def _mean(rule: ConsistencyRule, noise: EpochNoise, distance: float) -> float:
    return min(max(round(float(rule.target) + distance * noise.sd, 4), 0.0), 100.0)


def _rule(contract_name: str, target: str | None, last: int | None) -> ConsistencyRule:
    """Return the contract's accuracy rule, with the values of ``--target`` and ``--last`` if given."""
    rule = rule_for(contract_for("", contract_name))
    if rule is None:
        raise InputError(
            f"expected a contract with a section [accuracy], got {contract_name!r}, which has no such section. Name another "
            "contract with --contract."
        )
    if last is not None:
        rule = dataclasses.replace(rule, rule="last", last=last)
    if target is None:
        return rule
    try:
        return dataclasses.replace(rule, target=Decimal(target))
    except InvalidOperation:
        raise InputError(f"expected --target to be a percentage such as 99.4, got {target!r}.") from None
