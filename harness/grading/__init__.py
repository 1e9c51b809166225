"""Grading: submissions of an assignment are examined, trained and given points; reports are written from the verdict."""

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
    "ExaminedModel",
    "GradedRequirement",
    "GradedRun",
    "GradedTraining",
    "LayerRow",
    "Penalty",
    "Verdict",
    "Visibility",
    "WrongImage",
]
