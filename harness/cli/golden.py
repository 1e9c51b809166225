"""`harness golden`: what models compute, on record."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

import mnist_models
from harness.cli.console import announce, exit_code, results, write_json
from harness.cli.options import DEFAULT_SEED, debug_option, json_option, recipe_for
from harness.errors import InputError, ModelSourceError
from harness.findings import Finding, overall

if TYPE_CHECKING:
    import torch

    from harness.goldens import Golden
    from harness.graph import CapturedModel
    from harness.training import RunSpec

_Command = TypeVar("_Command", bound=Callable[..., object])

SHIPPED = Path(mnist_models.__file__).parent / "goldens"
_DEVICE, _THREADS = "cpu", 1


@click.group()
def golden() -> None:
    """Keep on record what models compute, and hold them to it."""


def _folder_option(function: _Command) -> _Command:
    return click.option(
        "--folder",
        type=click.Path(file_okay=False, path_type=Path),
        metavar="FOLDER",
        help="Where the goldens of models of your own are. Default: where those of the shipped models are.",
    )(function)


def _computing_options(function: _Command) -> _Command:
    for option in (
        click.option(
            "--threads",
            default=_THREADS,
            show_default=True,
            type=click.IntRange(min=1),
            help="Threads to compute on; part of what a golden holds for.",
        ),
        click.option(
            "--device",
            default=_DEVICE,
            show_default=True,
            metavar="auto|cpu|cuda|mps",
            help="Where to compute; likewise.",
        ),
        _folder_option,
        click.option(
            "--args",
            "arguments",
            default="",
            metavar="NAME=VALUE,...",
            help="What to build the one MODEL that is named with, as literals.",
        ),
        click.argument("models", metavar="[MODEL]...", nargs=-1),
    ):
        function = option(function)
    return function


@golden.command()
@_computing_options
@click.option("--evidence", is_flag=True, help="Show the evidence of what holds, too.")
@json_option
@debug_option
@click.pass_context
def check(
    ctx: click.Context,
    models: tuple[str, ...],
    arguments: str,
    folder: Path | None,
    device: str,
    threads: int,
    json_path: str | None,
    *,
    evidence: bool,
) -> None:
    """Hold models to their goldens; without MODEL all that there are.

    Bit for bit where this environment is on record. Elsewhere the outputs are held to a tolerance, and exit code 3 says that
    no more could be shown.
    """
    from harness.goldens import check_golden, environment_key, golden_path, unused_goldens
    from harness.graph import computing_threads
    from harness.reporting import document, findings_content, findings_table, verdict_line
    from harness.training import environment, resolve_device

    chosen, place = resolve_device(device), folder or SHIPPED
    subjects = _subjects(models, arguments, folder)
    findings: list[Finding] = []
    content: list[dict[str, Any]] = []

    def show(title: str, new: Sequence[Finding]) -> None:
        findings.extend(new)
        if json_path != "-":
            console = results()
            console.print(title)
            console.print(findings_table(new, evidence=evidence))

    with computing_threads(threads):
        for subject in _announced(subjects):
            captured = subject.load()
            path = golden_path(place, captured.name)
            remedy = subject.update_command(folder, device, threads)
            found = check_golden(captured, subject.spec(captured, chosen), path, remedy=remedy)
            show(captured.name, found)
            content.append(
                {"model": captured.name, "source": subject.source, "file": path.name, **findings_content(found)}
            )
        key = environment_key(environment(chosen), chosen)
    unused = () if models else unused_goldens(place, [subject.path for subject in subjects if subject.path])
    if unused:
        show(str(place), unused)
    status = overall(findings)
    if json_path != "-":
        count = f"{len(subjects)} model{'' if len(subjects) == 1 else 's'}"
        results().print(verdict_line(status, f"{count} held to what is on record, {key.describe()}"))
    written = {
        "folder": str(place),
        "environment": dataclasses.asdict(key),
        "status": status.value,
        "models": content,
        "unused": [finding.to_json() for finding in unused],
    }
    write_json(json_path, document("golden-check", written))
    ctx.exit(exit_code(findings))


@golden.command()
@_computing_options
@click.option("--dry-run", is_flag=True, help="Say what would change, and write nothing.")
@debug_option
def update(
    models: tuple[str, ...], arguments: str, folder: Path | None, device: str, threads: int, *, dry_run: bool
) -> None:
    """Put models on record as they are now, and say what changes; without MODEL all that there are.

    What other environments have on record stays, unless the graph, the initial weights or the recipe changed.
    """
    from harness.goldens import golden_bytes, golden_path, update_golden, write_golden
    from harness.graph import computing_threads
    from harness.training import resolve_device

    chosen, place = resolve_device(device), folder or SHIPPED
    subjects = _subjects(models, arguments, folder)
    if not dry_run:
        place.mkdir(parents=True, exist_ok=True)
    with computing_threads(threads):
        for subject in _announced(subjects):
            captured = subject.load()
            path = golden_path(place, captured.name)
            made = update_golden(captured, subject.spec(captured, chosen), _on_record(path))
            size = f"{len(golden_bytes(made.golden)):,} bytes"
            words = f"{path}, {size}{', not written' if dry_run else ''}" if made.changes else "nothing changes"
            click.echo(f"{captured.name}: {words}")
            for line in made.changes:
                click.echo(f"  {line}")
            if made.changes and not dry_run:
                write_golden(made.golden, path)


@golden.command(name="list")
@_folder_option
@json_option
@debug_option
def list_goldens(folder: Path | None, json_path: str | None) -> None:
    """List what is on record: models, and the environments that their goldens hold in."""
    from harness.goldens import SUFFIX, golden_path, read_golden
    from harness.reporting import document, plain_table

    place = folder or SHIPPED
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
                entry["environments"].append({**dataclasses.asdict(bits.key), **made})
                rows.append(
                    (found.model, f"{entry['bytes']:,}", bits.key.describe(), bits.machine.get("processor", "-"))
                )
        content.append(entry)
    if json_path != "-":
        results().print(plain_table(("model", "bytes", "environment", "made on"), rows, right=(1,)))
    write_json(json_path, document("golden-list", {"folder": str(place), "goldens": content}))


@dataclass(frozen=True, kw_only=True)
class _Subject:
    """A model to be held to its golden: what it is named by, what it is built with, and its golden, where that named it."""

    source: str
    arguments: str
    path: Path | None = None

    def load(self) -> CapturedModel:
        from harness.sources import load_model

        return load_model(self.source, seed=DEFAULT_SEED, arguments=self.arguments, announce=announce)

    def spec(self, captured: CapturedModel, device: torch.device) -> RunSpec:
        """What its golden is computed with."""
        from harness.training import RunSpec

        recipe = recipe_for(self.source, None)
        return RunSpec.of(
            captured, recipe, seed=DEFAULT_SEED, device=device, source=self.source, arguments=self.arguments
        )

    def update_command(self, folder: Path | None, device: str, threads: int) -> str:
        """The command that puts it on record."""
        options: dict[str, object] = {"--args": self.arguments, "--folder": folder}
        options |= {
            "--device": device if device != _DEVICE else "",
            "--threads": threads if threads != _THREADS else "",
        }
        given = [part for name, value in options.items() if value for part in (name, str(value))]
        return shlex.join(["harness", "golden", "update", self.source, *given])


def _subjects(models: Sequence[str], arguments: str, folder: Path | None) -> list[_Subject]:
    """The models named; without a name the shipped ones, or those whose goldens are in the folder."""
    if arguments and len(models) != 1:
        message = f"--args belongs to one MODEL, got {len(models)}. Name the one that is built so"
        raise click.UsageError(message)
    strangers = [model for model in models if model not in mnist_models.list_models()]
    if strangers and folder is None:
        message = f"{strangers[0]} is none of the shipped models. Say with --folder where goldens of your own are kept"
        raise click.UsageError(message)
    if models:
        return [_Subject(source=model, arguments=arguments) for model in models]
    if folder is None:
        from harness.goldens import golden_path

        names = mnist_models.list_models()
        return [_Subject(source=name, arguments="", path=golden_path(SHIPPED, name)) for name in names]
    return list(_recorded(folder))


def _recorded(folder: Path) -> Iterator[_Subject]:
    """The models that goldens in a folder were made of, as far as they are still there."""
    from harness.goldens import SUFFIX, read_golden
    from harness.sources import parse_source

    paths = sorted(folder.glob(f"*{SUFFIX}"))
    if not paths:
        message = f"expected a MODEL, or goldens in --folder {folder}, which holds none"
        raise click.UsageError(message)
    for path in paths:
        found: Golden = read_golden(path)
        try:
            parse_source(found.source)
        except ModelSourceError:
            continue
        yield _Subject(source=found.source, arguments=found.arguments, path=path)


def _announced(subjects: Sequence[_Subject]) -> Iterator[_Subject]:
    for number, subject in enumerate(subjects, start=1):
        if len(subjects) > 1:
            announce(f"{number} of {len(subjects)}: {subject.source}")
        yield subject


def _on_record(path: Path) -> Golden | None:
    """The golden to be updated; one that cannot be read is told and done without."""
    from harness.goldens import read_golden

    if not path.exists():
        return None
    try:
        return read_golden(path)
    except InputError as problem:
        announce(f"made anew, without what other environments had on record: {problem}")
        return None
