"""`harness golden`: records outputs of models, and checks that the models still compute the recorded outputs."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import mnist_models
from harness.cli.console import Output, announce, exit_code
from harness.cli.inputs import model_for, recipe_for
from harness.cli.options import (
    DEFAULT_SEED,
    MAX_THREADS,
    arguments_option,
    combine,
    debug_option,
    device_option,
    evidence_option,
    report_options,
)
from harness.errors import InputError
from harness.files import make_folder
from harness.findings import Finding, overall

if TYPE_CHECKING:
    import torch

    from harness.goldens import Golden
    from harness.graph import CapturedModel
    from harness.sources import LoadedModel
    from harness.training import RunSpec

SHIPPED = Path(mnist_models.__file__).parent / "goldens"
_DEVICE, _THREADS = "cpu", 1

_folder_option = click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Folder of the goldens of your own models. Default: the goldens of the shipped models.",
)
_computing_options = combine(
    click.argument("models", metavar="[MODEL]...", nargs=-1),
    arguments_option,
    _folder_option,
    device_option("Device to compute on; outputs are recorded separately for each kind of device.", default=_DEVICE),
    click.option(
        "--threads",
        default=_THREADS,
        show_default=True,
        type=click.IntRange(min=1, max=MAX_THREADS),
        help="Number of CPU threads to compute with; outputs are recorded separately for each number of threads.",
    ),
)


@click.group()
def golden() -> None:
    """Record the outputs of models, and check that the models still compute the recorded outputs."""


@golden.command()
@_computing_options
@evidence_option
@report_options
def check(
    models: tuple[str, ...],
    arguments: str,
    folder: Path | None,
    device: str,
    threads: int,
    output: Output,
    *,
    evidence: bool,
) -> int:
    """Check models against their goldens; without MODEL, all models that have goldens.

    In an environment whose outputs are recorded, the comparison is bit for bit. In another environment outputs are
    compared within a tolerance, and the exit code is 3 if all outputs agree.
    """
    from harness.goldens import check_golden, environment_key, golden_path, unused_goldens
    from harness.graph import computing_threads
    from harness.reporting import findings_content, findings_table, verdict_line
    from harness.training import environment, resolve_device

    chosen, place = resolve_device(device), folder or SHIPPED
    selected = _select(models, arguments, folder)
    findings: list[Finding] = []
    content: list[dict[str, Any]] = []
    with computing_threads(threads):
        for model, loaded in _loaded(selected):
            captured = loaded.model
            path = golden_path(place, captured.name)
            remedy = model.update_command(folder, device, threads)
            found = check_golden(captured, model.spec(captured, chosen), path, remedy=remedy)
            findings += found
            output.print(captured.name, findings_table(found, evidence=evidence))
            named = {
                "model": captured.name,
                "source": model.source,
                "sandbox": [dataclasses.asdict(one) for one in loaded.layers],
                "file": path.name,
            }
            content.append(named | findings_content(found))
        key = environment_key(environment(chosen), chosen)
    unused = () if models else unused_goldens(place, [model.path for model in selected if model.path])
    if unused:
        findings += unused
        output.print(str(place), findings_table(unused, evidence=evidence))
    status = overall(findings)
    count = f"{len(selected)} model{'' if len(selected) == 1 else 's'}"
    output.print(verdict_line(status, f"{count} checked against the goldens, {key.describe()}"))
    written = {
        "folder": str(place),
        "environment": dataclasses.asdict(key),
        "status": status.value,
        "models": content,
        "unused": [finding.to_json() for finding in unused],
    }
    output.write("golden-check", written)
    return exit_code(findings)


@golden.command()
@_computing_options
@click.option("--dry-run", is_flag=True, help="Print the changes without writing them.")
@debug_option
def update(
    models: tuple[str, ...], arguments: str, folder: Path | None, device: str, threads: int, *, dry_run: bool
) -> None:
    """Record the outputs of models in this environment and print the changes; without MODEL, of all models that have goldens.

    The outputs recorded in other environments are kept, unless the graph, the initial weights or the recipe of the
    model changed.
    """
    from harness.goldens import golden_bytes, golden_path, update_golden, write_golden
    from harness.graph import computing_threads
    from harness.training import resolve_device

    output = Output(None)
    chosen, place = resolve_device(device), folder or SHIPPED
    selected = _select(models, arguments, folder)
    if not dry_run:
        make_folder(place, option="--folder")
    with computing_threads(threads):
        for model, loaded in _loaded(selected):
            captured = loaded.model
            path = golden_path(place, captured.name)
            made = update_golden(captured, model.spec(captured, chosen), _read_existing(path))
            if not made.changes:
                output.print_unwrapped(f"{captured.name}: no changes")
                continue
            size = f"{len(golden_bytes(made.golden)):,} bytes"
            output.print_unwrapped(f"{captured.name}: {path}, {size}{', not written' if dry_run else ''}")
            output.print_unwrapped("\n".join(f"  {line}" for line in made.changes))
            if not dry_run:
                write_golden(made.golden, path)


@golden.command(name="list")
@_folder_option
@report_options
def list_goldens(folder: Path | None, output: Output) -> None:
    """List the models that have goldens, and the environments in which the goldens were recorded."""
    from harness.goldens import SUFFIX, golden_path, read_golden
    from harness.reporting import plain_table

    place = folder or SHIPPED
    if not place.is_dir():
        raise InputError(
            f"expected a folder with goldens, got --folder {place}, which does not exist. Name an existing folder."
        )
    paths = {} if folder else {golden_path(place, name): name for name in mnist_models.list_models()}
    paths |= {path: path.stem for path in sorted(place.glob(f"*{SUFFIX}")) if path not in paths}
    rows: list[tuple[str, ...]] = []
    content: list[dict[str, Any]] = []
    for path, name in paths.items():
        entry: dict[str, Any] = {"model": name, "file": path.name, "bytes": None, "graph": None, "problem": None}
        entry["environments"] = []
        try:
            found = read_golden(path)
        except InputError as problem:
            entry["problem"] = str(problem) if path.exists() else "there is no golden"
            rows.append((name, "-", entry["problem"], "-"))
        else:
            entry |= {"model": found.model, "bytes": path.stat().st_size, "graph": found.graph}
            for bits in found.bits:
                made = {"machine": dict(bits.machine), "harness": bits.harness}
                entry["environments"].append(dataclasses.asdict(bits.key) | made)
                processor = bits.machine.get("processor", "-")
                rows.append((found.model, f"{entry['bytes']:,}", bits.key.describe(), processor))
        content.append(entry)
    output.print(plain_table(("model", "bytes", "environment", "recorded on"), rows, right=(1,)))
    output.write("golden-list", {"folder": str(place), "goldens": content})


@dataclass(frozen=True)
class _SelectedModel:
    """A model whose golden is checked or updated; ``path`` is the golden file, None if the user named the model as MODEL."""

    source: str
    arguments: str
    path: Path | None = None

    def spec(self, captured: CapturedModel, device: torch.device) -> RunSpec:
        """Return the description of the training whose results the model's golden records."""
        from harness.training import RunSpec

        source, recipe = self.source, recipe_for(self.source, None)
        return RunSpec.of(captured, recipe, seed=DEFAULT_SEED, device=device, source=source, arguments=self.arguments)

    def update_command(self, folder: Path | None, device: str, threads: int) -> str:
        """Return the `harness golden update` command that updates the model's golden with these options."""
        options = {
            "--args": self.arguments,
            "--folder": folder,
            "--device": device if device != _DEVICE else "",
            "--threads": threads if threads != _THREADS else "",
        }
        given = [part for name, value in options.items() if value for part in (name, str(value))]
        return shlex.join(["harness", "golden", "update", self.source, *given])


