"""Worker processes: the typed protocol, and what becomes of processes that do not keep to it."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.errors import CaptureError, CheckpointError, ExaminerError, HarnessError, InputError, ModelSourceError
from harness.files import read_limited
from harness.sandbox import Ending, Failure, Job, Limits, Outcome, Request, Workspace, run_processes, runner
from harness.sandbox import worker as worker_module
from harness.sandbox.protocol import (
    MAX_RESULT_BYTES,
    read_request,
    read_result,
    write_request,
    write_result,
)
from harness.sources import ModelSource
from harness.sources.capturing import CaptureRequest

REQUEST = CaptureRequest(
    source=ModelSource(text="net.py", path="/net.py"), arguments="", seed=2**60, input_shape=(1, 28, 28)
)


@dataclass(frozen=True, kw_only=True)
class Total:
    """A result."""

    total: int
    parts: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Sum(Request[Total]):
    """A request that adds numbers; it cannot be read by a worker process, whose requests are the harness's."""

    numbers: tuple[int, ...]
    result_type = Total

    def prepare(self) -> None:
        """Nothing is needed."""

    def perform(self, workspace: Workspace) -> Total:
        """Add the numbers."""
        workspace.report("adding")
        return Total(total=sum(self.numbers))


SUM = Sum(numbers=(1, 2))


@pytest.fixture
def python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., list[Outcome]]:
    """Runs lines of Python as worker processes, one for each text; ``folder`` is their workspace."""

    def run(*texts: str, check: Callable[[Outcome], object] = lambda _: None, **limits: Any) -> list[Outcome]:  # noqa: ANN401 - fields of `Limits`
        def start(folder: Path, job: Job) -> runner.Process:
            lines = f"import os, sys, time, pathlib\nfolder = pathlib.Path({str(folder)!r})\n{job.title}\n"
            with (folder / "output.txt").open("wb") as output:
                command = [sys.executable, "-S", "-c", lines]
                return runner._GroupLeader(command, stdout=output, stderr=output, start_new_session=True)  # noqa: SLF001

        monkeypatch.setattr(runner, "start_process", start)
        jobs = [Job(request=SUM, working_folder=tmp_path, title=text) for text in texts]
        return run_processes(jobs, tmp_path, limits=Limits(**limits), check=check)

    return run


RESULT = '(folder / \'result.json\').write_text(\'{{"error": null, "value": {{"total": {}}}}}\')'


# The protocol


def test_a_request_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Type and fields of a request survive the file."""
    write_request(REQUEST, tmp_path)

    assert REQUEST == read_request(tmp_path)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (
            {"type": "os:system", "fields": {}},
            "expected a request of a type that the harness defines, got type='os:system'",
        ),
        ({"type": "harness.errors:InputError", "fields": {}}, "got type='harness.errors:InputError'"),
        ({"type": "harness.sources.capturing:Nothing", "fields": {}}, "got type='harness.sources.capturing:Nothing'"),
        ({"type": "harness.sources.capturing:CaptureRequest", "fields": {"seed": 1}}, "expected a value for source"),
        (
            {
                "type": "harness.sources.capturing:CaptureRequest",
                "fields": {**dataclasses.asdict(REQUEST), "seed": "1"},
            },
            "expected seed to be a whole number, got seed='1'",
        ),
    ],
    ids=["not ours", "no request", "unknown", "missing field", "wrong type"],
)
def test_an_unknown_request_is_an_internal_error(document: dict[str, Any], words: str, tmp_path: Path) -> None:
    """A worker process performs only known requests with the right fields; what else it is given, it reports."""
    (tmp_path / "request.json").write_text(json.dumps(document), encoding="utf-8")
    worker_module.main(tmp_path)

    with pytest.raises(ExaminerError, match=re.escape(words)):
        read_result(SUM, tmp_path)


def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    """A result survives the file; no file is no result."""
    assert read_result(SUM, tmp_path) is None
    write_result(Total(total=3, parts=("a", "b")), tmp_path)

    assert Total(total=3, parts=("a", "b")) == read_result(SUM, tmp_path)


@pytest.mark.parametrize(
    ("error", "expected", "message"),
    [
        (ModelSourceError("no"), ModelSourceError, "no"),
        (CaptureError("no"), CaptureError, "no"),
        (InputError("no"), InputError, "no"),
        (CheckpointError("no"), InputError, "no"),
        (ExaminerError("no"), ExaminerError, "no"),
        (KeyError("no"), ExaminerError, "a worker process failed with KeyError: 'no'"),
    ],
)
def test_an_error_has_its_kind_in_the_parent(
    error: Exception, expected: type[HarnessError], message: str, tmp_path: Path
) -> None:
    """An error is raised again with its class, its message and the worker's traceback; an unforeseen one is internal."""
    write_result(Failure.of(error), tmp_path)

    with pytest.raises(HarnessError) as caught:
        read_result(SUM, tmp_path)
    assert (expected, message) == (type(caught.value), str(caught.value))
    assert f"{type(error).__name__}: " in caught.value.__notes__[0]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "{}",
        "[" * 100_000,
        '{"error": null}',
        '{"error": null, "value": {}}',
        '{"error": null, "value": {"total": "3"}}',
        '{"error": null, "value": {"total": 3, "more": 1}}',
        '{"error": {"kind": "odd", "message": "", "traceback": ""}, "value": null}',
        '{"error": {"kind": "input"}, "value": null}',
    ],
)
def test_what_is_no_result_is_unreadable(content: str, tmp_path: Path) -> None:
    """A result that is damaged, of another type or of an unknown kind of error is not taken for one."""
    (tmp_path / "result.json").write_text(content, encoding="utf-8")

    with pytest.raises(ModelSourceError, match="got unreadable data"):
        read_result(SUM, tmp_path)


