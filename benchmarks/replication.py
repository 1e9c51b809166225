"""The certificates on record of the published models, and how a further run compares with them.

`harness replicate all --records benchmarks/records/replication` writes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.certification import Certificate, Published, ReplicatedFigure, replicate
from harness.goldens import golden_path, read_golden
from harness.training import Recipe
from mnist_models import list_models, model_card

RECORDS = Path(__file__).with_name("records") / "replication"
_GOLDENS = Path(__file__).parents[1] / "mnist_models" / "goldens"


def recorded(folder: Path = RECORDS) -> dict[str, Certificate]:
    """The certificates on record by model; models that are one network under one recipe share one.

    Raises:
        InputError: a file is not a certificate.
    """
    certificates = {path.stem: Certificate.read(path) for path in sorted(folder.glob("*.json"))}
    shared = {
        (one.declaration.graph_digest, str(one.declaration.recipe.to_mapping())): one for one in certificates.values()
    }
    for name in list_models():
        recipe = Recipe.from_mapping(model_card(name).recipe, name=name).to_mapping()
        key = read_golden(golden_path(_GOLDENS, name)).graph, str(recipe)
        if model_card(name).sources and key in shared:
            certificates.setdefault(name, shared[key])
    return certificates


def figures_of(
    name: str, correct: Sequence[int], certificates: Mapping[str, Certificate]
) -> tuple[ReplicatedFigure, ...]:
    """A further run of a model, given as its correct predictions after each epoch, compared with the runs on record.

    The intervals hold together for one further run of every model on record. "Not testable" without two runs on record.
    """
    runs = {model: (0,) * one.declaration.recipe.epochs for model, one in certificates.items()}
    runs[name] = tuple(correct)
    published = [Published(model=model, correct=counts) for model, counts in runs.items()]
    return tuple(one for one in replicate(published, certificates).figures if one.model == name)
