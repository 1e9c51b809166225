"""The receptive fields of the values of a program that are traced so far, and functions to combine several of the fields."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from harness.graph.form import Dim, Graph, Operation, Program, Ref, Shape
from harness.structure.fields import AXES, Axes, AxisField, FieldMap, FieldPath, least_certain

# Larger maps and windows are not traced: a graph from an untrusted file may declare any size.
_MAX_POSITIONS = 1_024
_MAP_DIMS = 4


class UnknownReadsError(Exception):
    """The input pixels on which the result of an operation depends are unknown; the message is the reason."""


class TracedValues:
    """Field maps and shapes of the values of a program, up to the current operation.

    Attributes:
        evaluates: whether the program is the evaluation program.
        maps: the field map of each value, by name; values that do not depend on the image are absent.
        parts: for each operation with several results, by name, the field maps of the results.
        shapes: the shape of each value, by name.
    """

    def __init__(self, graph: Graph, program: Program) -> None:
        self.evaluates = program is graph.evaluate
        _, height, width = graph.input_shape
        image = FieldPath(rows=AxisField.identity(height), columns=AxisField.identity(width))
        self.maps = {graph.input_name: FieldMap(axes=(("N",), ("C",), ("H",), ("W",)), paths=(image,))}
        self.parts: dict[str, list[FieldMap]] = {}
        self.shapes: dict[str, Shape] = {spec.name: spec.shape for spec in graph.tensors}
        self.shapes[graph.input_name] = ("B", *graph.input_shape)

    def map_of(self, argument: object) -> FieldMap:
        """The field map of an operation's argument.

        Raises:
            UnknownReadsError: the argument does not depend on the image.
        """
        if isinstance(argument, Ref) and argument.name in self.maps:
            return self.maps[argument.name]
        reason = "an argument that usually holds weights depends on the images"
        raise UnknownReadsError(reason)

    def shape_of(self, argument: object) -> Shape:
        """The shape of an operation's argument; empty if the argument is not a value."""
        return self.shapes[argument.name] if isinstance(argument, Ref) else ()

    def everything(self, shape: Shape, refs: Sequence[str], note: str) -> FieldMap:
        """The largest possible receptive field, for an operation that cannot be traced.

        Every position of the result, of shape ``shape``, depends on all pixels that any position of the operands ``refs``
        depends on; ``note`` is the reason.
        """
        whole = [self.maps[ref].map_axis("H", AxisField.whole).map_axis("W", AxisField.whole) for ref in refs]
        axes: tuple[Axes, ...] = tuple(("C",) for _ in shape)
        paths = tuple(path for field_map in whole for path in field_map.paths)
        if len(shape) == _MAP_DIMS and all(isinstance(dim, int) and dim <= _MAX_POSITIONS for dim in shape[2:]):
            axes = (("N",), ("C",), ("H",), ("W",))
            paths = _broadcast_paths(paths, *(followed(dim) for dim in shape[2:]))
        return FieldMap(axes=axes, paths=paths, certainty="unknown", note=note, mixed=True)

    def elementwise(self, refs: Iterable[str], shape: Shape) -> FieldMap:
        """The field map of a result of shape ``shape`` that combines the values ``refs`` elementwise, with broadcasting.

        Raises:
            UnknownReadsError: the values have different numbers of positions, or dimensions for different image axes.
        """
        names = list(dict.fromkeys(refs))
        maps = [self.maps[name] for name in names]
        axes = _broadcast_axes([(self.maps[name], self.shapes[name]) for name in names], len(shape))
        rows, columns = (max(field_map.positions(axis) for field_map in maps) for axis in AXES)
        sizes = zip(AXES, (rows, columns), strict=True)
        if any(field_map.positions(axis) not in (1, size) for axis, size in sizes for field_map in maps):
            reason = "the operands have different numbers of rows or columns"
            raise UnknownReadsError(reason)
        worst = least_certain(maps)
        return FieldMap(
            axes=axes,
            paths=_broadcast_paths(tuple(path for field_map in maps for path in field_map.paths), rows, columns),
            certainty=worst.certainty,
            note=worst.note,
            mixed=any(field_map.mixed for field_map in maps),
        )

    def as_channels(self, refs: Sequence[str], shape: Shape) -> FieldMap:
        """The field map of a result of shape ``shape`` that joins the values ``refs`` along the channels.

        Raises:
            UnknownReadsError: the values have different numbers of positions, or dimensions for different image axes.
        """
        depending = [ref for ref in refs if ref in self.maps]
        joined = self.elementwise(depending, shape)
        first = self.maps[depending[0]]
        uniform = len(depending) == len(refs) and all(first.same_paths(self.maps[ref]) for ref in depending)
        return replace(joined, mixed=joined.mixed or not uniform)

    def keep_parts(self, operation: Operation, field_map: FieldMap) -> FieldMap:
        """Return ``field_map``; if the operation has several results, also store the field map for each result."""
        if len(operation.outputs) > 1:
            self.parts[operation.name] = [field_map] * len(operation.outputs)
        return field_map


