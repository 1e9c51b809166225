"""`harness verify` on the embedded digits: verdicts, exit codes and the accuracy rule."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from harness.data.digits import DIGITS_TITLE
from harness.training import RunRecord

Command = Callable[..., tuple[int, str, str]]

pytestmark = [pytest.mark.smoke, pytest.mark.usefixtures("quick_load", "few_digits")]  # it trains

SHORT_RECIPE = 'batch_size = 128\nepochs = 2\n[optimizer]\nname = "sgd"\nlr = 0.1\nmomentum = 0.9\n'


@pytest.fixture
def short_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe of two short epochs, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "short.toml"
    path.write_text(SHORT_RECIPE, encoding="utf-8")
    return path


def verify_arguments(short_recipe: Path, *more: object) -> tuple[object, ...]:
    """A short verification on the digits."""
    return "verify", "cloud_2", "--recipe", short_recipe, "--device", "cpu", "--out", "here", *more


def test_verify_without_mnist_announces_the_digits(short_recipe: Path, command: Command) -> None:
    """Without MNIST and network the digits replace it, as the first line, the verdict and the record say."""
    # The rule counts the last three epochs.
    short_recipe.write_text(SHORT_RECIPE.replace("epochs = 2", "epochs = 3"), encoding="utf-8")
    code, out, err = command(*verify_arguments(short_recipe))
    verdict = " ".join(out.split("FAIL")[-1].split())

    assert "using the embedded handwritten digits" in err.splitlines()[0]
    assert f"cloud_2 against era-s7 with the accuracy of digits, on {DIGITS_TITLE}" == verdict
    assert RunRecord.read("here/record.json").data_title == DIGITS_TITLE
    assert 1 == code


def test_a_recipe_that_cannot_pass_is_not_trained(short_recipe: Path, command: Command) -> None:
    """A recipe of fewer epochs than the rule counts fails the requirement epochs at once."""
    code, out, _ = command(*verify_arguments(short_recipe, "--data", "digits"))
    shown = [line.split()[:2] for line in out.splitlines()]

    assert (1, True, True) == (code, ["fail", "epochs"] in shown, ["skip", "accuracy"] in shown)
    assert not Path("here").exists()


def test_verify_passes_what_meets_its_contract(short_recipe: Path, command: Command) -> None:
    """A contract that two epochs can meet gives exit code 0, with findings of all parts."""
    contract = short_recipe.with_name("easy.toml")
    contract.write_text(
        'name = "digits"\n[parameters]\nbelow = 8000\n[accuracy]\ntarget = 1\nrule = "best"\nmax_epochs = 2\n',
        encoding="utf-8",
    )

    code, out, _ = command(
        *verify_arguments(short_recipe, "--contract", contract, "--data", "digits", "--html", "page.html")
    )
    shown = [line.split()[:2] for line in out.splitlines()]

    assert 0 == code
    assert [] == [name for name in ("parameters", "smoke", "epochs", "accuracy") if ["pass", name] not in shown]
    assert out.splitlines()[-1].startswith("PASS")
    page = Path("page.html").read_text("utf-8")
    assert [] == [words for words in ("Accuracy by epoch", "required: 1 %", "smoke run on cpu") if words not in page]


def test_quick_skips_the_training(short_recipe: Path, command: Command) -> None:
    """--quick skips the requirements epochs and accuracy, and writes no record."""
    code, out, _ = command(*verify_arguments(short_recipe, "--data", "digits", "--quick"))
    shown = [line.split()[:2] for line in out.splitlines()]

    assert 0 == code
    assert [] == [name for name in ("epochs", "accuracy") if ["skip", name] not in shown]
    assert not Path("here").exists()


def test_verify_fails_a_model_that_does_not_learn(
    short_recipe: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A smoke run that does not learn fails, with a hint."""
    monkeypatch.setattr("harness.training.smoke._MARGIN", 0.999)

    code, out, _ = command(*verify_arguments(short_recipe, "--data", "digits", "--quick"))

    assert 1 == code
    assert "Look for a layer whose parameters get no gradient" in out
