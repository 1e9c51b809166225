"""Features of an architecture that a contract may require or forbid: pooling, dropout, batch norm, fully connected layers."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

from harness.contracts.requirement import LISTED, Confirmation, ExaminedModel, Requirement
from harness.errors import ContractError
from harness.findings import Finding
from harness.structure import Structure
from harness.structure.experiments import IMAGES, TRAINING_PASSES
from harness.structure.layers import by_x
from harness.tables import require

# With fewer dropped numbers than this expected in all passes together, two passes may be equal by chance.
_ENOUGH_DROPS = 30


class Look(NamedTuple):
    """Whether a model has a feature, where it was seen, and what to do to have it."""

    present: bool
    evidence: tuple[str, ...]
    hint: str


@dataclass(frozen=True, kw_only=True)
class Feature(Requirement):
    """A feature that is required or forbidden; neither asks nothing."""

    title: ClassVar[str]
    meaning: ClassVar[str]

    required: bool = False
    forbidden: bool = False

    def __post_init__(self) -> None:
        both = self.required and self.forbidden
        expected = "one of required and forbidden at most"
        require(ContractError, not both, expected, required=self.required, forbidden=self.forbidden)

    @staticmethod
    @abc.abstractmethod
    def look(structure: Structure) -> Look:
        """Look for the feature."""

    @property
    def expected(self) -> str:
        """The feature and whether it must be present or absent, such as ``dropout present``."""
        return f"{self.title} {'present' if self.required else 'absent'}"

    def explain(self) -> str:
        """The sentence of the requirement, with what counts as the feature."""
        return f"{super().explain()[:-1]}: {self.meaning}."

    def decide(self, model: ExaminedModel) -> Finding:
        """Whether the feature is there, or is not where it is forbidden."""
        present, evidence, hint = self.look(model.structure)
        shown = evidence[:LISTED]
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
        """Look for a pooling that feeds the head; name poolings on side branches and over parts of a map."""
        evidence = []
        for pool in structure.global_pools:
            size = by_x(pool.map_size)
            place = f" in {pool.module}" if pool.module else ""
            role = "feeds the head" if pool.feeds_head else "on a side branch, not the head"
            evidence.append(f"{pool.value}{place} averages the whole {size} map; {role}")
        hint = "average the last map over all its positions before the output, such as with nn.AdaptiveAvgPool2d(1)"
        if structure.global_pools and structure.head_pool is None:
            hint = "the images also reach the output around the pooling; " + hint
        if structure.head_pool is None:
            evidence += [
                f"{layer.title} {layer.module} gives {by_x(layer.shape[1:])}, not one value a channel"
                for layer in structure.layers
                if "Avg" in layer.title and layer.shape[-2:] != (1, 1)
            ]
        return Look(structure.head_pool is not None, tuple(evidence), hint)

    def confirm(self, model: ExaminedModel) -> Confirmation | None:
        """Shuffling the positions of the pooled map must not change the output."""
        ignores = model.experiments.pooling_ignores_positions
        if ignores is None:
            return None
        effect = "leaves the output as it is" if ignores else "changes the output"
        return Confirmation(agrees=ignores, observed=f"shuffling the positions of the pooled map {effect}")


@dataclass(frozen=True, kw_only=True)
class Dropout(Feature):
    """Dropout that drops numbers in training and nothing in evaluation."""

    name = section = "dropout"
    title = "dropout"
    meaning = "p above 0, active in training and off in evaluation"

    @staticmethod
    def look(structure: Structure) -> Look:
        """Look for a dropout that is active in training, with none active in evaluation."""
        sites = structure.dropouts
        active_in_evaluation = [site for site in sites if site.active_in_evaluation]
        evidence = [
            f"{site.module or 'forward'}: p = {site.p:g}, "
            f"{'active' if site.active_in_training else 'off'} in training, "
            f"{'ACTIVE' if site.active_in_evaluation else 'off'} in evaluation"
            for site in sites
        ]
        evidence += _never_called(structure, "Dropout")
        hint = "call nn.Dropout(p) with p above 0 in forward"
        if active_in_evaluation:
            hint = (
                "dropout is active in evaluation: use nn.Dropout, or F.dropout(x, p, training=self.training) in forward"
            )
        elif sites:
            hint = "the dropout in forward drops nothing: " + hint
        return Look(any(site.live for site in sites) and not active_in_evaluation, tuple(evidence), hint)

    def confirm(self, model: ExaminedModel) -> Confirmation | None:
        """Training passes over the same images must differ where something random is active, and only there."""
        structure, experiments = model.structure, model.experiments
        if not experiments.predictions_vary:
            return None
        active = [site for site in structure.dropouts if site.active_in_training and site.p > 0]
        differ = experiments.training_passes_differ
        observed = f"training passes over the same images {'differ' if differ else 'are equal'}"
        if differ:
            return Confirmation(agrees=bool(active or structure.random_operations), observed=observed)
        drops = IMAGES * TRAINING_PASSES * sum(site.p * site.elements for site in active if site.p < 1)
        if drops >= _ENOUGH_DROPS and experiments.dropouts_draw:
            return Confirmation(agrees=True, observed=f"{observed}, as a far larger branch hides what dropout changes")
        return Confirmation(agrees=drops < _ENOUGH_DROPS, observed=observed)


@dataclass(frozen=True, kw_only=True)
class BatchNorm(Feature):
    """Batch normalisation by the batch's statistics in training and by running statistics in evaluation."""

    name = section = "batch_norm"
    title = "batch normalisation"
    meaning = "by the statistics of the batch in training and by running statistics in evaluation"

    @staticmethod
    def look(structure: Structure) -> Look:
        """Look for an ordinary batch norm, with none that uses the batch's statistics in evaluation."""
        sites = structure.batch_norms
        by_batch = [site for site in sites if site.batch_statistics_in_evaluation]
        evidence = [
            f"{site.module or 'forward'}: {'batch' if site.batch_statistics_in_training else 'fixed'} statistics in "
            f"training, {'BATCH' if site.batch_statistics_in_evaluation else 'running'} statistics in evaluation"
            for site in sites
        ]
        evidence += _never_called(structure, "BatchNorm")
        hint = "call nn.BatchNorm2d(channels) after a convolution in forward"
        if by_batch:
            hint = (
                "evaluation uses the statistics of the batch, so that an image's prediction depends on the other images: "
                "keep track_running_stats"
            )
        return Look(any(site.ordinary for site in sites) and not by_batch, tuple(evidence), hint)


