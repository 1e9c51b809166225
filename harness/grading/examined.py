"""The parts of a verdict that are read off a captured model and its predictions."""

from __future__ import annotations

import base64

from harness.data import Dataset
from harness.grading.verdict import ExaminedModel, LayerRow, WrongImage
from harness.graph import CapturedModel
from harness.structure import Structure, field_of
from harness.training import Predictions

# The most wrongly predicted images that a verdict holds.
_MAX_WRONG = 24


def examined_model(captured: CapturedModel) -> ExaminedModel:
    """Return name, digest, parameters and layers of a model, with the receptive field of each map of several positions."""
    structure = Structure(captured.graph, captured.state)
    maps = structure.train_field_maps
    rows = []
    for layer in structure.layers:
        # A map of one position is no map any more.
        is_map = len(layer.shape) == 4 and layer.shape[-1] != 1  # noqa: PLR2004 - images, channels, rows, columns
        field = field_of(maps[layer.value]) if is_map and layer.value in maps else None
        rows.append(
            LayerRow(
                name=layer.module or layer.value,
                operation=f"{layer.title} {layer.detail}".strip(),
                output_shape=tuple(size for size in layer.shape[1:] if isinstance(size, int)),
                parameters=layer.parameters,
                receptive_field=field.size if field and field.certainty != "unknown" else None,
            )
        )
    return ExaminedModel(
        name=captured.name,
        graph_digest=captured.graph.exact_digest(),
        parameters=structure.parameters.total,
        layers=tuple(rows),
    )


def wrong_images(predictions: Predictions, data: Dataset) -> tuple[WrongImage, ...]:
    """Return the first wrongly predicted test images."""
    return tuple(
        WrongImage(
            index=index,
            label=int(predictions.labels[index]),
            predicted=int(predictions.classes[index]),
            width=int(data.test_images.shape[-1]),
            pixels=base64.b64encode(data.test_images[index].cpu().numpy().tobytes()).decode(),
        )
        for index in predictions.misclassified[:_MAX_WRONG]
    )
