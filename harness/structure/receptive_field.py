"""Which input pixels each position of each value sees, exactly, by following the operations of the graph.

Along one axis an operation is described by its *taps*: for each output position the input positions that it reads. A
convolution, a pooling, a resize, a slice and a global mean differ in nothing else here. What a value sees is a union of
rectangles, one `Term` for each way that leads to it (a skip connection adds a second), and a rectangle is one interval set an
axis, so that everything stays small.

Conventions, after Araujo, Norris and Sim, "Computing receptive fields of convolutional neural networks" (Distill, 2019):
*size* is the extent in input pixels that one position would see on an unbounded input, *jump* the distance in input pixels
between the fields of neighbouring positions, *start* the first input pixel of position 0 (negative inside padding). Values
beyond the input are kept; ``clipped`` is what is left of the size inside the input. "Sees" means that the operation reads
the pixel: a pixel read with weight zero counts. Statistics over the batch, as batch normalisation takes them in training, do
not count there; where they are taken in evaluation, each position sees the whole map through them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

import numpy as np
import numpy.typing as npt

from harness.graph.form import Dim, Graph, Operation, Program, Ref, Shape
from harness.graph.schema import bind

Certainty = Literal["exact", "bound", "unknown"]
Mask = npt.NDArray[np.bool_]
Taps = list[list[int]]

# Stands for the batch size where sizes are multiplied; a prime no layer has.
_BATCH = 1_000_003
# A value reached in more ways than this is described by the rectangle around all of them.
_MAX_TERMS = 16
# Sides and windows beyond this are not followed: no image here is as large, and a hostile graph could name any size.
_MAX_POSITIONS = 1_024
_RANK = {"exact": 0, "bound": 1, "unknown": 2}


@dataclass(frozen=True, kw_only=True)
class Reach:
    """One way along one axis: for every position the input positions it sees.

    Args:
        mask: ``(positions, input size)``, true where the position sees the pixel.
        low: first pixel seen by each position on an unbounded input.
        high: last pixel seen, likewise.
        jump: input pixels between neighbouring positions; None where no single figure holds.
        collapsed: how the axis came down to one position: empty while it has not.
        collapsed_from: how many positions it had before.
    """

    mask: Mask
    low: tuple[int, ...]
    high: tuple[int, ...]
    jump: Fraction | None
    collapsed: str = ""
    collapsed_from: int = 1

    @property
    def positions(self) -> int:
        """How many positions the value has along this axis."""
        return len(self.low)

    def at(self, position: int) -> tuple[int, int]:
        """First and last pixel seen by a position, which may lie in the padding."""
        inside = min(max(position, 0), self.positions - 1)
        offset = math.floor((position - inside) * (self.jump or 0))
        return self.low[inside] + offset, self.high[inside] + offset

    def through(self, taps: Taps, *, stride: Fraction | None = Fraction(1), how: str = "other") -> Reach:
        """What is seen after an operation with these taps; ``stride`` multiplies the jump."""
        mask = np.zeros((len(taps), self.mask.shape[1]), dtype=np.bool_)
        low, high = [], []
        for row, reads in enumerate(taps):
            inside = [position for position in reads if 0 <= position < self.positions]
            if inside:
                mask[row] = self.mask[inside].any(axis=0)
            extents = [self.at(position) for position in reads]
            extents = [(first, last) for first, last in extents if first <= last]
            low.append(min((extent[0] for extent in extents), default=0))
            high.append(max((extent[1] for extent in extents), default=-1))
        jump = self.jump * stride if self.jump is not None and stride is not None else None
        collapses = len(taps) == 1 and self.positions > 1
        return Reach(
            mask=mask,
            low=tuple(low),
            high=tuple(high),
            jump=jump,
            collapsed=how if collapses else self.collapsed,
            collapsed_from=self.positions if collapses else self.collapsed_from,
        )

    def widened(self, positions: int) -> Reach:
        """The same view at each of several positions (a broadcast)."""
        if self.positions == positions:
            return self
        return replace(self.through([[0]] * positions, stride=None), collapsed="", collapsed_from=1)

    def whole(self, *, how: str = "other") -> Reach:
        """One position that sees what all positions see together."""
        return self.through([list(range(self.positions))], how=how)

    def within(self, other: Reach) -> bool:
        """Whether every position sees nothing that the other does not see."""
        return (
            not bool((self.mask & ~other.mask).any())
            and all(a >= b for a, b in zip(self.low, other.low, strict=True))
            and all(a <= b for a, b in zip(self.high, other.high, strict=True))
        )


@dataclass(frozen=True, kw_only=True)
class Term:
    """One way from the input to a value: a reach along the rows and one along the columns."""

    rows: Reach
    columns: Reach

    def reach(self, axis: str) -> Reach:
        """The reach along ``"H"`` or ``"W"``."""
        return self.rows if axis == "H" else self.columns

    def with_reach(self, axis: str, reach: Reach) -> Term:
        """The same term with another reach along one axis."""
        return replace(self, rows=reach) if axis == "H" else replace(self, columns=reach)


# What a dimension of a value stands for: axes merged into it, in order. () is a dimension of size one that stands for nothing.
Axes = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class View:
    """What one value sees.

    Args:
        axes: what each of its dimensions stands for, from ``N``, ``C``, ``H``, ``W``.
        terms: the ways from the input to it.
        certainty: ``exact``, ``bound`` (it sees no more than this), or ``unknown``.
        note: why it is not exact.
        mixed: whether its channels may see different parts of what it sees as a whole.
    """

    axes: tuple[Axes, ...]
    terms: tuple[Term, ...]
    certainty: Certainty = "exact"
    note: str = ""
    mixed: bool = False

    def map_axis(self, axis: str, change: Callable[[Reach], Reach]) -> View:
        """Apply a change to every term's reach along one axis."""
        return replace(self, terms=tuple(term.with_reach(axis, change(term.reach(axis))) for term in self.terms))

    def through(self, axis: str, taps: Taps, *, stride: Fraction | None = Fraction(1), how: str = "other") -> View:
        """The view after an operation with these taps along one axis, see `Reach.through`."""
        return self.map_axis(axis, lambda reach: reach.through(taps, stride=stride, how=how))

    def positions(self, axis: str) -> int:
        """How many positions it has along ``"H"`` or ``"W"``."""
        return self.terms[0].reach(axis).positions

    def weakened(self, certainty: Certainty, note: str) -> View:
        """At best of this certainty."""
        if _RANK[certainty] <= _RANK[self.certainty]:
            return self
        return replace(self, certainty=certainty, note=note)

    def some_channels(self) -> View:
        """The view of some of its channels: a bound where the channels see different parts."""
        return (
            self.weakened("bound", "it takes some of the channels, which see different parts") if self.mixed else self
        )

    def same_terms(self, other: View) -> bool:
        """Whether both are reached in the same ways."""
        alike = all(self.positions(axis) == other.positions(axis) for axis in "HW")
        return alike and _covered(self.terms, other.terms) and _covered(other.terms, self.terms)


