"""The description of a run."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from harness.errors import InputError
from harness.graph import capture
from harness.training import DIGEST_EVERY, RunSpec, initialise
from tests.made_up import RECIPE, network, record, spec


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"engine": "auto"},
            r"expected the name of an engine, got engine='auto'\. Call choose_engine to replace",
        ),
        ({"digest_every": 0}, r"expected digest_every >= 1, got digest_every=0"),
    ],
)
def test_a_spec_that_describes_no_run_is_refused(change: dict[str, Any], message: str) -> None:
    """``auto`` could mean another engine on another machine, and digests are at least one step apart."""
    with pytest.raises(InputError, match=message):
        spec(**change)


def test_the_spec_of_a_captured_model() -> None:
    """Name and digest come from the model; the other fields have the defaults of the command line."""
    captured = capture(initialise(network, seed=1), name="small", twice=False)
    expected = {
        "model": "small",
        "source": "",
        "arguments": "",
        "graph_digest": captured.graph.exact_digest(),
        "recipe": RECIPE,
        "seed": 3,
        "engine": "eager",
        "device": "cuda:1",
        "digest_every": DIGEST_EVERY,
        "sandbox": None,
    }

    assert expected == RunSpec.of(captured, RECIPE, seed=3, device=torch.device("cuda", 1)).declared()


def test_a_record_contains_its_spec() -> None:
    """The outcome adds fields to the spec and changes none."""
    made = record([9_900, 9_950])

    assert spec(RECIPE.with_epochs(2)) == made.spec
    assert made == dataclasses.replace(made, **made.spec.declared())
