"""Differences between what two run records declare: seed, model, recipe, data and environment."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from harness.reproducibility.comparison import Cause
from harness.training import Environment, RunRecord

# If one of these differs, every value may differ in its last bits.
_BIT_RELEVANT = ("torch", "cpu_capability", "threads", "accelerator", "cuda", "driver", "deterministic")


def declared_differences(one: RunRecord, other: RunRecord) -> tuple[tuple[str, ...], Cause]:
    """The declarations that differ between two records, such as ``seed: 1 -> 2``, and what explains a difference in state.

    That is the first cause that applies of model, recipe, data and environment, or arithmetic if none does.
    """
    recipes = {"recipe": one.recipe.to_mapping()}, {"recipe": other.recipe.to_mapping()}
    relevant, irrelevant = environment_differences(one.environment, other.environment)
    by_cause = {
        Cause.MODEL: _field_differences(one, other, "graph_digest", "arguments"),
        Cause.RECIPE: setting_differences(*recipes),
        Cause.DATA: _field_differences(one, other, "data_name", "data_digest"),
        Cause.ENVIRONMENT: [*_field_differences(one, other, "device", "engine"), *relevant, *irrelevant],
    }
    lines = [*_field_differences(one, other, "seed"), *(line for lines in by_cause.values() for line in lines)]
    return tuple(lines), next((cause for cause, found in by_cause.items() if found), Cause.ARITHMETIC)


def environment_differences(one: Environment, other: Environment) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The fields that differ between two environments: those that can change the last bits of a result, and the others."""
    names = [field.name for field in dataclasses.fields(Environment)]
    irrelevant = [name for name in names if name not in _BIT_RELEVANT]
    relevant = [name for name in names if name in _BIT_RELEVANT]
    return tuple(_field_differences(one, other, *relevant)), tuple(_field_differences(one, other, *irrelevant))


def setting_differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The differences between two nested mappings, one line each: ``optimizer.lr: 0.1 -> 0.05``; None: no such setting."""
    left, right = _flattened(one), _flattened(other)
    return [
        f"{name}: {left.get(name)} -> {right.get(name)}"
        for name in dict.fromkeys((*left, *right))
        if left.get(name) != right.get(name)
    ]


def _flattened(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flattened(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def _field_differences(one: object, other: object, *names: str) -> list[str]:
    left, right = ({name: getattr(record, name) for name in names} for record in (one, other))
    return setting_differences(left, right)
