"""Recipes: their format, the errors of a malformed one, and the optimizers and schedulers built from them."""

from __future__ import annotations

import copy
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from harness.data import Augmentation
from harness.errors import InputError, RecipeError
from harness.training import Recipe, load_recipe
from harness.training.recipe import (
    SGD,
    Adam,
    AdamW,
    CosineAnnealingLR,
    MultiStepLR,
    OneCycleLR,
    Optimizer,
    ReduceLROnPlateau,
    Schedule,
    StepLR,
    WarmupCosine,
    build_optimizer,
    build_schedule,
)

FULL = """
batch_size = 128
epochs = 15
[optimizer]
name = "sgd"
lr = 0.1
momentum = 0.9
nesterov = true
weight_decay = 5e-4
[schedule]
name = "warmup-cosine"
warmup = 0.13
until = 0.75
floor = 0.002
[augmentation]
rotation = 7
rotation_fill = 1
shift = 0.1
scale = [0.95, 1.05]
interpolation = "nearest"
"""


def test_a_full_recipe_is_read() -> None:
    """Every section of a TOML recipe becomes its dataclass."""
    assert Recipe.from_mapping(tomllib.loads(FULL), name="full") == Recipe(
        name="full",
        batch_size=128,
        epochs=15,
        optimizer=SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4),
        schedule=WarmupCosine(warmup=0.13, until=0.75, floor=0.002),
        augmentation=Augmentation(
            rotation=7.0, rotation_fill=1, shift=0.1, scale=(0.95, 1.05), interpolation="nearest"
        ),
    )


@pytest.mark.parametrize("optimizer", [SGD(lr=0.1), Adam(lr=0.001), AdamW(lr=0.001, betas=(0.8, 0.9))])
@pytest.mark.parametrize(
    "schedule",
    [
        None,
        OneCycleLR(max_lr=0.1),
        WarmupCosine(warmup=0.1, until=0.9, floor=0.0),
        ReduceLROnPlateau(factor=0.5, patience=3),
        StepLR(step_size=2, gamma=0.1),
        MultiStepLR(milestones=(2, 4), gamma=0.1),
        CosineAnnealingLR(),
    ],
)
def test_a_recipe_round_trips_through_its_mapping(optimizer: Optimizer, schedule: Schedule | None) -> None:
    """`from_mapping` reads back what `to_mapping` gives."""
    recipe = Recipe(name="r", batch_size=1, epochs=1, optimizer=optimizer, schedule=schedule)
    assert recipe == Recipe.from_mapping(recipe.to_mapping(), name="r")


def test_with_epochs_changes_nothing_else() -> None:
    """`with_epochs` replaces the number of epochs only."""
    recipe = Recipe.from_mapping(tomllib.loads(FULL), name="full")
    assert recipe == recipe.with_epochs(2).with_epochs(15)
    assert 2 == recipe.with_epochs(2).epochs


