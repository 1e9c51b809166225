"""Recipes: descriptions of how a network is trained, as data.

The format (TOML or a plain mapping) is described in ``docs/recipes.md``. Each optimizer and schedule is a dataclass
whose fields are the keys of its section in a recipe; a dataclass with the name of a PyTorch class configures that
class.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from torch import nn
from torch.optim import lr_scheduler

from harness.data import Augmentation
from harness.errors import InputError, RecipeError
from harness.files import read_whole
from harness.tables import (
    Range,
    expect_mapping,
    parse_document,
    read_table,
    refuse_unknown,
    require,
    require_ranges,
)

# When a schedule changes the learning rate: after each step of the optimizer or after each epoch.
Interval = Literal["step", "epoch"]

_expect = functools.partial(require, RecipeError)

_Positive = Annotated[float, Range(above=0)]
_NotNegative = Annotated[float, Range(least=0)]
_Momentum = Annotated[float, Range(least=0, below=1)]
_Fraction = Annotated[float, Range(least=0, most=1)]
_InnerFraction = Annotated[float, Range(above=0, below=1)]
# A limit far above the counts of any training, and far below counts whose products overflow.
_Count = Annotated[int, Range(least=1, most=1_000_000)]
_MAX_BYTES = 2**20


@dataclass(frozen=True, kw_only=True)
class _Settings:
    """Base class of all settings; checks each field against the range in its annotation."""

    def __post_init__(self) -> None:
        require_ranges(self, RecipeError)


@dataclass(frozen=True, kw_only=True)
class SGD(_Settings):
    """Stochastic gradient descent with momentum (`torch.optim.SGD`); ``lr`` is the learning rate that a schedule multiplies."""

    name: ClassVar[str] = "sgd"

    lr: _Positive
    momentum: _Momentum = 0.0
    nesterov: bool = False
    weight_decay: _NotNegative = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        holds = self.momentum > 0 or not self.nesterov
        _expect(holds, "a momentum above 0 for nesterov=True", nesterov=self.nesterov, momentum=self.momentum)


@dataclass(frozen=True, kw_only=True)
class Adam(_Settings):
    """The optimizer Adam (`torch.optim.Adam`)."""

    name: ClassVar[str] = "adam"

    lr: _Positive
    betas: Annotated[tuple[float, float], Range(least=0, below=1)] = (0.9, 0.999)
    weight_decay: _NotNegative = 0.0


@dataclass(frozen=True, kw_only=True)
class AdamW(Adam):
    """The optimizer Adam with decoupled weight decay (`torch.optim.AdamW`)."""

    name: ClassVar[str] = "adamw"

    weight_decay: _NotNegative = 0.01


@dataclass(frozen=True, kw_only=True)
class OneCycleLR(_Settings):
    """Raises the learning rate to ``max_lr``, then lowers it, after each step (`torch.optim.lr_scheduler.OneCycleLR`).

    As in PyTorch, the optimizer's own ``lr`` is replaced, and momentum (Adam's first beta) is cycled between 0.85 and
    0.95.
    """

    name: ClassVar[str] = "one-cycle"
    interval: ClassVar[Interval] = "step"

    max_lr: _Positive
    pct_start: _InnerFraction = 0.3
    div_factor: _Positive = 25.0
    final_div_factor: _Positive = 1e4


@dataclass(frozen=True, kw_only=True)
class WarmupCosine(_Settings):
    """Raises the learning rate linearly, lowers it along half a cosine, then keeps it constant; changes after each step.

    With ``T`` steps in all, ``w = int(warmup * T)`` and ``e = int(until * T)``, the learning rate of step ``t`` (from
    0) is ``lr`` times ``(t + 1) / w`` before ``w``, ``floor + (1 - floor) * (1 + cos(pi * (t - w) / (e - w))) / 2``
    before ``e`` and ``floor`` after.
    """

    name: ClassVar[str] = "warmup-cosine"
    interval: ClassVar[Interval] = "step"

    warmup: float
    until: float
    floor: _Fraction

    def __post_init__(self) -> None:
        super().__post_init__()
        _expect(0 <= self.warmup < self.until <= 1, "0 <= warmup < until <= 1", warmup=self.warmup, until=self.until)

    def factors(self, total: int) -> Callable[[int], float]:
        """Return the function from the number of a step to the factor on ``lr``, for a run of ``total`` steps."""
        rise, fall = int(self.warmup * total), int(self.until * total)

        def factor(step: int) -> float:
            if step < rise:
                return (step + 1) / rise
            if step >= fall:
                return self.floor
            return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * (step - rise) / (fall - rise))) / 2

        return factor


@dataclass(frozen=True, kw_only=True)
class ReduceLROnPlateau(_Settings):
    """Multiplies the learning rate by ``factor`` after more than ``patience`` epochs without a lower test loss.

    The class is torch's `ReduceLROnPlateau`. As in the published recipe, the learning rate depends on the test images,
    which makes the test accuracy slightly too high.
    """

    name: ClassVar[str] = "plateau"
    interval: ClassVar[Interval] = "epoch"

    factor: _InnerFraction
    patience: Annotated[int, Range(least=0)]


@dataclass(frozen=True, kw_only=True)
class StepLR(_Settings):
    """Multiplies the learning rate by ``gamma`` every ``step_size`` epochs (`StepLR`)."""

    name: ClassVar[str] = "step"
    interval: ClassVar[Interval] = "epoch"

    step_size: _Count
    gamma: _Positive


@dataclass(frozen=True, kw_only=True)
class MultiStepLR(_Settings):
    """Multiplies the learning rate by ``gamma`` after each of the epochs in ``milestones`` (`MultiStepLR`)."""

    name: ClassVar[str] = "multi-step"
    interval: ClassVar[Interval] = "epoch"

    milestones: tuple[int, ...]
    gamma: _Positive

    def __post_init__(self) -> None:
        super().__post_init__()
        increasing = list(self.milestones) == sorted({*self.milestones}) and self.milestones[:1] >= (1,)
        _expect(increasing, "milestones to be increasing epoch numbers from 1", milestones=list(self.milestones))


@dataclass(frozen=True, kw_only=True)
class CosineAnnealingLR(_Settings):
    """Lowers the learning rate along half a cosine from ``lr`` to ``floor * lr``, after each epoch (`CosineAnnealingLR`)."""

    name: ClassVar[str] = "cosine"
    interval: ClassVar[Interval] = "epoch"

    floor: _Fraction = 0.0


Optimizer = SGD | Adam | AdamW
Schedule = OneCycleLR | WarmupCosine | ReduceLROnPlateau | StepLR | MultiStepLR | CosineAnnealingLR


@dataclass(frozen=True, kw_only=True)
class Recipe(_Settings):
    """The settings of a training: everything that determines a run except network, data, seed, engine and environment.

    Args:
        name: the name of the recipe in messages and records.
        batch_size: number of images in each step; the last step of an epoch may have fewer.
        epochs: number of passes over the training images.
        optimizer: which optimizer, with its settings.
        schedule: how the learning rate changes; None keeps it constant.
        augmentation: random transforms of the training images; None for none.

    Raises:
        RecipeError: a value is out of range.
    """

    name: str
    batch_size: _Count
    epochs: _Count
    optimizer: Optimizer
    schedule: Schedule | None = None
    augmentation: Augmentation | None = None

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], *, name: str) -> Self:
        """Read a recipe from a mapping in the format of ``docs/recipes.md``, as parsed from TOML or JSON.

        Raises:
            RecipeError: a key is unknown (the message names the nearest known key) or missing, or a value has a wrong type or is
                out of range.
        """
        where = f"recipe {name}"
        table = expect_mapping(mapping, where=where, error=RecipeError)
        known = {field.name for field in dataclasses.fields(cls)} - {"name"}
        refuse_unknown(table, known, where=where, error=RecipeError)
        return read_table(cls, {**table, "name": name}, where=where, error=RecipeError)

    def to_mapping(self) -> dict[str, Any]:
        """Return the recipe with every setting but without the name, as plain data that `from_mapping` reads."""
        plain: dict[str, Any] = {"batch_size": self.batch_size, "epochs": self.epochs}
        plain["optimizer"] = {"name": self.optimizer.name, **_plain(self.optimizer)}
        if self.schedule is not None:
            plain["schedule"] = {"name": self.schedule.name, **_plain(self.schedule)}
        if self.augmentation is not None:
            plain["augmentation"] = _plain(self.augmentation)
        return plain

    def with_epochs(self, epochs: int) -> Self:
        """Return the recipe with another number of epochs; a schedule over the whole run covers the new number."""
        return dataclasses.replace(self, epochs=epochs)


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe from a TOML file; the name of the recipe is the stem of the file name.

    Raises:
        RecipeError: there is no such file, it is not TOML, or it is not a recipe.
    """
    path = Path(path)
    content = read_whole(path, "a recipe file", error=RecipeError, most=_MAX_BYTES)
    mapping = parse_document(content, "TOML", where=f"recipe {path}", error=RecipeError)
    return Recipe.from_mapping(mapping, name=path.stem)


