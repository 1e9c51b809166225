"""Find by experiment whether the output depends on the images only through an average of a whole feature map.

The experiment also finds averages that the names of operations do not show, such as a product with a constant matrix, a
convolution with equal weights or a cumulative sum.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from harness.graph.form import Operation
from harness.structure.dataflow import DataFlow
from harness.structure.fields import AXES, FieldMap
from harness.structure.interventions import Interventions
from harness.structure.layers import by_x, elements_per_image, operation_title
from harness.structure.pooling import GlobalPool, is_part, unflattened


@dataclass(frozen=True, kw_only=True)
class AverageSearch:
    """The result of `search_average`.

    Args:
        pool: the global average on which the whole output depends; None if the search found no such average.
        multiples: a sentence for each value that equals a multiple of the average of a whole map, but not the average.
        undecided: titles of operations that may average a map, which the experiment could not exclude.
    """

    pool: GlobalPool | None = None
    multiples: tuple[str, ...] = ()
    undecided: tuple[str, ...] = ()


def search_average(flow: DataFlow, field_maps: Mapping[str, FieldMap], model: Interventions) -> AverageSearch:
    """Search for a global average that lies on every path from the images to the output.

    For each feature map on every path, the model is run once with the map replaced by random numbers and once with these
    numbers replaced by their average. If the outputs differ, the output depends on more than the average of the map.
    """
    by_name = {operation.name: operation for operation in flow.program.operations}
    multiples, undecided = [], []
    for name, readers in _candidates(flow, field_maps).items():
        field_map = field_maps[name]
        if is_part(name, by_name, field_maps):
            continue
        trial = _Trial(flow, model, name)
        if field_map.certainty == "unknown":
            # It is unknown which dimensions are rows and columns, so each dimension is tested.
            dims = [dim for dim, size in enumerate(trial.shape) if flow.shapes[name][dim] == size > 1]
            if not all(trial.depends_on_more_than_averages(trial.shape, [dim]) for dim in dims):
                undecided += _origins(by_name[name], by_name, field_maps)
            continue
        pieces, spatial = _pieces(field_map, trial.shape)
        factors = trial.multiples_of_the_average(pieces, spatial)
        size = (field_map.positions("H"), field_map.positions("W"))
        for value, factor in factors.items():
            if abs(factor - 1) < model.bound:
                before, module = unflattened(name, by_name, field_maps), by_name[value].module
                pool = GlobalPool(value=value, before=before, module=module, map_size=size, feeds_head=True)
                return AverageSearch(pool=pool)
        if factors:
            value, factor = next(iter(factors.items()))
            multiples.append(f"{value} is {factor:.4g} times the average of the whole {by_x(size)} map")
        elif not trial.depends_on_more_than_averages(pieces, spatial):
            undecided += [f"{operation_title(reader)} {reader.module}".strip() for reader in readers]
    return AverageSearch(multiples=tuple(multiples), undecided=tuple(dict.fromkeys(undecided)))


def _candidates(flow: DataFlow, field_maps: Mapping[str, FieldMap]) -> dict[str, list[Operation]]:
    """Map each value that lies on every path to the output, the last value first, to operations that may average it."""
    found: dict[str, list[Operation]] = {}
    single = [operation.name for operation in flow.on_path if len(operation.outputs) == 1]
    for name in reversed([flow.graph.input_name, *single]):
        field_map = field_maps.get(name)
        if field_map is None or not flow.shapes[name] or not flow.only_through(name):
            continue
        size = elements_per_image(flow.shapes[name])
        readers = [operation for operation in flow.on_path if name in operation.refs()]
        if field_map.certainty == "unknown":
            readers = [reader for reader in readers if elements_per_image(reader.shape) != size]
        elif _is_spread(field_map):
            # A product may hold the division by the number of positions.
            readers = [
                reader
                for reader in readers
                if _takes_apart(reader, field_map, field_maps[reader.name])
                or (reader.name in found and reader.kind.name in ("div", "mul"))
            ]
        else:
            continue
        if readers:
            found[name] = readers
    return found


def _is_spread(field_map: FieldMap) -> bool:
    """Whether a value is known to hold several positions of a feature map, in any order of dimensions."""
    return field_map.certainty != "unknown" and any(field_map.positions(axis) > 1 for axis in AXES)


def _takes_apart(reader: Operation, before: FieldMap, after: FieldMap) -> bool:
    """Whether ``reader`` may separate the positions of a feature map.

    It does if it slices the map, if its result has a single row or a single column, or if it is not known which
    dimensions of the result hold rows and columns.
    """
    single = any(before.positions(axis) > 1 == after.positions(axis) for axis in AXES)
    return single or reader.kind.family == "slicing" or not _is_spread(after)


def _pieces(field_map: FieldMap, shape: tuple[int, ...]) -> tuple[tuple[int, ...], list[int]]:
    """Split merged dimensions into single axes; return the new shape and the indices of rows and columns in the shape."""
    pieces: list[tuple[str, int]] = []
    for axes, size in zip(field_map.axes, shape, strict=True):
        sizes = {axis: field_map.positions(axis) for axis in AXES if axis in axes}
        rest = size // math.prod(sizes.values())
        pieces += [(axis, {**sizes}.get(axis, rest)) for axis in axes] or [("", size)]  # type: ignore[call-overload]
    return tuple(size for _, size in pieces), [place for place, (axis, _) in enumerate(pieces) if axis in AXES]


def _origins(operation: Operation, by_name: Mapping[str, Operation], field_maps: Mapping[str, FieldMap]) -> list[str]:
    """Titles of the untraceable operations that make the layout of an operation's result unknown."""
    sources = [ref for ref in dict.fromkeys(operation.refs()) if ref in by_name and ref in field_maps]
    unknown = [by_name[ref] for ref in sources if field_maps[ref].certainty == "unknown"]
    if not unknown:
        return [f"{operation_title(operation)} {operation.module}".strip()]
    return [title for source in unknown for title in _origins(source, by_name, field_maps)]


