"""A few seconds of training on each device: does every shipped model learn, does the command line hold together."""

from __future__ import annotations

import pytest
import torch

from harness.cli.app import run
from harness.data import Dataset, load_dataset
from harness.findings import Status
from harness.training import initialise, resolve_device, smoke_run
from mnist_models import create_model, list_models, model_card

pytestmark = pytest.mark.smoke

# Twenty training steps of a larger one take minutes on a CPU.
MOST_PARAMETERS = 100_000
SMALL = [name for name in list_models() if model_card(name).parameters <= MOST_PARAMETERS]
LARGE = [name for name in list_models() if name not in SMALL]


@pytest.fixture(scope="session")
def digits() -> Dataset:
    """The embedded digits, which are always there."""
    return load_dataset("digits")


@pytest.mark.parametrize("name", SMALL)
def test_a_few_steps_learn(name: str, chosen_device: torch.device, digits: Dataset) -> None:
    """Twenty steps on the digits lower the loss."""
    model = initialise(lambda: create_model(name), seed=1)

    finding = smoke_run(model, digits, device=chosen_device, seed=1).finding()

    assert finding.status is Status.PASS, finding.describe()


@pytest.mark.parametrize("name", LARGE)
def test_a_large_model_answers(name: str, chosen_device: torch.device, digits: Dataset) -> None:
    """A large model gives log-probabilities for a few digits."""
    model = initialise(lambda: create_model(name), seed=1).to(chosen_device).eval()

    with torch.no_grad():
        output = model(digits.normalise(digits.test_images[:4]).to(chosen_device))

    assert output.shape == (4, 10)
    torch.testing.assert_close(output.exp().sum(dim=1).cpu(), torch.ones(4))


def test_a_model_without_a_gradient_does_not_learn(chosen_device: torch.device, digits: Dataset) -> None:
    """The check fails a model whose head answers the same to every image."""
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))
    model.register_forward_hook(lambda _, __, output: 0 * output)

    assert smoke_run(model, digits, device=chosen_device, seed=1).finding().status is Status.FAIL


def test_verify_holds_together(chosen_device: torch.device, capsys: pytest.CaptureFixture[str]) -> None:
    """`harness verify reference --quick` on the digits passes, smoke run on the device included."""
    assert resolve_device(chosen_device.type) == chosen_device

    code = run(["verify", "reference", "--data", "digits", "--quick", "--device", chosen_device.type])

    assert code == 0
    assert f"pass     smoke run on {chosen_device}" in capsys.readouterr().out
