"""Lookup of the contract, the recipe, the data set or the recorded training that the options of a command name."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mnist_models
from harness.cli.console import announce
from harness.cli.options import DEFAULT_CONTRACT, DEFAULT_RECIPE
from harness.cli.progress import DownloadProgress
from harness.datasets import DIGITS
from harness.errors import InputError, RecipeError

if TYPE_CHECKING:
    from harness.certification import Certificate, ConsistencyRule
    from harness.contracts import Contract
    from harness.data import Dataset
    from harness.reproducibility import Rerun
    from harness.sources import LoadedModel
    from harness.training import Recipe, RunRecord

# The contract whose accuracy rule was measured on the embedded digits.
_DIGITS_CONTRACT = "digits"


def contract_for(model: str, name: str | None) -> Contract:
    """Return the contract called ``name``; without a name, that of the shipped model's card or the default contract."""
    from harness.contracts import load_contract

    if name is None and model in mnist_models.list_models():
        name = mnist_models.model_card(model).contract
    return load_contract(name or DEFAULT_CONTRACT)


def contract_on(contract: Contract, dataset: Dataset) -> Contract:
    """Return the contract; if the data set is the embedded digits, with the accuracy rule of the contract 'digits'."""
    from harness.contracts import load_contract

    if dataset.name != DIGITS or contract.accuracy is None or contract.name == _DIGITS_CONTRACT:
        return contract
    return contract.with_accuracy_of(load_contract(_DIGITS_CONTRACT))


def model_for(text: str, **options: Any) -> LoadedModel:  # noqa: ANN401 - those of `harness.sources.load`
    """Load the model of a MODEL argument; print the notes, and which layers of the sandbox confined its code."""
    from harness.sandbox import layers_line
    from harness.sources import load

    loaded = load(text, announce=announce, **options)
    if loaded.layers:
        announce(f"sandbox: {layers_line(loaded.layers)}")
    return loaded


def rule_for(contract: Contract) -> ConsistencyRule | None:
    """Return the contract's accuracy rule; ``None`` if the contract has no section ``[accuracy]``."""
    from harness.certification import ConsistencyRule

    if contract.accuracy is None:
        return None
    return ConsistencyRule.from_table(contract.accuracy, where=f"contract {contract.name}: [accuracy]")


def shipped_certificate(model: str) -> Certificate:
    """Return the recorded certificate of a shipped model.

    Raises:
        InputError: there is no shipped model of this name, or the model has no recorded certificate.
    """
    from harness.certification import Certificate

    path = resources.files("mnist_models").joinpath("certificates", f"{model}.json")
    if not path.is_file():
        raise InputError(f"expected a shipped model with a recorded certificate, got {model!r}, which has none.")
    return Certificate.from_json(json.loads(path.read_text("utf-8")), where=f"certificate of {model}")


def recipe_for(model: str, name: str | None) -> Recipe:
    """Return the recipe called ``name``; without a name, that of the shipped model's card or the default recipe."""
    from harness.training import Recipe, load_recipe

    if name is None:
        name = model if model in mnist_models.list_models() else DEFAULT_RECIPE
    if name in mnist_models.list_models():
        return Recipe.from_mapping(mnist_models.model_card(name).recipe, name=name)
    if not Path(name).suffix and not Path(name).exists():
        raise RecipeError(f"expected a recipe, got {name!r}. Use a TOML file, or a name from `harness list`")
    return load_recipe(name)


def dataset_for(choice: str, *, validation: int = 0) -> Dataset:
    """Load the data set of ``--data``, with ``validation`` training images as test images; print the title and the location."""
    from harness.data import load_dataset

    with DownloadProgress() as progress:
        dataset = load_dataset(choice, validation=validation, announce=announce, progress=progress)
    announce(f"data: {dataset.title}, {dataset.source}")
    return dataset


def rerun_for(record: RunRecord, *, model: str | None, data: str | None, device: str | None) -> Rerun:
    """Prepare to repeat a recorded training, with model, data set and device from the arguments or, if None, from the record.

    Raises:
        InputError: the model, the data set or the device is not available, or differs from the recorded one.
    """
    from harness.reproducibility import Rerun
    from harness.training import resolve_device

    if not (source := model or record.source):
        raise InputError(
            "expected a record that names the source of its model, got source=''. Name the model with --model."
        )
    chosen = resolve_device(device or record.device.split(":")[0])
    loaded = model_for(source, seed=record.seed, arguments=record.arguments)
    loaded.model.require_trainable()
    dataset = dataset_for(data or record.data_name, validation=record.validation)
    return Rerun(record=record, captured=loaded.model, dataset=dataset, device=chosen, sandbox=loaded.layers)
