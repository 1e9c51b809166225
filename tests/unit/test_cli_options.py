"""The shared arguments: every unusable MODEL is one paragraph and exit code 2; a JSON file must be writable."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest

import harness.sources
from harness.sources import load

Command = Callable[..., tuple[int, str, str]]

FAULTY: dict[str, tuple[str, tuple[str, ...]]] = {
    "no model": ("WIDTH = 10\n", ("defines no class derived from torch.nn.Module",)),
    "syntax error": ("class Net(\n", ("is not valid Python", "line 1")),
    "needs arguments": (
        "from torch import nn\nclass Net(nn.Module):\n    def __init__(self, width):\n        super().__init__()\n",
        ("the constructor of Net needs width", "Give each argument a default value"),
    ),
    "raises at import": (
        "from pathlib import Path\nPath('nosuch.csv').read_text()\n",
        ("failed in line 2: FileNotFoundError", '`if __name__ == "__main__":`'),
    ),
    "exits at import": ("import sys\nsys.exit(0)\n", ("failed in line 2: SystemExit: 0",)),
}


def paragraph(err: str) -> str:
    """The one line of an error message."""
    lines = [line for line in err.splitlines() if not line.startswith("data:")]
    assert 1 == len(lines)
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.mark.usefixtures("worker_here")
@pytest.mark.parametrize("case", FAULTY)
def test_an_unusable_model_file_is_an_error(case: str, command: Command, tmp_path: Path) -> None:
    """The message names the file and the fault; --debug adds the traceback into the user's file."""
    content, words = FAULTY[case]
    path = tmp_path / "net.py"
    path.write_text(content, encoding="utf-8")

    code, out, err = command("check", path)
    debug_code, _, debug_err = command("check", path, "--debug")

    assert (2, 2, "") == (code, debug_code, out)
    assert [] == [word for word in (str(path), *words) if word not in paragraph(err)]
    assert debug_err.startswith("Traceback")
    assert debug_err.splitlines()[-1] == paragraph(err)


@pytest.mark.usefixtures("worker_here")
def test_a_model_file_is_imported_in_a_copy_of_its_folder(command: Command, tmp_path: Path) -> None:
    """A model file reads what is in its own folder, its working directory, and writes nothing into it."""
    path = tmp_path / "net.py"
    path.write_text(
        "from pathlib import Path\nPath('trace.txt').write_text(Path('name.txt').read_text())\n", encoding="utf-8"
    )
    (tmp_path / "name.txt").write_text("read here", encoding="utf-8")

    _, _, err = command("check", path)

    assert "defines no class derived from torch.nn.Module" in " ".join(err.split())
    assert {"net.py", "name.txt"} == {entry.name for entry in tmp_path.iterdir()}


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("nosuch.py", "model file 'nosuch.py' does not exist"),
        ("nosuch.py:Net", "model file 'nosuch.py' does not exist"),
        ("clod_3", "no shipped model is called 'clod_3': did you mean cloud_3"),
        ("nonsense", "Expected a name from `harness list`"),
    ],
)
@pytest.mark.parametrize("name", ["show", "check", "train"])
def test_an_unknown_model_is_an_error(name: str, model: str, words: str, command: Command) -> None:
    """Every command reports a missing file and an unknown name in the same way."""
    code, out, err = command(name, model)

    assert (2, "") == (code, out)
    assert words in paragraph(err)


@pytest.mark.smoke
def test_a_file_that_ends_the_process(command: Command, tmp_path: Path) -> None:
    """A file that ends its process when imported is reported, with the last output."""
    path = tmp_path / "net.py"
    path.write_text("import os\nprint('farewell', flush=True)\nos._exit(0)\n", encoding="utf-8")

    code, out, err = command("check", path)

    assert (2, "") == (code, out)
    assert "ended the process without an error" in paragraph(err)
    assert "The last output was: farewell" in paragraph(err)


@pytest.mark.smoke
def test_a_file_that_never_ends(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that does not finish importing is stopped after the time-out."""
    path = tmp_path / "net.py"
    path.write_text("import time\ntime.sleep(600)\n", encoding="utf-8")
    monkeypatch.setattr(harness.sources, "load", functools.partial(load, timeout=2.0))

    code, out, err = command("check", path)

    assert (2, "") == (code, out)
    assert "did not finish loading within" in paragraph(err)


@pytest.mark.parametrize("option", ["--json", "--html"])
@pytest.mark.parametrize("place", ["nosuch/list.json", "."])
def test_an_unwritable_path_is_refused_first(
    place: str, option: str, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path that cannot be written is a usage error before anything is loaded."""
    monkeypatch.setattr(harness.sources, "load", lambda *_, **__: pytest.fail("the model was loaded"))

    code, out, err = command("check", "cloud_2", option, tmp_path / place)

    assert (2, "") == (code, out)
    assert f"Invalid value for '{option}': expected a writable file" in " ".join(err.split())