def build_optimizer(optimizer: Optimizer, module: nn.Module) -> torch.optim.Optimizer:
    """Create the torch optimizer for the trainable parameters of a module.

    Raises:
        InputError: the module has no trainable parameters.
    """
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not trainable:
        raise InputError(
            f"expected a model with trainable parameters, got {type(module).__name__} with none. Set requires_grad=True."
        )
    kind: type[torch.optim.Optimizer] = getattr(torch.optim, type(optimizer).__name__)
    return kind(trainable, **dataclasses.asdict(optimizer))


def build_schedule(
    schedule: Schedule, optimizer: torch.optim.Optimizer, *, epochs: int, steps: int
) -> lr_scheduler.LRScheduler:
    """Create the PyTorch scheduler for a run of ``epochs`` epochs with ``steps`` optimizer steps each.

    Raises:
        RecipeError: the rise of a one-cycle schedule takes exactly one step, for which torch divides by zero.
    """
    match schedule:
        case OneCycleLR():
            # PyTorch divides by pct_start * total - 1.
            total, start = epochs * steps, schedule.pct_start
            _expect(
                start * total != 1,
                "a one-cycle schedule whose rise, pct_start * steps, is not exactly one step",
                pct_start=start,
                steps=total,
            )
            return lr_scheduler.OneCycleLR(optimizer, total_steps=total, **dataclasses.asdict(schedule))
        case WarmupCosine():
            return lr_scheduler.LambdaLR(optimizer, schedule.factors(epochs * steps))
        case ReduceLROnPlateau() | StepLR() | MultiStepLR():
            kind: type[lr_scheduler.LRScheduler] = getattr(lr_scheduler, type(schedule).__name__)
            return kind(optimizer, **dataclasses.asdict(schedule))
        case CosineAnnealingLR():
            floor = schedule.floor * optimizer.param_groups[0]["lr"]
            return lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs, eta_min=floor)


def _plain(settings: Optimizer | Schedule | Augmentation) -> dict[str, Any]:
    given = ((name, value) for name, value in dataclasses.asdict(settings).items() if value is not None)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in given}