# An operation's arguments by their declared names, and a function that returns the field map of an operation's result.
Arguments = Mapping[str, object]
Rule = Callable[[TracedValues, Operation, Arguments], FieldMap]


def followed(size: Dim) -> int:
    """Return ``size`` if each position of a dimension of that size can be traced.

    Raises:
        UnknownReadsError: the size depends on the batch size, or is too large.
    """
    if not isinstance(size, int):
        reason = "a number of rows or columns depends on the batch size"
        raise UnknownReadsError(reason)
    if not 0 <= size <= _MAX_POSITIONS:
        reason = f"a map or window of {size:,} positions is larger than the limit of {_MAX_POSITIONS:,} positions"
        raise UnknownReadsError(reason)
    return size


def map_size(operation: Operation) -> tuple[int, int]:
    """The last two sizes of an operation's result, which are the numbers of rows and columns.

    Raises:
        UnknownReadsError: the result has fewer than two dimensions, or a size that cannot be traced.
    """
    if len(operation.shape) < 2:  # noqa: PLR2004 - rows and columns
        reason = "the result has fewer than two dimensions"
        raise UnknownReadsError(reason)
    return followed(operation.shape[-2]), followed(operation.shape[-1])


def is_spatial(axes: Axes) -> bool:
    """Whether a dimension with the given image axes contains rows or columns, alone or flattened with other axes."""
    return "H" in axes or "W" in axes


def normalised_dims(value: object, count: int) -> tuple[int, ...]:
    """The dimensions in an argument of a value with ``count`` dimensions, as indices from 0; all if none are given."""
    if value is None or value == ():
        return tuple(range(count))
    values = value if isinstance(value, tuple) else (value,)
    return tuple(sorted(dim % count for dim in values if isinstance(dim, int)))


def normalised_dim(value: object, count: int) -> int:
    """The dimension in an argument of a value with ``count`` dimensions, as an index from 0."""
    return value % count if isinstance(value, int) else 0


def _broadcast_paths(paths: tuple[FieldPath, ...], rows: int, columns: int) -> tuple[FieldPath, ...]:
    return tuple(FieldPath(rows=p.rows.broadcast(rows), columns=p.columns.broadcast(columns)) for p in paths)


def _broadcast_axes(operands: list[tuple[FieldMap, Shape]], count: int) -> tuple[Axes, ...]:
    result: list[Axes] = []
    for position in range(-count, 0):
        candidates = [
            (shape[position] != 1, field_map.axes[position])
            for field_map, shape in operands
            if len(field_map.axes) >= -position
        ]
        named = [axes for _, axes in sorted(candidates, key=lambda item: not item[0]) if axes]
        if len({axes for large, axes in candidates if large and is_spatial(axes)}) > 1:
            reason = "the same dimension of two operands belongs to different axes of the image"
            raise UnknownReadsError(reason)
        result.append(named[0] if named else ())
    return tuple(result)
