"""Geometry of the charts of a page, in units of an SVG drawing; the template draws them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 680, 340
LEFT, RIGHT, TOP, BOTTOM = 78, 16, 30, 44
# The smallest error that the logarithmic scale shows, in percent: half an image of 10,000.
_LEAST_ERROR = 0.005
_ERRORS = (90, 80, 50, 20, 10, 5, 2, 1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01)
_MOST_TICKS, _LEAST_GAP = 12, 22


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A mark on an axis."""

    at: float
    label: str


@dataclass(frozen=True, kw_only=True)
class Dot:
    """One value of a column of dots; ``is_good`` chooses between a disc and a cross."""

    x: float
    y: float
    is_good: bool


def epoch_ticks(epochs: int) -> list[Tick]:
    """Return ticks for at most a dozen of the epochs, the last one included."""
    step = -(-epochs // _MOST_TICKS) or 1
    return [Tick(at=place(epoch, 1, epochs), label=str(epoch)) for epoch in range(epochs, 0, -step)]


def column(index: int, count: int) -> float:
    """Return the x coordinate of the middle of one of ``count`` columns of equal width."""
    return place(index + 0.5, 0, count)


def column_ticks(names: Sequence[str], *, most: int) -> list[Tick]:
    """Return ticks for at most so many of the columns, the first one included."""
    step = -(-len(names) // most) or 1
    return [Tick(at=column(index, len(names)), label=names[index]) for index in range(0, len(names), step)]


def place(value: float, first: float, last: float) -> float:
    """Return the x coordinate of a value on an axis from ``first`` to ``last``."""
    share = (value - first) / (last - first) if last > first else 0.5
    return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)


@dataclass(frozen=True, kw_only=True)
class ErrorScale:
    """A vertical axis of accuracies in percent, logarithmic in the error: 99 % is as far from 99.9 % as from 90 %."""

    most: float
    least: float

    @classmethod
    def around(cls, accuracies: Sequence[float]) -> ErrorScale:
        """Return the scale that shows all accuracies, with a little room above and below."""
        errors = [max(100 - one, _LEAST_ERROR) for one in accuracies] or [100.0, 1.0]
        return cls(most=min(1.25 * max(errors), 100.0), least=min(errors) / 1.25)

    def y(self, accuracy: float) -> float:
        """Return the y coordinate of an accuracy."""
        error = min(max(100 - accuracy, self.least), self.most)
        return _height(math.log(self.most / error) / math.log(self.most / self.least))

    @property
    def ticks(self) -> list[Tick]:
        """Ticks at round accuracies, not closer than their labels are high."""
        ticks: list[Tick] = []
        for error in _ERRORS:
            at = self.y(100 - error)
            if self.least <= error <= self.most and (not ticks or ticks[-1].at - at >= _LEAST_GAP):
                ticks.append(Tick(at=at, label=f"{100 - error:g} %"))
        return ticks


@dataclass(frozen=True, kw_only=True)
class LinearScale:
    """A vertical axis of numbers, with ticks at least ``least_step`` apart."""

    lowest: float
    highest: float
    least_step: float = 0.0

    @classmethod
    def around(cls, values: Sequence[float]) -> LinearScale:
        """Return the scale that shows all values, with a little room above and below."""
        lowest, highest = min(values, default=0.0), max(values, default=1.0)
        room = 0.08 * (highest - lowest) or 1.0
        return cls(lowest=lowest - room, highest=highest + room)

    def y(self, value: float) -> float:
        """Return the y coordinate of a value."""
        return _height((value - self.lowest) / (self.highest - self.lowest))

    @property
    def ticks(self) -> list[Tick]:
        """Four to ten ticks at round numbers."""
        rough = (self.highest - self.lowest) / 4
        power = 10.0 ** math.floor(math.log10(rough))
        step = max(one * power for one in (1, 2, 5) if one * power <= rough)
        step = max(step, self.least_step)
        first, last = math.ceil(self.lowest / step), math.floor(self.highest / step)
        return [Tick(at=self.y(step * n), label=f"{round(step * n, 9):,g}") for n in range(first, last + 1)]


def _height(share: float) -> float:
    return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)
