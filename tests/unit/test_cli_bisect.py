"""`harness bisect` on the embedded digits: differences, exit codes, wrong inputs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

Command = Callable[..., tuple[int, str, str]]
Run = Callable[..., Path]

pytestmark = [pytest.mark.smoke, pytest.mark.usefixtures("quick_load")]  # it trains


def test_runs_with_different_seeds_are_bisected(short_run: Run, command: Command) -> None:
    """Runs with different seeds differ before the first step, in the first tensor; exit code 1."""
    one, other = short_run("a"), short_run("b", "--seed", 2)
    code, out, _ = command("bisect", one, other)
    assert 1 == code
    assert out.startswith("differs before the first step in tensor block1.0.weight by ")
    assert "seed" in out.splitlines()[-1]

    code, out, _ = command("bisect", one, other, "--no-rerun", "--json", "-")
    document = json.loads(out)
    assert (1, 0, None, "initialisation") == (
        code,
        document["difference"]["step"],
        document["difference"]["tensor"],
        document["difference"]["cause"],
    )


def test_equal_runs_have_no_difference(short_run: Run, command: Command) -> None:
    """Equal runs give exit code 0 without repeating steps."""
    path = short_run("a")
    code, out, err = command("bisect", path, path)

    assert (0, "bit-equal at all steps up to 6 that both records have digests of\n") == (code, out)
    assert "repeating the training" not in err


def test_a_bisection_without_its_model_uses_the_digests(short_run: Run, command: Command) -> None:
    """Without the model, the digests on record locate the difference, and a message says why."""
    one, other = short_run("a"), short_run("b", "--seed", 2)
    gone = one.with_name("gone.json")
    gone.write_text(
        one.read_text(encoding="utf-8").replace('"source": "cloud_2"', '"source": "gone.py"'), encoding="utf-8"
    )
    code, out, err = command("bisect", gone, other)

    assert (1, True) == (code, out.startswith("differs before the first step in the parameters"))
    assert "steps are not repeated" in err
    assert "'gone.py' does not exist" in err


def test_a_missing_record_is_an_error(command: Command) -> None:
    """A path without a file is exit code 2."""
    code, _, err = command("bisect", "none.json", "none.json")

    assert (2, True) == (code, "expected a run record, got path='none.json'" in err)
