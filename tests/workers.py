"""Two processes in which networks are captured and examined while tests run: one after the other they would take a minute."""

from __future__ import annotations

import gc
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

import pytest
import torch
from torch import nn

from harness.graph import capture

# A capture costs half a second of a core: without this a sample of the networks is examined.
EVERY_NETWORK = os.environ.get("HARNESS_EVERY_NETWORK") == "1"

Result = TypeVar("Result")


def _prepare() -> None:
    torch.set_num_threads(1)
    # The first capture imports half of torch; left out of later garbage collections, that saves a quarter of each capture.
    capture(nn.Flatten(), name="the first one")
    gc.collect()
    gc.freeze()


@cache
def _pool() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(
        max_workers=2,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_prepare,
    )


@contextmanager
def at_work(
    work: Callable[[str], Result], request: pytest.FixtureRequest, argument: str = "name"
) -> Iterator[Callable[[str], Result]]:
    """Begin the work for all that the collected tests of a module are repeated for.

    Args:
        work: a function of a module that is imported by its full name, called with a name.
        request: of a fixture of the test module.
        argument: which argument of the tests holds the names.

    Yields:
        The result for a name, waited for where it must be.
    """
    futures: dict[str, Future[Result]] = {}

    def result(name: str) -> Result:
        if name not in futures:
            futures[name] = _pool().submit(work, name)
        return futures[name].result()

    for item in request.session.items:
        if isinstance(item, pytest.Function) and item.module is request.module and hasattr(item, "callspec"):
            name = item.callspec.params.get(argument)
            if isinstance(name, str) and name not in futures:
                futures[name] = _pool().submit(work, name)
    yield result
    for future in futures.values():
        future.cancel()
