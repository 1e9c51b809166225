"""The shipped models by name; PyTorch is imported only when a network is built."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from mnist_models.card import ModelCard, read_card

if TYPE_CHECKING:
    from torch import nn

_NAMES = (
    "reference",
    "reference_small",
    "cloud_1",
    "cloud_2",
    "cloud_3",
    "pipeline_first",
    "pipeline_second",
    "pipeline_third",
    "rf_study_1",
    "rf_study_2",
    "rf_study_3",
    "rf_study_4",
    "rf_study_5",
    "five_step_1",
    "five_step_2",
    "five_step_3",
    "five_step_4",
    "five_step_5",
)


def list_models() -> tuple[str, ...]:
    """Return the names of the shipped models: our own models first, then the published models by document."""
    return _NAMES


def create_model(name: str) -> nn.Module:
    """Build a shipped model in training mode, initialised from PyTorch's global random state.

    ``forward`` of the model takes normalised images of shape (B, 1, 28, 28) and returns log-probabilities of shape (B,
    10).

    Raises:
        ValueError: there is no shipped model of that name.
    """
    _require_known(name)
    from mnist_models.networks import BUILDERS  # noqa: PLC0415 - listing models does not import PyTorch

    return BUILDERS[name]()


def model_card(name: str) -> ModelCard:
    """Return the model card of a shipped model.

    Raises:
        ValueError: there is no shipped model of that name.
    """
    _require_known(name)
    return read_card(name)


def _require_known(name: str) -> None:
    if name not in _NAMES:
        close = difflib.get_close_matches(name, _NAMES)
        remedy = f"did you mean {' or '.join(close)}?" if close else f"choose one of {', '.join(_NAMES)}."
        raise ValueError(f"expected the name of a shipped model, got name={name!r}; {remedy}")
