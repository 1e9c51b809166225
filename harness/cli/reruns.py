"""A record's training done again, as `bisect` and `replay` ask for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import click

from harness.cli.console import announce
from harness.cli.options import dataset_for

if TYPE_CHECKING:
    from harness.reproducibility import Rerun
    from harness.training import RunRecord

_Command = TypeVar("_Command", bound=Callable[..., object])


def rerun_options(function: _Command) -> _Command:
    """``--model``, ``--data`` and ``--device``: what a record names and this machine may keep elsewhere."""
    for option in (
        click.option(
            "--device", metavar="auto|cpu|cuda|mps", help="Where to train. Default: the kind of device on record."
        ),
        click.option(
            "--data",
            metavar="NAME|PATH",
            help="Where the data on record are. Default: the data set that the record names.",
        ),
        click.option(
            "--model", metavar="MODEL", help="Where the model on record is. Default: what it was trained from."
        ),
    ):
        function = option(function)
    return function


def rerun_for(record: RunRecord, *, model: str | None, data: str | None, device: str | None) -> Rerun:
    """What a record declares, found again.

    Raises:
        InputError: the model, the data or the device is not to be had, or is another one.
    """
    from harness.errors import InputError
    from harness.reproducibility import Rerun
    from harness.sources import load_model
    from harness.training import resolve_device

    source = model or record.source
    if not source:
        msg = "expected a record that says what was trained, got one with source=''. Name the model with --model."
        raise InputError(msg)
    chosen = resolve_device(device or record.device.split(":")[0])
    captured = load_model(source, seed=record.seed, arguments=record.arguments, announce=announce)
    return Rerun(record=record, captured=captured, dataset=dataset_for(data or record.data_name), device=chosen)