def test_only_regular_files_of_limited_size_are_read(tmp_path: Path) -> None:
    """A link, a pipe or a huge file in the place of a result cannot lead elsewhere, block, or fill the memory."""
    path = tmp_path / "result.json"
    (tmp_path / "target").write_text("{}", encoding="utf-8")
    path.symlink_to(tmp_path / "target")
    makers: tuple[Callable[[], None], ...] = (lambda: None, lambda: os.mkfifo(path), path.mkdir, path.touch)
    for make in makers:
        make()
        if path.is_file() and not path.is_symlink():
            os.truncate(path, MAX_RESULT_BYTES + 1)
        with pytest.raises(ModelSourceError, match=r"unreadable data: (OSError|IsADirectoryError)"):
            read_result(SUM, tmp_path)
        path.rmdir() if path.is_dir() else path.unlink()


def test_the_end_of_a_file_is_read(tmp_path: Path) -> None:
    """Of a long output only the last bytes are read."""
    (tmp_path / "output.txt").write_bytes(b"abcdef")

    assert b"ef" == read_limited(tmp_path / "output.txt", 10, last_bytes=2)
    assert b"abcdef" == read_limited(tmp_path / "output.txt", 10, last_bytes=9)


# The worker process


@pytest.mark.smoke  # starts a Python that imports PyTorch
def test_a_worker_process_performs_a_request(tmp_path: Path) -> None:
    """A real process imports a file and returns its classes; libraries are imported before the user's folder is on the path."""
    (tmp_path / "net.py").write_text(
        "from torch import nn\nclass Net(nn.Flatten):\n    pass\nprint('imported')\n", encoding="utf-8"
    )
    for name in ("random.py", "sympy.py"):
        (tmp_path / name).write_text("1 / 0\n", encoding="utf-8")
    request = dataclasses.replace(REQUEST, source=ModelSource(text="net.py", path=str(tmp_path / "net.py")))
    lines: list[str] = []
    folder = tmp_path / "workspaces"
    folder.mkdir()
    (outcome,) = run_processes(
        [Job(request=request, working_folder=tmp_path, title="a title")], folder, limits=Limits(), announce=lines.append
    )
    result = outcome.result(request)

    assert result is not None
    assert ["net.py:Net"] == [report.name for report in result.classes]
    assert (Ending.EXITED, 0, "imported") == (outcome.ending, outcome.exit_code, outcome.output)
    assert ["a title: net.py", "a title: net.py:Net"] == lines
    assert not list(tmp_path.rglob("__pycache__"))


# Hostile processes


