"""Receptive fields by proof and by experiment: known figures, every kind of operation, and what a wrong proof looks like."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.graph import CapturedModel, Graph, capture
from harness.graph.form import Operation, Program, Ref, TensorSpec, ValueMeta
from harness.structure import Structure, field_of
from harness.structure.probe import confirms, probe_receptive_field
from harness.structure.receptive_field import View, seen, trace_views

Shipped = Callable[[str], CapturedModel]
Body = Callable[["Parts", Tensor], Tensor]


class Parts(nn.Module):
    """Layers to build maps from, and a global average pooling with a linear layer behind each map."""

    def __init__(self, *bodies: Body) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3)
        self.wide = nn.Conv2d(4, 4, 3, padding=1)
        self.grouped = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.point = nn.Conv2d(4, 4, 1)
        self.mix = nn.Conv2d(8, 8, 1)
        self.rare = nn.ConvTranspose2d(4, 4, 2, stride=3)
        self.norm = nn.BatchNorm2d(4, track_running_stats=False)
        self.drop = nn.Dropout(0.1)
        self.fc = nn.Linear(4, 3)
        self.bodies = bodies

    def forward(self, images: Tensor) -> Tensor:
        """Three numbers of each map, side by side."""
        return torch.cat([self.fc(body(self, images).mean((2, 3))) for body in self.bodies], 1)


def examined(*bodies: Body) -> dict[str, View]:
    """The views of a network with these bodies on 1x8x8 images, each of them held against the probe."""
    model = capture(Parts(*bodies), (1, 8, 8), name="parts", twice=False)
    views = trace_views(model.graph, model.graph.evaluate)
    probed = probe_receptive_field(model.to_module())
    assert [] == [name for name, found in probed.items() if not confirms(views[name], found)]
    return views


def of(views: dict[str, View], name: str) -> str:
    """The certainty of the value whose name starts so, the last of them."""
    return [view.certainty for key, view in views.items() if key.startswith(name)][-1]


def added_in_place(net: Parts, images: Tensor) -> Tensor:
    """A residual sum in place, activated in place."""
    value: Tensor = net.first(images)
    value += net.wide(value)
    functional.relu_(value)
    result: Tensor = net.point(value)
    return result


def added_to_an_alias(net: Parts, images: Tensor) -> Tensor:
    """A sum into some rows of the map changes the map."""
    value = net.first(images)
    part = value[:, :, 2:4]
    part.add_(net.wide(value)[:, :, 2:4])
    result: Tensor = net.point(value)
    return result


def halves_of_a_pair(net: Parts, images: Tensor) -> Tensor:
    """Two maps side by side, and the channels of one of them taken out again."""
    value = net.first(images)
    return torch.cat([value, net.wide(value)], 1)[:, :4]


EXACT: dict[str, Body] = {
    "in place": added_in_place,
    "larger of two": lambda net, x: torch.max(net.first(x), net.wide(net.first(x))),
    "larger of the columns": lambda net, x: net.first(x).max(3, keepdim=True)[0],
    "gate": lambda net, x: net.first(x) * net.point(net.first(x).mean((2, 3), keepdim=True)),
    "gate expanded": lambda net, x: net.first(x) * net.first(x).mean((2, 3)).view(-1, 4, 1, 1).expand_as(net.first(x)),
    "batch statistics": lambda net, x: net.norm(net.first(x)),
    "gaps of a transposed convolution": lambda net, x: net.rare(net.first(x))[:, :, :6, :6] + net.first(x),
    "softmax over the map": lambda net, x: functional.softmax(net.first(x).flatten(2), -1).view(-1, 4, 6, 6),
    "grouped after concatenation": lambda net, x: net.grouped(
        torch.cat([net.first(x)[:, :2], net.wide(net.first(x))[:, 2:]], 1)
    ),
    "mixed by a convolution": lambda net, x: net.mix(torch.cat([net.first(x), net.wide(net.first(x))], 1))[:, :4],
    "stacked": lambda net, x: torch.stack([net.first(x), net.wide(net.first(x))], 1).amax(1),
    "added to a product": lambda net, x: torch.addmm(net.fc.bias, net.first(x).mean((2, 3)), net.fc.weight.t())[
        :, :1, None, None
    ].expand(-1, 4, 1, 1),
    "same size": lambda net, x: functional.interpolate(net.first(x), size=(6, 6), mode="bilinear"),
    "as an image": lambda net, x: net.first(x.view(-1, 1, 8, 8)),
    "shuffled": lambda net, x: functional.pixel_unshuffle(net.first(x)[:, :1], 2),
    "flipped": lambda net, x: net.wide(net.first(x).flip(3)),
    "joined along the rows": lambda net, x: torch.cat([net.first(x)[:, :, :2], net.first(x)[:, :, 3:]], 2),
    "unbound": lambda net, x: net.first(x).unbind(2)[2].unsqueeze(2),
}


@pytest.mark.smoke
def test_views_are_exact() -> None:
    """What each value sees is known exactly and confirmed position by position, whatever operations it went through."""
    views = examined(*EXACT.values())
    assert {} == {name: view.note for name, view in views.items() if view.certainty != "exact"}
    assert sum(name.startswith("linear") for name in views) == len(EXACT)


BOUNDED: dict[str, tuple[Body, str]] = {
    "some channels of two maps": (halves_of_a_pair, "bound"),
    "some channels of an unshuffled map": (
        lambda net, x: net.point(functional.pixel_unshuffle(net.first(x)[:, :2], 2)[:, ::2]),
        "bound",
    ),
    "a map and itself turned": (lambda net, x: net.first(x) + net.first(x).transpose(2, 3), "unknown"),
    "changed through a part": (added_to_an_alias, "unknown"),
    "a product of the images": (
        lambda net, x: torch.matmul(net.first(x), net.first(x)),
        "unknown",
    ),
}


@pytest.mark.parametrize("name", BOUNDED)
def test_what_cannot_be_exact_says_so(name: str) -> None:
    """Where a rule would say too little or too much, the value is a bound or unknown, and never smaller than the probe."""
    body, certainty = BOUNDED[name]
    views = examined(body)
    assert certainty == of(views, "linear")
    assert all(view.note for view in views.values() if view.certainty != "exact")


def test_the_study_s_table(shipped: Shipped) -> None:
    """`rf_study_1` gives the figures of its document's table, the pooling's corrected."""
    graph = shipped("rf_study_1").graph
    views = trace_views(graph, graph.evaluate)
    sizes = [
        field_of(views[operation.name]).size
        for operation in graph.evaluate.operations
        if operation.op.split(".")[1] in ("conv2d", "max_pool2d")
    ]
    assert [3, 5, 7, 8, 8, 12, 16, 16, 28] == sizes


def test_before_and_with_the_head(shipped: Shipped) -> None:
    """`cloud_1` sees 22 pixels before the pooling of its head and 32, beyond the image, with it."""
    structure = Structure(shipped("cloud_1").graph)
    before, after = structure.field_before_head[1], structure.field_with_head
    assert (22, 22, "exact") == (before.size, before.clipped, before.certainty)
    assert (32, 28, "exact") == (after.size, after.clipped, after.certainty)
    assert Fraction(2) == before.rows.jump


@pytest.mark.parametrize("name", ["reference", "cloud_3"])
def test_the_probe_agrees(name: str, shipped: Shipped) -> None:
    """Every value of a shipped model is exact and confirmed, resized skip connections and gates included."""
    model = shipped(name)
    views = trace_views(model.graph, model.graph.evaluate)
    probed = probe_receptive_field(model.to_module())
    assert views.keys() - probed.keys() <= {model.graph.input_name}
    assert {"exact"} == {view.certainty for view in views.values()}
    assert all(confirms(views[name], found) for name, found in probed.items())


def convolution_graph(**changes: object) -> Graph:
    """A 3x2 convolution with stride 2x1 and padding 1x0 on a 1x5x4 image."""
    settings = {"stride": (2, 1), "padding": (1, 0), "kernel": (3, 2), "shape": ("B", 1, 3, 3), **changes}
    operation = Operation(
        name="y",
        op="aten.conv2d.default",
        args=(Ref("x"), Ref("w"), None, settings["stride"], settings["padding"]),  # type: ignore[arg-type]  # as written above
        outputs=(ValueMeta(shape=settings["shape"], dtype="float32"),),  # type: ignore[arg-type]
    )
    program = Program(operations=(operation,), output="y")
    weight = TensorSpec(name="w", kind="parameter", shape=(1, 1, *settings["kernel"]), dtype="float32")  # type: ignore[misc]
    return Graph(
        input_shape=(1, 5, 4),
        input_name="x",
        tensors=(weight,),
        modules=(),
        train=program,
        evaluate=program,
        torch_version="",
    )


def test_the_figures_of_one_convolution() -> None:
    """Size, jump, start and intervals an axis, beyond the image and inside it."""
    graph = convolution_graph()
    field = field_of(trace_views(graph, graph.evaluate)["y"])
    rows, columns = field.rows, field.columns
    assert (3, 3, Fraction(2), -1) == (rows.size, rows.clipped, rows.jump, rows.start)
    assert ((-1, 1), (1, 3), (3, 5)) == rows.intervals
    assert (2, 2, Fraction(1), 0) == (columns.size, columns.clipped, columns.jump, columns.start)
    assert ((0, 1), (1, 2), (2, 3)) == columns.intervals
    assert (2, 2, "exact", "") == (field.size, field.clipped, field.certainty, field.note)


def test_a_hostile_size_is_not_followed() -> None:
    """A window of millions of pixels is no reason to count them."""
    graph = convolution_graph(kernel=(10**7, 1), shape=("B", 1, 10**7, 1))
    view = trace_views(graph, graph.evaluate)["y"]
    assert "unknown" == view.certainty
    assert "10,000,000 positions is more than" in view.note


def test_a_graph_without_images_has_no_field() -> None:
    """Proof and experiment refuse an input that is no image."""
    graph = replace(convolution_graph(), input_shape=(5,))
    with pytest.raises(ValueError, match=r"expected an image input .* found shape \[5\]"):
        trace_views(graph, graph.evaluate)
    flat = capture(nn.Linear(5, 2), (5,), name="flat")
    with pytest.raises(ValueError, match=r"expected an image input .* found input_shape=\[5\]"):
        probe_receptive_field(flat.to_module())


def test_a_wrong_proof_is_noticed(shipped: Shipped) -> None:
    """One pixel too few or too many at one position is a disagreement; too many are none for a bound."""
    model = shipped("reference")
    name = next(
        operation.name for operation in model.graph.evaluate.operations if operation.op == "aten.conv2d.default"
    )
    view = trace_views(model.graph, model.graph.evaluate)[name]
    probed = probe_receptive_field(model.to_module(), [name])
    assert [name] == list(probed)
    found = probed[name]
    assert np.array_equal(seen(view), found)
    fewer, more = found.copy(), found.copy()
    fewer[2, 2, 2, 2] = not fewer[2, 2, 2, 2]
    more[2, 2, 20, 20] = True
    bound = replace(view, certainty="bound")
    assert [True, False, False] == [confirms(view, mask) for mask in (found, fewer, more)]
    assert [True, True, False] == [confirms(bound, mask) for mask in (found, fewer, more)]
    assert not confirms(view, found[:1])


def test_the_probe_takes_no_part() -> None:
    """The probe answers for neither a comparison nor what is behind it, and leaves module, mode and settings alone."""
    model = capture(Parts(lambda net, x: net.first(x) * (net.first(x) > 0)), (1, 8, 8), name="parts")
    module = model.to_module().train()
    state = torch.get_rng_state()
    enabled = torch.backends.mkldnn.enabled
    probed = probe_receptive_field(module)
    assert probed
    assert all(name.startswith("conv2d") for name in probed)
    assert module.training
    assert enabled == torch.backends.mkldnn.enabled
    assert torch.equal(state, torch.get_rng_state())
    assert not any(parameter.isnan().any() for parameter in module.parameters())