def change(path: str, value: object) -> dict[str, Any]:
    """The full recipe with one value replaced, or removed for None."""
    mapping = copy.deepcopy(tomllib.loads(FULL))
    *sections, key = path.split(".")
    table = mapping
    for section in sections:
        table = table[section]
    if value is None:
        del table[key]
    else:
        table[key] = value
    return mapping


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("batchsize", 1, "recipe r: 'batchsize' is not a known key. Did you mean 'batch_size'?"),
        ("name", "x", "recipe r: 'name' is not a known key."),
        ("epochs", None, "recipe r: expected a value for epochs"),
        ("epochs", 0, "recipe r: expected 1 <= epochs <= 1,000,000, got epochs=0."),
        ("epochs", 1.5, "expected epochs to be a whole number, got epochs=1.5 (float)"),
        ("epochs", True, "expected epochs to be a whole number, got epochs=True (bool)"),
        ("batch_size", 0, "expected 1 <= batch_size <= 1,000,000, got batch_size=0"),
        ("optimizer", None, "expected a value for optimizer"),
        ("optimizer", "sgd", "recipe r, optimizer: expected a table of keys and values, got 'sgd' (str)"),
        ("optimizer.name", None, "expected name to be one of adam, adamw, sgd, got name=None"),
        ("optimizer.name", "sdg", "got name='sdg'. Did you mean 'sgd'?"),
        ("optimizer.name", 1, "got name=1."),
        ("optimizer.lr", -1, "recipe r, optimizer (sgd): expected lr > 0, got lr=-1.0."),
        ("optimizer.lr", "fast", "expected lr to be a number, got lr='fast' (str)"),
        ("optimizer.lr", float("inf"), "expected lr to be a finite number, got lr=inf"),
        ("optimizer.lr", None, "expected a value for lr"),
        ("optimizer.momentum", 1, "expected 0 <= momentum < 1, got momentum=1.0"),
        ("optimizer.momentum", 0, "expected a momentum above 0 for nesterov=True, got nesterov=True, momentum=0.0"),
        ("optimizer.weight_decay", -1, "expected weight_decay >= 0"),
        ("optimizer.nesterov", 1, "expected nesterov to be true or false, got nesterov=1 (int)"),
        ("optimizer.beta", 1, "'beta' is not a known key."),
        ("schedule.name", "cosinus", "Did you mean 'cosine'?"),
        ("schedule.warmup", 0.8, "expected 0 <= warmup < until <= 1, got warmup=0.8, until=0.75"),
        ("schedule.floor", 2, "expected 0 <= floor <= 1, got floor=2.0"),
        ("augmentation.rotaton", 7, "recipe r, augmentation: 'rotaton' is not a known key. Did you mean 'rotation'?"),
        ("augmentation.rotation", 270, "recipe r, augmentation: expected 0 <= rotation <= 180, got rotation="),
        ("augmentation.scale", [1], "expected scale to be a list of 2, got scale=[1] (list)"),
        ("augmentation.scale", [1, "x"], "expected scale[1] to be a number, got scale[1]='x' (str)"),
        ("augmentation.interpolation", "cubic", "expected interpolation to be one of 'nearest', 'bilinear'"),
    ],
)
def test_a_bad_recipe_is_named(path: str, value: object, message: str) -> None:
    """A wrong key, type or value is an error that names the place, what was expected and what was given."""
    with pytest.raises(RecipeError) as caught:
        Recipe.from_mapping(change(path, value), name="r")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"name": "adam", "lr": 0.1, "betas": [0.9, 1]}, "expected 0 <= betas < 1"),
        ({"name": "adam", "lr": 0}, "expected lr > 0"),
        ({"name": "adamw", "lr": 1, "weight_decay": -1}, "expected weight_decay >= 0"),
        ({"name": "adam", "lr": 0.1, "momentum": 0.9}, "'momentum' is not a known key"),
    ],
)
def test_a_bad_adam_is_named(table: dict[str, object], message: str) -> None:
    """An Adam setting out of range is an error that names it."""
    with pytest.raises(RecipeError) as caught:
        Recipe.from_mapping(change("optimizer", table), name="r")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"name": "one-cycle", "max_lr": 0}, "expected max_lr > 0"),
        ({"name": "one-cycle", "max_lr": 1, "pct_start": 1}, "expected 0 < pct_start < 1"),
        ({"name": "one-cycle", "max_lr": 1, "div_factor": 0}, "expected div_factor > 0"),
        ({"name": "one-cycle", "max_lr": 1, "final_div_factor": 0}, "expected final_div_factor > 0"),
        ({"name": "plateau", "factor": 1, "patience": 3}, "expected 0 < factor < 1"),
        ({"name": "plateau", "factor": 0.5, "patience": -1}, "expected patience >= 0"),
        ({"name": "step", "step_size": 0, "gamma": 0.1}, "expected 1 <= step_size"),
        ({"name": "step", "step_size": 1, "gamma": 0}, "expected gamma > 0"),
        (
            {"name": "multi-step", "milestones": [3, 2], "gamma": 0.1},
            "increasing epoch numbers from 1, got milestones=[3, 2]",
        ),
        ({"name": "multi-step", "milestones": [], "gamma": 0.1}, "increasing epoch numbers from 1, got milestones=[]"),
        ({"name": "multi-step", "milestones": 3, "gamma": 0.1}, "expected milestones to be a list, got milestones=3"),
        ({"name": "multi-step", "milestones": [1], "gamma": 0}, "expected gamma > 0"),
        ({"name": "cosine", "floor": -1}, "expected 0 <= floor <= 1"),
    ],
)
def test_a_bad_schedule_is_named(table: dict[str, object], message: str) -> None:
    """A schedule setting out of range is an error that names it."""
    with pytest.raises(RecipeError) as caught:
        Recipe.from_mapping(change("schedule", table), name="r")
    assert message in str(caught.value)


def test_a_recipe_file_is_read(tmp_path: Path) -> None:
    """A recipe file is read, and its stem becomes the recipe's name."""
    (tmp_path / "mine.toml").write_text(FULL)
    assert Recipe.from_mapping(tomllib.loads(FULL), name="mine") == load_recipe(tmp_path / "mine.toml")


