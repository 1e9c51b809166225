"""Finding the cause of a difference between two runs: all sources of nondeterminism are pinned, then one is released.

A pinned source behaves deterministically; a released source is not pinned. With all sources pinned the two runs must be
equal. A source whose release alone makes the runs differ again is a cause. Without such an experiment no cause is
reported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class NondeterminismSource:
    """A source of nondeterminism that may make two runs differ, such as the clock, and a hint on how to remove it.

    ``words`` complete a sentence that begins with "the code" and says what the user's code does. A source whose effect
    may be absent by chance is released up to ``tries`` times.
    """

    name: str
    words: str
    hint: str
    tries: int = 1


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """The causes found for a difference between two runs and the evidence, or the reason why no cause was found."""

    causes: tuple[NondeterminismSource, ...]
    evidence: tuple[str, ...]

    @property
    def hint(self) -> str:
        """How to remove the causes, as sentences."""
        return " ".join(dict.fromkeys(cause.hint for cause in self.causes))

    def locations(self, callers: Mapping[str, str]) -> tuple[str, ...]:
        """Return a sentence with the line that calls each cause in ``callers``, which is `Interventions.callers`."""
        return tuple(f"{cause.name} is called {callers[cause.name]}" for cause in self.causes if cause.name in callers)


Experiment = Callable[[frozenset[str]], str | None]


def attribute(sources: Iterable[NondeterminismSource], experiment: Experiment) -> Attribution:
    """Find the causes of a difference: pin all sources, release one at a time, and check whether two runs differ.

    ``experiment`` takes the names of the sources to release, runs twice with all others pinned, and returns how the two
    runs differ, such as ``differs at step 3``; None if they are equal.
    """
    sources = tuple(sources)
    names = ", ".join(source.name for source in sources)
    if (left := experiment(frozenset())) is not None:
        pinned = f"with {names} pinned, the run still {left}" if sources else "there is no source that could be pinned"
        return Attribution(causes=(), evidence=(f"cause unknown: {pinned}",))
    released = {source: _difference_if_released(source, experiment) for source in sources}
    found = {source: shown for source, shown in released.items() if shown is not None}
    if not found:
        words = f"cause unknown: runs are bit-equal with {names} pinned, and with any of these released alone"
        return Attribution(causes=(), evidence=(words,))
    causes = (f"cause: the code {source.words}" for source in found)
    shown = (f"with {names} pinned: bit-equal; with {one.name} alone released: {how}" for one, how in found.items())
    return Attribution(causes=tuple(found), evidence=(*causes, *shown))


def _difference_if_released(source: NondeterminismSource, experiment: Experiment) -> str | None:
    attempts = (experiment(frozenset({source.name})) for _ in range(source.tries))
    return next((found for found in attempts if found is not None), None)


_USE_TORCH = "Draw with torch (torch.rand, torch.randint), whose random state the run's seed sets."
PYTHON_RANDOM = NondeterminismSource(
    name="random", words="draws from Python's random, which the run's seed does not set", hint=_USE_TORCH
)
NUMPY_RANDOM = NondeterminismSource(
    name="numpy.random", words="draws from numpy.random, which the run's seed does not set", hint=_USE_TORCH
)
_NO_TIME = "Compute nothing that depends on the time."
CLOCK = NondeterminismSource(name="time", words="reads the clock (a function of time)", hint=_NO_TIME)
URANDOM = NondeterminismSource(
    name="os.urandom",
    words="draws from os.urandom, which no seed sets (secrets, uuid4, random.SystemRandom and an unseeded "
    "numpy.random.default_rng() draw from it, too)",
    hint=_USE_TORCH,
)
ADDRESS = NondeterminismSource(
    name="id()", words="uses id(), a memory address", hint="Identify objects by a name or a number of your own."
)
ARITHMETIC = NondeterminismSource(
    name="the order of additions",
    words="runs an operation that adds in no fixed order (atomic additions of several threads, as in index_put_ with "
    "accumulate, index_add_ or scatter_add_)",
    hint="Use an operation with a fixed order, such as a matrix product with a one-hot matrix, or "
    "torch.use_deterministic_algorithms(True).",
    tries=3,
)
GLOBALS = NondeterminismSource(
    name="the file's globals",
    words="keeps a value from one run to the next in a global or a class attribute of its file",
    hint="Keep values that change in a buffer of the module (register_buffer).",
)
SOURCES: Sequence[NondeterminismSource] = (PYTHON_RANDOM, NUMPY_RANDOM, CLOCK, URANDOM, ADDRESS, ARITHMETIC, GLOBALS)
