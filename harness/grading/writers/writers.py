"""The formats."""

from __future__ import annotations

from harness.grading.writers.canonical import write_json
from harness.grading.writers.classroom50 import write_classroom50
from harness.grading.writers.github import write_github
from harness.grading.writers.gradescope import write_gradescope
from harness.grading.writers.junit import write_junit
from harness.grading.writers.markdown import write_class_markdown, write_markdown
from harness.grading.writers.page import write_class_html, write_html
from harness.grading.writers.spreadsheet import write_csv
from harness.grading.writers.writer import Scope, Writer

# In this order, `harness grade` writes them.
WRITERS = (
    Writer(name="json", scope=Scope.SUBMISSION, file_name="verdict.json", write=write_json),
    Writer(name="classroom50", scope=Scope.SUBMISSION, file_name="result.json", write=write_classroom50),
    Writer(name="gradescope", scope=Scope.SUBMISSION, file_name="results.json", write=write_gradescope),
    Writer(name="junit", scope=Scope.SUBMISSION, file_name="junit.xml", write=write_junit),
    Writer(name="markdown", scope=Scope.SUBMISSION, file_name="summary.md", write=write_markdown),
    Writer(name="markdown", scope=Scope.CLASS, file_name="summary.md", write=write_class_markdown),
    Writer(name="csv", scope=Scope.CLASS, file_name="grades.csv", write=write_csv),
    Writer(name="html", scope=Scope.SUBMISSION, file_name="report.html", write=write_html),
    Writer(name="html", scope=Scope.CLASS, file_name="index.html", write=write_class_html),
    Writer(name="github", scope=Scope.CLASS, file_name="github-output.txt", write=write_github),
)