def _select(models: Sequence[str], arguments: str, folder: Path | None) -> list[_SelectedModel]:
    """Return the named models; without names, the shipped models or, with ``folder``, the models of the goldens in the folder.

    A golden in the folder is left out if it cannot be read, or if the source of its model is not found.
    """
    from harness.goldens import SUFFIX, golden_path, read_golden
    from harness.sources import parse_source

    shipped = mnist_models.list_models()
    if arguments and len(models) != 1:
        raise click.UsageError(
            f"expected one MODEL with --args, got {len(models)}. Name only the model that takes the arguments"
        )
    own = [model for model in models if model not in shipped]
    if own and folder is None:
        raise click.UsageError(
            f"expected a shipped model, or --folder for a model of your own, got {own[0]!r} without --folder. Name the folder "
            "of the model's goldens with --folder"
        )
    if models:
        return [_SelectedModel(model, arguments) for model in models]
    if folder is None:
        return [_SelectedModel(name, "", golden_path(SHIPPED, name)) for name in shipped]
    paths = sorted(folder.glob(f"*{SUFFIX}"))
    if not paths:
        raise click.UsageError(
            f"expected a MODEL, or a --folder with goldens, got --folder {folder}, which has none. Name a MODEL, "
            "or another folder"
        )
    selected = []
    for path in paths:
        # Goldens that cannot be read are among the unused ones.
        with contextlib.suppress(InputError):
            found = read_golden(path)
            parse_source(found.source)
            selected.append(_SelectedModel(found.source, found.arguments, path))
    return selected


def _loaded(models: Sequence[_SelectedModel]) -> Iterator[tuple[_SelectedModel, LoadedModel]]:
    """Load each model with its initial weights; print the position in the list if there are several models."""
    for number, model in enumerate(models, start=1):
        if len(models) > 1:
            announce(f"{number} of {len(models)}: {model.source}")
        loaded = model_for(model.source, seed=DEFAULT_SEED, arguments=model.arguments)
        loaded.model.require_trainable()
        yield model, loaded


def _read_existing(path: Path) -> Golden | None:
    """Return the golden to update; ``None`` if there is no golden or, with a message, if the golden cannot be read."""
    from harness.goldens import read_golden

    try:
        return read_golden(path) if path.exists() else None
    except InputError as problem:
        announce(
            f"the golden cannot be read and is replaced; outputs recorded in other environments are lost: {problem}"
        )
        return None
