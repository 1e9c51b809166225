"""`harness certify`: the accuracy of a model, as a statement over declared seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from harness.cli.certificates import certificate_options, certificate_report, certified, draw_certificate
from harness.cli.console import Output
from harness.cli.options import contract_option, data_option, model_argument, recipe_option, report_options


@click.command()
@model_argument
@contract_option
@recipe_option
@certificate_options
@data_option
@click.option(
    "--runs", type=click.IntRange(1, 1000), metavar="N", help="Train exactly N seeds, instead of as many as it takes."
)
@click.option(
    "--at-most", default=50, show_default=True, type=click.IntRange(1, 1000), metavar="N", help="Most seeds to train."
)
@click.option("--p0", default=0.80, show_default=True, help="Pass rate up to which a pass is an error.")
@click.option("--p1", default=0.95, show_default=True, help="Pass rate from which a failure is an error.")
@click.option("--alpha", default=0.05, show_default=True, help="Greatest probability of a pass at a rate of --p0.")
@click.option("--beta", default=0.05, show_default=True, help="Greatest probability of a failure at a rate of --p1.")
@click.option("--plot", metavar="FILE", help="Draw the runs and the test to FILE, .png or .svg.")
@report_options
def certify(
    model: str,
    arguments: str,
    contract_name: str | None,
    recipe_name: str | None,
    data: str,
    runs: int | None,
    at_most: int,
    p0: float,
    p1: float,
    alpha: float,
    beta: float,
    plot: str | None,
    output: Output,
    **chosen: Any,  # noqa: ANN401 - the options of certificate_options
) -> int:
    """Certify the accuracy of a model over declared seeds.

    The seeds follow from the contract's accuracy rule and --salt. Each is trained with the whole recipe and judged by the rule.
    By default the test is sequential: it ends as soon as the runs decide whether the pass rate is above --p0 (pass) or below
    --p1 (fail), and is inconclusive if --at-most seeds do not decide. --runs declares their number instead. The same command
    continues an interrupted certification.
    """
    from harness.certification import Design, FixedDesign, SequentialDesign

    rates: dict[str, Any] = {"p0": p0, "p1": p1, "alpha": alpha, "beta": beta}
    design: Design = FixedDesign(runs=runs, **rates) if runs else SequentialDesign(runs=at_most, **rates)
    certificate = certified(model, arguments, contract_name, recipe_name, data=data, design=design, **chosen)
    output.print(*certificate_report(certificate))
    output.write_document(certificate.to_json())
    if plot:
        draw_certificate(certificate, Path(plot))
    return {"pass": 0, "fail": 1}.get(certificate.verdict or "", 3)
