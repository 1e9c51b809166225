"""`harness evaluate`: a network with given weights, on the test images."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.console import announce, results, write_json
from harness.cli.options import data_option, dataset_for, debug_option, json_option, model_argument

if TYPE_CHECKING:
    from harness.data import Dataset
    from harness.training import Predictions

_MOST_SHOWN = 100


@click.command()
@model_argument
@click.option(
    "--weights",
    required=True,
    metavar="FILE",
    help="safetensors, as train writes them, or a state_dict by torch.save (.pt, .pth), read as plain tensors.",
)
@click.option("--answers", "answers_path", metavar="FILE", help="Write the answer to each image as CSV.")
@click.option("--plot", metavar="FILE", help="Draw the images answered wrong, as .png or .svg (needs matplotlib).")
@click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda|mps", help="Where to compute.")
@data_option
@json_option
@debug_option
def evaluate(
    model: str,
    arguments: str,
    weights: str,
    answers_path: str | None,
    plot: str | None,
    device: str,
    data: str,
    json_path: str | None,
) -> None:
    """Test a model with given weights.

    Right answers in all and of each class, which classes are taken for which, and the images answered wrong.
    """
    from harness.files import write_whole
    from harness.reporting import document, plain_table
    from harness.sources import load_model
    from harness.training import load_weights, predict, resolve_device, state_digest

    chosen = resolve_device(device)
    captured = load_model(model, arguments=arguments, announce=announce)
    module = captured.to_module()
    load_weights(module, Path(weights))
    dataset = dataset_for(data)
    predictions = predict(module.to(chosen), dataset.to(chosen))
    found, confusion = predictions.evaluation(), predictions.confusion()
    if json_path != "-":
        console = results()
        console.print(
            f"{captured.name}, weights {weights}, {dataset.title}: {found.correct:,} of {found.total:,} right "
            f"({100 * found.correct / found.total:.2f} %), loss {found.loss:.4f}"
        )
        headers = ("class", "images", "right", "%", *(f"as {column}" for column in range(len(confusion))))
        rows = [_row(label, counts, predictions) for label, counts in enumerate(confusion)]
        console.print(plain_table(headers, rows, right=range(len(headers))))
    if answers_path is not None:
        write_whole(Path(answers_path), _csv(predictions).encode())
        announce(f"answers: {answers_path}")
    if plot is not None:
        _plot(Path(plot), predictions, dataset, captured.name)
    content = {
        "model": captured.name,
        "weights": weights,
        "state_digest": state_digest(module.state_dict()),
        "data": {"name": dataset.name, "title": dataset.title, "digest": dataset.digest},
        "loss": found.loss if math.isfinite(found.loss) else None,
        "correct": found.correct,
        "total": found.total,
        "confusion": confusion,
        "wrong": [_one(predictions, index) for index in predictions.misclassified],
    }
    write_json(json_path, document("evaluate", content))


def _row(label: int, counts: list[int], predictions: Predictions) -> tuple[str, ...]:
    images = int((predictions.labels == label).sum())
    share = f"{100 * counts[label] / images:.2f}" if images else "-"
    return str(label), str(images), str(counts[label]), share, *(str(count) if count else "·" for count in counts)


def _one(predictions: Predictions, index: int) -> dict[str, Any]:
    """One answer; a NaN is no class and has no probability."""
    label, given = int(predictions.labels[index]), int(predictions.classes[index])
    answered = given >= 0
    return {
        "index": index,
        "label": label,
        "answer": given if answered else None,
        "probability": float(predictions.probabilities[index, given]) if answered else None,
    }


def _csv(predictions: Predictions) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("index", "label", "answer", *(f"p{digit}" for digit in range(predictions.probabilities.shape[1]))))
    for index, (label, given, row) in enumerate(
        zip(predictions.labels.tolist(), predictions.classes.tolist(), predictions.probabilities.tolist(), strict=True)
    ):
        writer.writerow((index, label, given if given >= 0 else "", *(f"{value:.6g}" for value in row)))
    return text.getvalue()


def _plot(path: Path, predictions: Predictions, dataset: Dataset, name: str) -> None:
    from harness.reporting import plot_images

    wrong = predictions.misclassified
    if not wrong:
        announce(f"no picture: {name} answers every image right")
        return
    shown = wrong[:_MOST_SHOWN]
    images = []
    for index in shown:
        one = _one(predictions, index)
        given = "no answer" if one["answer"] is None else f"as {one['answer']}, {100 * one['probability']:.0f} %"
        images.append((dataset.test_images[index, 0].tolist(), f"{one['label']} {given}\n#{index}"))
    few = f", the first {len(shown)}" if len(shown) < len(wrong) else ""
    plot_images(path, title=f"{name}: {len(wrong):,} of {len(predictions.labels):,} wrong{few}", images=images)
    announce(f"picture: {path}")
