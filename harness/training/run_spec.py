"""The declaration of a training run: all settings that are fixed before the first step."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any

import torch

from harness.errors import InputError
from harness.graph import CapturedModel
from harness.sandbox import LayerState
from harness.tables import Range, require_ranges
from harness.training.recipe import Recipe

DIGEST_EVERY = 100


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """The declaration of a training run. Equal specs, data and environments give bit-equal results.

    Args:
        model: name of the model.
        source: how the user specified the model: a shipped name, a file or a class; empty if trained through the API.
        arguments: constructor arguments of the user's model, as given on the command line.
        graph_digest: exact digest of the captured graph.
        recipe: the settings of the training; ``recipe.epochs`` is the declared number of epochs.
        seed: the seed that all randomness but the initial weights is derived from, 0 to 2**63 - 1.
        engine: name of the engine that computes the steps; ``auto`` must be resolved with `choose_engine` first.
        device: where to train, such as ``cpu`` or ``cuda:0``.
        digest_every: number of steps between two digests of the state, which is also digested after each epoch.
        sandbox: the layers that confined the code of the model when the command loaded it; empty for a shipped model, None if
            unknown.

    Raises:
        InputError: the engine is ``auto``, or a number is out of range.
    """

    model: str
    source: str
    arguments: str
    graph_digest: str
    recipe: Recipe
    seed: Annotated[int, Range(least=0, most=2**63 - 1)]
    engine: str
    device: str
    digest_every: Annotated[int, Range(least=1)]
    sandbox: tuple[LayerState, ...] | None = None

    def __post_init__(self) -> None:
        if self.engine == "auto":
            raise InputError("expected the name of an engine, got engine='auto'. Call choose_engine to replace 'auto'.")
        require_ranges(self, InputError)

    def declared(self) -> dict[str, Any]:
        """Return the fields of `RunSpec` by name, without the fields that a subclass adds."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(RunSpec)}

    @staticmethod
    def of(
        captured: CapturedModel,
        recipe: Recipe,
        *,
        seed: int,
        device: torch.device | str = "cpu",
        engine: str = "eager",
        source: str = "",
        arguments: str = "",
        digest_every: int = DIGEST_EVERY,
    ) -> RunSpec:
        """Build the spec for training a captured model; the other arguments are the fields of the same name."""
        return RunSpec(
            model=captured.name,
            source=source,
            arguments=arguments,
            graph_digest=captured.graph.exact_digest(),
            recipe=recipe,
            seed=seed,
            engine=engine,
            device=str(device),
            digest_every=digest_every,
        )
