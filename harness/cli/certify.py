"""`harness certify`: tests the accuracy of a model statistically over declared seeds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.certificates import (
    certificate_options,
    certificate_page,
    certificate_report,
    certification,
    design_options,
    draw_certificate,
)
from harness.cli.console import Output, announce
from harness.cli.options import (
    contract_option,
    data_option,
    html_option,
    model_argument,
    plot_option,
    recipe_option,
    report_options,
)
from harness.cli.pages import write_page

if TYPE_CHECKING:
    from harness.certification import Design


@click.command()
@model_argument
@contract_option
@recipe_option
@certificate_options
@data_option
@design_options
@plot_option("the runs and the test")
@html_option
@report_options
def certify(
    model: str,
    arguments: str,
    contract_name: str | None,
    recipe_name: str | None,
    data: str,
    design: Design,
    plot: Path | None,
    html: Path | None,
    output: Output,
    **chosen: Any,  # noqa: ANN401 - the options of certificate_options
) -> int:
    """Certify the accuracy of a model over declared seeds.

    The seeds are derived from the contract's accuracy rule and --salt. Each seed is trained with the whole recipe and
    judged by the accuracy rule. By default the test of the pass rate is sequential: the test ends as soon as the runs
    show that the pass rate is above --p0 (pass) or below --p1 (fail), and is inconclusive if --at-most seeds show
    neither. With --runs the number of seeds is fixed instead. Running the same command again continues an interrupted
    certification.
    """
    train = certification(
        model, arguments, contract_name, recipe_name, data=data, design=design, is_judged=True, **chosen
    )
    certificate = train()
    output.print(*certificate_report(certificate))
    output.write_document(certificate.to_json())
    if plot:
        draw_certificate(certificate, plot)
        announce(f"picture: {plot}")
    if html:
        write_page(html, certificate_page(certificate))
    return {"pass": 0, "fail": 1}.get(certificate.verdict or "", 3)