@pytest.mark.parametrize(
    ("text", "exit_code", "output"),
    [
        ("os._exit(0)", 0, ""),
        ("print('last   words', flush=True); os._exit(3)", 3, "last words"),
        ("os.kill(os.getpid(), 9)", -9, ""),
        ("os.kill(os.getpid(), 11)", -11, ""),
        ("print('x' * 100_000, 'end')", 0, "x" * 296 + " end"),
        ("(folder / 'output.txt').unlink(); os.mkfifo(folder / 'output.txt')", 0, ""),
    ],
    ids=["silent exit", "exit code", "killed", "crashed", "long output", "pipe as output"],
)
def test_a_process_that_ends_without_a_result(
    python: Callable[..., list[Outcome]], text: str, exit_code: int, output: str
) -> None:
    """How a process ended and the end of what it printed are known; there is no result."""
    (outcome,) = python(text)

    assert (Ending.EXITED, exit_code, output) == (outcome.ending, outcome.exit_code, outcome.output)
    assert outcome.result(SUM) is None


@pytest.mark.parametrize(
    "text",
    [
        "(folder / 'result.json').write_text('garbage')",
        "(folder / 'result.json').write_bytes(bytes(range(256)))",
        f"{RESULT.format(3)}; os.truncate(folder / 'result.json', 20)",
        "os.mkfifo(folder / 'result.json')",
        "(folder / 'result.json').symlink_to('/dev/zero')",
    ],
    ids=["garbage", "bytes", "half a result", "pipe", "link"],
)
def test_a_process_that_writes_garbage(python: Callable[..., list[Outcome]], text: str) -> None:
    """What a process writes in place of a result is an error, not a result."""
    (outcome,) = python(text)

    with pytest.raises(ModelSourceError, match="unreadable data"):
        outcome.result(SUM)


@pytest.mark.parametrize(
    ("text", "limits", "ending"),
    [
        ("time.sleep(60)", {"seconds": 0.3}, Ending.TIMED_OUT),
        ("time.sleep(60)", {"idle_seconds": 0.3}, Ending.IDLE),
        ("(folder / 'progress.txt').unlink(); time.sleep(60)", {"idle_seconds": 0.6}, Ending.IDLE),
        ("while True: print('x' * 1000)", {"output_bytes": 50_000}, Ending.PRINTED_TOO_MUCH),
    ],
    ids=["time", "no progress", "progress removed", "output"],
)
def test_a_process_beyond_a_limit_is_killed(
    python: Callable[..., list[Outcome]], text: str, limits: dict[str, Any], ending: Ending
) -> None:
    """A process that takes too long, makes no progress or prints too much is ended; that is how it ended."""
    (outcome,) = python(text, **limits)

    assert (ending, -9) == (outcome.ending, outcome.exit_code)


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), 9)", "os._exit(1)", "while True: print('x' * 1000)"])
def test_a_result_before_a_bad_end_is_not_believed(python: Callable[..., list[Outcome]], end: str) -> None:
    """A process that crashes, fails or is killed has no result, whatever it has written."""
    (outcome,) = python(f"{RESULT.format(3)}\n{end}", output_bytes=10_000)

    assert outcome.result(SUM) is None


@pytest.mark.parametrize(
    "text",
    [
        "[(folder / str(number)).write_bytes(bytes(2**20)) for number in range(8)]",
        "[(folder / str(number)).touch() for number in range(2000)]",
        "[(folder / str(number)).mkdir() for number in range(2000)]",
        "[(os.mkdir('x' * 200), os.chdir('x' * 200)) for _ in range(30)]",
    ],
    ids=["bytes", "files", "folders", "a long path"],
)
def test_a_process_that_writes_too_much_is_ended(python: Callable[..., list[Outcome]], text: str) -> None:
    """The size of all files counts, a block for each file and folder, and what cannot be counted."""
    (outcome,) = python(f"os.chdir(folder)\n{text}\ntime.sleep(60)", written_bytes=2**22)

    assert Ending.WROTE_TOO_MUCH is outcome.ending


def test_progress_keeps_a_process_alive(python: Callable[..., list[Outcome]]) -> None:
    """A process that shows progress may take longer than the idle time."""
    text = f"for _ in range(25): os.utime(folder / 'progress.txt'); time.sleep(0.1)\n{RESULT.format(3)}"
    (outcome,) = python(text, idle_seconds=2.0)

    assert Total(total=3) == outcome.result(SUM)


def test_a_stall_is_measured_on_a_clock_that_nobody_sets(python: Callable[..., list[Outcome]]) -> None:
    """A progress file of a far future, or a system clock that was set back, does not hide that nothing proceeds."""
    (outcome,) = python("os.utime(folder / 'progress.txt', (9e9, 9e9)); time.sleep(60)", idle_seconds=0.5)

    assert Ending.IDLE is outcome.ending


