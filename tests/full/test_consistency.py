"""The whole recipe of each shipped model on MNIST, judged by our runs on record or by the accuracy rule of its contract.

Minutes a run, for ``pytest -m full``. A published model is judged by the prediction intervals of its replication certificate: a
single run near 99.4 % meets the rule or misses it by chance. So is a model of our own whose certificate does not show a pass
rate of 0.9 or more. Our other models are judged by the rule, and so is a published model without runs on record; one that its
card documents to miss the rule is then expected to miss it, so that the card gets corrected.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks.replication import figures_of, recorded
from harness.certification import Certificate, ConsistencyRule
from harness.cli.inputs import shipped_certificate
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
OURS = tuple(name for name in list_models() if not model_card(name).sources)
OUR_SEEDS = (1, 2)
PUBLISHED_SEED = 1
# A single run is judged by the rule if the lower bound of the pass rate is at least this.
LEAST_PASS_RATE = 0.9


def certificates() -> dict[str, Certificate]:
    """By model, the certificate whose prediction intervals judge a run instead of the rule."""
    published = {name: one for name, one in recorded().items() if name not in OURS}
    ours = {name: shipped_certificate(name) for name in OURS}
    unsure = {name: one for name, one in ours.items() if (one.summary()["lower_bound"] or 0) < LEAST_PASS_RATE}
    return {name: one for name, one in (published | unsure).items() if len(one.counted) > 1}


RECORDED = certificates()


def runs() -> Iterator[object]:
    """One case for each published model and two for each of ours; without runs on record the card says what to expect."""
    for name in list_models():
        expected = model_card(name).expected
        reason = f"by its card: {' '.join(expected.reason.split())}"
        misses = pytest.mark.xfail(strict=True, raises=AssertionError, reason=reason)
        marks = misses if expected.outcome == "misses" and name not in RECORDED else ()
        for seed in OUR_SEEDS if name in OURS else (PUBLISHED_SEED,):
            yield pytest.param(name, seed, id=f"{name}-seed{seed}", marks=marks)


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
    return card.name in OURS or (card.claims_target and card.cpu_minutes <= MOST_CPU_MINUTES)


@pytest.mark.parametrize(("name", "seed"), tuple(runs()))
def test_consistency(name: str, seed: int, chosen_device: torch.device, request: pytest.FixtureRequest) -> None:
    """The model completes the epochs that its recipe declares, as accurate as our runs on record or as its contract requires."""
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
    assert list(range(1, recipe.epochs + 1)) == [result.epoch for result in record.epochs]
    if name in RECORDED:
        figures = figures_of(name, [result.test_correct for result in record.epochs], RECORDED)
        assert [] == [figure for figure in figures if figure.outcome != "consistent"]
    else:
        findings = rule.judge(record)
        assert overall(findings) is Status.PASS, "\n".join(finding.describe() for finding in findings)
        counted = rule.counted([result.test_correct for result in record.epochs])
        assert min(counted) >= rule.required(len(data.test_images))


def written(record: RunRecord, *, folder: Path) -> RunRecord:
    """The record as read back from its file; each run has a file of its own, so that no run overwrites another."""
    folder.mkdir(parents=True, exist_ok=True)
    stamp = "".join(character for character in record.started if character.isalnum())
    path = folder / f"{record.model}-seed{record.seed}-{record.device.replace(':', '')}-{stamp}.json"
    record.write(path)
    return RunRecord.read(path)
