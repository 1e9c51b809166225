"""Comparison of published accuracies with the distribution of the accuracies of new runs of the same model and recipe."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness.certification.certificate import Certificate
from harness.certification.comparison import (
    bonferroni_level,
    correct_predictions,
    log_odds,
    prediction_factor,
    sd_of_log_odds,
)

Outcome = Literal["consistent", "above what we see", "below what we see", "not testable"]
NOT_RUN = "not run"  # the reason why a figure of a model without runs is not testable
FIGURES = ("best", "last", "mean of the last three")
_OTHER_EPOCHS = "the published log and the recipe have different numbers of epochs"


@dataclass(frozen=True, kw_only=True)
class Published:
    """Published results of a model: correct test images after each epoch, and the claimed best accuracy in percent.

    ``total`` is the number of test images; None if it is not published.
    """

    model: str
    correct: tuple[int, ...]
    total: int | None = None
    claimed_best: str | None = None


@dataclass(frozen=True, kw_only=True)
class ReplicatedFigure:
    """A published accuracy figure compared with new runs of the model; all numbers are counts of correct test images.

    ``mean`` is the mean of the figure over the ``runs`` new runs; ``lower`` and ``upper`` are the ends of the
    prediction interval for one more run. ``reason`` says why the figure is not testable, and is empty otherwise.
    """

    model: str
    figure: str
    outcome: Outcome
    published: float | None = None
    runs: int = 0
    mean: float | None = None
    lower: float | None = None
    upper: float | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Replication:
    """The comparisons of all published figures with new runs.

    Each interval has the confidence level ``level``, so that all intervals together hold with probability
    ``confidence``. ``sd`` is the standard deviation over seeds of the log odds of a correct prediction of each figure,
    pooled over the models named in ``pooled``; a figure that is not testable for any model has none.
    """

    confidence: float
    level: float
    sd: Mapping[str, float]
    pooled: tuple[str, ...]
    figures: tuple[ReplicatedFigure, ...]


def replicate(
    published: Sequence[Published], certificates: Mapping[str, Certificate], *, confidence: float = 0.95
) -> Replication:
    """Compare the published figures of models with new runs of the same models.

    Each figure is tested by a two-sided Student's t prediction interval for one more run, around the mean of the
    model's runs, on the scale of the log odds of a correct prediction: the number of wrong predictions varies over
    seeds in proportion to its mean. The standard deviation of a figure is pooled over all models with runs. The
    confidence level of each interval is Bonferroni-corrected for the number of tested figures. A log of another number
    of epochs than the new runs have is not testable, so the figure "best" is the best of as many epochs.

    Args:
        published: the published results of each model.
        certificates: the certificate with the new runs, by model; a model without a certificate is not testable.
        confidence: the probability that all figures are ``consistent`` if every published run has the distribution of
            the new runs.
    """
    samples: dict[tuple[str, str], list[float]] = {}
    targets: dict[tuple[str, str], float] = {}
    untestable: dict[tuple[str, str], ReplicatedFigure] = {}
    for one in published:
        certificate = certificates.get(one.model)
        runs = [run.correct for run in certificate.runs if run.status == "complete"] if certificate else []
        for name in FIGURES:
            value, reason = _published(one, name, certificate)
            if reason or value is None:
                untestable[one.model, name] = ReplicatedFigure(
                    model=one.model, figure=name, outcome="not testable", published=value, reason=reason
                )
            else:
                targets[one.model, name] = value
                samples[one.model, name] = [_figure(run, name) for run in runs]
    level = bonferroni_level(confidence, len(targets))
    totals = {model: max(run.total for run in certificates[model].runs) for model, _ in samples}
    odds = {key: log_odds(np.array(sample), totals[key[0]]) for key, sample in samples.items()}
    sd, freedom = {}, {}
    for name in FIGURES:
        models = _distinct([model for model, figure in odds if figure == name], certificates)
        if models:
            freedom[name] = sum(len(odds[model, name]) - 1 for model in models)
            variances = [float(sd_of_log_odds(odds[model, name], totals[model])) ** 2 for model in models]
            squares = sum((len(odds[model, name]) - 1) * one for model, one in zip(models, variances, strict=True))
            sd[name] = math.sqrt(squares / freedom[name])
    figures = []
    for one in published:
        for name in FIGURES:
            key = one.model, name
            if key in untestable:
                figures.append(untestable[key])
                continue
            sample, value = samples[key], targets[key]
            half = sd[name] * prediction_factor(level, freedom=freedom[name], runs=len(sample))
            ends = odds[key].mean() + half * np.array([-1, 1])
            lower, upper = map(float, correct_predictions(ends, totals[one.model]))
            above, below = value > upper, value < lower
            outcome: Outcome = "above what we see" if above else "below what we see" if below else "consistent"
            figures.append(
                ReplicatedFigure(
                    model=one.model,
                    figure=name,
                    outcome=outcome,
                    published=value,
                    runs=len(sample),
                    mean=statistics.fmean(sample),
                    lower=lower,
                    upper=upper,
                )
            )
    pooled = tuple(sorted(_distinct(totals, certificates)))
    return Replication(confidence=confidence, level=level, sd=sd, pooled=pooled, figures=tuple(figures))


def _distinct(models: Iterable[str], certificates: Mapping[str, Certificate]) -> list[str]:
    """The models without those whose runs have the same results as the runs of an earlier one."""
    found: dict[tuple[str, ...], str] = {}
    for model in models:
        found.setdefault(tuple(run.results_digest for run in certificates[model].runs), model)
    return list(found.values())


def _figure(correct: Sequence[int], name: str) -> float:
    if name == "best":
        return float(max(correct))
    return float(correct[-1]) if name == "last" else statistics.fmean(correct[-3:])


def _published(one: Published, name: str, certificate: Certificate | None) -> tuple[float | None, str]:
    """Return the published figure of this name, None if there is none, and why it cannot be tested, empty if it can."""
    runs = certificate.runs if certificate else ()
    total = max((run.total for run in runs), default=0) or one.total
    value: float | None = None
    if one.correct:
        value = _figure(one.correct, name)
    elif name == "best" and one.claimed_best is not None:
        value = float(one.claimed_best) * total / 100 if total else None
    else:
        return None, "no training log is published"
    if certificate is None:
        return value, NOT_RUN
    complete = [run for run in runs if run.status == "complete"]
    if len(complete) < 2:  # noqa: PLR2004 - a standard deviation needs two
        return value, f"{len(complete)} of {len(runs)} runs are complete"
    if one.total not in (None, total):
        return value, f"published for {one.total:,} test images, our runs have {total:,}"
    if one.correct and len(one.correct) != certificate.declaration.recipe.epochs:
        return value, _OTHER_EPOCHS
    return value, ""
