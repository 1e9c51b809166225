"""`harness evaluate`: predicts the classes of the test images with given weights."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.console import Output, announce
from harness.cli.inputs import dataset_for, model_for
from harness.cli.options import (
    data_option,
    device_option,
    html_option,
    model_argument,
    plot_option,
    report_options,
    sandbox_option,
    writable_file,
)
from harness.cli.pages import write_page
from harness.errors import InputError
from harness.findings import percent

if TYPE_CHECKING:
    from harness.data import Dataset
    from harness.reporting import Page
    from harness.sandbox import SandboxRequirement
    from harness.training import Predictions

_MOST_DRAWN = 100


@click.command()
@model_argument
@click.option(
    "--weights",
    required=True,
    metavar="FILE",
    help="Weights: a safetensors file, as `harness train` writes it, or a state_dict saved by torch.save (.pt, .pth), which is "
    "read without executing code.",
)
@click.option(
    "--answers",
    "answers_path",
    metavar="FILE",
    callback=writable_file,
    help="Write the prediction for each image to FILE as CSV.",
)
@plot_option("the misclassified images")
@device_option("Device to compute on.")
@data_option
@sandbox_option("none")
@html_option
@report_options
def evaluate(
    model: str,
    arguments: str,
    weights: str,
    answers_path: Path | None,
    plot: Path | None,
    device: str,
    data: str,
    sandbox: SandboxRequirement,
    html: Path | None,
    output: Output,
) -> None:
    """Evaluate a model with given weights on the test images.

    Reports the accuracy in total and for each class, the confusion matrix and the misclassified images.
    """
    from harness.files import write_whole
    from harness.reporting import plain_table
    from harness.training import load_weights, predict, resolve_device, state_digest

    for path in (answers_path, plot):
        if path is not None and path.exists() and Path(weights).exists() and path.samefile(weights):
            raise InputError(
                f"expected another file than that of the weights, got {str(path)!r} for both. Choose another path"
            )
    chosen = resolve_device(device)
    loaded = model_for(model, arguments=arguments, sandbox=sandbox)
    captured = loaded.model
    module = captured.to_module()
    load_weights(module, Path(weights))
    dataset = dataset_for(data)
    predictions = predict(module.to(chosen), dataset.to(chosen))
    found, confusion = predictions.evaluation(), predictions.confusion()
    headers = ("class", "images", "correct", "%", *(f"as {column}" for column in range(len(confusion))))
    rows = [_row(label, counts, predictions) for label, counts in enumerate(confusion)]
    output.print(
        f"{captured.name}, weights {weights}, {dataset.title}: {found.correct:,} of {found.total:,} correct "
        f"({percent(found.correct, found.total)}), loss {found.loss:.4f}",
        plain_table(headers, rows, right=range(len(headers))),
    )
    if answers_path is not None:
        write_whole(answers_path, _csv(predictions).encode())
        announce(f"predictions: {answers_path}")
    if plot is not None:
        _plot(plot, predictions, dataset, captured.name)
    content = {
        "model": captured.name,
        "sandbox": [dataclasses.asdict(one) for one in loaded.layers],
        "weights": weights,
        "state_digest": state_digest(module.state_dict()),
        "data": dataset.to_json(),
        "loss": found.loss if math.isfinite(found.loss) else None,
        "correct": found.correct,
        "total": found.total,
        "confusion": confusion,
        "wrong": [_prediction(predictions, index) for index in predictions.misclassified],
    }
    output.write("evaluate", content)
    if html:
        write_page(html, _page(captured.name, predictions, dataset, f"weights {weights}"))


def _row(label: int, counts: list[int], predictions: Predictions) -> tuple[str, ...]:
    images = int((predictions.labels == label).sum())
    share = percent(counts[label], images).removesuffix(" %") if images else "-"
    return str(label), str(images), str(counts[label]), share, *(str(count) if count else "·" for count in counts)


def _prediction(predictions: Predictions, index: int) -> dict[str, Any]:
    """Return one prediction as JSON data; if an output is NaN, the predicted class and the probability are None."""
    label, predicted = int(predictions.labels[index]), int(predictions.classes[index])
    valid = predicted >= 0
    probability = float(predictions.probabilities[index, predicted]) if valid else None
    return {"index": index, "label": label, "answer": predicted if valid else None, "probability": probability}


def _page(name: str, predictions: Predictions, dataset: Dataset, weights: str) -> Page:
    from harness.grading import wrong_images
    from harness.grading.writers import confusion_section, environment_section, wrong_section
    from harness.reporting import Page, Section
    from harness.training import environment

    found, confusion = predictions.evaluation(), predictions.confusion()
    sections: list[Section] = [confusion_section(confusion, "Test images")]
    if wrong := wrong_images(predictions, dataset):
        sections.append(wrong_section(wrong, found.total - found.correct))
    sections.append(environment_section(environment(dataset.test_images.device)))
    figures = (("correct", percent(found.correct, found.total)), ("loss", f"{found.loss:.4f}"))
    statement = f"{weights}, {dataset.title}: {found.correct:,} of {found.total:,} test images correct"
    return Page(title=name, status=None, statement=statement, figures=figures, sections=sections)


def _csv(predictions: Predictions) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    labels, classes, probabilities = predictions.labels, predictions.classes, predictions.probabilities
    writer.writerow(("index", "label", "answer", *(f"p{digit}" for digit in range(probabilities.shape[1]))))
    rows = zip(labels.tolist(), classes.tolist(), probabilities.tolist(), strict=True)
    for index, (label, predicted, row) in enumerate(rows):
        writer.writerow((index, label, predicted if predicted >= 0 else "", *(f"{value:.6g}" for value in row)))
    return text.getvalue()


def _plot(path: Path, predictions: Predictions, dataset: Dataset, name: str) -> None:
    from harness.reporting import plot_images

    wrong = predictions.misclassified
    if not wrong:
        announce(f"no picture drawn: {name} predicts every image correctly")
        return
    shown = wrong[:_MOST_DRAWN]
    images = []
    for index in shown:
        one = _prediction(predictions, index)
        valid = one["answer"] is not None
        predicted = f"as {one['answer']}, {100 * one['probability']:.0f} %" if valid else "no prediction"
        images.append((dataset.test_images[index, 0].tolist(), f"{one['label']} {predicted}\n#{index}"))
    few = f", the first {len(shown)}" if len(shown) < len(wrong) else ""
    plot_images(path, title=f"{name}: {len(wrong):,} of {len(predictions.labels):,} misclassified{few}", images=images)
    announce(f"picture: {path}")
