"""Certification in commands: options, run folder, progress, and the text and plot of the result."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.console import announce
from harness.cli.inputs import contract_for, contract_on, dataset_for, model_for, recipe_for, rule_for
from harness.cli.options import combine, device_option, engine_option
from harness.cli.progress import SeedsProgress
from harness.cli.runs import cores, seeds_job, spec_for, with_engine
from harness.findings import Status

if TYPE_CHECKING:
    from rich.console import RenderableType

    from harness.certification import Certificate, Design
    from harness.reporting import Page

certificate_options = combine(
    device_option("Device to train on."),
    engine_option,
    click.option(
        "--jobs", type=click.IntRange(min=1), help="Number of seeds to train at a time. Default: one per core."
    ),
    click.option(
        "--salt",
        default="1",
        show_default=True,
        help="Text from which the seeds are derived, together with the contract's accuracy rule; stored in the certificate.",
    ),
    click.option(
        "--out",
        metavar="FOLDER",
        help="Folder for the certificate and the seeds' folders. Default: a folder under runs/, named after the declaration.",
    ),
)


def design_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of the pass-rate test to a command, which receives them as one argument ``design``."""
    declare = combine(
        click.option(
            "--runs",
            type=click.IntRange(1, 1000),
            metavar="N",
            help="Train exactly N seeds, instead of a sequential test.",
        ),
        click.option(
            "--at-most",
            default=50,
            show_default=True,
            type=click.IntRange(1, 1000),
            metavar="N",
            help="Largest number of seeds of the sequential test.",
        ),
        click.option("--p0", default=0.80, show_default=True, help="Pass rate up to which a pass is an error."),
        click.option("--p1", default=0.95, show_default=True, help="Pass rate from which a failure is an error."),
        click.option(
            "--alpha", default=0.05, show_default=True, help="Largest probability of a pass at the pass rate --p0."
        ),
        click.option(
            "--beta", default=0.05, show_default=True, help="Largest probability of a failure at the pass rate --p1."
        ),
    )

    @functools.wraps(function)
    def with_design(*, runs: int | None, at_most: int, **others: Any) -> Any:  # noqa: ANN401 - the options of a command
        from harness.certification import FixedDesign, SequentialDesign

        rates = {name: others.pop(name) for name in ("p0", "p1", "alpha", "beta")}
        design = FixedDesign(runs=runs, **rates) if runs else SequentialDesign(runs=at_most, **rates)
        return function(design=design, **others)

    return declare(with_design)


def certification(
    model: str,
    arguments: str,
    contract_name: str | None,
    recipe_name: str | None,
    *,
    data: str,
    design: Design,
    device: str,
    engine: str,
    jobs: int | None,
    salt: str,
    out: str | None,
    like: Certificate | None = None,
    epochs: int | None = None,
    is_judged: bool = False,
) -> Callable[[], Certificate]:
    """Declare a certificate; return the function that trains the declared seeds, or continues an interrupted certification.

    A command that needs several certificates declares all of them before it trains for the first. If the certificate
    ``like`` is given, its accuracy rule, contract name and salt are declared, and the data must be the same. ``epochs``
    replaces the number of epochs of the recipe. With ``is_judged``, the recipe must be one whose runs can meet the
    accuracy rule.

    Raises:
        InputError: the contract has no accuracy rule, no run of the recipe can meet it, or the model, contract, recipe, data
            set, device or folder cannot be used.
    """
    from harness.certification import CERTIFICATE_FILE, Certificate, Declaration
    from harness.certification import certify as train_declared
    from harness.errors import InputError
    from harness.sources import parse_source
    from harness.training import keep_freed_memory, resolve_device

    parse_source(model)
    contract = contract_for(model, contract_name)
    recipe = recipe_for(model, recipe_name)
    if epochs is not None:
        recipe = recipe.with_epochs(epochs)
    chosen = resolve_device(device)
    dataset = dataset_for(data)
    contract = contract_on(contract, dataset)
    rule, name = rule_for(contract), contract.name
    if like is not None:
        if dataset.digest != like.declaration.data_digest:
            raise InputError(
                f"expected the data of the certificate, {like.declaration.data_title}, got {dataset.title}. Name other data with "
                "--data."
            )
        rule, name, salt = like.declaration.rule, like.declaration.contract, like.declaration.salt
    if rule is None:
        raise InputError(
            f"expected a contract with a section [accuracy], got {contract.name!r}, which has no such section. Name another "
            "contract with --contract."
        )
    if is_judged and (unfit := rule.judge_recipe(recipe)):
        raise InputError(f"expected {unfit[0].expected}, got {unfit[0].observed}. {unfit[0].hint}")
    loaded = model_for(model, input_shape=contract.input_shape, arguments=arguments)
    captured = loaded.model
    captured.require_trainable()
    spec = spec_for(loaded, recipe, seed=0, device=chosen, source=model, arguments=arguments)
    spec, reason = with_engine(captured, spec, engine)
    declaration = Declaration(
        model=captured.name,
        source=model,
        arguments=arguments,
        graph_digest=spec.graph_digest,
        contract=name,
        rule=rule,
        recipe=recipe,
        data_name=dataset.name,
        data_title=dataset.title,
        data_digest=dataset.digest,
        engine=spec.engine,
        device=spec.device,
        design=design,
        salt=salt,
    )
    folder = Path(out) if out else Path("runs") / declaration.folder_name

    def train() -> Certificate:
        announce(
            f"{captured.name}: {design.name} test of the pass rate over at most {design.runs} declared seeds, contract "
            f"{name}, recipe {recipe.name}, engine {spec.engine} on {spec.device}, into {folder}"
        )
        keep_freed_memory()
        path = folder / CERTIFICATE_FILE
        done = len(Certificate.read(path).runs) if path.exists() else 0
        with SeedsProgress(design.runs, done=done) as progress:
            if reason:
                progress.on_warning(f"the engine is {spec.engine}: {reason}")
            certificate = train_declared(
                declaration,
                seeds_job(spec, dataset, data),
                folder,
                processes=jobs or cores(),
                observer=progress,
                on_wait=lambda: progress.on_warning(f"waiting for another process that writes into {str(folder)!r}"),
            )
        announce(f"certificate: {path}")
        return certificate

    return train


