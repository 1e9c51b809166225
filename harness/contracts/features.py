"""Features of an architecture that a contract may require or forbid: pooling, dropout, batch norm, fully connected layers."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

from harness.contracts.requirement import LISTED, Confirmation, ExaminedModel, Requirement
from harness.errors import ContractError
from harness.findings import Finding
from harness.structure import Structure
from harness.structure.experiments import TRAINING_PASSES
from harness.structure.interventions import IMAGES
from harness.structure.layers import by_x
from harness.structure.structure import DropoutSite
from harness.tables import require

# If fewer numbers than this are expected to be dropped in all passes together, passes may be equal by chance.
_ENOUGH_DROPS = 30


class Look(NamedTuple):
    """Whether a model has a feature, the evidence, and a hint on how to add the feature.

    ``present`` is None if the presence of the feature cannot be decided; ``undecided`` is the reason.
    """

    present: bool | None
    evidence: tuple[str, ...]
    hint: str
    undecided: str = ""


@dataclass(frozen=True, kw_only=True)
class Feature(Requirement):
    """The requirement that a model has a feature (``required``) or does not have the feature (``forbidden``)."""

    title: ClassVar[str]
    meaning: ClassVar[str]

    required: bool = False
    forbidden: bool = False

    def __post_init__(self) -> None:
        both = self.required and self.forbidden
        expected = "at most one of required and forbidden to be true"
        require(ContractError, not both, expected, required=self.required, forbidden=self.forbidden)

    @staticmethod
    @abc.abstractmethod
    def look(structure: Structure) -> Look:
        """Search the structure of a model for the feature."""

    @property
    def expected(self) -> str:
        """The feature and whether it must be present or absent, such as ``dropout present``."""
        return f"{self.title} {'present' if self.required else 'absent'}"

    def explain(self) -> str:
        """The requirement as a sentence that contains the definition of the feature."""
        return f"{super().explain()[:-1]}: {self.meaning}."

    def decide(self, model: ExaminedModel) -> Finding:
        """Check that the feature is present if required, and absent if forbidden."""
        present, evidence, hint, undecided = self.look(model.structure)
        shown = evidence[:LISTED]
        if present is None:
            return self.finding(holds=None, observed=f"unknown: {undecided}", evidence=shown, hint=hint)
        return self.finding(
            holds=present == self.required,
            observed=f"present: {evidence[0]}" if present else "absent",
            evidence=shown,
            hint=hint if self.required else f"remove it: {', '.join(shown)}",
        )


@dataclass(frozen=True, kw_only=True)
class GlobalAveragePooling(Feature):
    """Global average pooling that every path from the images to the output passes through."""

    name = section = "gap"
    title = "global average pooling"
    meaning = "an average over a whole map, however it is written, that every path to the output passes through"

    @staticmethod
    def look(structure: Structure) -> Look:
        """Search for a global pooling on every path to the output; other poolings are listed as evidence."""
        evidence = []
        for pool in structure.global_pools:
            size = by_x(pool.map_size)
            place = f" in {pool.module}" if pool.module else ""
            role = "on every path to the output" if pool.feeds_head else "on a side branch only"
            evidence.append(f"{pool.value}{place} averages the whole {size} map, {role}")
        hint = "average the last map over all its positions before the output, such as with nn.AdaptiveAvgPool2d(1)"
        if structure.head_pool is not None:
            return Look(present=True, evidence=tuple(evidence), hint=hint)
        if evidence:
            hint = "the output also depends on the images by paths that bypass the pooling; " + hint
        search = structure.average_search
        evidence += [*structure.other_averages, *search.multiples]
        if search.undecided:
            undecided = f"whether {', '.join(search.undecided)} averages a whole map could not be determined"
            return Look(present=None, evidence=tuple(evidence), hint=hint, undecided=undecided)
        return Look(present=False, evidence=tuple(evidence), hint=hint)

    def confirm(self, model: ExaminedModel) -> Confirmation | None:
        """Check by experiment that shuffling the positions of the pooled map does not change the output."""
        ignores = model.experiments.pooling_ignores_positions
        if ignores is None:
            return None
        effect = "leaves the output unchanged" if ignores else "changes the output"
        return Confirmation(agrees=ignores, observed=f"shuffling the positions of the pooled map {effect}")


@dataclass(frozen=True, kw_only=True)
class Dropout(Feature):
    """Dropout with a drop probability p above 0 that is active in training and off in evaluation."""

    name = section = "dropout"
    title = "dropout"
    meaning = "with a drop probability p above 0, active in training and off in evaluation"

    @staticmethod
    def look(structure: Structure) -> Look:
        """Search for a dropout that is active in training; a dropout active in evaluation counts as a fault."""
        sites = structure.dropouts
        evidence = [_dropout_words(site) for site in sites]
        evidence += _never_called(structure, "Dropout")
        hint = "call nn.Dropout(p) with p above 0 in forward"
        if any(site.active_in_evaluation for site in sites):
            hint = (
                "dropout is active in evaluation: use nn.Dropout, or F.dropout(x, p, training=self.training) in forward"
            )
            return Look(present=False, evidence=tuple(evidence), hint=hint)
        live = any(site.live for site in sites)
        in_training, in_evaluation = structure.unknown_draws
        if unknown := in_evaluation or (() if live else in_training):
            mode = "evaluation" if in_evaluation else "training"
            undecided = f"whether {', '.join(unknown)} acts as a dropout in {mode} could not be determined"
            return Look(present=None, evidence=tuple(evidence), hint=hint, undecided=undecided)
        if sites and not live:
            hint = (
                f"the dropout in forward drops nothing: {hint}; if p is an argument of the constructor, give p with --args, "
                'such as --args "dropout=0.1"'
            )
        return Look(present=live, evidence=tuple(evidence), hint=hint)

    def confirm(self, model: ExaminedModel) -> Confirmation | None:
        """Check that training passes over the same images differ if and only if a random operation is active."""
        structure, experiments = model.structure, model.experiments
        if not experiments.predictions_vary:
            return None
        active = [site for site in structure.dropouts if site.active_in_training and site.p > 0]
        differ = experiments.training_passes_differ
        observed = f"training passes over the same images {'differ' if differ else 'are equal'}"
        if differ:
            return Confirmation(
                agrees=bool(active or structure.random_operations(structure.graph.train)), observed=observed
            )
        drops = IMAGES * TRAINING_PASSES * sum(site.p * site.elements for site in active if site.p < 1)
        if drops >= _ENOUGH_DROPS and experiments.dropouts_draw:
            return Confirmation(
                agrees=True, observed=f"{observed}, but rounding hides differences in the results of dropout"
            )
        return Confirmation(agrees=drops < _ENOUGH_DROPS, observed=observed)


@dataclass(frozen=True, kw_only=True)
class BatchNorm(Feature):
    """Batch normalisation with batch statistics in training and running statistics in evaluation."""

    name = section = "batch_norm"
    title = "batch normalisation"
    meaning = "by the statistics of the batch in training and by running statistics in evaluation"

    @staticmethod
    def look(structure: Structure) -> Look:
        """Search for batch norms; in evaluation each must use running statistics that training updates."""
        sites = structure.batch_norms
        by_batch = [site for site in sites if site.batch_statistics_in_evaluation]
        stuck = [site for site in sites if site.stuck]
        evidence = [
            f"{site.module or 'forward'}: {'batch' if site.batch_statistics_in_training else 'fixed'} statistics in training, "
            f"{'BATCH' if site.batch_statistics_in_evaluation else 'FIXED' if site.stuck else 'running'} statistics in evaluation"
            for site in sites
        ]
        evidence += _never_called(structure, "BatchNorm")
        hint = "call nn.BatchNorm2d(channels) after a convolution in forward"
        if by_batch:
            hint = (
                "evaluation uses the statistics of the batch, so that an image's prediction depends on the other images: "
                "leave track_running_stats=True"
            )
        elif stuck:
            hint = (
                "training does not update the statistics that evaluation uses: leave track_running_stats=True and use a momentum "
                "above 0"
            )
        present = any(site.ordinary for site in sites) and not by_batch and not stuck
        return Look(present=present, evidence=tuple(evidence), hint=hint)


@dataclass(frozen=True, kw_only=True)
class Linear(Feature):
    """A fully connected layer, or a convolution whose kernel covers the whole input map."""

    name = section = "linear"
    title = "a fully connected layer"
    meaning = "a product with a matrix of weights, or a convolution over a whole map"

    @staticmethod
    def look(structure: Structure) -> Look:
        """Search for matrix products with weights and for convolutions over a whole map."""
        sites = structure.fully_connected
        evidence = tuple(f"{site.module or 'forward'}: {site.kind} ({site.detail})" for site in sites)
        return Look(bool(sites), evidence, "add an nn.Linear layer")


_BY_NAME: dict[str, type[Feature]] = {
    feature.name: feature for feature in (GlobalAveragePooling, Dropout, BatchNorm, Linear)
}


@dataclass(frozen=True, kw_only=True)
class AnyOf(Requirement):
    """The requirement that a model has at least one of several features."""

    name = "any_of"
    section = ""

    any_of: tuple[Literal["gap", "dropout", "batch_norm", "linear"], ...] = ()

    @property
    def expected(self) -> str:
        """The requirement as a phrase that lists the features."""
        return f"at least one of {', '.join(_BY_NAME[name].title for name in self.any_of)}"

    def decide(self, model: ExaminedModel) -> Finding:
        """Check that the model has at least one of the features."""
        looks = {_BY_NAME[name].title: _BY_NAME[name].look(model.structure) for name in self.any_of}
        found = [title for title, look in looks.items() if look.present]
        undecided = [f"{title}: {look.undecided}" for title, look in looks.items() if look.present is None]
        return self.finding(
            holds=True if found else None if undecided else False,
            observed=", ".join(found) or "; ".join(undecided) or "none of these features",
            evidence=tuple(line for look in looks.values() for line in look.evidence)[:LISTED],
            hint="; or ".join(look.hint for look in looks.values()),
        )


def _dropout_words(site: DropoutSite) -> str:
    """Describe a dropout: the submodule, the drop probability, and the modes in which the dropout is active."""
    p = f"p about {site.p:.2g} (random mask by {', '.join(site.drawn_by)})" if site.drawn_by else f"p = {site.p:g}"
    evaluation = "off in evaluation"
    if site.active_in_evaluation:
        other = "" if site.p_in_evaluation == site.p or site.drawn_by else f" with p = {site.p_in_evaluation:g}"
        evaluation = f"ACTIVE in evaluation{other}"
    return (
        f"{site.module or 'forward'}: {p}, {'active' if site.active_in_training else 'off'} in training, {evaluation}"
    )


def _never_called(structure: Structure, kind: str) -> list[str]:
    return [
        f"{module.path} ({module.type}) is declared and never called"
        for module in structure.never_called
        if kind in module.type
    ]
