"""`harness contract`: the list, and the explanation of a contract."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from harness.contracts import builtin_contracts

Command = Callable[..., tuple[int, str, str]]

EVERYTHING = """\
description = "all there is"
input = [1, 28, 28]
classes = 10
any_of = ["gap", "linear"]

[head]
output = "logits"
bare = true

[parameters]
below = 8000
max = 7000
min = 100
hidden_state = false

[receptive_field]
min = 20
max = 40
including_pool = true

[linear]
forbidden = true

[batch]
independent = true
strict_size = true

[gradients]
complete = true

[cost]
max_macs = 1000000
max_activation_bytes = 2000000

[accuracy]
target = 99.4
rule = "best"
max_epochs = 19
"""


def test_the_built_in_contracts_are_listed(command: Command) -> None:
    """Each built-in contract has a line."""
    code, out, _ = command("contract", "list")

    assert 0 == code
    assert list(builtin_contracts()) == [line.split()[0] for line in out.splitlines()[1:]]


def test_every_requirement_is_explained(command: Command, tmp_path: Path) -> None:
    """Each key of a contract has a sentence with its values."""
    path = tmp_path / "all.toml"
    path.write_text(EVERYTHING, encoding="utf-8")
    code, out, _ = command("contract", "explain", path)

    assert 0 == code
    for words in (
        "all: all there is",
        "Images of shape 1x28x28",
        "Logits for 10 classes",
        "No activation, normalisation or dropout between",
        "Fewer than 8,000 and at most 7,000 and at least 100 parameters",
        "constants and buffers do not count",
        "receptive field of at most 40 and at least 20 pixels including the head's pooling",
        "A fully connected layer absent: a product with a matrix of weights",
        "At least one of global average pooling, a fully connected layer",
        "In evaluation a prediction depends neither on the other images nor on their order",
        "for images of another size, the model fails or returns one prediction per image",
        "A finite gradient, not zero throughout",
        "At most 1,000,000 multiply-accumulates and 2,000,000 bytes of activations",
        "at most 19 epochs declared",
        "at least 99.4 % of the test images correct in the best epoch",
    ):
        assert words in out, (words, out)


def test_an_unknown_contract_is_an_error(command: Command) -> None:
    """An unknown name is an error that suggests the nearest names."""
    code, _, err = command("contract", "explain", "era-s8")

    assert 2 == code
    assert "did you mean era-s7 or era-s6?" in err or "did you mean era-s6 or era-s7?" in err