def finished(certificate: Certificate) -> Certificate:
    """Return the certificate if its test has ended.

    Raises:
        InputError: the certificate has no verdict, since the training of a seed crashed.
    """
    from harness.errors import InputError

    if certificate.end:
        return certificate
    crash = certificate.crashes[-1] if certificate.crashes else None
    reason = f", since seed {crash.seed} crashed: {crash.problem}" if crash else ""
    raise InputError(
        f"expected all runs of {certificate.declaration.model}, got {certificate.progress}{reason}. Run the same command again "
        "to continue."
    )


def subfolder(out: str | None, name: str) -> str | None:
    """The folder for one of several certificates under the value of ``--out``; None for the default folder."""
    return str(Path(out) / name) if out else None


def certificate_report(certificate: Certificate) -> tuple[RenderableType, ...]:
    """Return a table of the runs, the statistics of the certificate and the line with the verdict."""
    from harness.reporting import facts_table, plain_table, verdict_line

    return (
        plain_table(_RUN_HEADERS, _run_rows(certificate), right=_RUN_NUMBERS),
        facts_table(certificate_facts(certificate)),
        verdict_line(_status(certificate), f"{_title(certificate)}: {conclusion(certificate)}"),
    )


def certificate_page(certificate: Certificate) -> Page:
    """Return the verdict, the statistics and the runs of a certificate as a page."""
    from harness.reporting import Column, Dots, Facts, Page, Section, Table

    declaration = certificate.declaration
    runs = list(zip(certificate.runs, certificate.outcomes, strict=True))
    total = next((run.total for run in certificate.runs if run.total), 0)
    sections: list[Section] = [Facts(title="Statistics", facts=tuple(certificate_facts(certificate)))]
    if total:
        required = declaration.rule.required(total)
        counted = Dots(
            title="Correct test images in the counted epochs",
            caption=f"A column for each run, in declared order. An epoch needs {required:,} of {total:,}.",
            labels=("run", "correct test images"),
            columns=tuple(
                Column(
                    name=str(number),
                    values=declaration.rule.counted(run.correct) if run.correct else (),
                    is_good=passed,
                )
                for number, (run, passed) in enumerate(runs, start=1)
            ),
            line=(f"required: {required:,}", required),
            legend=("passed", "failed"),
        )
        sections.append(counted)
    rows = tuple(_run_rows(certificate))
    sections.append(Table(title="Runs", headers=_RUN_HEADERS, rows=rows, right=_RUN_NUMBERS))
    return Page(
        title=declaration.model,
        status=_status(certificate),
        statement=f"{_title(certificate)}: {conclusion(certificate)}",
        figures=(("runs passed", f"{sum(certificate.outcomes)} of {len(runs)}"),),
        sections=sections,
    )


