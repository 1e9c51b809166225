"""`harness show`: shows the layers of a model, the receptive field, and the model card."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import mnist_models
from harness.cli.console import Output, announce
from harness.cli.inputs import model_for
from harness.cli.options import model_argument, plot_option, report_options, sandbox_option

if TYPE_CHECKING:
    from harness.graph import CapturedModel
    from harness.sandbox import SandboxRequirement
    from harness.structure import FieldRow, Structure
    from mnist_models import ModelCard


@click.command()
@model_argument
@click.option("--receptive-field", is_flag=True, help="Print only the receptive-field table, in Markdown.")
@plot_option("the feature maps of a digit and their receptive fields")
@sandbox_option("none")
@report_options
def show(
    model: str, arguments: str, plot: Path | None, sandbox: SandboxRequirement, output: Output, *, receptive_field: bool
) -> None:
    """Show the layers of a model and, for a shipped model, the model card.

    The table lists the operations of a forward pass in training mode, in the order in which they run. The column
    "field" is the size of the receptive field in pixels.
    """
    from harness.reporting import facts_table, markdown_table, plain_table
    from harness.structure import Structure, field_table

    loaded = model_for(model, arguments=arguments, sandbox=sandbox)
    captured = loaded.model
    structure = Structure(captured.graph, captured.state)
    card = mnist_models.model_card(model) if model in mnist_models.list_models() else None
    layers = list(_layers(structure))
    field_rows = [_field_cells(row) for row in field_table(structure.graph, structure.field_maps)]
    if plot is not None:
        _plot(plot, captured, structure)
        announce(f"picture: {plot}")
    if receptive_field:
        output.print_unwrapped(markdown_table(_TITLES, field_rows))
    else:
        headers = ("layer", "module", "output", "parameters", "field")
        output.print(plain_table(headers, map(_row, layers), right=(3, 4)), "", facts_table(_facts(structure)))
        if card is not None:
            output.print("", facts_table(_card_facts(card)))
    count, head = structure.parameters, structure.head
    content: dict[str, Any] = {
        "model": captured.name,
        "sandbox": [dataclasses.asdict(one) for one in loaded.layers],
        "graph": captured.graph.exact_digest(),
        "layers": layers,
        "parameters": count.total,
        "trainable": count.trainable,
        "unreached_parameters": [spec.name for spec in count.unreached],
        "hidden_state": [{"name": spec.name, "elements": spec.elements} for spec in count.hidden],
        "never_called": [{"path": module.path, "type": module.type} for module in structure.never_called],
        "output": {"kind": head.kind, "shape": list(head.shape), "after_last_weights": head.after},
        "receptive_field": {
            "before_head": structure.field_before_head[1].size,
            "including_head": structure.field_with_head.size,
            "certainty": structure.field_with_head.certainty,
            "table": [dict(zip(_TITLES, row, strict=True)) for row in field_rows],
        },
        "cost": {figure: sum(layer[figure] for layer in layers) for figure in ("macs", "activation_bytes")},
    }
    output.write("show", content)


def _layers(structure: Structure) -> Iterator[dict[str, Any]]:
    from harness.structure import field_of

    for layer in structure.layers:
        field_map = structure.train_field_maps.get(layer.value)
        yield {
            "layer": layer.title,
            "detail": layer.detail,
            "module": layer.module,
            "shape": list(layer.shape),
            "parameters": layer.parameters,
            "macs": layer.macs,
            "activation_bytes": layer.activation_bytes,
            "field": field_of(field_map).size if field_map is not None else None,
        }


# The columns of the receptive-field table.
_TITLES = ("layer", "kernel", "stride", "padding", "in", "out", "jump in", "jump out", "field", "in image", "certainty")


def _field_cells(row: FieldRow) -> tuple[str, ...]:
    return (
        f"{row.title} {row.module}".strip(),
        *(row.kernel, row.stride, row.padding, row.positions_in, row.positions_out),
        *("-" if jump is None else str(jump) for jump in (row.jump_in, row.jump_out)),
        *(row.size, row.clipped, row.certainty),
    )


def _plot(path: Path, captured: CapturedModel, structure: Structure) -> None:
    """Plot the feature map of each row of the receptive-field table, for an embedded digit."""
    import torch

    from harness.data import load_dataset
    from harness.reporting import MapPicture, plot_maps
    from harness.structure import field_table

    if captured.graph.input_shape != (1, 28, 28):
        raise click.UsageError(
            f"expected a model for images of shape (1, 28, 28) with --plot, which draws a digit, got {captured.graph.input_shape}"
        )
    dataset = load_dataset("digits")
    three = int((dataset.test_labels == 3).nonzero()[0])  # noqa: PLR2004 - a digit with strokes in the middle
    image = dataset.normalise(dataset.test_images[three : three + 1])
    with torch.no_grad():
        values = captured.to_module().eval().trace(image)
    maps = []
    for row in field_table(structure.graph, structure.field_maps):
        value = values[row.value]
        if value.ndim != 4:  # noqa: PLR2004 - (batch, channels, rows, columns)
            continue
        rows, columns = row.field.rows, row.field.columns
        maps.append(
            MapPicture(
                title=row.title,
                size="x".join(str(dim) for dim in value.shape[1:]),
                field=f"{row.size}" if row.certainty == "exact" else f"{row.size} ({row.certainty})",
                rows=rows.intervals[rows.positions // 2],
                columns=columns.intervals[columns.positions // 2],
                activation=value[0].mean(0).tolist(),
            )
        )
    plot_maps(
        path, title=f"{captured.name}: receptive field of the middle of each map", image=image[0, 0].tolist(), maps=maps
    )


def _row(layer: dict[str, Any]) -> tuple[str, ...]:
    title = f"{layer['layer']} {layer['detail']}".strip()
    shape = "x".join(map(str, layer["shape"][1:]))
    field = "-" if layer["field"] is None else str(layer["field"])
    return title, layer["module"], shape, f"{layer['parameters']:,}", field


def _facts(structure: Structure) -> Iterator[tuple[str, str]]:
    macs = sum(layer.macs for layer in structure.layers)
    memory = sum(layer.activation_bytes for layer in structure.layers)
    yield "cost", f"{macs:,} multiply-accumulates and {memory:,} bytes of activations per image"
    count = structure.parameters
    yield "parameters", f"{count.total:,}, of which {count.trainable:,} are trainable"
    if count.unreached:
        names = ", ".join(spec.name for spec in count.unreached)
        yield "unused", f"{count.unreached_elements:,} of these parameters: {names}"
    if count.hidden:
        yield "hidden state", ", ".join(f"{spec.name} ({spec.elements:,})" for spec in count.hidden)
    for module in structure.never_called:
        yield "never called", f"{module.path} ({module.type})"
    head = structure.head
    yield "output", f"{head.kind}, {'x'.join(str(dim) for dim in head.shape)}"
    if head.after:
        yield "after the last weights", f"{', '.join(head.after)} between {head.last_weighted} and the output"
    (value, before), whole = structure.field_before_head, structure.field_with_head
    field = f"{before.size} before the head's pooling (at {value}), {whole.size} with it; {whole.certainty}"
    yield "receptive field", field
    if (pool := structure.head_pool) is not None:
        yield "global average pooling", f"over the whole {pool.map_size[0]}x{pool.map_size[1]} map, at {pool.value}"
    for site in structure.fully_connected:
        yield "fully connected", f"{site.module}: {site.kind} ({site.detail})"


def _card_facts(card: ModelCard) -> Iterator[tuple[str, str]]:
    yield "card", " ".join(card.description.split())
    for source in card.sources:
        lines = "-".join(map(str, source.lines))
        yield "source", f"{source.repository}, {source.section} (document {source.document}, lines {lines})"
    if card.claim:
        yield "claimed", f"{card.claim.test_percent} % on the test images"
    if card.log:
        epochs = card.log.epochs
        best = max(epochs, key=lambda epoch: epoch.correct)
        figures = f"best {best.correct:,} of {best.total:,} (epoch {best.epoch}), last {epochs[-1].correct:,}"
        yield "logged", f"{len(epochs)} epochs, {figures}"
    reason = " ".join(card.expected.reason.split())
    yield "expected", f"{card.expected.outcome} the accuracy rule of {card.contract}: {reason}"
    for found in card.discrepancies:
        yield "discrepancy", f"{found.kind}, lines {'-'.join(map(str, found.lines))}: {' '.join(found.what.split())}"