class _Trial:
    """Runs of the model in which the value ``name`` is replaced by random numbers of the same shape."""

    def __init__(self, flow: DataFlow, model: Interventions, name: str) -> None:
        self._flow, self._model, self._name = flow, model, name
        base = model.value(name)
        self.shape = tuple(base.shape)
        self._maps = model.normal(self.shape) + model.normal((*self.shape[:2], *([1] * (base.ndim - 2))))

    def depends_on_more_than_averages(self, pieces: tuple[int, ...], dims: list[int]) -> bool:
        """Whether the output changes when the random maps are replaced by their averages over ``dims``.

        False if the output does not change with other random maps either, or is not finite. ``pieces`` is the shape of
        the maps in which ``dims`` are dimensions of their own.
        """
        average = self._maps.view(pieces).mean(dims, keepdim=True).expand(pieces).reshape(self.shape)
        first, same, other = (self._output(maps) for maps in (self._maps, average, -3 * self._maps.flip(0)))
        size = torch.stack([first, other]).abs().max()
        if not all(bool(output.isfinite().all()) for output in (first, same, other)) or torch.equal(first, other):
            return False
        return bool((first - same).abs().max() > self._model.bound * size)

    def multiples_of_the_average(self, pieces: tuple[int, ...], dims: list[int]) -> dict[str, float]:
        """Later values, on every path to the output, that equal a constant times the average, each with the constant."""
        averages = [maps.view(pieces).mean(dims).reshape(len(maps), -1) for maps in (self._maps, 1e3 * self._maps)]
        count = averages[0].shape[1]
        wanted = [
            operation.name
            for operation in self._flow.on_path
            if len(operation.outputs) == 1
            and operation.shape[:1] == ("B",)
            and elements_per_image(operation.shape) == count
            and self._flow.only_through(operation.name)
        ]
        runs = [self._model.run(wanted, {self._name: maps}) for maps in (self._maps, 1e3 * self._maps)]
        found = {}
        for name in wanted:
            values = [run[name].reshape(averages[0].shape) for run in runs]
            factor = float((values[0] * averages[0]).sum() / averages[0].square().sum())
            size = abs(factor) * averages[0].abs().max()
            if factor and all(
                bool((value - factor * average).abs().max() <= self._model.bound * size * scale)
                for value, average, scale in zip(values, averages, (1, 1e3), strict=True)
            ):
                found[name] = factor
        return found

    def _output(self, maps: torch.Tensor) -> torch.Tensor:
        output = self._flow.program.output
        return self._model.run([output], {self._name: maps})[output]
