"""Grading: submissions of an assignment are examined, trained and given points; reports are written from the verdict."""

from harness.grading.assignment import Assignment, builtin_assignments, load_assignment, parse_assignment
from harness.grading.batch import Task, grade_all, tasks_for
from harness.grading.examined import examined_model, wrong_images
from harness.grading.examiner import Grader, grade
from harness.grading.results import Results, read_verdict
from harness.grading.verdict import (
    ExaminedModel,
    GradedRequirement,
    GradedRun,
    GradedTraining,
    LayerRow,
    Penalty,
    Verdict,
    Visibility,
    WrongImage,
)

__all__ = [
    "Assignment",
    "ExaminedModel",
    "GradedRequirement",
    "GradedRun",
    "GradedTraining",
    "Grader",
    "LayerRow",
    "Penalty",
    "Results",
    "Task",
    "Verdict",
    "Visibility",
    "WrongImage",
    "builtin_assignments",
    "examined_model",
    "grade",
    "grade_all",
    "load_assignment",
    "parse_assignment",
    "read_verdict",
    "tasks_for",
    "wrong_images",
]
