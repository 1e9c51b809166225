"""`harness replicate`: compares the published accuracies of the shipped models with new runs."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import mnist_models
from harness.cli.certificates import certificate_options, certification, finished, subfolder
from harness.cli.console import Output, announce
from harness.cli.inputs import dataset_for
from harness.cli.options import data_option, report_options
from harness.errors import InputError
from harness.files import make_folder, require_writable

if TYPE_CHECKING:
    from harness.certification import Certificate, Published, ReplicatedFigure, Replication

# Name of the data set of the documents.
_PUBLISHED_FOR = "mnist"


@click.command()
@click.argument("name", metavar="NAME|all")
@certificate_options
@data_option
@click.option(
    "--runs",
    default=3,
    show_default=True,
    type=click.IntRange(2, 1000),
    metavar="N",
    help="Number of seeds of each model.",
)
@click.option(
    "--records",
    metavar="FOLDER",
    help="Folder with certificates NAME.json, which are used instead of training; those that are trained are added.",
)
@report_options
def replicate(
    name: str,
    data: str,
    runs: int,
    records: str | None,
    out: str | None,
    output: Output,
    **chosen: Any,  # noqa: ANN401 - the options of certificate_options
) -> int:
    """Compare published accuracies of the shipped models with new runs, each model with its own recipe.

    The published best epoch, last epoch and mean of the last three epochs are each consistent with the new runs, or
    above or below their prediction interval. Models with the same network and the same recipe share their runs. The
    folder --out gets a subfolder for each model. The exit code is 0 if no testable figure is above or below its
    interval, 1 if one is, and 3 if no figure is testable.
    """
    from harness.certification import FixedDesign
    from harness.certification import replicate as compare
    from harness.reporting import facts_table, plain_table

    documented = [model for model in mnist_models.list_models() if mnist_models.model_card(model).sources]
    if name not in ("all", *documented):
        raise InputError(
            f"expected all, or a model that a document publishes, got {name!r}. Use one of: {', '.join(documented)}."
        )
    names = documented if name == "all" else [name]
    folder = Path(records) if records else None
    certificates = _on_file(names, folder)
    if certificates.keys() != set(names):
        # For a model on file with the network and the recipe of one that is not.
        certificates |= _on_file([model for model in documented if model not in names], folder)
    for model in names:
        if model in certificates:
            continue
        if shared := _shared(model, certificates):
            announce(f"{model}: the same network and recipe as {shared.declaration.model}, whose runs are used")
            certificates[model] = shared
            continue
        if (dataset := dataset_for(data)).name != _PUBLISHED_FOR:
            raise InputError(
                f"expected MNIST, which the accuracies are published for, got {dataset.title}. Name a folder with MNIST with "
                "--data."
            )
        options = {"design": FixedDesign(runs=runs), "out": subfolder(out, model), **chosen}
        certificates[model] = finished(certification(model, "", None, None, data=data, **options)())
        if folder:
            certificates[model].write(folder / f"{model}.json")
    found = compare([published(model) for model in names], certificates)
    headers, rows = replication_rows(found)
    output.print(plain_table(headers, rows, right=(2, 3, 4, 5)), facts_table(replication_facts(found)))
    output.write("replicate", dataclasses.asdict(found))
    outcomes = {figure.outcome for figure in found.figures}
    if outcomes == {"not testable"}:
        return 3
    return 0 if outcomes <= {"consistent", "not testable"} else 1


def _on_file(models: Sequence[str], folder: Path | None) -> dict[str, Certificate]:
    """The certificates of the models in a folder, which is created if it does not exist.

    Raises:
        InputError: the folder cannot be written, or a file in it is no finished certificate of today's network and recipe
            on MNIST.
    """
    from harness.certification import Certificate

    if folder is None:
        return {}
    make_folder(folder, option="--records")
    found = {}
    for model in models:
        path = require_writable(folder / f"{model}.json")
        if path.exists():
            found[model] = certificate = Certificate.read(path)
            facts = (
                ("a finished certificate", certificate.progress, certificate.end is not None),
                (
                    f"runs of the network and recipe of {model}",
                    "others",
                    _network_and_recipe(certificate) == _todays_network_and_recipe(model),
                ),
                (
                    "runs on MNIST",
                    f"runs on {certificate.declaration.data_title}",
                    certificate.declaration.data_name == _PUBLISHED_FOR,
                ),
            )
            for expected, observed, holds in facts:
                if not holds:
                    raise InputError(
                        f"expected {str(path)!r} to hold {expected}, got {observed}. Name another folder with --records, or "
                        "remove the file."
                    )
    return found


def _network_and_recipe(certificate: Certificate) -> tuple[str, dict[str, Any]]:
    return certificate.declaration.graph_digest, certificate.declaration.recipe.to_mapping()


@functools.cache  # captures the model
def _todays_network_and_recipe(model: str) -> tuple[str, dict[str, Any]]:
    from harness.cli.inputs import recipe_for
    from harness.sources import load_model

    return load_model(model).graph.exact_digest(), recipe_for(model, None).to_mapping()


def _shared(model: str, certificates: Mapping[str, Certificate]) -> Certificate | None:
    """The certificate of a model with the same network and recipe, if there is one."""
    todays = _todays_network_and_recipe(model)
    return next((one for one in certificates.values() if _network_and_recipe(one) == todays), None)


def published(model: str) -> Published:
    """The published results on a shipped model's card."""
    from harness.certification import Published

    card = mnist_models.model_card(model)
    return Published(
        model=model,
        correct=tuple(epoch.correct for epoch in card.log.epochs) if card.log else (),
        total=card.log.epochs[-1].total if card.log else None,
        claimed_best=card.claim.test_percent if card.claim else None,
    )


