"""Networks for the tests of the receptive field: maps made in any way, and each of their fields compared with the probe."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from harness.graph import capture
from harness.structure.field_trace import trace_fields
from harness.structure.fields import FieldMap
from harness.structure.probe import confirms, probe_receptive_field

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


def examined(*bodies: Body) -> dict[str, FieldMap]:
    """The field maps of a network with these bodies on 1x8x8 images, each of them compared with the probe."""
    model = capture(Parts(*bodies), (1, 8, 8), name="parts", twice=False)
    field_maps = trace_fields(model.graph, model.graph.evaluate)
    probed = probe_receptive_field(model.to_module())
    assert [] == [name for name, found in probed.items() if not confirms(field_maps[name], found)]
    return field_maps


def require_exact(bodies: Mapping[str, Body]) -> None:
    """Assert that every value of a network with these bodies has an exact field, and that each body reached the output."""
    field_maps = examined(*bodies.values())

    assert {} == {name: field_map.note for name, field_map in field_maps.items() if field_map.certainty != "exact"}
    assert sum(name.startswith("linear") for name in field_maps) == len(bodies)


def require_certainty(body: Body, certainty: str) -> None:
    """Assert that the field behind a body has this certainty, and that every value that is not exact says why."""
    field_maps = examined(body)

    assert certainty == [found.certainty for key, found in field_maps.items() if key.startswith("linear")][-1]
    assert all(field_map.note for field_map in field_maps.values() if field_map.certainty != "exact")
