"""Required layers of the sandbox: without them, a model's code does not run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.errors import HarnessError, ModelSourceError, SandboxError
from harness.files import temporary_folder
from harness.sandbox import Layer, LayerState, SandboxRequirement, available_layers, warm_workers
from harness.sandbox.kernel import machine
from harness.sources import LoadedModel, load, load_builds
from tests.documents import schema_errors
from tests.security.attacks import NET

pytestmark = [
    pytest.mark.smoke,
    pytest.mark.skipif(machine() is None, reason="the layers are implemented for Linux on x86-64 and aarch64"),
]


@pytest.fixture(scope="module", autouse=True)
def area() -> Iterator[Path]:
    """Keep one worker for all tests of this module; what it sees."""
    with warm_workers() as folder:
        yield folder


@pytest.fixture
def project(area: Path) -> Iterator[Path]:
    """An empty folder that a worker in bubblewrap sees without being started again."""
    with temporary_folder("project", inside=area) as folder:
        yield folder


@pytest.fixture(scope="module")
def layers() -> dict[Layer, LayerState]:
    """The state of each layer on this machine."""
    return {one.layer: one for one in available_layers()}


@pytest.mark.parametrize("removed", Layer)
def test_without_a_layer_its_requirement_is_refused(
    removed: Layer, project: Path, layers: dict[Layer, LayerState], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layer that is switched off is reported as such; if it is required, no code runs, and the message says why."""
    (project / "net.py").write_text(NET, encoding="utf-8")
    monkeypatch.setenv("HARNESS_SANDBOX_WITHOUT", removed)
    others = frozenset(layer for layer, state in layers.items() if state.holds) - {removed}
    if removed is Layer.LANDLOCK:
        # If other users cannot read Python, this layer needs Landlock.
        others -= {Layer.USER}
    tried = SandboxRequirement(alternatives=(others, frozenset({removed})))
    found = {one.layer: one for one in load(str(project / "net.py"), sandbox=tried).layers}

    assert others <= {layer for layer, state in found.items() if state.holds}
    assert (False, "switched off by HARNESS_SANDBOX_WITHOUT") == (found[removed].holds, found[removed].detail)
    (project / "net.py").write_text("raise ValueError('the code has run')", encoding="utf-8")
    with pytest.raises(SandboxError, match=f"{removed}: switched off by HARNESS_SANDBOX_WITHOUT"):
        load(
            str(project / "net.py"), sandbox=SandboxRequirement(alternatives=(frozenset({removed, Layer.BUBBLEWRAP}),))
        )


def test_the_layers_that_hold_are_enough(project: Path, layers: dict[Layer, LayerState]) -> None:
    """A model is loaded if the required layers hold, and the result says which do."""
    (project / "net.py").write_text(NET, encoding="utf-8")
    holding = frozenset(layer for layer, state in layers.items() if state.holds)
    loaded = load(str(project / "net.py"), sandbox=SandboxRequirement(alternatives=(holding,)))

    assert {layer: state.holds for layer, state in layers.items()} == {one.layer: one.holds for one in loaded.layers}
    assert loaded.model.is_own_statement


def test_each_training_says_which_layers_held(
    project: Path, layers: dict[Layer, LayerState], command: Callable[..., tuple[int, str, str]]
) -> None:
    """The records of a training and of its repetition have the layers of the sandbox."""
    model, recipe = project / "net.py", project / "short.toml"
    model.write_text(NET, encoding="utf-8")
    recipe.write_text('batch_size = 512\nepochs = 1\n[optimizer]\nname = "sgd"\nlr = 0.1\n', encoding="utf-8")
    trained = (model, "--recipe", recipe, "--data", "digits", "--device", "cpu", "--engine", "eager")

    def holding(document: Any) -> dict[str, bool]:  # noqa: ANN401 - any JSON
        assert [] == schema_errors(document)
        return {one["layer"]: one["holds"] for one in document["sandbox"]}

    def written(*arguments: object) -> Any:  # noqa: ANN401 - any JSON
        return json.loads(command(*arguments, "--json", "-")[1])

    record = written("train", *trained, "--out", project / "run")
    repeated = written("replay", project / "run" / "record.json")["record"]

    expected = {layer.value: state.holds and layer is not Layer.BUBBLEWRAP for layer, state in layers.items()}
    assert [expected] * 2 == [holding(record), holding(repeated)]


def test_the_first_build_chooses_the_class(project: Path) -> None:
    """Each build has its own weights; equal seeds give equal ones, and an error is that of its build only."""
    (project / "net.py").write_text(f"{NET}\nclass Block(Net): pass\n", encoding="utf-8")
    first, same, other = load_builds(str(project), seeds=(1, 1, 2))

    assert isinstance(first, LoadedModel)
    assert isinstance(same, LoadedModel)
    assert isinstance(other, LoadedModel)
    assert ["net.py:Block"] * 3 == [one.model.name.rpartition("/")[2] for one in (first, same, other)]
    weight = "0.weight"
    assert first.model.state[weight].equal(same.model.state[weight])
    assert not first.model.state[weight].equal(other.model.state[weight])


def test_a_build_that_fails_is_its_error(project: Path) -> None:
    """The builds before it are kept, and none follows."""
    fails = NET.replace(
        "        super()", "        import torch\n        assert torch.initial_seed() != 2\n        super()"
    )
    (project / "net.py").write_text(fails, encoding="utf-8")
    found = load_builds(str(project / "net.py"), seeds=(1, 2, 1))

    assert [LoadedModel, ModelSourceError] == [type(one) for one in found]
    assert all("AssertionError" in str(one) for one in found if isinstance(one, HarnessError))
