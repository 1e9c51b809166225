"""The shipped models, each captured once a session, in a process of its own while other tests run.

A capture takes a second or two of one core. Ask for all of them early, and they are there when the tests come to them.
"""

from __future__ import annotations

import multiprocessing
import pickle
from concurrent.futures import Future, ProcessPoolExecutor

from harness.graph import CapturedModel, load_model


def _captured(name: str) -> bytes:
    # As bytes: tensors sent between processes as they are would each hold a file descriptor open.
    return pickle.dumps(load_model(name))


class ShippedModels:
    """The captured shipped models by name, drawn with the default seed."""

    def __init__(self) -> None:
        self._pool = ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn"))
        self._asked: dict[str, Future[bytes]] = {}
        self._models: dict[str, CapturedModel] = {}

    def ask(self, name: str) -> None:
        """Have a model captured; returns at once."""
        if name not in self._asked:
            self._asked[name] = self._pool.submit(_captured, name)

    def __call__(self, name: str) -> CapturedModel:
        """The captured model, waited for where it must be."""
        if name not in self._models:
            self.ask(name)
            self._models[name] = pickle.loads(self._asked[name].result())  # noqa: S301 - our own process wrote it
        return self._models[name]

    def close(self) -> None:
        """End the process; what was asked for and not yet begun is dropped."""
        self._pool.shutdown(cancel_futures=True)
