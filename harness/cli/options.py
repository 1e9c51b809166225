"""Options that several commands share, and what they stand for."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

import mnist_models
from harness.cli.console import DownloadProgress, announce
from harness.datasets import data_choices

if TYPE_CHECKING:
    from harness.certification import ConsistencyRule
    from harness.contracts import Contract
    from harness.data import Dataset
    from harness.training import Recipe

_Command = TypeVar("_Command", bound=Callable[..., object])

DEFAULT_CONTRACT = "era-s7"
DEFAULT_RECIPE = "reference"
DEFAULT_SEED = 1


def model_argument(function: _Command) -> _Command:
    """The argument MODEL, and ``--args`` for its constructor."""
    arguments = click.option(
        "--args",
        "arguments",
        default="",
        metavar="NAME=VALUE,...",
        help='What to build a model of your own with, as literals: "dropout_prob=0.1, width=16".',
    )
    return click.argument("model", metavar="MODEL")(arguments(function))


def json_option(function: _Command) -> _Command:
    """``--json PATH``."""
    return click.option(
        "--json",
        "json_path",
        metavar="PATH",
        callback=_writable,
        help="Write the result as JSON; - for standard output.",
    )(function)


def _writable(_: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Refuse a place that cannot be written before the work is done, not after minutes of training."""
    if value in (None, "-"):
        return value
    path = Path(value)
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        reason = "is a folder" if path.is_dir() else f"lies in {str(path.parent)!r}, which cannot be written to"
        message = f"expected a file that can be written, found {value!r}, which {reason}. Name another place."
        raise click.BadParameter(message, param=parameter)
    return value


def debug_option(function: _Command) -> _Command:
    """``--debug``; `harness.cli.app.run` reads it."""
    return click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")(function)


def contract_option(function: _Command) -> _Command:
    """``--contract NAME|FILE``."""
    return click.option(
        "--contract",
        "contract_name",
        metavar="NAME|FILE",
        help=f"A built-in contract or a TOML file. Default: the card's for a shipped model, {DEFAULT_CONTRACT} otherwise.",
    )(function)


def data_option(function: _Command) -> _Command:
    """``--data NAME|PATH``."""
    return click.option(
        "--data",
        default="auto",
        show_default=True,
        metavar="NAME|PATH",
        help=f"Data set: {', '.join(data_choices())}, or a folder with the MNIST files. auto is MNIST, or the embedded digits if "
        "MNIST is not found and not downloadable. HARNESS_DATA names a folder with data sets.",
    )(function)


def training_options(function: _Command) -> _Command:
    """``--recipe``, ``--seed``, ``--device``, ``--engine``, ``--out`` and ``--fresh``."""
    for option in (
        click.option("--fresh", is_flag=True, help="Start over even where an unfinished run could be gone on with."),
        click.option(
            "--out",
            metavar="FOLDER",
            help="Where record and checkpoints go. Default: a folder under runs/, named after the run.",
        ),
        click.option(
            "--engine",
            default="auto",
            show_default=True,
            metavar="auto|eager|fast|bf16|graph",
            help="How to compute the steps: auto is fast on a CPU and graph on a CUDA device, where it computes what the model "
            "says, else eager.",
        ),
        click.option(
            "--device", default="auto", show_default=True, metavar="auto|cpu|cuda|mps", help="Where to train."
        ),
        click.option(
            "--seed",
            default=DEFAULT_SEED,
            show_default=True,
            type=click.IntRange(min=0, max=2**63 - 1),
            help="Seed of the run.",
        ),
        click.option(
            "--recipe",
            "recipe_name",
            metavar="NAME|FILE",
            help="A shipped model's recipe or a TOML file. Default: the model's own if shipped, the reference recipe otherwise.",
        ),
    ):
        function = option(function)
    return function


def contract_for(model: str, name: str | None) -> Contract:
    """The contract asked for, or the model's own, or the default."""
    from harness.contracts import load_contract

    if name is None and model in mnist_models.list_models():
        name = mnist_models.model_card(model).contract
    return load_contract(name or DEFAULT_CONTRACT)


def rule_for(contract: Contract) -> ConsistencyRule | None:
    """The contract's accuracy rule, if it asks for accuracy."""
    from harness.certification import ConsistencyRule

    if contract.accuracy is None:
        return None
    return ConsistencyRule.from_table(contract.accuracy, where=f"contract {contract.name}: [accuracy]")


def recipe_for(model: str, name: str | None) -> Recipe:
    """The recipe asked for, or the model's own, or the reference recipe."""
    from harness.training import Recipe, load_recipe

    if name is None:
        name = model if model in mnist_models.list_models() else DEFAULT_RECIPE
    if name in mnist_models.list_models():
        return Recipe.from_mapping(mnist_models.model_card(name).recipe, name=name)
    return load_recipe(name)


def dataset_for(choice: str) -> Dataset:
    """The data asked for; says so when they are not MNIST."""
    from harness.data import load_dataset

    with DownloadProgress() as progress:
        dataset = load_dataset(choice, announce=announce, progress=progress)
    announce(f"data: {dataset.title}, {dataset.source}")
    return dataset
