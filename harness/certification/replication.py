"""Comparison of published accuracies with the distribution of the accuracies of new runs of the same model and recipe."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from harness.certification.certificate import Certificate
from harness.certification.comparison import bonferroni_level, prediction_factor

Outcome = Literal["consistent", "above what we see", "below what we see", "not testable"]
NOT_RUN = "not run"  # the reason why a figure of a model without runs is not testable
FIGURES = ("best", "last", "mean of the last three")
_OTHER_EPOCHS = "the published log and the recipe have different numbers of epochs"


@dataclass(frozen=True, kw_only=True)
class Published:
    """Published results of a model: correct test images after each epoch, and the claimed best accuracy in percent."""

    model: str
    correct: tuple[int, ...]
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
    ``confidence``. ``sd`` is the standard deviation over seeds of each figure, pooled over the models named in
    ``pooled``.
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
    model's runs. The standard deviation of a figure over seeds is pooled over all models with runs. The confidence
    level of each interval is Bonferroni-corrected for the number of tested figures. The figure "best" of a new run is
    taken over the published number of epochs.

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
            if len(runs) < 2:  # noqa: PLR2004 - a standard deviation needs two
                reason = reason or NOT_RUN
            if reason or value is None:
                untestable[one.model, name] = ReplicatedFigure(
                    model=one.model, figure=name, outcome="not testable", published=value, reason=reason
                )
            else:
                targets[one.model, name] = value
                samples[one.model, name] = [_figure(run[: len(one.correct) or None], name) for run in runs]
    level = bonferroni_level(confidence, len(targets))
    distinct = {id(certificates[model]): model for model, _ in samples}
    sd, freedom = {}, {}
    for name in FIGURES:
        pools = [sample for (model, figure), sample in samples.items() if figure == name and model in distinct.values()]
        freedom[name] = sum(len(pool) - 1 for pool in pools)
        squares = sum((len(pool) - 1) * statistics.variance(pool) for pool in pools)
        sd[name] = math.sqrt(squares / freedom[name]) if freedom[name] else math.nan
    figures = []
    for one in published:
        for name in FIGURES:
            key = one.model, name
            if key in untestable:
                figures.append(untestable[key])
                continue
            sample, value = samples[key], targets[key]
            mean = statistics.fmean(sample)
            half = sd[name] * prediction_factor(level, freedom=freedom[name], runs=len(sample))
            above, below = value > mean + half, value < mean - half
            outcome: Outcome = "above what we see" if above else "below what we see" if below else "consistent"
            figures.append(
                ReplicatedFigure(
                    model=one.model,
                    figure=name,
                    outcome=outcome,
                    published=value,
                    runs=len(sample),
                    mean=mean,
                    lower=mean - half,
                    upper=mean + half,
                )
            )
    return Replication(
        confidence=confidence, level=level, sd=sd, pooled=tuple(sorted(distinct.values())), figures=tuple(figures)
    )


def _figure(correct: Sequence[int], name: str) -> float:
    if name == "best":
        return float(max(correct))
    return float(correct[-1]) if name == "last" else statistics.fmean(correct[-3:])


def _published(one: Published, name: str, certificate: Certificate | None) -> tuple[float | None, str]:
    """Return the published figure of this name, None if there is none, and the reason if the figure cannot be tested."""
    epochs = certificate.declaration.recipe.epochs if certificate else len(one.correct)
    if one.correct:
        return _figure(one.correct, name), "" if len(one.correct) == epochs else _OTHER_EPOCHS
    if name == "best" and one.claimed_best is not None:
        total = max((run.total for run in certificate.runs), default=0) if certificate else 0
        return float(one.claimed_best) * total / 100 if total else None, ""
    return None, "no training log is published"
