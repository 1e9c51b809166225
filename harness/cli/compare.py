"""`harness compare`: compares two models, recipes or certificates on the same seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.certificates import certificate_options, certified
from harness.cli.console import Output
from harness.cli.options import contract_option, data_option, report_options
from harness.errors import InputError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from harness.certification import Certificate, PairedComparison
    from harness.training import RunRecord

_EXIT_CODES = {"B is worse": 1, "no difference shown": 3}


@click.command()
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@contract_option
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
    type=click.FloatRange(min=0),
    metavar="IMAGES",
    help="Largest mean difference in correct test images that is considered negligible.",
)
@certificate_options
@data_option
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
    output: Output,
    **chosen: Any,  # noqa: ANN401 - the options of certificate_options
) -> int:
    """Compare B with A on the same seeds.

    A and B are models, which are trained, or certificates (JSON files that `harness certify` wrote). The result follows
    from the paired t interval over seeds for the mean difference in correct test images, in the epochs that the
    accuracy rule counts: B is worse (exit code 1), B is better, no difference beyond the margin, identical (exit code
    0), or no difference shown (exit code 3). If A is a certificate and B is a run record, each epoch of the run is
    compared with the certificate's runs: the run is consistent with these runs (exit code 0), worse (1), or better than
    expected (3).
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
    if _schema(documents[second]) == RUN:
        if given[0] is None:
            raise InputError(
                f"expected A to be a certificate, because B={second!r} is a run record, got A={first!r}. Name a certificate file "
                "as A."
            )
        return _place(given[0], RunRecord.from_json(documents[second], where=second), second, output)
    known = given[0] or given[1]
    sides = [
        certificate
        or certified(
            name,
            "",
            contract_name,
            recipe,
            data=data,
            design=FixedDesign(runs=min(runs, len(known.runs)) if known else runs),
            like=known,
            **chosen,
        )
        for certificate, name, recipe in zip(given, (first, second), (recipe_a, recipe_b), strict=True)
    ]
    found = compare_certificates(*sides, margin=margin)
    output.print(*_report(found, sides))
    output.write("compare", {"a": first, "b": second, **found.to_json()})
    return _EXIT_CODES.get(found.outcome, 0)


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


def _report(found: PairedComparison, sides: Sequence[Certificate]) -> Iterator[RenderableType]:
    from harness.reporting import facts_table, plain_table

    rows = [
        (
            str(one.seed),
            f"{one.a:,.1f}",
            f"{one.b:,.1f}",
            f"{one.b - one.a:+.1f}",
            str(one.flips.lost),
            str(one.flips.gained),
            f"{one.flips.p_value:.2g}",
        )
        for one in found.seeds
    ]
    yield plain_table(("seed", "A", "B", "B - A", "lost", "gained", "p (McNemar)"), rows, right=range(7))
    lower, upper = found.interval
    yield facts_table(
        [
            *(
                (side, f"{one.declaration.model}, recipe {one.declaration.recipe.name}")
                for side, one in zip("AB", sides, strict=True)
            ),
            ("data", sides[0].declaration.data_title),
            (
                "difference",
                f"mean {found.mean:+.1f} images, 95 % interval {lower:+.1f} to {upper:+.1f}, {len(rows)} seeds",
            ),
            (
                "detectable",
                f"a true difference of {found.smallest_visible:.1f} images, with a power of 0.8",
            ),
            ("margin", f"{found.margin:g} images"),
        ]
    )
    yield found.outcome


def _place(certificate: Certificate, record: RunRecord, path: str, output: Output) -> int:
    """Compare one run with the runs of a certificate, print the result and return the exit code."""
    from harness.certification import place_run
    from harness.reporting import plain_table

    placed = place_run(record, certificate)
    rows = [
        (str(one.epoch), f"{one.correct:,}", f"{one.mean:,.1f}", f"{one.lower:,.1f} to {one.upper:,.1f}", one.outcome)
        for one in placed
    ]
    output.print(plain_table(("epoch", "run", "certificate", "interval", "outcome"), rows, right=(0, 1, 2, 3)))
    outcomes = {one.outcome for one in placed}
    words = "worse than" if "below" in outcomes else "better than" if "above" in outcomes else "consistent with"
    output.print(f"the run is {words} the {len(certificate.runs)} runs of {certificate.declaration.model}")
    output.write("compare-run", {"run": path, "epochs": [dataclasses.asdict(one) for one in placed]})
    return 1 if "below" in outcomes else 3 if "above" in outcomes else 0
