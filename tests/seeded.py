"""Loaders for the processes of many seeds: one that works, and ones that fail in the ways that tests need."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path

from harness.data import Dataset
from harness.errors import InputError
from harness.graph import CapturedModel, capture
from harness.training import initialise
from tests.made_up import dataset, network

REFUSED = 2
FULL = 1


def load_data() -> Dataset:
    """120 steps per epoch of 16 images each."""
    return dataset(train=1920)


def load_model(*, seed: int) -> CapturedModel:
    """A small network with dropout, initialised with the seed."""
    return capture(initialise(lambda: network(dropout=0.1), seed=seed), name="net", twice=False)


def load_and_write_pid(*, seed: int, folder: Path) -> CapturedModel:
    """The network; writes the process ID to a file."""
    (folder / f"{seed}.pid").write_text(str(os.getpid()), encoding="utf-8")
    return load_model(seed=seed)


def load_another_network(*, seed: int) -> CapturedModel:
    """The network without dropout."""
    return capture(initialise(network, seed=seed), name="net", twice=False)


def load_with_other_weights(*, seed: int) -> CapturedModel:
    """The network with the weights of another seed."""
    return load_model(seed=seed + 1)


def load_or_refuse(*, seed: int, refused: int = REFUSED) -> CapturedModel:
    """The network, or an input error for one seed."""
    if seed == refused:
        msg = "expected another seed"
        raise InputError(msg)
    return load_model(seed=seed)


def load_onto_a_full_disk(*, seed: int) -> CapturedModel:
    """The network; the process of one seed cannot write large files."""
    if seed == FULL:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    return load_model(seed=seed)
