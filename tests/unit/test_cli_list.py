"""`harness list`: one row per shipped model."""

from __future__ import annotations

from collections.abc import Callable

from mnist_models import list_models, model_card

Command = Callable[..., tuple[int, str, str]]


def test_list_has_a_row_for_each_model(command: Command) -> None:
    """Below its header the list has one line for each of the 17 models, with the number of parameters."""
    code, out, _ = command("list")
    rows = [line.split()[:2] for line in out.splitlines()[1:]]

    assert 0 == code
    assert rows == [[name, f"{model_card(name).parameters:,}"] for name in list_models()]
    assert 18 == len(rows)
