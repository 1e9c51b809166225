"""Writers: each turns verdicts into a file of one format; the points are the same in all of them."""

from harness.grading.writers.page import class_page, verdict_page
from harness.grading.writers.roster import FilledRoster, fill_roster, read_roster_map
from harness.grading.writers.sections import (
    confusion_section,
    environment_section,
    layers_section,
    sandbox_section,
    training_sections,
    wrong_section,
)
from harness.grading.writers.writer import Context, Scope, Writer, with_harmless_texts
from harness.grading.writers.writers import WRITERS

__all__ = [
    "WRITERS",
    "Context",
    "FilledRoster",
    "Scope",
    "Writer",
    "class_page",
    "confusion_section",
    "environment_section",
    "fill_roster",
    "layers_section",
    "read_roster_map",
    "sandbox_section",
    "training_sections",
    "verdict_page",
    "with_harmless_texts",
    "wrong_section",
]