@dataclass(frozen=True, kw_only=True)
class AxisField:
    """The receptive field along one axis, see the module's conventions.

    Args:
        positions: how many positions the value has.
        size: extent seen by one position on an unbounded input (the largest over positions).
        clipped: the same inside the input.
        jump: input pixels between neighbouring fields; None where no single figure holds.
        start: first input pixel of position 0.
        intervals: first and last input pixel of every position, unclipped.
    """

    positions: int
    size: int
    clipped: int
    jump: Fraction | None
    start: int
    intervals: tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True)
class ReceptiveField:
    """The receptive field of one value."""

    rows: AxisField
    columns: AxisField
    certainty: Certainty
    note: str

    @property
    def size(self) -> int:
        """The smaller of the two sizes: a field of N means N in both directions."""
        return min(self.rows.size, self.columns.size)

    @property
    def clipped(self) -> int:
        """The smaller of the two sizes inside the input."""
        return min(self.rows.clipped, self.columns.clipped)


def field_of(view: View) -> ReceptiveField:
    """Summarise a view as a receptive field."""
    return ReceptiveField(
        rows=_axis_field([term.rows for term in view.terms]),
        columns=_axis_field([term.columns for term in view.terms]),
        certainty=view.certainty,
        note=view.note,
    )


def seen(view: View) -> Mask:
    """Which pixels each position sees: ``(rows, columns, input rows, input columns)``, true where seen."""
    masks = [np.einsum("ip,jq->ijpq", term.rows.mask, term.columns.mask) for term in view.terms]
    union: Mask = np.logical_or.reduce(masks)
    return union


def _axis_field(reaches: list[Reach]) -> AxisField:
    positions = reaches[0].positions
    low, high = _extents(reaches)
    union = np.logical_or.reduce([reach.mask for reach in reaches])
    clipped = 0
    for row in union:
        indices = np.flatnonzero(row)
        if len(indices):
            clipped = max(clipped, int(indices[-1] - indices[0]) + 1)
    jumps = {reach.jump for reach in reaches}
    return AxisField(
        positions=positions,
        size=max(h - lo + 1 for lo, h in zip(low, high, strict=True)),
        clipped=clipped,
        jump=jumps.pop() if len(jumps) == 1 else None,
        start=low[0],
        intervals=tuple(zip(low, high, strict=True)),
    )


def trace_views(graph: Graph, program: Program) -> dict[str, View]:
    """What every value of one of the graph's programs sees, by name; values that do not depend on the input are absent.

    Raises:
        ValueError: the graph's input is no image ``(channels, height, width)``.
    """
    if len(graph.input_shape) != 3:  # noqa: PLR2004 - channels, height, width
        msg = f"expected an image input (channels, height, width), found shape {list(graph.input_shape)}"
        raise ValueError(msg)
    return _Walk(graph, program).run()


_SIZE_DIMS = 4


