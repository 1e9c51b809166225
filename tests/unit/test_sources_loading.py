from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from harness.errors import BusyError, ModelSourceError, SlowModelError
from harness.graph import CapturedModel
from harness.sandbox import runner
from harness.sources import capturing, load_each, load_model, loading
from tests.model_files import NET, Load, write

pytestmark = pytest.mark.smoke  # each test loads files in processes


def test_a_shipped_model_takes_no_arguments() -> None:
    """Arguments for a shipped model are refused before anything is built."""
    with pytest.raises(ModelSourceError, match="takes no arguments"):
        load_model("reference", arguments="width=3")


def test_a_damaged_result_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph that a worker process leaves is checked: what damages it is the model's code, and is told."""
    path = write(tmp_path, {"net.py": NET}) / "net.py"
    report: dict[str, Any] = {
        "name": f"{path}:Net",
        "key": "net.py:Net",
        "parts": [],
        "optional": [],
        "failure": None,
        "excuse": "",
    }
    result = json.dumps({"error": None, "value": {"notes": [], "classes": [report]}})

    for graph in (None, "", "[]", "{}", '{"fidelity": {}}'):

        def start(folder: Path, _: object, graph: str | None = graph) -> runner.Process:
            (folder / "result.json").write_text(result, encoding="utf-8")
            if graph is not None:
                (folder / "0.json").write_text(graph, encoding="utf-8")
                save_file({}, folder / "0.safetensors")
            return Ended()

        monkeypatch.setattr(runner, "start_process", start)
        with pytest.raises(ModelSourceError, match="got unreadable data: GraphFormatError"):
            load_model(str(path))


class Ended:
    """A process that exited with 0."""

    layers = ()

    def poll(self) -> int:
        return 0

    end = poll


def test_an_unforeseen_error_in_a_capture_may_be_of_the_model(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the model's code has run, any error may come from what it changed: the message says both, with the traceback."""

    def breaks(*_: object, **__: object) -> CapturedModel:
        raise ZeroDivisionError("by chance")

    monkeypatch.setattr(capturing, "capture", breaks)

    with pytest.raises(ModelSourceError, match=r"cannot be examined: ZeroDivisionError: by chance\..*report") as caught:
        load(write(tmp_path, {"net.py": NET}) / "net.py")
    assert "in breaks" in caught.value.__notes__[0]


def test_a_real_process(tmp_path: Path) -> None:
    """A file with spaces and accents in its path, beside namesakes of libraries, is loaded by its own process, in a copy."""
    folder = tmp_path / "déjà vu"
    writes = "import os, sys\nos.system('touch written.txt')\nopen('log.txt', 'w').close()\n"
    noise = f"{writes}print('x' * 1_000_000)\nassert sys.argv[1:] == []\nimport sympy, random, queue\n"
    wrong = dict.fromkeys(("torch.py", "random.py", "sympy.py", "numpy.py"), "raise RuntimeError('the wrong one')\n")
    write(folder, wrong | {"my net.py": noise + NET})

    model = load_model(f"{folder}/my net.py", arguments="bias=False")

    assert f"{folder}/my net.py:Net(bias=False)" == model.name
    assert model.fidelity.holds
    assert ["my net.py", *sorted(wrong)] == sorted(path.name for path in folder.iterdir())


def test_a_process_that_is_too_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If PyTorch has not been imported when the time is up, the message does not blame the model."""
    path = write(tmp_path, {"net.py": NET}) / "net.py"
    monkeypatch.setattr(loading, "START_TIMEOUT_SECONDS", 0.1)

    with pytest.raises(BusyError, match="within 0 seconds: expected PyTorch to be imported by then"):
        load_model(str(path), timeout=0.1)


@pytest.mark.usefixtures("worker_here")
@pytest.mark.parametrize(
    ("progress", "words"),
    [
        (("{0}",), "did not finish loading within 0 seconds: expected a file that only defines the model"),
        (("{0}", "{0}:Net", "{0}:Deep"), "but {0}:Deep took longer. Name the class that you mean"),
        ((), "expected PyTorch to be imported by then, and that was not the case"),
    ],
)
def test_a_file_of_a_folder_that_is_too_slow(
    progress: tuple[str, ...], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is cut short is a question with its reason, and costs the files after it nothing; a line names each."""
    folder = write(tmp_path, {"a.py": NET, "b.py": NET.replace("Net", "Deep"), "c.py": NET})
    slow = str(folder / "b.py")
    here = runner.start_process
    lines: list[str] = []

    class Hanging:
        """A process that hangs until it is ended."""

        layers = ()

        def poll(self) -> None:
            return None

        def end(self) -> int:
            return -9

    def start(workspace: Path, job: runner.Job) -> runner.Process:
        if job.request.fields()["source"]["path"] != slow:
            return here(workspace, job)
        (workspace / "progress.txt").write_text(
            "".join(f"{line.format(slow)}\n" for line in progress), encoding="utf-8"
        )
        return Hanging()

    monkeypatch.setattr(runner, "start_process", start)
    monkeypatch.setattr(loading, "START_TIMEOUT_SECONDS", 0.1)
    with pytest.raises(SlowModelError if progress else BusyError) as caught:
        load_model(str(folder), timeout=0.1, announce=lines.append)

    question, *listed = str(caught.value).split("\n- ")
    assert question.endswith(f"but {slow} failed. Name one of these:")
    assert [f"{folder}/a.py:Net", f"{folder}/c.py:Net", slow] == [line.partition(" (")[0] for line in listed]
    assert words.format(slow) in listed[-1]
    named = ("a.py (1 of 3)", "b.py (2 of 3)", "c.py (3 of 3)") if progress else ("a.py (1 of 3)", "c.py (3 of 3)")
    assert [f"importing {folder}/{name}" for name in named] == sorted(lines)


@pytest.mark.usefixtures("worker_here")
def test_each_of_several_files_is_loaded(tmp_path: Path) -> None:
    """There is a model or an error for each file, in the order of the files."""
    folder = write(tmp_path, {"broken.py": "raise OSError('gone')", "net.py": NET})
    broken, found, missing = load_each([str(folder / name) for name in ("broken.py", "net.py", "nosuch.py")])

    assert isinstance(found, CapturedModel)
    assert [ModelSourceError] * 2 == [type(broken), type(missing)]
    assert ("gone" in str(broken), "does not exist" in str(missing)) == (True, True)