_RUN_HEADERS, _RUN_NUMBERS = ("seed", "verdict", "status", "lowest counted", "mean counted"), (0, 3, 4)


def _run_rows(certificate: Certificate) -> Iterator[tuple[str, ...]]:
    for run, passed in zip(certificate.runs, certificate.outcomes, strict=True):
        counted = certificate.declaration.rule.counted(run.correct) if run.status == "complete" else ()
        figures = (f"{min(counted):,}", f"{sum(counted) / len(counted):,.1f}") if counted else ("", "")
        yield str(run.seed), "pass" if passed else "fail", run.status, *figures


def certificate_facts(certificate: Certificate) -> Iterator[tuple[str, str]]:
    """Yield the statistics of a certificate as pairs of a name and a value."""
    declaration, summary, design = certificate.declaration, certificate.summary(), certificate.declaration.design
    yield "data", declaration.data_title
    yield "seeds", f"{summary['runs']} of at most {design.runs}, salt {declaration.salt!r}; {_expected_runs(design)}"
    if certificate.runs:
        yield "trained on", "; ".join(certificate.machines)
    if summary["pass_rate"] is not None:
        rate = f"{summary['passed']} of {summary['runs']} passed, {100 * summary['pass_rate']:.1f} %"
        if summary["interval"]:
            lower, upper = summary["interval"]
            rate += f"; 95 % interval {100 * lower:.1f} to {100 * upper:.1f} %, one-sided 95 % lower bound "
            rate += f"{100 * summary['lower_bound']:.1f} %"
        yield "pass rate", rate
    if summary["mean"] is not None:
        total = next(run.total for run in certificate.runs if run.total)
        required = declaration.rule.required(total)
        spread = "" if summary["sd"] is None else f", standard deviation over seeds {summary['sd']:.1f}"
        yield "counted epochs", f"mean {summary['mean']:,.1f}{spread}, lowest {summary['minimum']:,} of {total:,}"
        yield "required", f"{required:,} of {total:,}"
    if summary["correlation"] is not None:
        yield "correlation", f"{summary['correlation']:.2f} between two counted epochs of a run"
    for crash in certificate.crashes:
        yield "trained again", f"seed {crash.seed}: {crash.problem}"


def _expected_runs(design: Design) -> str:
    at = {rate: design.characteristics(rate) for rate in (design.p1, design.p0)}
    figures = ", ".join(f"{found.runs:.1f} at a pass rate of {100 * rate:g} %" for rate, found in at.items())
    return f"expected: {figures}" if design.name == "sequential" else "declared before the first run"


def _title(certificate: Certificate) -> str:
    declaration = certificate.declaration
    return f"{declaration.model} against the accuracy of {declaration.contract}, on {declaration.data_title}"


def _status(certificate: Certificate) -> Status:
    return {"pass": Status.PASS, "fail": Status.FAIL}.get(certificate.verdict or "", Status.UNKNOWN)


def conclusion(certificate: Certificate) -> str:
    """What the verdict says about the pass rate, in words."""
    design = certificate.declaration.design
    words = {
        "pass": f"the pass rate is above {100 * design.p0:g} %",
        "fail": f"the pass rate is below {100 * design.p1:g} %",
        "inconclusive": f"{design.runs} runs show neither that the pass rate is high enough nor that it is too low",
        None: f"unfinished, {certificate.progress}: run the same command again to continue",
    }
    return words[certificate.verdict]


def draw_certificate(certificate: Certificate, path: Path) -> None:
    """Plot the correct predictions in the counted epochs of each run, and the failures so far with the limits of the test.

    Raises:
        InputError: the file name ends neither in .png nor in .svg, or the file cannot be written.
    """
    from harness.reporting import plot_runs

    declaration, design = certificate.declaration, certificate.declaration.design
    total = next((run.total for run in certificate.runs if run.total), 0)
    plot_runs(
        path,
        title=f"{declaration.model}, contract {declaration.contract}\n{declaration.data_title}",
        runs=[declaration.rule.counted(run.correct) if run.correct else () for run in certificate.runs],
        passed=certificate.outcomes,
        required=declaration.rule.required(total),
        verdicts=[
            [design.verdict(runs, failures) for failures in range(runs + 1)] for runs in range(1, design.runs + 1)
        ],
    )