@dataclass(frozen=True, kw_only=True)
class Linear(Feature):
    """A fully connected layer, also as a convolution whose kernel covers its whole map."""

    name = section = "linear"
    title = "a fully connected layer"
    meaning = "a product with a matrix of weights, or a convolution over a whole map"

    @staticmethod
    def look(structure: Structure) -> Look:
        """Look for matrix products with weights and for convolutions over a whole map."""
        sites = structure.fully_connected
        evidence = tuple(f"{site.module or 'forward'}: {site.kind} ({site.detail})" for site in sites)
        return Look(bool(sites), evidence, "add an nn.Linear layer")


_BY_NAME: dict[str, type[Feature]] = {
    feature.name: feature for feature in (GlobalAveragePooling, Dropout, BatchNorm, Linear)
}


@dataclass(frozen=True, kw_only=True)
class AnyOf(Requirement):
    """At least one of several features."""

    name = "any_of"
    section = ""

    any_of: tuple[Literal["gap", "dropout", "batch_norm", "linear"], ...] = ()

    @property
    def expected(self) -> str:
        """The features by their titles."""
        return f"at least one of {', '.join(_BY_NAME[name].title for name in self.any_of)}"

    def decide(self, model: ExaminedModel) -> Finding:
        """Whether one of the features is there."""
        looks = {_BY_NAME[name].title: _BY_NAME[name].look(model.structure) for name in self.any_of}
        found = [title for title, look in looks.items() if look.present]
        return self.finding(
            holds=bool(found),
            observed=", ".join(found) or "none of them",
            evidence=tuple(line for look in looks.values() for line in look.evidence)[:LISTED],
            hint="; or ".join(look.hint for look in looks.values()),
        )


def _never_called(structure: Structure, kind: str) -> list[str]:
    return [
        f"{module.path} ({module.type}) is declared and never called"
        for module in structure.never_called
        if kind in module.type
    ]