def replication_rows(found: Replication) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Headers and rows of the table of all figures."""
    rows: list[tuple[str, ...]] = []
    for one in found.figures:
        between = f"{one.lower:,.1f} to {one.upper:,.1f}" if one.lower is not None and one.upper is not None else ""
        value = "" if one.published is None else f"{one.published:,.1f}"
        mean = "" if one.mean is None else f"{one.mean:,.1f}"
        rows.append((one.model, one.figure, value, mean, between, str(one.runs or ""), _outcome(one)))
    return ("model", "figure", "published", "our mean", "interval", "runs", "outcome"), rows


def model_outcome(found: Replication, model: str) -> str:
    """Summarise the outcomes of a model's published accuracy figures.

    If all testable figures have the same outcome, return that outcome; otherwise list each outcome with the names of its
    figures. If no figure is testable, return the first outcome with its reason; ``-`` if the model has no figures.
    """
    figures: dict[str, list[str]] = {}
    untestable: list[str] = []
    for one in found.figures:
        if one.model == model and one.outcome == "not testable":
            untestable.append(_outcome(one))
        elif one.model == model:
            figures.setdefault(one.outcome, []).append(one.figure)
    if len(figures) > 1:
        return "; ".join(f"{outcome}: {', '.join(names)}" for outcome, names in figures.items())
    return next(iter([*figures, *untestable]), "-")


def _outcome(figure: ReplicatedFigure) -> str:
    from harness.certification import NOT_RUN

    if figure.reason in ("", NOT_RUN):
        return figure.reason or figure.outcome
    return f"{figure.outcome}: {figure.reason}"


def replication_facts(found: Replication) -> list[tuple[str, str]]:
    """How the intervals of the table were computed."""
    spread = ", ".join(f"{name} {value:.2f}" for name, value in found.sd.items())
    pooled = f"{spread} (log odds of a correct prediction), pooled over {', '.join(found.pooled)}"
    return [
        ("confidence", f"{100 * found.confidence:g} % for all figures together, {100 * found.level:.2f} % for each"),
        ("sd over seeds", pooled if found.pooled else "no runs"),
    ]