class _Walk:
    """One pass over a program."""

    def __init__(self, graph: Graph, program: Program) -> None:
        self.program = program
        self.evaluates = program is graph.evaluate
        self.shapes: dict[str, Shape] = {spec.name: spec.shape for spec in graph.tensors}
        self.shapes[graph.input_name] = ("B", *graph.input_shape)
        _, height, width = graph.input_shape
        self.views: dict[str, View] = {
            graph.input_name: View(
                axes=(("N",), ("C",), ("H",), ("W",)),
                terms=(Term(rows=_identity(height), columns=_identity(width)),),
            )
        }
        # Operations with several results: what each of them sees.
        self.parts: dict[str, list[View]] = {}
        # Values that may share memory, by the name of the first of them.
        self.memory: dict[str, str] = {}
        self.last_read = {ref: i for i, operation in enumerate(program.operations) for ref in operation.refs()}
        self.last_read[program.output] = len(program.operations)

    def run(self) -> dict[str, View]:
        for index, operation in enumerate(self.program.operations):
            self.shapes[operation.name] = operation.shape
            view = self._step(operation)
            changed = operation.args[0] if operation.args else None
            in_place = operation.kind.in_place
            if isinstance(changed, Ref) and operation.kind.shares_memory:
                self.memory[operation.name] = self.memory.get(changed.name, changed.name)
            if view is None:
                continue
            view = _pruned(view)
            if in_place and isinstance(changed, Ref):
                self._change(changed.name, view, index)
            self.views[operation.name] = view
        return self.views

    def _change(self, name: str, view: View, index: int) -> None:
        """An in-place operation changes what its first argument stands for, and what shares memory with it."""
        before = self.views.get(name)
        self.views[name] = view
        if before is not None and before.same_terms(view):
            return
        root = self.memory.get(name, name)
        for other in (root, *(key for key, value in self.memory.items() if value == root)):
            if other != name and other in self.shapes and self.last_read.get(other, -1) > index:
                refs = [ref for ref in (other, name) if ref in self.views]
                note = "an operation in place changes it through another value that shares its memory"
                self.views[other] = self._everything(self.shapes[other], refs, note)

    def _step(self, operation: Operation) -> View | None:
        """What the operation's result sees; None when it does not depend on the input's values."""
        if operation.op == "operator.getitem":
            source = operation.args[0]
            index = operation.args[1]
            if isinstance(source, Ref) and isinstance(index, int) and source.name in self.parts:
                return self.parts[source.name][index]
            return self.views.get(source.name) if isinstance(source, Ref) else None
        name, family = operation.kind.name, operation.kind.family
        refs = [ref for ref in operation.refs() if ref in self.views]
        if not refs or not operation.outputs or family in ("creation", "random creation", "size"):
            return None
        bound = bind(operation)
        rule = _RULES.get(name)
        try:
            if operation.kind.elementwise or (name in ("max", "min") and "other" in bound):
                return self._joined(refs, operation.shape)
            if family == "reduction":
                return self._reduced(operation, bound, name)
            if rule is not None:
                view: View | None = rule(self, operation, bound)
                return view
        except _Unsupported as reason:
            return self._everything(operation.shape, refs, str(reason))
        return self._everything(operation.shape, refs, f"{operation.op} is not an operation whose reads are known")

    def _view(self, argument: object) -> View:
        if isinstance(argument, Ref) and argument.name in self.views:
            return self.views[argument.name]
        reason = "the images enter through an argument that holds weights elsewhere"
        raise _Unsupported(reason)

    def _shape(self, argument: object) -> Shape:
        return self.shapes[argument.name] if isinstance(argument, Ref) else ()

    def _everything(self, shape: Shape, refs: Sequence[str], note: str) -> View:
        """Nothing is known of the operation but what it can see at most: all that its operands see."""
        whole = [self.views[ref].map_axis("H", Reach.whole).map_axis("W", Reach.whole) for ref in refs]
        axes: tuple[Axes, ...] = tuple(("C",) for _ in shape)
        terms = tuple(term for view in whole for term in view.terms)
        if len(shape) == _SIZE_DIMS and all(isinstance(dim, int) and dim <= _MAX_POSITIONS for dim in shape[2:]):
            axes = (("N",), ("C",), ("H",), ("W",))
            rows, columns = (_followed(dim) for dim in shape[2:])
            terms = tuple(Term(rows=t.rows.widened(rows), columns=t.columns.widened(columns)) for t in terms)
        return View(axes=axes, terms=terms, certainty="unknown", note=note, mixed=True)

    def _joined(self, refs: Iterable[str], shape: Shape) -> View:
        """Several values combined element by element, with broadcasting."""
        views = [self.views[ref] for ref in dict.fromkeys(refs)]
        axes = _broadcast_axes([(self.views[ref], self.shapes[ref]) for ref in dict.fromkeys(refs)], len(shape))
        rows, columns = (max(view.positions(axis) for view in views) for axis in "HW")
        if any(view.positions(a) not in (1, size) for view in views for a, size in (("H", rows), ("W", columns))):
            reason = "it combines values whose positions do not correspond"
            raise _Unsupported(reason)
        terms = tuple(
            Term(rows=term.rows.widened(rows), columns=term.columns.widened(columns))
            for view in views
            for term in view.terms
        )
        worst = max(views, key=lambda view: _RANK[view.certainty])
        mixed = any(view.mixed for view in views)
        return View(axes=axes, terms=terms, certainty=worst.certainty, note=worst.note, mixed=mixed)

    def _side_by_side(self, refs: Sequence[str], shape: Shape) -> View:
        """Several values that become the channels of one."""
        seeing = [ref for ref in refs if ref in self.views]
        joined = self._joined(seeing, shape)
        first = self.views[seeing[0]]
        alike = len(seeing) == len(refs) and all(first.same_terms(self.views[ref]) for ref in seeing)
        return replace(joined, mixed=joined.mixed or not alike)

    def _reduced(self, operation: Operation, bound: Mapping[str, object], name: str) -> View:
        view = self._view(bound.get("self"))
        count = len(view.axes)
        dims = _dims(bound.get("dim"), count)
        how = {"mean": "average", "sum": "sum", "amax": "maximum", "max": "maximum"}.get(name, "other")
        for dim in dims:
            for axis in view.axes[dim]:
                if axis in ("H", "W"):
                    view = view.map_axis(axis, lambda reach: reach.whole(how=how))
        keep = bound.get("keepdim") is True
        axes = tuple(() if dim in dims else view.axes[dim] for dim in range(count) if keep or dim not in dims)
        over_channels = any("C" in view.axes[dim] for dim in dims)
        reduced = replace(view, axes=axes, mixed=view.mixed and not over_channels)
        if len(operation.outputs) > 1:
            self.parts[operation.name] = [reduced] * len(operation.outputs)
        return reduced


class _Unsupported(Exception):  # noqa: N818 - not an error: the walk goes on with a weaker statement
    """The reads of an operation are not known in this form."""