def test_escape_codes_are_not_passed_on(python: Callable[..., list[Outcome]], tmp_path: Path) -> None:
    """Progress, output and results show them as text."""
    (outcome,) = python("print('\\x1b[2J'); (folder / 'progress.txt').write_text('\\x1b[2J\\u202e\\n')")
    write_result(Total(total=3, parts=("\x1b]0;title\x07", "ä\n")), tmp_path)

    assert (("\\x1b[2J\\u202e",), "\\x1b[2J") == (outcome.progress, outcome.output)
    assert Total(total=3, parts=("\\x1b]0;title\\x07", "ä\n")) == read_result(SUM, tmp_path)


def test_a_progress_that_is_no_text_is_ignored(python: Callable[..., list[Outcome]]) -> None:
    """Binary or huge progress does no harm."""
    binary, huge = python(
        "(folder / 'progress.txt').write_bytes(b'one\\n\\xff\\nhalf')", "os.truncate(folder / 'progress.txt', 2**40)"
    )

    assert (("one", "\ufffd"), ()) == (binary.progress, huge.progress)


def wait_for_end(pid: int) -> bool:
    """Whether a process ends within five seconds."""
    for _ in range(100):
        status = Path(f"/proc/{pid}/stat")
        if not status.exists() or status.read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to see whether a process lives")
@pytest.mark.parametrize("ends", [True, False], ids=["exits", "is killed"])
def test_what_a_process_started_ends_with_it(
    python: Callable[..., list[Outcome]],
    tmp_path: Path,
    ends: bool,  # noqa: FBT001 - a parameter
) -> None:
    """Processes that a worker process leaves behind do not outlive the call."""
    text = (
        "import subprocess\nchild = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(60)'])\n"
        f"pathlib.Path({str(tmp_path)!r}, 'pid').write_text(str(child.pid))\n"
    )
    python(text + ("os._exit(0)" if ends else "while True: print('x' * 1000)"), output_bytes=10_000)

    assert wait_for_end(int((tmp_path / "pid").read_text(encoding="utf-8")))


def test_an_interruption_ends_all_processes(
    python: Callable[..., list[Outcome]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the parent, or an error that a check raises, leaves no process behind."""
    started: list[subprocess.Popen[bytes]] = []
    end = runner._GroupLeader.end  # noqa: SLF001

    def record(process: Any) -> int:  # noqa: ANN401 - a private class
        started.append(process)
        return end(process)

    def interrupt(_: float) -> None:
        if list(tmp_path.glob("*/progress.txt")):
            raise KeyboardInterrupt

    monkeypatch.setattr(runner._GroupLeader, "end", record)  # noqa: SLF001
    with monkeypatch.context() as patch:
        patch.setattr(time, "sleep", interrupt)
        with pytest.raises(KeyboardInterrupt):
            python("time.sleep(60)", "time.sleep(60)")

    def refuse(outcome: Outcome) -> None:
        raise InputError(outcome.output)

    with pytest.raises(InputError, match="first"):
        python("print('first')", "time.sleep(60)", check=refuse)
    assert [-9, -9, 0, -9] == [process.returncode for process in started]


def test_outcomes_come_in_the_order_of_the_jobs(python: Callable[..., list[Outcome]]) -> None:
    """A job that ends first does not come first; no more than two run at a time."""
    texts = [
        f'time.sleep({pause}); (folder / \'result.json\').write_text(\'{{"error": null, "value": {{"total": {number}}}}}\')'
        for number, pause in enumerate((0.5, 0.0, 0.0))
    ]
    outcomes = python(*texts, parallel=2)

    assert [Total(total=number) for number in range(3)] == [outcome.result(SUM) for outcome in outcomes]


def test_each_process_has_the_whole_time(python: Callable[..., list[Outcome]]) -> None:
    """A job that waits for another loses none of its own time, even if the other uses up all of its."""
    slow, *others = python("time.sleep(60)", *[RESULT.format(3)] * 3, seconds=2.0, parallel=1)

    assert Ending.TIMED_OUT is slow.ending
    assert [Total(total=3)] * 3 == [outcome.result(SUM) for outcome in others]
