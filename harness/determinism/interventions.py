"""Pinning sources of nondeterminism in this process: clocks, random generators, addresses, arithmetic and globals."""

from __future__ import annotations

import builtins
import hashlib
import os
import random
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Self

import numpy as np
import torch

from harness.determinism.attribution import (
    ADDRESS,
    ARITHMETIC,
    CLOCK,
    GLOBALS,
    NUMPY_RANDOM,
    PYTHON_RANDOM,
    SOURCES,
    URANDOM,
    NondeterminismSource,
)
from harness.graph import computing_threads

_CLOCKS = ("time", "monotonic", "perf_counter", "process_time", "thread_time")
# In a worker process, __main__ is a module of the harness.
_TRUSTED_PACKAGES = {"__main__", "harness", "torch", "numpy", *sys.stdlib_module_names}


class Interventions:
    """Pins sources of nondeterminism in this process: they behave deterministically.

    This context manager replaces functions of `time`, `os` and `random` by wrappers, which call the original functions
    unless their source is pinned. It must be entered before the model is imported, since a file may contain ``from time
    import time``. ``callers`` maps each source that user code has called to the line of the first call.
    """

    def __init__(self) -> None:
        self.callers: dict[str, str] = {}
        self._pinned: frozenset[str] = frozenset()
        self._calls = 0
        self._replaced = ExitStack()

    def __enter__(self) -> Self:
        for clock in _CLOCKS:
            self._replace(time, clock, self._clock(getattr(time, clock), unit=0.001))
            self._replace(time, f"{clock}_ns", self._clock(getattr(time, f"{clock}_ns"), unit=1_000_000))
        real_urandom, real_seed = os.urandom, random.Random.seed

        def urandom(size: int, /) -> bytes:
            if not self._is_pinned(URANDOM, sys._getframe(1)):  # noqa: SLF001 - the only way to find the caller
                return real_urandom(size)
            return hashlib.shake_256(str(self._calls).encode()).digest(size)

        def seed(generator: random.Random, a: Any = None, version: int = 2) -> None:  # noqa: ANN401 - Python's signature
            real_seed(generator, 0 if a is None and PYTHON_RANDOM.name in self._pinned else a, version)

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
            frame = sys._getframe(1)  # noqa: SLF001 - the only way to find the caller
            # The clock is pinned for user code only, since the harness and torch measure durations.
            return unit * self._calls if _is_user_code(frame) and self._is_pinned(CLOCK, frame) else real()

        return read

    def _is_pinned(self, source: NondeterminismSource, frame: FrameType | None) -> bool:
        """Return whether a source is pinned; count the call, and record the line of the first call by user code."""
        while frame is not None and not _is_user_code(frame):
            frame = frame.f_back
        if frame is not None:
            file = Path(frame.f_code.co_filename).name
            self.callers.setdefault(source.name, f"in line {frame.f_lineno} of {file}")
        self._calls += 1
        return source.name in self._pinned

    @contextmanager
    def pinned(self, released: frozenset[str], *, reimport: Callable[[], None]) -> Iterator[None]:
        """Within the block, pin all sources except those named in ``released``.

        ``reimport`` is called to reset the globals of the model's file, unless these are released.
        """
        self._pinned = frozenset(source.name for source in SOURCES) - released
        self._calls = 0
        # A model's forward pass would draw from the legacy global generator of numpy.
        in_numpy = (np.random.get_state, np.random.seed, np.random.set_state)
        contexts: dict[NondeterminismSource, Callable[[], AbstractContextManager[None]]] = {
            PYTHON_RANDOM: partial(_seeded, random.getstate, random.seed, random.setstate),
            NUMPY_RANDOM: partial(_seeded, *in_numpy),
            ADDRESS: self._numbered_ids,
            ARITHMETIC: ordered_arithmetic,
        }
        with ExitStack() as stack:
            stack.callback(setattr, self, "_pinned", frozenset())
            for source, context in contexts.items():
                if source.name in self._pinned:
                    stack.enter_context(context())
            if GLOBALS.name in self._pinned:
                reimport()
            yield

    @contextmanager
    def _numbered_ids(self) -> Iterator[None]:
        """Within the block, replace `id` for user code by a function that numbers objects in the order of its first calls."""
        real = builtins.id
        # Numbered objects are kept alive: a new object could get the address, and thus the number, of a deleted one.
        seen: dict[int, tuple[int, object]] = {}

        def number(thing: object, /) -> int:
            frame = sys._getframe(1)  # noqa: SLF001 - the only way to find the caller
            if not (_is_user_code(frame) and self._is_pinned(ADDRESS, frame)):
                return real(thing)
            return seen.setdefault(real(thing), (16 * len(seen), thing))[0]

        builtins.id = number
        try:
            yield
        finally:
            builtins.id = real


def _is_user_code(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0] not in _TRUSTED_PACKAGES


@contextmanager
def _seeded(
    get_state: Callable[[], Any], seed: Callable[[int], None], set_state: Callable[[Any], None]
) -> Iterator[None]:
    """Within the block, seed a random generator with 0; restore the previous state afterwards."""
    state = get_state()
    seed(0)
    try:
        yield
    finally:
        set_state(state)


@contextmanager
def deterministic_algorithms(*, on: bool, warn_only: bool = False) -> Iterator[None]:
    """Within the block, set ``torch.use_deterministic_algorithms`` to ``on``."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(on, warn_only=warn_only)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@contextmanager
def ordered_arithmetic() -> Iterator[None]:
    """Within the block, compute on one thread, and with deterministic algorithms wherever torch has them."""
    with (
        computing_threads(1),
        deterministic_algorithms(on=True, warn_only=True),
        warnings.catch_warnings(action="ignore"),
    ):
        yield