def _identity(size: int) -> Reach:
    return Reach(mask=np.eye(size, dtype=np.bool_), low=tuple(range(size)), high=tuple(range(size)), jump=Fraction(1))


def _pruned(view: View) -> View:
    kept: list[Term] = []
    for index, term in enumerate(view.terms):
        if not _covered([term], [*kept, *view.terms[index + 1 :]]):
            kept.append(term)
    if len(kept) <= _MAX_TERMS:
        return replace(view, terms=tuple(kept))
    around = Term(rows=_around([term.rows for term in kept]), columns=_around([term.columns for term in kept]))
    bounded = replace(view, terms=(around,))
    return bounded.weakened("bound", f"reached in more than {_MAX_TERMS} ways; the figure is the rectangle around them")


def _covered(terms: Iterable[Term], others: Sequence[Term]) -> bool:
    return all(any(term.rows.within(o.rows) and term.columns.within(o.columns) for o in others) for term in terms)


def _extents(reaches: Sequence[Reach]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """First and last pixel of each position over several ways; a way that sees nothing (last before first) is left out."""
    low, high = [], []
    for position in range(reaches[0].positions):
        ends = [(reach.low[position], reach.high[position]) for reach in reaches]
        ends = [(first, last) for first, last in ends if first <= last] or ends[:1]
        low.append(min(first for first, _ in ends))
        high.append(max(last for _, last in ends))
    return tuple(low), tuple(high)


def _around(reaches: Sequence[Reach]) -> Reach:
    low, high = _extents(reaches)
    return Reach(mask=np.logical_or.reduce([reach.mask for reach in reaches]), low=low, high=high, jump=None)


def _places(axes: Axes) -> bool:
    return "H" in axes or "W" in axes


def _broadcast_axes(operands: list[tuple[View, Shape]], count: int) -> tuple[Axes, ...]:
    result: list[Axes] = []
    for position in range(-count, 0):
        candidates = [
            (shape[position] != 1, view.axes[position]) for view, shape in operands if len(view.axes) >= -position
        ]
        named = [axes for _, axes in sorted(candidates, key=lambda item: not item[0]) if axes]
        if len({axes for large, axes in candidates if large and _places(axes)}) > 1:
            reason = "it combines dimensions that stand for different directions"
            raise _Unsupported(reason)
        result.append(named[0] if named else ())
    return tuple(result)


def _dims(value: object, count: int) -> tuple[int, ...]:
    if value is None or value == ():
        return tuple(range(count))
    values = value if isinstance(value, tuple) else (value,)
    return tuple(sorted(dim % count for dim in values if isinstance(dim, int)))


def _pair(value: object, default: tuple[int, int]) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    if isinstance(value, tuple) and value and all(isinstance(item, int) for item in value):
        items = [item for item in value if isinstance(item, int)]
        return items[0], items[-1]
    if value is None or value == ():
        return default
    reason = "a size in it is computed while it runs"
    raise _Unsupported(reason)


def _window_taps(outputs: int, kernel: int, stride: int, padding: int, dilation: int) -> Taps:
    return [[o * stride - padding + k * dilation for k in range(kernel)] for o in range(outputs)]


def _followed(size: Dim) -> int:
    """A size of a map or a window, if it can be followed position by position.

    Raises:
        _Unsupported: it depends on the batch, or is too large.
    """
    if not isinstance(size, int):
        reason = "its map's size depends on the batch"
        raise _Unsupported(reason)
    if not 0 <= size <= _MAX_POSITIONS:
        reason = f"a side of {size:,} positions is more than the {_MAX_POSITIONS:,} that are followed"
        raise _Unsupported(reason)
    return size


def _spatial(operation: Operation) -> tuple[int, int]:
    if len(operation.shape) < 2:  # noqa: PLR2004 - rows and columns
        reason = "it gives no map"
        raise _Unsupported(reason)
    return _followed(operation.shape[-2]), _followed(operation.shape[-1])


def _as_map(view: View) -> View:
    """The view with rows and columns as its last two dimensions, a map of one position named as such.

    Raises:
        _Unsupported: its last two dimensions are something else.
    """
    axes = list(view.axes)
    for place, axis in ((-2, "H"), (-1, "W")):
        if len(axes) >= -place and axes[place] == () and view.positions(axis) == 1:
            axes[place] = (axis,)
    if axes[-2:] != [("H",), ("W",)]:
        reason = "it works on a map whose last two dimensions are not rows and columns"
        raise _Unsupported(reason)
    return replace(view, axes=tuple(axes))


def _windowed(
    view: View,
    operation: Operation,
    windows: Sequence[tuple[int, int, int, int]],
    how: str,
) -> View:
    """A sliding window an axis: (kernel, stride, padding before, dilation)."""
    view = _as_map(view)
    for axis, outputs, (kernel, stride, padding, dilation) in zip("HW", _spatial(operation), windows, strict=True):
        taps = _window_taps(outputs, _followed(kernel), stride, padding, dilation)
        view = view.through(axis, taps, stride=Fraction(stride), how=how)
    return view


def _convolution(walk: _Walk, operation: Operation, bound: Mapping[str, object]) -> View:
    view = walk._view(bound["input"])  # noqa: SLF001 - the rules below are the walk's own
    kernel = [_followed(dim) for dim in walk._shape(bound["weight"])[2:]]  # noqa: SLF001
    stride = _pair(bound.get("stride"), (1, 1))
    dilation = _pair(bound.get("dilation"), (1, 1))
    padding = bound.get("padding")
    if padding == "same":
        # torch puts the odd pixel after: before = total // 2.
        before = tuple((d * (k - 1)) // 2 for d, k in zip(dilation, kernel, strict=True))
    else:
        before = (0, 0) if padding == "valid" else _pair(padding, (0, 0))
    windows = [(kernel[i], stride[i], before[i], dilation[i]) for i in range(2)]
    return replace(_windowed(view, operation, windows, "convolution"), mixed=view.mixed and bound.get("groups") != 1)


def _transposed_convolution(walk: _Walk, operation: Operation, bound: Mapping[str, object]) -> View:
    view = _as_map(walk._view(bound["input"]))  # noqa: SLF001
    kernel = [_followed(dim) for dim in walk._shape(bound["weight"])[2:]]  # noqa: SLF001
    stride, padding = _pair(bound.get("stride"), (1, 1)), _pair(bound.get("padding"), (0, 0))
    dilation = _pair(bound.get("dilation"), (1, 1))
    for index, (axis, outputs) in enumerate(zip("HW", _spatial(operation), strict=True)):
        taps = []
        for o in range(outputs):
            offsets = [o + padding[index] - k * dilation[index] for k in range(kernel[index])]
            taps.append([offset // stride[index] for offset in offsets if offset % stride[index] == 0])
        step = Fraction(1, stride[index])
        view = view.through(axis, taps, stride=step)
    return replace(view, mixed=view.mixed and bound.get("groups") != 1)


def _max_pool(walk: _Walk, operation: Operation, bound: Mapping[str, object]) -> View:
    kernel = _pair(bound["kernel_size"], (1, 1))
    stride, padding = _pair(bound.get("stride"), kernel), _pair(bound.get("padding"), (0, 0))
    dilation = _pair(bound.get("dilation"), (1, 1))
    windows = [(kernel[i], stride[i], padding[i], dilation[i]) for i in range(2)]
    view = _windowed(walk._view(bound["self"]), operation, windows, "maximum")  # noqa: SLF001
    if len(operation.outputs) > 1:
        walk.parts[operation.name] = [view] * len(operation.outputs)
    return view


def _average_pool(walk: _Walk, operation: Operation, bound: Mapping[str, object]) -> View:
    view = walk._view(bound["self"])  # noqa: SLF001
    kernel = _pair(bound["kernel_size"], (1, 1))
    stride, padding = _pair(bound.get("stride"), kernel), _pair(bound.get("padding"), (0, 0))
    divisor = bound.get("divisor_override")
    covers = kernel == (view.positions("H"), view.positions("W")) and padding == (0, 0)
    plain = divisor is None or divisor == kernel[0] * kernel[1]
    how = "average" if covers and plain else "part average"
    return _windowed(view, operation, [(kernel[i], stride[i], padding[i], 1) for i in range(2)], how)


def _adaptive_pool(how: str) -> _Rule:
    def rule(walk: _Walk, operation: Operation, bound: Mapping[str, object]) -> View:
        view = _as_map(walk._view(bound["self"]))  # noqa: SLF001
        for axis, outputs in zip("HW", _spatial(operation), strict=True):
            inputs = view.positions(axis)
            taps = [list(range(o * inputs // outputs, -(-(o + 1) * inputs // outputs))) for o in range(outputs)]
            stride = Fraction(inputs, outputs) if inputs % outputs == 0 else None
            view = view.through(axis, taps, stride=stride, how=how)
        if len(operation.outputs) > 1:
            walk.parts[operation.name] = [view] * len(operation.outputs)
        return view

    return rule


def _resize(reads: Callable[[int, int, float, bool], list[int]]) -> _Rule:
    """A resize; ``reads(position, inputs, scale, align_corners)`` gives the input positions one output position reads."""

    def rule(walk: _Walk, operation: Operation, bound: Mapping[str, object]) -> View:
        source = bound["input"] if "input" in bound else bound["self"]
        view = _as_map(walk._view(source))  # noqa: SLF001
        align = bound.get("align_corners") is True
        factors = bound.get("scale_factors")
        factors = factors if isinstance(factors, tuple) else (bound.get("scales_h"), bound.get("scales_w"))
        for index, (axis, outputs) in enumerate(zip("HW", _spatial(operation), strict=True)):
            inputs = view.positions(axis)
            factor = factors[index]
            # The same single-precision arithmetic as torch's area_pixel_compute_scale: a rounding decides a pixel.
            if align:
                scale = np.float32(inputs - 1) / np.float32(outputs - 1) if outputs > 1 else np.float32(0)
            elif isinstance(factor, int | float) and factor > 0:
                scale = np.float32(1.0 / factor)
            else:
                scale = np.float32(inputs) / np.float32(outputs)
            # torch copies an axis that keeps its size, except in the bicubic resize, which computes all the same.
            copies = inputs == outputs and reads is not _bicubic
            taps = [[o] if copies else sorted(set(reads(o, inputs, float(scale), align))) for o in range(outputs)]
            ratio = Fraction(inputs, outputs)
            uniform = ratio.denominator == 1 or ratio.numerator == 1
            stride = ratio if uniform and not align else None
            view = view.through(axis, taps, stride=stride)
        return view

    return rule


def _nearest(position: int, inputs: int, scale: float, _align: bool) -> list[int]:  # noqa: FBT001 - one signature for all
    return [min(int(np.float32(position) * np.float32(scale)), inputs - 1)]


def _nearest_exact(position: int, inputs: int, scale: float, _align: bool) -> list[int]:  # noqa: FBT001
    return [min(int((np.float32(position) + np.float32(0.5)) * np.float32(scale)), inputs - 1)]


def _source(position: int, scale: float, *, align: bool, cubic: bool) -> float:
    if align:
        return float(np.float32(scale) * np.float32(position))
    source = float(np.float32(scale) * (np.float32(position) + np.float32(0.5)) - np.float32(0.5))
    return source if cubic else max(source, 0.0)


def _bilinear(position: int, inputs: int, scale: float, align: bool) -> list[int]:  # noqa: FBT001
    first = min(int(_source(position, scale, align=align, cubic=False)), inputs - 1)
    return [first, min(first + 1, inputs - 1)]


def _bicubic(position: int, inputs: int, scale: float, align: bool) -> list[int]:  # noqa: FBT001
    first = math.floor(_source(position, scale, align=align, cubic=True))
    return [min(max(first + offset, 0), inputs - 1) for offset in (-1, 0, 1, 2)]


def _pad(walk: _Walk, operation: Operation, bound: Mapping[str, object]) -> View:
    view = walk._view(bound["self"])  # noqa: SLF001
    amounts = bound.get("pad", bound.get("padding"))
    name = operation.kind.name
    mode = bound.get("mode", "constant")
    mode = {"reflection_pad2d": "reflect", "replication_pad2d": "replicate"}.get(name, mode)
    if not isinstance(amounts, tuple):
        reason = "its padding is computed while it runs"
        raise _Unsupported(reason)
    for index in range(len(amounts) // 2):
        before, after = amounts[2 * index], amounts[2 * index + 1]
        axes = view.axes[-1 - index]
        if before == after == 0 or not isinstance(before, int) or not isinstance(after, int):
            continue
        if axes not in (("H",), ("W",)):
            if axes == ("C",):
                view = view.some_channels() if min(before, after) < 0 else view
                continue
            reason = "it pads a dimension that is neither rows nor columns nor channels"
            raise _Unsupported(reason)
        inputs = view.positions(axes[0])
        _followed(inputs + before + after)
        taps = [[_padded(position, inputs, str(mode))] for position in range(-before, inputs + after)]
        view = view.through(axes[0], taps)
    return view


def _padded(position: int, size: int, mode: str) -> int:
    match mode:
        case "reflect":
            period = 2 * (size - 1) or 1
            folded = position % period
            return min(folded, period - folded)
        case "replicate":
            return min(max(position, 0), size - 1)
        case "circular":
            return position % size
        case _:
            return position


def _concatenated(walk: _Walk, operation: Operation, bound: Mapping[str, object]) -> View:
    tensors = bound["tensors"]
    refs = [item.name for item in tensors if isinstance(item, Ref)] if isinstance(tensors, tuple) else []
    count = len(operation.shape)
    dim = bound.get("dim", 0)
    position = dim % count if isinstance(dim, int) else 0
    seeing = [ref for ref in refs if ref in walk.views]
    axes = walk.views[seeing[0]].axes[position]
    if axes not in (("H",), ("W",)):
        return walk._side_by_side(refs, operation.shape)  # noqa: SLF001
    pieces = [walk.views[ref] for ref in refs if ref in walk.views]
    if len(pieces) != len(refs) or any(len(piece.terms) != 1 for piece in pieces):
        reason = "it joins maps side by side that are reached in several ways"
        raise _Unsupported(reason)
    axis, other = axes[0], "W" if axes == ("H",) else "H"
    across = pieces[0].terms[0].reach(other)
    if any(not np.array_equal(piece.terms[0].reach(other).mask, across.mask) for piece in pieces):
        reason = "it joins maps side by side that see different parts across"
        raise _Unsupported(reason)
    along = [piece.terms[0].reach(axis) for piece in pieces]
    joined = Reach(
        mask=np.concatenate([reach.mask for reach in along]),
        low=tuple(value for reach in along for value in reach.low),
        high=tuple(value for reach in along for value in reach.high),
        jump=None,
    )
    worst = max(pieces, key=lambda piece: _RANK[piece.certainty])
    return replace(worst, terms=(pieces[0].terms[0].with_reach(axis, joined),))


def _stacked(walk: _Walk, operation: Operation, bound: Mapping[str, object]) -> View:
    tensors = bound["tensors"]
    refs = [item.name for item in tensors if isinstance(item, Ref)] if isinstance(tensors, tuple) else []
    dim = bound.get("dim", 0)
    position = dim % len(operation.shape) if isinstance(dim, int) else 0
    joined = walk._side_by_side(refs, operation.shape[:position] + operation.shape[position + 1 :])  # noqa: SLF001
    axes = list(joined.axes)
    axes.insert(position, ("C",))
    return replace(joined, axes=tuple(axes))


def _reshaped(walk: _Walk, operation: Operation, bound: Mapping[str, object]) -> View:
    view = walk._view(bound["self"])  # noqa: SLF001
    source = walk._shape(bound["self"])  # noqa: SLF001
    axes = _regroup(view, source, operation.shape)
    if axes is None:
        reason = (
            f"it turns shape {_words(source)} into {_words(operation.shape)}, which mixes positions with something else"
        )
        raise _Unsupported(reason)
    return replace(view, axes=axes)


def _words(shape: Shape) -> str:
    return "x".join(str(dim) for dim in shape)


def _number(dim: Dim) -> int:
    """A size with the batch put in as a prime; sizes are products such as ``16*B``."""
    if isinstance(dim, int):
        return dim
    product = 1
    for factor in dim.replace("(", "").replace(")", "").split("*"):
        if factor == "B":
            product *= _BATCH
        elif factor.isdigit():
            product *= int(factor)
        else:
            return -1
    return product


def _regroup(view: View, source: Shape, target: Shape) -> tuple[Axes, ...] | None:
    """Which axes each dimension stands for after a reshape; None when one is torn apart."""
    pieces: list[tuple[str, int]] = []
    for axes, dim in zip(view.axes, source, strict=True):
        size = _number(dim)
        sizes = {axis: view.positions(axis) for axis in axes if axis in ("H", "W")}
        rest = [axis for axis in axes if axis not in sizes]
        known = math.prod(sizes.values())
        if len(rest) > 1:
            return None
        pieces.extend((axis, sizes.get(axis, size // known)) for axis in axes)
        if not axes and size > 1:
            pieces.append(("C", size))
    result: list[Axes] = []
    index = 0
    left = pieces[0][1] if pieces else 1
    for dim in target:
        wanted = _number(dim)
        taken: list[str] = []
        product = 1
        while product < wanted:
            while index < len(pieces) and left == 1:
                index += 1
                left = pieces[index][1] if index < len(pieces) else 1
            if index >= len(pieces):
                return None
            axis = pieces[index][0]
            need = wanted // product
            if wanted % product == 0 and need % left == 0:
                product, left = product * left, 1
            elif axis == "C" and left % need == 0:
                product, left = product * need, left // need
            else:
                return None
            if not taken or taken[-1] != axis:
                taken.append(axis)
        if "N" in taken and len(taken) > 1 and any(axis in ("H", "W") for axis in taken):
            return None
        result.append(tuple(taken))
    return tuple(result)


def _permuted(walk: _Walk, operation: Operation, bound: Mapping[str, object]) -> View:
    view = walk._view(bound["self"])  # noqa: SLF001
    count = len(view.axes)
    order = list(range(count))
    match operation.kind.name:
        case "permute":
            dims = bound["dims"]
            order = [dim % count for dim in dims if isinstance(dim, int)] if isinstance(dims, tuple) else order
        case "movedim":
            reason = "it moves several dimensions at once"
            raise _Unsupported(reason)
        case "t":
            order.reverse()
        case _:
            first, second = (bound[key] for key in ("dim0", "dim1"))
            if isinstance(first, int) and isinstance(second, int):
                order[first % count], order[second % count] = order[second % count], order[first % count]
    return replace(view, axes=tuple(view.axes[dim] for dim in order))


def _unsqueezed(walk: _Walk, operation: Operation, bound: Mapping[str, object]) -> View:
    view = walk._view(bound["self"])  # noqa: SLF001
    dim = bound["dim"]
    axes = list(view.axes)
    axes.insert(dim % len(operation.shape) if isinstance(dim, int) else 0, ())
    return replace(view, axes=tuple(axes))


def _squeezed(walk: _Walk, _operation: Operation, bound: Mapping[str, object]) -> View:
    view = walk._view(bound["self"])  # noqa: SLF001
    shape = walk._shape(bound["self"])  # noqa: SLF001
    dims = _dims(bound.get("dim"), len(shape))
    return replace(view, axes=tuple(axes for i, axes in enumerate(view.axes) if i not in dims or shape[i] != 1))


def _expanded(walk: _Walk, operation: Operation, bound: Mapping[str, object]) -> View:
    view = walk._view(bound["self"])  # noqa: SLF001
    added = len(operation.shape) - len(view.axes)
    source = walk._shape(bound["self"])  # noqa: SLF001
    axes = ((),) * added + view.axes
    if len(operation.shape) == _SIZE_DIMS and source[-2:] == (1, 1) and operation.shape[-2:] != (1, 1):
        height, width = _spatial(operation)
        view = view.map_axis("H", lambda reach: reach.widened(height)).map_axis("W", lambda reach: reach.widened(width))
        axes = (*axes[:-2], ("H",), ("W",))
    return replace(view, axes=axes)


def _sliced(walk: _Walk, operation: Operation, bound: Mapping[str, object]) -> View:
    view = walk._view(bound["self"])  # noqa: SLF001
    dim = bound.get("dim", 0)
    position = dim % len(view.axes) if isinstance(dim, int) else 0
    axes = view.axes[position]
    selects = operation.kind.name == "select"
    if axes in (("H",), ("W",)):
        size = view.positions(axes[0])
        if selects:
            index = bound["index"]
            taps = [[index % size if isinstance(index, int) else 0]]
        else:
            start, end, step = bound.get("start"), bound.get("end"), bound.get("step", 1)
            chosen = slice(*(value if isinstance(value, int) else None for value in (start, end, step)))
            taps = [[index] for index in range(size)[chosen]]
        step_size = bound.get("step", 1)
        stride = Fraction(step_size) if isinstance(step_size, int) else None
        view = view.through(axes[0], taps, stride=stride)
    elif _places(axes):
        reason = "it takes part of a flattened map"
        raise _Unsupported(reason)
    elif selects or operation.shape[position] != walk._shape(bound["self"])[position]:  # noqa: SLF001
        view = view.some_channels()
    if selects:
        view = replace(view, axes=tuple(a for i, a in enumerate(view.axes) if i != position))
    return view


def _parted(walk: _Walk, operation: Operation, bound: Mapping[str, object]) -> View:
    view = walk._view(bound["self"])  # noqa: SLF001
    dim = bound.get("dim", 0)
    position = dim % len(view.axes) if isinstance(dim, int) else 0
    axes = view.axes[position]
    unbinds = operation.kind.name == "unbind"
    parts = []
    offset = 0
    for meta in operation.outputs:
        part = view
        if axes in (("H",), ("W",)):
            size = 1 if unbinds else _followed(meta.shape[position])
            taps = [[offset + index] for index in range(size)]
            offset += len(taps)
            part = view.through(axes[0], taps)
        elif _places(axes):
            reason = "it takes part of a flattened map"
            raise _Unsupported(reason)
        else:
            part = view.some_channels()
        if unbinds:
            part = replace(part, axes=tuple(a for i, a in enumerate(part.axes) if i != position))
        parts.append(part)
    walk.parts[operation.name] = parts
    return view


def _flipped(walk: _Walk, _operation: Operation, bound: Mapping[str, object]) -> View:
    view = walk._view(bound["self"])  # noqa: SLF001
    for dim in _dims(bound.get("dims"), len(view.axes)):
        for axis in view.axes[dim]:
            if axis in ("H", "W"):
                size = view.positions(axis)
                view = view.through(axis, [[position] for position in reversed(range(size))], stride=None)
    return view


def _linear(walk: _Walk, _operation: Operation, bound: Mapping[str, object]) -> View:
    """The last dimension of the images' side is multiplied by a matrix of weights: all of it is seen."""
    for key in ("input", "mat1", "self"):
        if key in bound and isinstance(bound[key], Ref):
            first = bound[key]
            break
    else:
        reason = "its operands are not known"
        raise _Unsupported(reason)
    others = [
        value for k, value in bound.items() if k in ("other", "mat2", "weight", "vec2") and isinstance(value, Ref)
    ]
    if isinstance(first, Ref) and first.name in walk.views and not any(other.name in walk.views for other in others):
        view = walk.views[first.name]
        last = view.axes[-1]
        for axis in last:
            if axis in ("H", "W"):
                view = view.map_axis(axis, lambda reach: reach.whole(how="linear"))
        return replace(view, axes=(*view.axes[:-1], ("C",)), mixed=view.mixed and "C" not in last)
    reason = "both operands of the product depend on the images"
    raise _Unsupported(reason)


def _softmax(walk: _Walk, _operation: Operation, bound: Mapping[str, object]) -> View:
    view = walk._view(bound["self"])  # noqa: SLF001
    for dim in _dims(bound["dim"], len(view.axes)):
        for axis in view.axes[dim]:
            if axis in ("H", "W"):
                view = view.map_axis(axis, lambda reach: reach.whole().widened(reach.positions))
    return view


def _batch_normalised(walk: _Walk, operation: Operation, bound: Mapping[str, object]) -> View:
    if walk.evaluates and bound.get("training") is True:
        return _normalised_over_map(walk, operation, bound)
    return walk._view(bound["input"])  # noqa: SLF001


def _normalised_over_map(walk: _Walk, operation: Operation, bound: Mapping[str, object]) -> View:
    """Statistics taken over the map: every position sees all of it."""
    view = walk._view(bound["input"])  # noqa: SLF001
    if operation.kind.name == "instance_norm" and bound.get("use_input_stats") is False:
        return view
    shape = bound.get("normalized_shape")
    dims = range(len(view.axes) - len(shape), len(view.axes)) if isinstance(shape, tuple) else range(len(view.axes))
    for dim in dims:
        for axis in view.axes[dim]:
            if axis in ("H", "W"):
                view = view.map_axis(axis, lambda reach: reach.whole().widened(reach.positions))
    return view


def _shuffled(walk: _Walk, operation: Operation, bound: Mapping[str, object]) -> View:
    view = _as_map(walk._view(bound["self"]))  # noqa: SLF001
    up = operation.kind.name == "pixel_shuffle"
    factor = bound["upscale_factor" if up else "downscale_factor"]
    if not isinstance(factor, int):
        reason = "its factor is computed while it runs"
        raise _Unsupported(reason)
    for axis, outputs in zip("HW", _spatial(operation), strict=True):
        taps = [[o // factor] if up else list(range(o * factor, (o + 1) * factor)) for o in range(outputs)]
        stride = Fraction(1, factor) if up else Fraction(factor)
        view = view.through(axis, taps, stride=stride)
    return view.some_channels() if up else replace(view, mixed=True)


_Rule = Callable[[_Walk, Operation, Mapping[str, object]], View]
_RULES: dict[str, _Rule] = {
    "_upsample_nearest_exact2d": _resize(_nearest_exact),
    "adaptive_avg_pool2d": _adaptive_pool("average"),
    "adaptive_max_pool2d": _adaptive_pool("maximum"),
    "addmm": _linear,
    "avg_pool2d": _average_pool,
    "batch_norm": _batch_normalised,
    "cat": _concatenated,
    "chunk": _parted,
    "conv2d": _convolution,
    "conv_transpose2d": _transposed_convolution,
    "expand": _expanded,
    "expand_as": _expanded,
    "flatten": _reshaped,
    "flip": _flipped,
    "group_norm": _normalised_over_map,
    "instance_norm": _normalised_over_map,
    "layer_norm": _normalised_over_map,
    "linear": _linear,
    "log_softmax": _softmax,
    "matmul": _linear,
    "max_pool2d": _max_pool,
    "mm": _linear,
    "movedim": _permuted,
    "pad": _pad,
    "permute": _permuted,
    "pixel_shuffle": _shuffled,
    "pixel_unshuffle": _shuffled,
    "reflection_pad2d": _pad,
    "replication_pad2d": _pad,
    "reshape": _reshaped,
    "select": _sliced,
    "slice": _sliced,
    "softmax": _softmax,
    "split": _parted,
    "split_with_sizes": _parted,
    "squeeze": _squeezed,
    "stack": _stacked,
    "t": _permuted,
    "transpose": _permuted,
    "unbind": _parted,
    "unflatten": _reshaped,
    "unsqueeze": _unsqueezed,
    "upsample_bicubic2d": _resize(_bicubic),
    "upsample_bilinear2d": _resize(_bilinear),
    "upsample_nearest2d": _resize(_nearest),
    "view": _reshaped,
    "view_as": _reshaped,
}
