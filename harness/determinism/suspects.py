"""Why two runs differ, shown by intervention: every suspect is held still, then released one at a time.

Held still together, the suspects must make the runs equal; the one whose release alone makes them differ again is a
cause. What no intervention shows is not named.
"""

from __future__ import annotations

import builtins
import hashlib
import os
import random
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, Self

import numpy as np
import torch

from harness.graph import computing_threads


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """Something that two runs may differ by.

    Args:
        name: what it is called in a list.
        words: what the model does if it is the cause, as half a sentence.
        hint: what to do then.
        tries: how often it is released, if it may make no difference by chance.
    """

    name: str
    words: str
    hint: str
    tries: int = 1


@dataclass(frozen=True, kw_only=True)
class Blame:
    """What came of an investigation.

    Args:
        causes: the suspects that were shown to be a cause; empty where none was.
        evidence: what showed it, or why nothing could be shown.
    """

    causes: tuple[Suspect, ...]
    evidence: tuple[str, ...]

    @property
    def hint(self) -> str:
        """What to do about the causes."""
        return " ".join(dict.fromkeys(cause.hint for cause in self.causes))


class HasWords(Protocol):
    """How two runs differ."""

    def describe(self) -> str:
        """As half a sentence, such as ``differs at step 3``."""


def blame(suspects: Sequence[Suspect], difference: Callable[[frozenset[str]], HasWords | None]) -> Blame:
    """Hold all suspects still, release one at a time, and see whose release makes two runs differ.

    Args:
        suspects: who may be the cause.
        difference: runs twice, with the suspects of these names released and all others held still, and says how the
            runs differ; None where they do not.
    """
    names = ", ".join(suspect.name for suspect in suspects)
    if (left := difference(frozenset())) is not None:
        still = (
            f"with {names} held still, it still {left.describe()}" if suspects else "nothing to hold still was found"
        )
        return Blame(causes=(), evidence=(f"cause unknown: {still}",))
    released = {}
    for suspect in suspects:
        attempts = (difference(frozenset({suspect.name})) for _ in range(suspect.tries))
        released[suspect] = next((found for found in attempts if found is not None), None)
    causes = tuple(suspect for suspect, found in released.items() if found is not None)
    if not causes:
        return Blame(causes=(), evidence=(f"cause unknown: bit-equal with {names} held still, and with each released",))
    shown = (
        f"with {names} held still: bit-equal; with {suspect.name} alone released: {found.describe()}"
        for suspect, found in released.items()
        if found is not None
    )
    return Blame(causes=causes, evidence=(*(f"cause: it {cause.words}" for cause in causes), *shown))


PYTHON_RANDOM = Suspect(
    name="random",
    words="draws from Python's random, which the run's seed does not reach",
    hint="Draw with torch (torch.rand, torch.randint), whose random state the run's seed decides.",
)
NUMPY_RANDOM = Suspect(
    name="numpy.random",
    words="draws from numpy.random, which the run's seed does not reach",
    hint="Draw with torch (torch.rand, torch.randint), whose random state the run's seed decides.",
)
CLOCK = Suspect(
    name="time",
    words="reads the clock (a function of time)",
    hint="Let nothing that is computed depend on the time.",
)
URANDOM = Suspect(
    name="os.urandom",
    words="draws from os.urandom, which no seed reaches (secrets, uuid4, random.SystemRandom and an unseeded "
    "numpy.random.default_rng() draw from it, too)",
    hint="Draw with torch (torch.rand, torch.randint), whose random state the run's seed decides.",
)
ADDRESS = Suspect(
    name="id()",
    words="uses id(), an address in memory",
    hint="Tell things apart by a name or a number of your own.",
)
ARITHMETIC = Suspect(
    name="the order of additions",
    words="runs an operation that adds in no fixed order (atomic additions of several threads, as in index_put_ with "
    "accumulate, index_add_ or scatter_add_)",
    hint="Use an operation with a fixed order, such as a matrix product with a one-hot matrix, or "
    "torch.use_deterministic_algorithms(True).",
    tries=3,
)
GLOBALS = Suspect(
    name="the file's globals",
    words="keeps something from one run to the next in a global or a class attribute of its file",
    hint="Keep what changes in a buffer of the module (register_buffer).",
)
SUSPECTS = (PYTHON_RANDOM, NUMPY_RANDOM, CLOCK, URANDOM, ADDRESS, ARITHMETIC, GLOBALS)

_CLOCKS = ("time", "monotonic", "perf_counter", "process_time", "thread_time")
# The worker of the audit is __main__ in its process.
_KNOWN_PACKAGES = {"__main__", "harness", "torch", "numpy", *sys.stdlib_module_names}


