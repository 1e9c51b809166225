"""`harness compare`: compares two models, recipes or certificates on the same seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from harness.cli.certificates import certificate_options, certification, finished, subfolder
from harness.cli.console import Output
from harness.cli.inputs import contract_for
from harness.cli.options import FiniteRange, data_option, html_option, report_options
from harness.cli.pages import write_page
from harness.errors import InputError
from harness.findings import Status

if TYPE_CHECKING:
    from rich.console import RenderableType

    from harness.certification import Certificate, PairedComparison
    from harness.reporting import Page
    from harness.training import RunRecord

_EXIT_CODES = {"B is worse": 1, "no difference shown": 3}
_PLACED = {"worse": ("worse than", 1), "consistent": ("consistent with", 0), "better": ("better than", 3)}
_STATUSES = {0: Status.PASS, 1: Status.FAIL, 3: Status.UNKNOWN}


@click.command()
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@click.option(
    "--contract",
    "contract_name",
    metavar="NAME|FILE",
    help="Contract whose accuracy rule says which epochs count, if A and B are models. Default: as for `harness check A`.",
)
@click.option("--recipe-a", metavar="NAME|FILE", help="Recipe of A, if A is a model. Default: as for `harness train`.")
@click.option("--recipe-b", metavar="NAME|FILE", help="Recipe of B, if B is a model. Default: as for `harness train`.")
@click.option(
    "--runs",
    default=8,
    show_default=True,
    type=click.IntRange(2, 1000),
    metavar="N",
    help="Number of seeds to train each model with; at most the number of runs of the other certificate, if one is given.",
)
@click.option(
    "--margin",
    default=5.0,
    show_default=True,
    type=FiniteRange(min=0),
    metavar="IMAGES",
    help="Largest mean difference in correct test images that is considered negligible.",
)
@certificate_options
@data_option
@html_option
@report_options
def compare(
    first: str,
    second: str,
    contract_name: str | None,
    recipe_a: str | None,
    recipe_b: str | None,
    runs: int,
    margin: float,
    data: str,
    out: str | None,
    html: Path | None,
    output: Output,
    **chosen: Any,  # noqa: ANN401 - the options of certificate_options
) -> int:
    """Compare B with A on the same seeds.

    A and B are models, which are trained, or certificates (JSON files that `harness certify` wrote). The result follows
    from the paired t interval over seeds for the mean difference in correct test images, in the epochs that count by
    the certificate's accuracy rule or, if A and B are models, by the contract's: B is worse (exit code 1), B is better,
    no difference beyond the margin, identical (exit code 0), or no difference shown (exit code 3). A model is trained
    on the seeds of the certificate. If A is a certificate and B is a run record, each epoch of the run is compared with
    the certificate's runs: the run is consistent with these runs (exit code 0), worse (1), or better than expected (3).
    The folder --out gets a subfolder for each model that is trained, A and B.
    """
    from harness.certification import Certificate, FixedDesign
    from harness.certification import compare as compare_certificates
    from harness.certification.certificate import SCHEMA as CERTIFICATE
    from harness.training import RunRecord
    from harness.training.record import SCHEMA as RUN

    documents = {name: _document(name) for name in (first, second)}
    given = [
        Certificate.from_json(documents[name], where=name) if _schema(documents[name]) == CERTIFICATE else None
        for name in (first, second)
    ]
    for name, allowed in ((first, {CERTIFICATE}), (second, {CERTIFICATE, RUN})):
        if documents[name] is not None and _schema(documents[name]) not in allowed:
            raise InputError(
                f"expected A to be a model or a certificate, and B a model, a certificate or a run record, got {name!r} with "
                f"schema={_schema(documents[name])!r}. Name the certificate first."
            )
    is_run = _schema(documents[second]) == RUN
    _refuse_unused_options([given[0] is not None, is_run or given[1] is not None])
    if is_run:
        if given[0] is None:
            raise InputError(
                f"expected A to be a certificate, because B={second!r} is a run record, got A={first!r}. Name a certificate file "
                "as A."
            )
        return _place(given[0], RunRecord.from_json(documents[second], where=second), second, output, html)
    known = given[0] or given[1]
    if known and len(known.runs) < 2:  # noqa: PLR2004 - a standard deviation needs two
        raise InputError(
            f"expected a certificate with at least two runs, got one with {len(known.runs)}. Certify more seeds."
        )
    if known is None:
        contract_name = contract_name or contract_for(first, None).name
    # Both are declared before the first is trained, so that an error of B does not cost the training of A.
    declared = [
        certificate
        or certification(
            name,
            "",
            contract_name,
            recipe,
            data=data,
            design=FixedDesign(runs=min(runs, len(known.runs)) if known else runs),
            like=known,
            out=subfolder(out, side),
            **chosen,
        )
        for side, certificate, name, recipe in zip("AB", given, (first, second), (recipe_a, recipe_b), strict=True)
    ]
    sides = [one if isinstance(one, Certificate) else finished(one()) for one in declared]
    found = compare_certificates(*sides, margin=margin)
    output.print(*_report(found, sides))
    output.write("compare", {"a": first, "b": second, **found.to_json()})
    if html:
        write_page(html, _page(found, sides))
    return _EXIT_CODES.get(found.outcome, 0)


def _refuse_unused_options(is_trained_before: Sequence[bool]) -> None:
    """Refuse an option for what the training before has settled, given whether A and B are certificates or run records.

    Raises:
        UsageError: an option that was given would have no effect.
    """
    unused = {"contract_name", "salt"} if any(is_trained_before) else set()
    unused |= {name for name, before in zip(("recipe_a", "recipe_b"), is_trained_before, strict=True) if before}
    if all(is_trained_before):
        unused |= {"runs", "device", "engine", "jobs", "out", "data"}
    context = click.get_current_context()
    for option in context.command.params:
        if option.name in unused and context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(
                f"expected no option {option.opts[0]}, which has no effect: the certificate states what was trained. "
                f"Leave {option.opts[0]} out."
            )


def _document(name: str) -> object:
    """Return the parsed content of a JSON file; None if ``name`` does not end in .json and so names a model."""
    from harness.files import read_whole
    from harness.tables import parse_document

    path = Path(name)
    if path.suffix != ".json":
        return None
    content = read_whole(path, "a certificate or a run record", most=2**28)
    return parse_document(content, "JSON", where=name, error=InputError)


def _schema(document: object) -> object:
    return document.get("schema") if isinstance(document, dict) else None


_HEADERS = ("seed", "A", "B", "B - A", "lost", "gained", "p (McNemar)")
_PLACED_HEADERS = ("epoch", "run", "certificate", "interval", "outcome")


def _report(found: PairedComparison, sides: Sequence[Certificate]) -> Iterator[RenderableType]:
    from harness.reporting import facts_table, plain_table

    yield plain_table(_HEADERS, _rows(found), right=range(7))
    yield facts_table(_facts(found, sides))
    yield found.outcome


def _page(found: PairedComparison, sides: Sequence[Certificate]) -> Page:
    from harness.reporting import Column, Dots, Facts, Page, Table

    names = [one.declaration.model for one in sides]
    differences = Dots(
        title="Difference of each seed",
        caption="Correct test images of B minus those of A, means over the counted epochs. "
        "Shaded: the 95 % interval of the mean difference.",
        labels=("row of the table", "B - A, images"),
        columns=tuple(Column(name=str(row), values=(one,)) for row, one in enumerate(found.differences, start=1)),
        line=("no difference", 0),
        band=found.interval,
    )
    return Page(
        title=" and ".join(dict.fromkeys(names)),
        status=_STATUSES[_EXIT_CODES.get(found.outcome, 0)],
        statement=found.outcome,
        figures=(("mean difference, images", f"{found.mean:+.1f}"), ("seeds", str(len(found.seeds)))),
        sections=(
            Facts(title="Comparison", facts=tuple(_facts(found, sides))),
            differences,
            Table(title="Seeds", headers=_HEADERS, rows=tuple(_rows(found)), right=tuple(range(7))),
        ),
    )


def _rows(found: PairedComparison) -> Iterator[tuple[str, ...]]:
    for one in found.seeds:
        flips = one.flips
        means = f"{one.a:,.1f}", f"{one.b:,.1f}", f"{one.b - one.a:+.1f}"
        yield str(one.seed), *means, str(flips.lost), str(flips.gained), f"{flips.p_value:.2g}"


def _facts(found: PairedComparison, sides: Sequence[Certificate]) -> Iterator[tuple[str, str]]:
    lower, upper = found.interval
    for side, one in zip("AB", sides, strict=True):
        yield side, f"{one.declaration.model}, recipe {one.declaration.recipe.name}"
    yield "data", sides[0].declaration.data_title
    interval = f"95 % interval {lower:+.1f} to {upper:+.1f}, {len(found.seeds)} seeds"
    yield "difference", f"mean {found.mean:+.1f} images, {interval}"
    if not found.identical:
        yield "detectable", f"a true difference of {found.smallest_visible:.1f} images, with a power of 0.8"
    yield "margin", f"{found.margin:g} images"


def _place(certificate: Certificate, record: RunRecord, path: str, output: Output, html: Path | None) -> int:
    """Compare one run with the runs of a certificate, print the result and return the exit code."""
    from harness.certification import place_run
    from harness.reporting import Page, Table, plain_table

    placed = place_run(record, certificate)
    rows = [
        (str(one.epoch), f"{one.correct:,}", f"{one.mean:,.1f}", f"{one.lower:,.1f} to {one.upper:,.1f}", one.outcome)
        for one in placed.epochs
    ]
    words, code = _PLACED[placed.outcome]
    end = " diverged and" if placed.status == "diverged" else ""
    sentence = f"the run{end} is {words} the {placed.runs} complete runs of {certificate.declaration.model}"
    output.print(plain_table(_PLACED_HEADERS, rows, right=(0, 1, 2, 3)), sentence)
    output.write("compare-run", {"run": path, "outcome": placed.outcome, **dataclasses.asdict(placed)})
    if html:
        table = Table(title="Correct test images", headers=_PLACED_HEADERS, rows=tuple(rows), right=(0, 1, 2, 3))
        write_page(html, Page(title=record.model, status=_STATUSES[code], statement=sentence, sections=(table,)))
    return code