def test_an_unusable_recipe_file_is_named(tmp_path: Path) -> None:
    """A file that is missing or is not TOML is an error with its path."""
    with pytest.raises(RecipeError, match=r"nosuch\.toml.*cannot be read"):
        load_recipe(tmp_path / "nosuch.toml")
    (tmp_path / "bad.toml").write_text("epochs = = 3")
    with pytest.raises(RecipeError, match=r"recipe .*bad\.toml is not valid TOML"):
        load_recipe(tmp_path / "bad.toml")


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        (SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01), torch.optim.SGD),
        (Adam(lr=0.1), torch.optim.Adam),
        (AdamW(lr=0.1), torch.optim.AdamW),
    ],
)
def test_an_optimizer_is_torchs_own(optimizer: Optimizer, expected: type[torch.optim.Optimizer]) -> None:
    """Each optimizer is torch's class with the recipe's settings, over the trainable parameters."""
    module = nn.Linear(2, 2)
    module.bias.requires_grad = False
    built = build_optimizer(optimizer, module)
    assert expected is type(built)
    (group,) = built.param_groups
    assert [id(module.weight)] == [id(parameter) for parameter in group["params"]]
    assert optimizer.weight_decay == group["weight_decay"]


def test_nothing_to_train_is_an_error() -> None:
    """A network without parameters cannot be trained."""
    with pytest.raises(InputError, match="expected a model with trainable parameters, got Flatten"):
        build_optimizer(SGD(lr=0.1), nn.Flatten())


def rates(schedule: Schedule, *, epochs: int, steps: int) -> list[float]:
    """The learning rates of a run at lr 1: one for each step, or for each epoch where the schedule's interval is the epoch."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = build_schedule(schedule, optimizer, epochs=epochs, steps=steps)
    seen = []
    for _ in range(epochs * steps if schedule.interval == "step" else epochs):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


def test_warmup_cosine_follows_its_formula() -> None:
    """Linear to step 10, half a cosine to step 60, then constant, in a run of 100 steps."""
    seen = rates(WarmupCosine(warmup=0.1, until=0.6, floor=0.02), epochs=10, steps=10)
    assert pytest.approx([step / 10 for step in range(1, 11)]) == seen[:10]
    assert pytest.approx([1.0, 0.51, 0.02]) == [seen[10], seen[35], seen[60]]
    assert {0.02} == {round(rate, 12) for rate in seen[60:]}
    assert sorted(seen[10:60], reverse=True) == seen[10:60]


def test_one_cycle_peaks_where_asked() -> None:
    """The peak is max_lr, at pct_start of all steps; the start is max_lr / div_factor."""
    seen = rates(OneCycleLR(max_lr=0.5, pct_start=0.3), epochs=10, steps=10)
    assert pytest.approx([0.5 / 25, 0.5, 0.5 / 25 / 1e4]) == [seen[0], seen[29], seen[99]]
    assert 29 == seen.index(max(seen))


def test_one_cycle_over_one_rising_step_is_refused() -> None:
    """A rise of exactly one step, for which torch divides by zero, is a `RecipeError`."""
    with pytest.raises(RecipeError, match=r"got pct_start=0\.25, steps=4"):
        rates(OneCycleLR(max_lr=0.5, pct_start=0.25), epochs=2, steps=2)


def test_epoch_schedules_change_after_epochs() -> None:
    """`StepLR`, `MultiStepLR` and `CosineAnnealingLR` change the rate at the epochs that the recipe names."""
    assert pytest.approx([1, 1, 0.1, 0.1, 0.01]) == rates(StepLR(step_size=2, gamma=0.1), epochs=5, steps=9)
    assert pytest.approx([1, 0.5, 0.5, 0.25]) == rates(MultiStepLR(milestones=(1, 3), gamma=0.5), epochs=4, steps=9)
    assert pytest.approx([1, 0.6, 0.2]) == [*rates(CosineAnnealingLR(floor=0.2), epochs=4, steps=9)[::2], 0.2]


def test_plateau_waits_for_its_patience() -> None:
    """The rate halves after more than `patience` epochs without a lower test loss."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = build_schedule(ReduceLROnPlateau(factor=0.5, patience=1), optimizer, epochs=9, steps=9)
    assert isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
    seen = []
    for loss in (1.0, 0.9, 0.95, 0.95, 0.8):
        scheduler.step(loss)
        seen.append(optimizer.param_groups[0]["lr"])
    assert [1.0, 1.0, 1.0, 0.5, 0.5] == seen
