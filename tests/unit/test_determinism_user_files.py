from __future__ import annotations

from pathlib import Path

import pytest

from harness.determinism.user_files import load_training_hooks
from harness.errors import InputError
from harness.training import TrainingHooks
from tests.determinism_models import DATA, Net, built

pytestmark = pytest.mark.usefixtures("one_thread", "known_environment")


def hooks(folder: Path, text: str) -> TrainingHooks:
    """The training hooks of a file with this text."""
    path = folder / "own.py"
    path.write_text(text, encoding="utf-8")
    return load_training_hooks(path)


LOADER = "import torch\ndef batches(seed, epoch):\n    for _ in range({}):\n        yield {}\n"


GOOD = "torch.ones(4, 1, 28, 28), torch.arange(4)"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "defines neither"),
        ("import torch\n1 / 0\n", r"failed in line 2: ZeroDivisionError"),
        ("raise SystemExit(3)", "SystemExit"),
        (LOADER.format(2, GOOD), r"expected at least 3 batches of batches\(seed=1, epoch=1\) in .*, got 2"),
        (LOADER.format(3, "torch.ones(4, 28, 28), torch.arange(4)"), r"got torch.float32 of shape \(4, 28, 28\), "),
        (LOADER.format(3, "torch.ones(4, 1, 28, 28), torch.ones(4)"), r"torch.float32 of shape \(4,\)"),
        (LOADER.format(3, "torch.ones(4, 1, 28, 28)"), "got a Tensor"),
        ("def evaluate(*_):\n    return -1\n", "the number of correct predictions, from 0 to 40, got -1"),
        ("def evaluate(*_):\n    return 'all'\n", "got 'all'"),
    ],
)
def test_wrong_hooks_are_refused(tmp_path: Path, text: str, words: str) -> None:
    """The message says what was expected, with the line or the batch."""
    with pytest.raises(InputError, match=words):
        built(Net, **vars(hooks(tmp_path, text))).trace()


def test_what_is_no_python_file_is_refused(tmp_path: Path) -> None:
    """The file of the hooks must end in .py."""
    with pytest.raises(InputError, match=r"a file that ends in \.py"):
        load_training_hooks(tmp_path / "own.txt")


def test_hooks_replace_what_the_file_defines(tmp_path: Path) -> None:
    """A loader and an evaluation are used; what the file does not define stays the harness's."""
    found = hooks(tmp_path, LOADER.format(9, GOOD) + "def evaluate(module, images, labels):\n    return len(labels)\n")
    model = built(Net, **vars(found))

    assert 6 == len(model.trace())
    assert 40 == found.evaluate(Net(), DATA).correct
    assert TrainingHooks().batches is hooks(tmp_path, "def evaluate(*_):\n    return 1\n").batches
