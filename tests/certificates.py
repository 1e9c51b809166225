"""Made-up certificates of shipped models."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.certification import Certificate, ConsistencyRule, FixedDesign
from harness.contracts import load_contract
from harness.goldens import golden_path, read_golden
from harness.training import Recipe
from mnist_models import model_card
from tests.unit.test_certification_certificate import DECLARATION, run

GOLDENS = Path(__file__).parents[1] / "mnist_models" / "goldens"


def made_up_certificate(name: str, last: Sequence[int], *, runs: int, **changes: Any) -> Certificate:  # noqa: ANN401 - any field
    """A certificate of a shipped model by its own recipe and contract.

    Args:
        name: the model.
        last: correct predictions after each of the last five epochs, one number a run; the other epochs have 9,800.
        runs: number of declared runs.
        changes: fields of the declaration to change.
    """
    card = model_card(name)
    fields: dict[str, Any] = {
        "model": name,
        "source": name,
        "graph_digest": read_golden(golden_path(GOLDENS, name)).graph,
        "contract": card.contract,
        "rule": ConsistencyRule.from_table(load_contract(card.contract).accuracy or {}),
        "recipe": Recipe.from_mapping(card.recipe, name=name),
        "design": FixedDesign(runs=runs),
    }
    declaration = dataclasses.replace(DECLARATION, **(fields | changes))
    before = [9_800] * (declaration.recipe.epochs - 5)
    seeds = declaration.seeds
    return Certificate(
        declaration=declaration,
        runs=tuple(run(seed, *before, *[count] * 5) for seed, count in zip(seeds, last, strict=False)),
    )