class Interventions:
    """Holds suspects still in this process.

    As a context it puts functions of its own in place of those of `time`, `os` and `random`, which pass on to the real
    ones until something is held still; enter it before the model is imported, since a file may say ``from time import
    time``.
    """

    def __init__(self) -> None:
        self.callers: dict[str, str] = {}
        self._held: frozenset[str] = frozenset()
        self._drawn = 0
        self._replaced = ExitStack()

    def __enter__(self) -> Self:
        for clock in _CLOCKS:
            self._replace(time, clock, self._clock(getattr(time, clock), unit=0.001))
            self._replace(time, f"{clock}_ns", self._clock(getattr(time, f"{clock}_ns"), unit=1_000_000))
        real_urandom, real_seed = os.urandom, random.Random.seed

        def urandom(size: int, /) -> bytes:
            if not self._answers(URANDOM, sys._getframe(1)):  # noqa: SLF001 - the way to know who asks
                return real_urandom(size)
            return hashlib.shake_256(str(self._drawn).encode()).digest(size)

        def seed(generator: random.Random, a: Any = None, version: int = 2) -> None:  # noqa: ANN401 - as Python has it
            real_seed(generator, 0 if a is None and PYTHON_RANDOM.name in self._held else a, version)

        for place, name in ((os, "urandom"), (random, "_urandom")):
            self._replace(place, name, urandom)
        self._replace(random.Random, "seed", seed)
        return self

    def __exit__(self, *_: object) -> None:
        self._replaced.close()

    def _replace(self, place: object, name: str, function: Callable[..., object]) -> None:
        self._replaced.callback(setattr, place, name, getattr(place, name))
        setattr(place, name, function)

    def _clock(self, real: Callable[[], float], *, unit: float) -> Callable[[], float]:
        def read() -> float:
            frame = sys._getframe(1)  # noqa: SLF001 - the way to know who asks
            # The harness and torch measure how long things take; only the model's own looks at the clock are of interest.
            return unit * self._drawn if _is_foreign(frame) and self._answers(CLOCK, frame) else real()

        return read

    def _answers(self, suspect: Suspect, frame: FrameType | None) -> bool:
        """Whether a suspect is held still and has to answer; remembers who asked first."""
        while frame is not None and not _is_foreign(frame):
            frame = frame.f_back
        if frame is not None:
            file = Path(frame.f_code.co_filename).name
            self.callers.setdefault(suspect.name, f"in line {frame.f_lineno} of {file}")
        self._drawn += 1
        return suspect.name in self._held

    @contextmanager
    def held(self, released: frozenset[str], *, renew: Callable[[], None]) -> Iterator[None]:
        """Hold all suspects still in the block but those released.

        Args:
            released: their names.
            renew: imports the model again, so that its globals are new.
        """
        self._held = frozenset(suspect.name for suspect in SUSPECTS) - released
        self._drawn = 0
        contexts = {
            PYTHON_RANDOM: _python_seeded,
            NUMPY_RANDOM: _numpy_seeded,
            ADDRESS: self._numbered,
            ARITHMETIC: ordered_arithmetic,
        }
        with ExitStack() as stack:
            stack.callback(setattr, self, "_held", frozenset())
            for suspect, context in contexts.items():
                if suspect.name in self._held:
                    stack.enter_context(context())
            if GLOBALS.name in self._held:
                renew()
            yield

    @contextmanager
    def _numbered(self) -> Iterator[None]:
        """`id` answers with a number of first sight."""
        real = builtins.id
        # What has a number is kept, or another thing could get its address and with it the number.
        seen: dict[int, tuple[int, object]] = {}

        def number(thing: object, /) -> int:
            frame = sys._getframe(1)  # noqa: SLF001 - the way to know who asks
            if not (_is_foreign(frame) and self._answers(ADDRESS, frame)):
                return real(thing)
            return seen.setdefault(real(thing), (16 * len(seen), thing))[0]

        builtins.id = number
        try:
            yield
        finally:
            builtins.id = real


def _is_foreign(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0] not in _KNOWN_PACKAGES


@contextmanager
def _python_seeded() -> Iterator[None]:
    state = random.getstate()
    random.seed(0)
    try:
        yield
    finally:
        random.setstate(state)


@contextmanager
def _numpy_seeded() -> Iterator[None]:
    # The old global generator is the one that a model's forward would draw from.
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


@contextmanager
def deterministic(*, on: bool, warn_only: bool = False) -> Iterator[None]:
    """Tell torch to use deterministic algorithms only, or not to."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(on, warn_only=warn_only)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@contextmanager
def ordered_arithmetic() -> Iterator[None]:
    """Compute on one thread, with deterministic algorithms wherever torch has them."""
    with computing_threads(1), deterministic(on=True, warn_only=True), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
