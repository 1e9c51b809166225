"""Weights as files: what was written comes back, another network's are refused by name, and nothing in a file is run."""

from __future__ import annotations

import os
import warnings
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


def test_names_that_begin_like_a_wrappers_are_kept(tmp_path: Path) -> None:
    """A network whose only member is called `module`, by itself and from a wrapper."""
    own, other, wrapped = (nn.ModuleDict({"module": made(seed)}) for seed in (1, 2, 2))
    save_weights(own, tmp_path / "own.safetensors", about={})
    torch.save({f"module.{name}": tensor for name, tensor in own.state_dict().items()}, tmp_path / "wrapped.pt")
    load_weights(other, tmp_path / "own.safetensors")
    load_weights(wrapped, tmp_path / "wrapped.pt")

    assert digest(own) == digest(other) == digest(wrapped)


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
        (b"", "empty.pt", "refused before any code in the file ran"),
        (b"not weights", "text.pt", "refused before any code in the file ran"),
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


class Shared(nn.Module):
    """A layer that is registered under two names, and a buffer that is a view of another."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(784, 10)
        self.again = self.first
        scale = torch.ones(10)
        self.register_buffer("scale", scale)
        self.register_buffer("scale_part", scale[:5])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.again(images.flatten(1)) * self.get_buffer("scale")
        return scores


def test_a_shared_tensor_is_written_once_and_read_back_shared(tmp_path: Path) -> None:
    """Under the first of its names; what `torch.save` writes has all of them, and is read as well."""
    module, path = initialise(Shared, seed=1), tmp_path / "weights.safetensors"
    save_weights(module, path, about={})
    torch.save(module.state_dict(), tmp_path / "weights.pt")

    with safe_open(path, framework="pt") as file:
        assert ["first.bias", "first.weight", "scale", "scale_part"] == sorted(file.keys())
    for name in ("weights.safetensors", "weights.pt"):
        other = initialise(Shared, seed=2)
        load_weights(other, tmp_path / name)
        assert digest(module) == digest(other)
        assert other.first.weight is other.again.weight


def quantised() -> torch.Tensor:
    """A tensor of a type that newer versions of PyTorch deprecate."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.ones(10), 0.1, 0, torch.qint8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"again.weight": torch.zeros(10, 784)},
            "first.weight and again.weight are one tensor in the model, but differ",
        ),
        ({"scale": torch.ones(10).to_sparse()}, "scale is torch.sparse_coo, not a plain tensor"),
        ({"scale": torch.empty(10, device="meta")}, "scale is without data (meta), not a plain tensor"),
        ({"scale": quantised()}, "scale is quantised"),
        ({"scale": torch.ones(10, dtype=torch.complex64)}, "scale has dtype torch.complex64 instead of torch.float32"),
        ({"scale": torch.ones(10, dtype=torch.int64)}, "scale has dtype torch.int64 instead of torch.float32"),
    ],
)
def test_a_tensor_that_cannot_be_loaded_is_named(change: dict[str, torch.Tensor], message: str, tmp_path: Path) -> None:
    """Names of one tensor with different values, tensors that are not plain ones, and other kinds of number."""
    state = initialise(Shared, seed=1).state_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(state | change, tmp_path / "weights.pt")
    with pytest.raises(InputError) as caught:
        load_weights(initialise(Shared, seed=2), tmp_path / "weights.pt")

    assert message in str(caught.value)


def test_nan_weights_are_read(tmp_path: Path) -> None:
    """NaN is not equal to itself, but a tensor of NaN under two names is one tensor."""
    module = initialise(Shared, seed=1)
    nn.init.constant_(module.first.weight, torch.nan)
    torch.save(module.state_dict(), tmp_path / "weights.pt")
    other = initialise(Shared, seed=2)
    load_weights(other, tmp_path / "weights.pt")

    assert digest(module) == digest(other)
