"""The whole recipe of each shipped model on MNIST, judged by the accuracy rule of its contract.

Minutes a run, for ``pytest -m full``. A model that its card documents to miss the rule is run and expected to miss it: one
that meets it after all fails here, so that the card gets corrected.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from harness.certification import ConsistencyRule
from harness.contracts import load_contract
from harness.data import Dataset, load_dataset
from harness.errors import DataMissingError
from harness.findings import Status, overall
from harness.sources import load_model
from harness.training import Recipe, RunRecord, RunSpec, choose_engine, train
from mnist_models import ModelCard, list_models, model_card

pytestmark = pytest.mark.full

# What a CPU is asked for without --all.
MOST_CPU_MINUTES = 8
OURS = "reference"
OUR_SEEDS = (1, 2)
PUBLISHED_SEED = 1


def runs() -> Iterator[object]:
    """One case for each published model and two of our own; the expected outcome is that of the card."""
    for name in list_models():
        expected = model_card(name).expected
        reason = f"by its card: {' '.join(expected.reason.split())}"
        misses = pytest.mark.xfail(strict=True, raises=AssertionError, reason=reason)
        for seed in OUR_SEEDS if name == OURS else (PUBLISHED_SEED,):
            yield pytest.param(
                name, seed, id=f"{name}-seed{seed}", marks=misses if expected.outcome == "misses" else ()
            )


@pytest.fixture(scope="session")
def mnist() -> Dataset:
    """MNIST; skips if it is not available. If a named folder does not contain it, that is an error."""
    try:
        return load_dataset("mnist")
    except DataMissingError as missing:
        if os.environ.get("HARNESS_DATA"):
            raise
        pytest.skip(str(missing))


def trains_in_minutes(card: ModelCard) -> bool:
    """Whether a CPU is asked for the run without --all."""
    return card.name == OURS or (card.claims_target and card.cpu_minutes <= MOST_CPU_MINUTES)


@pytest.mark.parametrize(("name", "seed"), tuple(runs()))
def test_consistency(name: str, seed: int, chosen_device: torch.device, request: pytest.FixtureRequest) -> None:
    """The model completes the epochs that its recipe declares and reaches the accuracy that its contract requires."""
    card = model_card(name)
    if chosen_device.type == "cpu" and not (trains_in_minutes(card) or request.config.getoption("--all")):
        pytest.skip(
            f"{name} takes some {card.cpu_minutes:.0f} minutes on a CPU and claims no target or is large: "
            "train it with --device cuda, or with --all"
        )
    data: Dataset = request.getfixturevalue("mnist")
    rule = ConsistencyRule.from_table(load_contract(card.contract).accuracy or {}, where=card.contract)
    recipe = Recipe.from_mapping(card.recipe, name=name)
    captured = load_model(name, seed=seed)
    module = captured.to_module()
    engine, _ = choose_engine("auto", module, chosen_device)

    spec = RunSpec.of(captured, recipe, seed=seed, device=chosen_device, engine=engine.name)
    record = train(module, spec, data, engine=engine)
    record = written(record, folder=request.config.rootpath / "runs" / "full")
    if record.status != "complete":
        # No AssertionError: to miss the rule may be expected, to break off never is.
        pytest.fail(f"the run is {record.status} after {len(record.epochs)} of {recipe.epochs} epochs")
    findings = rule.judge(record)

    assert overall(findings) is Status.PASS, "\n".join(finding.describe() for finding in findings)
    assert list(range(1, recipe.epochs + 1)) == [result.epoch for result in record.epochs]
    counted = record.epochs[-rule.last :] if rule.last else [max(record.epochs, key=lambda result: result.test_correct)]
    assert min(result.test_correct for result in counted) >= rule.required(len(data.test_images))


def written(record: RunRecord, *, folder: Path) -> RunRecord:
    """The record as read back from its file; each run has a file of its own, so that no run overwrites another."""
    folder.mkdir(parents=True, exist_ok=True)
    stamp = "".join(character for character in record.started if character.isalnum())
    path = folder / f"{record.model}-seed{record.seed}-{record.device.replace(':', '')}-{stamp}.json"
    record.write(path)
    return RunRecord.read(path)
