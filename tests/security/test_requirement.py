"""Required layers of the sandbox: without them, a model's code does not run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.errors import HarnessError, ModelSourceError
from harness.sandbox import Layer, LayerState, SandboxRequirement, available_layers, warm_workers
from harness.sandbox.kernel import machine
from harness.sources import LoadedModel, load, load_builds

pytestmark = [
    pytest.mark.smoke,
    pytest.mark.skipif(machine() is None, reason="the layers are implemented for Linux on x86-64 and aarch64"),
]

NET = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(1, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
"""


@pytest.fixture(scope="module", autouse=True)
def warm() -> Iterator[None]:
    """Keep one worker for all tests of this module."""
    with warm_workers():
        yield


@pytest.fixture(scope="module")
def layers() -> dict[Layer, LayerState]:
    """The state of each layer on this machine."""
    return {one.layer: one for one in available_layers()}


def test_the_layers_that_hold_are_enough(tmp_path: Path, layers: dict[Layer, LayerState]) -> None:
    """A model is loaded if the required layers hold, and the result says which do."""
    (tmp_path / "net.py").write_text(NET, encoding="utf-8")
    holding = frozenset(layer for layer, state in layers.items() if state.holds)
    loaded = load(str(tmp_path / "net.py"), sandbox=SandboxRequirement(alternatives=(holding,)))

    assert {layer: state.holds for layer, state in layers.items()} == {one.layer: one.holds for one in loaded.layers}
    assert loaded.model.is_own_statement


def test_the_first_build_chooses_the_class(tmp_path: Path) -> None:
    """Each build has its own weights; equal seeds give equal ones, and an error is that of its build only."""
    (tmp_path / "net.py").write_text(
        f"import torch\n{NET}\nif torch.initial_seed() == 3: raise ValueError\nclass Block(Net): pass\n",
        encoding="utf-8",
    )
    first, same, other = load_builds(str(tmp_path), seeds=(1, 1, 2))

    assert isinstance(first, LoadedModel)
    assert isinstance(same, LoadedModel)
    assert isinstance(other, LoadedModel)
    assert ["net.py:Block"] * 3 == [one.model.name.rpartition("/")[2] for one in (first, same, other)]
    weight = "0.weight"
    assert first.model.state[weight].equal(same.model.state[weight])
    assert not first.model.state[weight].equal(other.model.state[weight])


def test_a_build_that_fails_is_its_error(tmp_path: Path) -> None:
    """The other builds are not affected."""
    fails = NET.replace(
        "        super()", "        import torch\n        assert torch.initial_seed() != 2\n        super()"
    )
    (tmp_path / "net.py").write_text(fails, encoding="utf-8")
    found = load_builds(str(tmp_path / "net.py"), seeds=(2, 1, 2))

    assert [ModelSourceError, LoadedModel, ModelSourceError] == [type(one) for one in found]
    assert all("AssertionError" in str(one) for one in found if isinstance(one, HarnessError))
