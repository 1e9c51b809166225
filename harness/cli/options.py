"""The arguments and options that several commands share."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.console import Output
from harness.datasets import AUTO, data_choices
from harness.errors import InputError

if TYPE_CHECKING:
    from harness.sandbox import SandboxRequirement

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

DEFAULT_CONTRACT = "era-s7"
DEFAULT_RECIPE = "reference"
DEFAULT_SEED = 1
_PICTURES = (".png", ".svg")
# The largest number of threads that a run record may contain, see `harness.training.Environment`.
MAX_THREADS = 4096


def combine(*decorators: Decorator) -> Decorator:
    """Combine several option decorators into one decorator; ``--help`` lists the options in the given order."""

    def declare(function: Callable[..., Any]) -> Callable[..., Any]:
        return functools.reduce(lambda declared, decorator: decorator(declared), reversed(decorators), function)

    return declare


def _output(_: click.Context, __: click.Parameter, target: str | None) -> Output:
    if target not in (None, "-"):
        _writable(target)
    return Output(target)


def _picture(context: click.Context, parameter: click.Parameter, target: str | None) -> Path | None:
    if target is not None and Path(target).suffix not in _PICTURES:
        raise click.BadParameter(f"expected a file name that ends in {' or '.join(_PICTURES)}, got {target!r}.")
    return writable_file(context, parameter, target)


def writable_file(_: click.Context, __: click.Parameter, target: str | None) -> Path | None:
    """Callback of an option: check before the command starts that a file can be written, not after hours of training."""
    return None if target is None else _writable(target)


def _writable(target: str) -> Path:
    from harness.files import require_writable

    if not target:
        raise click.BadParameter("expected the name of a file, got an empty one.")
    try:
        require_writable(Path(target))
    except InputError as problem:
        raise click.BadParameter(str(problem)) from problem
    return Path(target)


def _sandbox(_: click.Context, __: click.Parameter, layers: str) -> SandboxRequirement:
    from harness.sandbox import SandboxRequirement

    try:
        return SandboxRequirement.parse(layers)
    except InputError as problem:
        raise click.BadParameter(str(problem)) from problem


def plot_option(what: str) -> Decorator:
    """Return the option ``--plot``; the help text says that ``what`` is drawn."""
    return click.option("--plot", metavar="FILE", callback=_picture, help=f"Draw {what} to FILE, .png or .svg.")


def seed_option(purpose: str) -> Decorator:
    """Return the option ``--seed`` with the help text ``purpose``."""
    return click.option(
        "--seed", default=DEFAULT_SEED, show_default=True, type=click.IntRange(min=0, max=2**63 - 1), help=purpose
    )


def device_option(purpose: str, *, default: str | None = "auto") -> Decorator:
    """Return the option ``--device`` with the help text ``purpose``."""
    return click.option(
        "--device", default=default, show_default=default is not None, metavar="auto|cpu|cuda|mps", help=purpose
    )


arguments_option = click.option(
    "--args",
    "arguments",
    default="",
    metavar="NAME=VALUE,...",
    help='Constructor arguments for a model of your own, as Python literals: "dropout_prob=0.1, width=16".',
)
model_argument = combine(click.argument("model", metavar="MODEL"), arguments_option)


def sandbox_option(default: str) -> Decorator:
    """Return the option ``--require-sandbox``, whose value is a `harness.sandbox.SandboxRequirement`."""
    return click.option(
        "--require-sandbox",
        "sandbox",
        default=default,
        show_default=True,
        metavar="LAYERS",
        callback=_sandbox,
        help="Layers of the sandbox that must hold before code of the model runs: + joins layers, a comma separates "
        "alternatives, as in seccomp+bubblewrap,seccomp+landlock+user. `harness doctor` lists the layers that hold.",
    )


# For a command that requires layers by default.
trust_submission_option = click.option(
    "--trust-submission", is_flag=True, help="Require no layers of the sandbox, for code of your own."
)
debug_option = click.option(
    "--debug",
    is_flag=True,
    expose_value=False,  # harness.cli.app.run reads it
    help="Show the traceback of an error.",
)
report_options = combine(
    click.option(
        "--json",
        "output",
        metavar="PATH",
        callback=_output,
        help="Write the result as a JSON document to PATH; - writes it to standard output instead of the text.",
    ),
    debug_option,
)
html_option = click.option(
    "--html", metavar="FILE", callback=writable_file, help="Write the result as a page for a browser to FILE."
)
evidence_option = click.option("--evidence", is_flag=True, help="Show the evidence for requirements that hold, too.")


class FiniteRange(click.FloatRange):
    """A number within a range, neither infinite nor NaN, which JSON has no words for."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ANN401 - as in click
        """Return the number, or end the command with a usage error."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


contract_option = click.option(
    "--contract",
    "contract_name",
    metavar="NAME|FILE",
    help="Contract to check: a built-in name or a TOML file. Default: the contract of the model's card for a shipped model, "
    f"{DEFAULT_CONTRACT} for other models.",
)
recipe_option = click.option(
    "--recipe",
    "recipe_name",
    metavar="NAME|FILE",
    help="Training recipe: the name of a shipped model, or a TOML file. Default: the model's own recipe for a shipped model, "
    f"the recipe of the model {DEFAULT_RECIPE!r} for other models.",
)
data_option = click.option(
    "--data",
    default=AUTO,
    show_default=True,
    metavar="NAME|PATH",
    help=f"Data set: {', '.join(data_choices())}, or a folder with the MNIST files. auto is MNIST, or the embedded digits if "
    "MNIST is not found and not downloadable. The environment variable HARNESS_DATA names a folder with data sets.",
)
engine_option = click.option(
    "--engine",
    default="auto",
    show_default=True,
    metavar="auto|NAME",
    help="Engine that computes the training steps; `harness doctor` lists the engines. auto chooses the engine fast on a CPU if "
    "fast computes the same as eager for the model, and otherwise the engine eager. The engine graph (CUDA) has not run on a GPU "
    "yet; auto never chooses graph.",
)
training_options = combine(
    recipe_option,
    seed_option("Seed of the run."),
    device_option("Device to train on."),
    engine_option,
    click.option(
        "--out",
        metavar="FOLDER",
        help="Folder for the run record and the checkpoints. Default: a folder under runs/, named after the run.",
    ),
    click.option("--fresh", is_flag=True, help="Start over instead of resuming an unfinished run."),
)
# Passed to a command as **chosen, the arguments of `harness.cli.inputs.rerun_for`.
rerun_options = combine(
    click.option(
        "--model", metavar="MODEL", help="Source of the recorded model. Default: the source that the record names."
    ),
    click.option("--data", metavar="NAME|PATH", help="Recorded data set. Default: the data set that the record names."),
    device_option("Device to train on. Default: the kind of device that the record names.", default=None),
)
