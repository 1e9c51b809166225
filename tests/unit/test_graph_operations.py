"""What is known of each operation, against torch's own declarations, and what follows where two tables once disagreed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.graph import capture
from harness.graph.operations import ATEN_FAMILIES, base_name, kind_of
from harness.graph.rebuild import SCALAR_OPERATIONS
from harness.structure import Structure

NAMES = sorted(ATEN_FAMILIES)


def schema(overload: torch._ops.OpOverload) -> torch.FunctionSchema:
    """Torch's declaration of an operation."""
    return overload._schema  # noqa: SLF001 - torch has no public way to read it


def overloads(name: str) -> Iterator[torch._ops.OpOverload]:
    """Torch's overloads of an operation, those with an ``out=`` argument left out."""
    packet = getattr(torch.ops.aten, name)
    for overload in packet.overloads():
        function = getattr(packet, overload)
        if not any(argument.is_out for argument in schema(function).arguments):
            yield function


def test_the_functions_on_sizes_are_in_the_table() -> None:
    """Each scalar operation that a rebuilt module can run has a family."""
    assert [] == [op for op in SCALAR_OPERATIONS if kind_of(op).family == "unknown"]


@pytest.mark.parametrize(
    "op", ["aten.from_file.default", "aten.relu", "aten.relu.default.more", "prims.relu.default", ""]
)
def test_other_operations_are_unknown(op: str) -> None:
    """What is not in the table, or is not named like an operation, has no family."""
    assert "unknown" == kind_of(op).family


def test_names_are_made_one() -> None:
    """Library, overload, the underscore of an in-place form and synonyms do not matter to the name."""
    assert ["relu", "softmax", "max_pool2d", "div", "getitem", "sin"] == [
        kind_of(op).name
        for op in (
            "aten.relu_.default",
            "aten._softmax.default",
            "aten.max_pool2d_with_indices.default",
            "aten.true_divide.Tensor",
            "operator.getitem",
            "sin",
        )
    ]
    assert "relu_" == base_name("aten.relu_.default")


def test_in_place_forms_agree_with_their_functional_forms() -> None:
    """An in-place form has the family and the facts of the functional one, and says that it works in place."""
    pairs = [(name, name.removesuffix("_")) for name in NAMES if name.endswith("_") and name != "zero_"]
    for in_place, functional_form in pairs:
        kind, other = kind_of(f"aten.{in_place}.default"), kind_of(f"aten.{functional_form}.default")
        assert (other.name, other.family, other.draws, other.elementwise) == (
            kind.name,
            kind.family,
            kind.draws,
            kind.elementwise,
        )
        assert (True, False) == (kind.in_place, other.in_place)


@pytest.mark.parametrize("synonym", ["_softmax", "_log_softmax", "concatenate", "constant_pad_nd", "multiply"])
def test_synonyms_have_one_family(synonym: str) -> None:
    """Two names of one computation have one family."""
    kind = kind_of(f"aten.{synonym}.default")

    assert kind_of(f"aten.{kind.name}.default").family == kind.family


def test_in_place_is_what_torch_calls_mutable() -> None:
    """An operation works in place just where torch's schema says that it writes into an argument."""
    assert [] == [
        str(overload)
        for name in NAMES
        for overload in overloads(name)
        if schema(overload).is_mutable != kind_of(str(overload)).in_place
    ]


def test_draws_is_what_torch_calls_seeded() -> None:
    """An operation draws random numbers just where torch tags one of its overloads so."""
    seeded = [name for name in NAMES if any(torch.Tag.nondeterministic_seeded in o.tags for o in overloads(name))]

    assert seeded == [name for name in NAMES if kind_of(f"aten.{name}.default").draws]


def test_elementwise_covers_what_torch_calls_pointwise() -> None:
    """What torch tags as pointwise is elementwise; the maximum and minimum of two tensors share a reduction's name."""
    pointwise = [name for name in NAMES if any(torch.Tag.pointwise in o.tags for o in overloads(name))]

    assert ["max", "min"] == [name for name in pointwise if not kind_of(f"aten.{name}.default").elementwise]


def test_views_share_memory() -> None:
    """Where torch's schema says that a result aliases an argument, the table knows that memory is shared."""
    views = {
        name
        for name in NAMES
        for overload in overloads(name)
        if any(a.alias_info is not None and isinstance(a.type, torch.TensorType) for a in schema(overload).arguments)
    }

    assert [] == [name for name in sorted(views) if not kind_of(f"aten.{name}.default").shares_memory]


@pytest.mark.parametrize("name", [name for name in NAMES if kind_of(f"aten.{name}.x").family == "dropout"])
def test_every_dropout_that_is_off_returns_its_argument(name: str) -> None:
    """Torch returns the argument itself, for all of them: one of two tables had forgotten the alpha dropouts."""
    values = torch.ones(2, 3, 4)
    result = getattr(torch.ops.aten, name)(values, 0.5, False)  # noqa: FBT003 - torch's signature

    assert values.data_ptr() == result.data_ptr()
    assert kind_of(f"aten.{name}.default").shares_memory


class Head(nn.Module):
    """A convolution, its map made one number a channel by a step that each network spells otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 10, 3)

    def forward(self, images: Tensor) -> Tensor:
        """Scores."""
        maps: Tensor = self.conv(images)
        return self.pooled(maps)

    def pooled(self, maps: Tensor) -> Tensor:
        """A global average."""
        return maps.mean((2, 3))


class SumViewedAs(Head):
    """A view like another value, between the sum and the division."""

    def pooled(self, maps: Tensor) -> Tensor:
        return maps.sum((2, 3)).view_as(maps[:, :, 0, 0]) / 26**2


class SumUnflattened(Head):
    """A dimension split in two, between the sum and the division."""

    def pooled(self, maps: Tensor) -> Tensor:
        split = torch.unflatten(maps.sum((2, 3)), 1, (10, 1))
        return (split / 26**2).flatten(1)


class SumSqueezedInPlace(Head):
    """A dimension dropped in place, between the sum and the division."""

    def pooled(self, maps: Tensor) -> Tensor:
        return maps.sum((2, 3), keepdim=True).squeeze_(3).squeeze_(2) / 26**2


@pytest.mark.parametrize("build", [SumViewedAs, SumUnflattened, SumSqueezedInPlace])
def test_every_reshape_may_stand_inside_a_global_average(build: type[Head]) -> None:
    """Of two unequal tables of reshapes the one without these three missed a global average."""
    structure = Structure(capture(build(), name="net", twice=False).graph)

    assert [True] == [pool.feeds_head for pool in structure.global_pools]


class ViewedLogSoftmax(Head):
    """A view like another value after the log-softmax."""

    def pooled(self, maps: Tensor) -> Tensor:
        pooled = maps.mean((2, 3))
        return functional.log_softmax(pooled, 1).view_as(pooled)


class NormalisedScores(Head):
    """A normalisation by the root mean square after the last layer with weights."""

    def pooled(self, maps: Tensor) -> Tensor:
        return functional.rms_norm(maps.mean((2, 3)), (10,))


def test_the_head_is_read_through_every_reshape_and_normalisation() -> None:
    """A view leaves log-probabilities what they are; `rms_norm` changes scores as the other normalisations do."""
    viewed, normalised = (
        Structure(capture(build(), name="net", twice=False).graph).head
        for build in (ViewedLogSoftmax, NormalisedScores)
    )

    assert "log-probabilities" == viewed.kind
    assert ("rms_norm",) == normalised.after
