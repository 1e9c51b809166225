"""Sections of pages about an examined model, its trainings, the sandbox and the environment."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Iterator, Sequence

from harness.grading.verdict import ExaminedModel, GradedTraining, WrongImage
from harness.reporting import Confusion, Curve, Curves, Facts, Image, Images, Layer, Layers, Section
from harness.sandbox import LayerState
from harness.training import Environment


def environment_section(environment: Environment, **facts: str) -> Facts:
    """Return the software and hardware of the examiner, after other facts."""
    known = {
        name.replace("_", " "): str(value)
        for name, value in dataclasses.asdict(environment).items()
        if value is not None
    }
    return Facts(title="Examined with", facts=tuple({**facts, **known}.items()))


def sandbox_section(layers: Sequence[LayerState]) -> Facts:
    """Return the layers that confined the submission."""
    states = ((one.layer.value, f"{'held' if one.holds else 'did not hold'}: {one.detail}") for one in layers)
    return Facts(title="Sandbox", facts=tuple(states))


def layers_section(model: ExaminedModel, *, image_size: int = 28) -> Layers:
    """Return the layers beside their receptive fields on an image of ``image_size`` pixels a side."""
    return Layers(
        title=f"Model {model.name}: {model.parameters:,} parameters",
        image_size=image_size,
        layers=tuple(
            Layer(
                name=row.name,
                operation=row.operation,
                output="x".join(map(str, row.output_shape)),
                parameters=row.parameters,
                field=row.receptive_field,
            )
            for row in model.layers
        ),
    )


def training_sections(training: GradedTraining) -> Iterator[Section]:
    """Yield the accuracies by epoch, the confusion matrix if there is one, and the wrongly predicted images, if any."""

    def shares(correct: Sequence[int], total: int) -> tuple[float, ...]:
        return tuple(100 * one / total for one in correct)

    counted = "the best epoch"
    if training.counted_epochs is not None:
        counted = f"each of the last {training.counted_epochs} epochs (shaded)"
    # By number, not by seed: seeds may come from the instructor's secret salt.
    curves = [
        Curve(name=f"test, run {number}", accuracies=shares(run.test_correct, training.test_total))
        for number, run in enumerate(training.runs, start=1)
    ]
    curves += [
        Curve(name="training, run 1", accuracies=shares(run.train_correct, training.train_total), is_training=True)
        for run in training.runs[:1]
    ]
    yield Curves(
        title=f"Accuracy by epoch on {training.data_title}",
        caption=f"Recipe {training.recipe}. Required: {training.required:,} of {training.test_total:,} test images in {counted}. "
        "The scale is logarithmic in the error.",
        curves=tuple(curves),
        required=100 * training.required / training.test_total,
        counted=training.counted_epochs,
    )
    if training.confusion:
        yield confusion_section(training.confusion, "Test images after the last epoch of the first run")
    if training.wrong:
        correct = sum(row[label] for label, row in enumerate(training.confusion))
        yield wrong_section(training.wrong, training.test_total - correct)


def confusion_section(counts: Sequence[Sequence[int]], images: str) -> Confusion:
    """Return the confusion matrix of these images."""
    caption = f"{images}: a row for each label, a column for each prediction."
    return Confusion(title="Confusion matrix", caption=caption, counts=tuple(map(tuple, counts)))


def wrong_section(wrong: Sequence[WrongImage], count: int) -> Images:
    """Return the first of ``count`` wrongly predicted images."""
    return Images(
        title="Wrong predictions",
        caption=f"{count:,} wrongly predicted test images"
        + (f"; the first {len(wrong)}" if len(wrong) < count else ""),
        images=tuple(
            Image(
                pixels=base64.b64decode(one.pixels),
                width=one.width,
                caption=f"{one.label} as {one.predicted if one.predicted >= 0 else 'nothing'}, image {one.index}",
            )
            for one in wrong
        ),
    )
