"""Seed noise: the variation of the accuracy between runs that differ in the seed only."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.errors import InputError
from harness.reproducibility import SeedNoise, read_records, seed_noise
from harness.reproducibility.noise import training_key
from harness.training import RunRecord
from tests.made_up import RECIPE, record

RECORD = record([9_900, 9_950])


def test_the_bound_is_exceeded_by_chance_in_one_of_a_hundred_cases() -> None:
    """By the difference of two samples of a normal distribution; the bound is computed from six other samples."""
    from scipy import stats  # noqa: PLC0415 - a second to import

    generator = torch.Generator().manual_seed(1)
    draws = (9_000 + 20 * torch.randn(20_000, 8, generator=generator)).round().int().tolist()
    exceeded = sum(
        abs(one - other) > SeedNoise(counts=dict(enumerate((count,) for count in six)), total=10_000).bound(1)
        for one, other, *six in draws[:2_000]
    )
    low, high = stats.binom.interval(0.9999, 2_000, 0.01)
    assert low <= exceeded <= high


def others(number: int, **changed: Any) -> list[RunRecord]:  # noqa: ANN401 - any field
    """The made-up record under ``number`` other seeds."""
    return [dataclasses.replace(RECORD, seed=seed, **changed) for seed in range(2, 2 + number)]


def test_noise_comes_from_runs_of_the_same_training_only() -> None:
    """Neither the run itself nor runs with another recipe count, and at least five are needed."""
    other_recipe = dataclasses.replace(RECIPE, batch_size=8, epochs=2)

    assert {2, 3, 4, 5, 6} == set(getattr(seed_noise(RECORD, [RECORD, *others(5)]), "counts", ()))
    assert seed_noise(RECORD, others(4)) is None
    assert seed_noise(RECORD, others(9, recipe=other_recipe)) is None
    assert training_key(RECORD) != training_key(dataclasses.replace(RECORD, recipe=other_recipe))


def test_without_records_the_shipped_counts_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run's own seed is left out of them."""
    shipped = {training_key(RECORD): {seed: (9_900, 9_940 + seed) for seed in range(1, 8)}}
    monkeypatch.setattr("harness.reproducibility.noise._shipped", lambda: shipped)
    noise = seed_noise(RECORD)

    assert noise is not None
    assert {2, 3, 4, 5, 6, 7} == set(noise.counts)


def test_records_are_read_from_a_folder(tmp_path: Path) -> None:
    """From its subfolders, too, and ignoring other files; a folder without records is an error."""
    (tmp_path / "a").mkdir()
    RECORD.write(tmp_path / "a" / "record.json")
    (tmp_path / "other.json").write_text("{}")

    assert (RECORD,) == read_records(tmp_path)
    with pytest.raises(InputError, match="which contains no records"):
        read_records(tmp_path / "nowhere")
