"""HTML pages of commands."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli.console import announce
from harness.findings import overall

if TYPE_CHECKING:
    from harness.certification import ConsistencyRule
    from harness.findings import Finding
    from harness.reporting import Page, Section
    from harness.sources import LoadedModel
    from harness.training import Environment, RunRecord


def write_page(path: Path, page: Page) -> None:
    """Write a page to a file, and say so.

    Raises:
        InputError: the file cannot be written.
    """
    from harness.files import write_whole
    from harness.reporting import page_html

    write_whole(path, page_html(page))
    announce(f"page: {path}")


def model_page(
    loaded: LoadedModel,
    findings: Iterable[Finding],
    *,
    statement: str,
    environment: Environment,
    training: Iterable[Section] = (),
) -> Page:
    """Return the page on a model and the findings about it; ``training`` are the sections on its training."""
    from harness.grading import examined_model
    from harness.grading.writers import environment_section, layers_section, sandbox_section
    from harness.reporting import Findings, Page

    captured, findings = loaded.model, tuple(findings)
    return Page(
        title=captured.name,
        status=overall(findings),
        statement=statement,
        sections=(
            Findings(title="Requirements", findings=findings),
            *training,
            layers_section(examined_model(captured), image_size=captured.graph.input_shape[-1]),
            *([sandbox_section(loaded.layers)] if loaded.layers else []),
            environment_section(environment, graph=captured.graph.exact_digest()),
        ),
    )


def run_sections(record: RunRecord, rule: ConsistencyRule) -> Iterator[Section]:
    """Yield the sections on a training that an accuracy rule judges."""
    from harness.grading import GradedRun, GradedTraining
    from harness.grading.writers import training_sections

    if not record.epochs:
        return
    last = record.epochs[-1]
    training = GradedTraining(
        recipe=record.recipe.name,
        data_title=record.data_title,
        train_total=last.train_total,
        test_total=last.test_total,
        required=rule.required(last.test_total),
        counted_epochs=rule.last,
        runs=(GradedRun.of(record),),
        confusion=(),
        wrong=(),
    )
    yield from training_sections(training)
