"""Small MNIST classifiers: published models and a reference model, each with a model card."""

from mnist_models.card import (
    Claim,
    Discrepancy,
    Expected,
    Log,
    ModelCard,
    PublishedEpoch,
    Source,
    Summary,
    SummaryRow,
    parse_card,
)
from mnist_models.registry import create_model, list_models, model_card

__all__ = [
    "Claim",
    "Discrepancy",
    "Expected",
    "Log",
    "ModelCard",
    "PublishedEpoch",
    "Source",
    "Summary",
    "SummaryRow",
    "create_model",
    "list_models",
    "model_card",
    "parse_card",
]
