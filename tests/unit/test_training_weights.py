"""Weights as files: what was written comes back, another network's are refused by name, and nothing in a file is run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from harness.errors import InputError
from harness.training import initialise, load_weights, save_weights, state_digest
from tests.made_up import network


def made(seed: int) -> nn.Module:
    """A small network."""
    return initialise(network, seed=seed)


def digest(module: nn.Module) -> str:
    """The digest of its state."""
    return state_digest(module.state_dict())


def test_weights_come_back(tmp_path: Path) -> None:
    """Every bit, with what was said about them in the header."""
    path, other = tmp_path / "weights.safetensors", made(2)
    save_weights(made(1), path, about={"model": "net"})
    load_weights(other, path)

    assert digest(made(1)) == digest(other)
    with safe_open(path, framework="pt") as file:
        assert {"model": "net"} == file.metadata()


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"epoch": 3, "model_state_dict": state}])
def test_a_state_dict_by_torch_is_read(wrap: object, tmp_path: Path) -> None:
    """Alone, or beside other things under one of the usual names."""
    path, other = tmp_path / "weights.pt", made(2)
    assert callable(wrap)
    torch.save(wrap(made(1).state_dict()), path)
    load_weights(other, path)

    assert digest(made(1)) == digest(other)


def test_a_wrappers_prefix_is_left_out(tmp_path: Path) -> None:
    """Weights of a network that was trained on several devices."""
    path, other = tmp_path / "weights.pth", made(2)
    torch.save({f"module.{name}": tensor for name, tensor in made(1).state_dict().items()}, path)
    load_weights(other, path)

    assert digest(made(1)) == digest(other)


class Malicious:
    """Runs a command when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.trace}",)


def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path) -> None:
    """A pickle that would run a command is an error, and the command never ran; unpickled plainly it would have."""
    path, trace = tmp_path / "weights.pt", tmp_path / "trace"
    torch.save({"0.weight": Malicious(trace)}, path)
    with pytest.raises(
        InputError, match=r"expected a file of torch\.save that holds tensors and nothing else.*refused before any code"
    ):
        load_weights(made(1), path)
    assert not trace.exists()

    torch.load(path, weights_only=False)
    assert trace.exists()


def test_a_whole_module_is_refused(tmp_path: Path) -> None:
    """A pickled network is code by reference."""
    torch.save(made(1), tmp_path / "net.pt")
    with pytest.raises(InputError, match="Save only the state_dict"):
        load_weights(made(1), tmp_path / "net.pt")


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (None, "none.safetensors", "cannot be read"),
        (b"", "empty.safetensors", "expected weights as safetensors"),
        (b"not weights", "text.safetensors", "expected weights as safetensors"),
        (b"", "empty.pt", "refused before any code in it ran"),
        (b"not weights", "text.pt", "refused before any code in it ran"),
    ],
)
def test_what_holds_no_weights_is_named(content: bytes | None, name: str, message: str, tmp_path: Path) -> None:
    """A missing, empty or foreign file is an error with its path."""
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{message}") as caught:
        load_weights(made(1), tmp_path / name)
    assert name in str(caught.value)


def test_other_things_than_tensors_are_refused(tmp_path: Path) -> None:
    """Plain data that are no state_dict."""
    torch.save({"0.weight": 3}, tmp_path / "weights.pt")
    with pytest.raises(InputError, match="expected a state_dict"):
        load_weights(made(1), tmp_path / "weights.pt")


def test_another_networks_weights_are_refused(tmp_path: Path) -> None:
    """What is missing, too much or of another shape is named, and the network keeps its weights."""
    state = made(1).state_dict()
    state["0.weight"] = torch.zeros(3, 3)
    state["more"] = state.pop("5.bias")
    torch.save(state, tmp_path / "weights.pt")
    module = made(2)
    with pytest.raises(InputError) as caught:
        load_weights(module, tmp_path / "weights.pt")

    for words in (
        "5.bias is missing",
        "more is not in the model",
        "0.weight has shape [3, 3] instead of [4, 1, 7, 7]",
    ):
        assert words in str(caught.value)
    assert digest(made(2)) == digest(module)
