"""Nothing is lost, replaced or believed unread: signals, devices, read-only files, bad goldens, models that misbehave."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.cli.app import run
from harness.errors import ModelSourceError
from harness.sandbox import warm_workers
from harness.sandbox.probe import Confined, ConfinementRequest
from harness.sandbox.protocol import PROGRESS_FILE, read_result, write_request
from harness.sources import load_model
from harness.training import RunRecord

pytestmark = pytest.mark.smoke

HARNESS = (sys.executable, "-m", "harness")
RECIPE = 'batch_size = 64\nepochs = 500\n[optimizer]\nname = "sgd"\nlr = 0.1\n'
MODEL = """
import torch
from torch import nn
import torch.nn.functional as F
{before}

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.c, self.fc = nn.Conv2d(1, 8, 3), nn.Linear(8, 10)
        {build}

    def forward(self, x):
        x = torch.relu(self.c(x)).mean((2, 3))
        {forward}
        return self.fc(x)
"""
# Each is examined, or refused with what is wrong with the model, and is never an internal error.
MISBEHAVING = {
    "counter": {"build": "self.n = 0", "forward": "self.n += 1"},
    "list of calls": {"build": "self.n = []", "forward": "self.n.append(1)"},
    "counter in use": {"build": "self.n = 0", "forward": "self.n += 1; x = x * self.n"},
    "default dtype": {"before": "torch.set_default_dtype(torch.float64)"},
    "default dtype when built": {"build": "torch.set_default_dtype(torch.float16)"},
    "default device": {"before": "torch.set_default_device('meta')"},
    "missing default device": {"before": "torch.set_default_device('cuda')"},
    "autocast": {"before": "torch.autocast('cpu').__enter__()"},
    "no gradients": {"before": "torch.set_grad_enabled(False)"},
    "expanded buffer": {"build": "self.register_buffer('b', torch.zeros(1).expand(8))", "forward": "x = x + self.b"},
    "expanded parameter": {"build": "self.b = nn.Parameter(torch.zeros(1).expand(8))", "forward": "x = x + self.b"},
    "large branch": {"forward": "x = F.dropout(x, 0.5, self.training) * 1e-12 + x * 1e12"},
    "infinite branch": {"forward": "x = F.dropout(x, 0.5, self.training) + x * 1e38 * 10"},
    "patched json": {"before": "import json; json.dumps = json.loads = None"},
    "infinite repr": {"build": "type(self).__repr__ = lambda self: 1 / 0"},
}
REFUSED = {
    "class raises": (
        {"before": "class Bad:\n    __class__ = property(lambda s: 1 / 0)\nbad = Bad()", "build": "self.bad = bad"},
        "cannot be examined",
    ),
    "patched lookup": (
        {"before": "def get(s, n):\n    raise KeyError(n)\nnn.Module.named_parameters = nn.Module.state_dict = get"},
        "cannot be examined",
    ),
    "name that is no text": (
        {"build": "self.add_module('\\ud800', nn.ReLU())\n        self.register_buffer('\\ud801', torch.zeros(1))"},
        "cannot be examined",
    ),
    "nested tensor": (
        {"build": "self.t = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])"},
        "cannot be examined",
    ),
    "crash": ({"before": "import ctypes; ctypes.string_at(0)"}, "was ended by SIGSEGV"),
    "abort": ({"before": "import os; os.abort()"}, "was ended by SIGABRT"),
    "complex": (
        {"build": "self.w = nn.Parameter(torch.zeros(8, dtype=torch.complex64))"},
        "of type complex64: use float32",
    ),
    "complex buffer": (
        {"build": "self.register_buffer('w', torch.zeros(8, dtype=torch.complex128))"},
        "of type complex128: use float32",
    ),
}


@pytest.fixture(scope="module", autouse=True)
def _one_worker() -> Iterator[None]:
    """Import PyTorch once for all models that are loaded."""
    with warm_workers():
        yield


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in a folder of its own."""
    monkeypatch.chdir(tmp_path)


def _write(name: str, changes: dict[str, str]) -> None:
    Path(name).write_text(
        MODEL.format(**{"before": "", "build": "pass", "forward": "pass", **changes}), encoding="utf-8"
    )


def test_a_misbehaving_model_is_examined() -> None:
    """What a model does to Python, PyTorch or itself ends in findings about this model."""
    for number, changes in enumerate(MISBEHAVING.values()):
        folder = Path(f"model{number}")
        folder.mkdir()
        _write(f"{folder}/net.py", changes)
        names = {name.partition(".")[0] for name in load_model(f"{folder}/net.py").state if "." in name}
        assert {"c", "fc"} == names


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_examined_is_the_models_fault(name: str) -> None:
    """The message names the error and asks for the cause in the model's code."""
    changes, message = REFUSED[name]
    _write("net.py", changes)
    with pytest.raises(Exception, match=message) as raised:
        load_model("net.py")

    assert isinstance(raised.value, ModelSourceError) or "of type complex" in message


def _interrupted(number: signal.Signals, *options: str) -> subprocess.CompletedProcess[str]:
    """Train to the end of another epoch, and send the process a signal."""
    Path("long.toml").write_text(RECIPE, encoding="utf-8")
    before = set(Path().glob("o/checkpoints/*"))
    command = (*HARNESS, "train", "cloud_2", "--recipe", "long.toml", "--data", "digits", "--out", "o", *options)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not set(Path().glob("o/checkpoints/epoch-*[2-9]-*")) - before:
            time.sleep(0.05)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    return subprocess.CompletedProcess(command, process.returncode, stderr=" ".join(errors.split()))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_a_training_with_its_record(number: signal.Signals) -> None:
    """The epochs that are done are on record, nothing of the process is left, and the exit code is 130."""
    ended = _interrupted(number)

    assert 130 == ended.returncode
    assert "run the same command again to resume" in ended.stderr
    record = RunRecord.read("o/record.json")
    assert "interrupted" == record.status
    assert len(record.epochs) >= 2


def test_a_run_is_resumed_on_its_own_threads() -> None:
    """A run that was begun on two threads goes on with two; with another number it is refused, and the record is kept."""
    assert 130 == _interrupted(signal.SIGINT, "--threads", "2").returncode
    before, done = Path("o/record.json").read_bytes(), len(RunRecord.read("o/record.json").epochs)
    refused = _interrupted(signal.SIGINT, "--threads", "1")

    assert (2, before) == (refused.returncode, Path("o/record.json").read_bytes())
    assert "threads=2 instead of 1" in refused.stderr
    assert 130 == _interrupted(signal.SIGINT, "--threads", "2").returncode
    record = RunRecord.read("o/record.json")
    assert (2, True) == (record.environment.threads, len(record.epochs) > done)


@pytest.mark.parametrize(
    ("command", "reader"),
    [("check cloud_2 --no-probe", "true"), ("verify cloud_2 --quick --data digits", "head -1")],
)
def test_a_verdict_does_not_depend_on_its_reader(command: str, reader: str) -> None:
    """The exit code is the same whether all, one line or nothing of the output is read."""
    codes = set()
    for into in (">/dev/null", f"| {reader}"):
        script = f"{' '.join(HARNESS)} {command} {into}; echo ${{PIPESTATUS[0]}} >code"
        result = subprocess.run(  # noqa: S602 - the commands of this test
            script, shell=True, capture_output=True, text=True, check=True, executable=shutil.which("bash")
        )
        codes.add(Path("code").read_text(encoding="utf-8"))
        assert "Traceback" not in result.stderr

    assert 1 == len(codes)
    assert codes < {"0\n", "1\n"}


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc to see which processes live")
@pytest.mark.parametrize(
    "start",
    [
        "import subprocess; subprocess.Popen([*{command}], start_new_session=True)",
        "import os; os.fork() or (os.setsid(), os.execvp({command}[0], {command}))",
        "import os; os.system('setsid ' + ' '.join({command}) + ' &')",
    ],
)
def test_a_process_in_its_own_session_ends_with_the_model(start: str) -> None:
    """What the code of a model starts does not survive its examination, whatever it does to its session."""
    seconds = f"600.{os.getpid()}"
    _write("net.py", {"before": start.format(command=["sleep", seconds])})
    load_model("net.py")
    left = [path for path in Path("/proc").glob("[0-9]*/cmdline") if seconds in _content(path)]

    assert [] == left


def _content(path: Path) -> str:
    """The text of a file; empty if its process has ended."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def test_an_ignored_signal_stays_ignored() -> None:
    """A command under nohup goes on when its terminal closes."""
    script = (
        "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); os.execv(sys.executable, sys.argv[1:])"
    )
    Path("long.toml").write_text(RECIPE.replace("500", "3"), encoding="utf-8")
    command = (*HARNESS, "train", "cloud_2", "--recipe", "long.toml", "--data", "digits", "--out", "o")
    with subprocess.Popen(
        (sys.executable, "-c", script, *command), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    ) as process:
        while not list(Path().glob("o/checkpoints/epoch-0001-*")):
            time.sleep(0.05)
        process.send_signal(signal.SIGHUP)

    assert (0, "complete") == (process.returncode, RunRecord.read("o/record.json").status)


def test_a_result_goes_where_the_user_said() -> None:
    """A device and a pipe stay what they are, a link is followed, a read-only file is refused and unchanged."""
    Path("kept.json").write_text("old", encoding="utf-8")
    Path("kept.json").chmod(0o444)
    Path("link.json").symlink_to("target.json")
    os.mkfifo("fifo")
    script = f"""
    {sys.executable} -m harness list --json /dev/null >/dev/null || exit 1
    {sys.executable} -m harness list --json link.json >/dev/null || exit 2
    {sys.executable} -m harness list --json >(cat >piped.json) >/dev/null || exit 3
    cat fifo >fifo.json & {sys.executable} -m harness list --json fifo >/dev/null || exit 4
    {sys.executable} -m harness list --json kept.json 2>refused.txt; [ $? = 2 ] || exit 5
    {sys.executable} -m harness list --json '' 2>empty.txt; [ $? = 2 ] || exit 6
    wait; sleep 0.2
    """
    subprocess.run(script, shell=True, check=True, executable=shutil.which("bash"))  # noqa: S602

    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)
    assert [True, "old"] == [Path("link.json").is_symlink(), Path("kept.json").read_text(encoding="utf-8")]
    for name in ("target.json", "piped.json", "fifo.json"):
        assert "harness.list/1" == json.loads(Path(name).read_text(encoding="utf-8"))["schema"]
    assert "it is read-only" in " ".join(Path("refused.txt").read_text(encoding="utf-8").split())


@pytest.mark.parametrize(("variables", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_colour_is_for_terminals_that_want_it(variables: dict[str, str], coloured: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """On a terminal an error is coloured, unless NO_COLOR or TERM=dumb says otherwise."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", **variables}
    environment.pop("NO_COLOR", None) if "NO_COLOR" not in variables else None
    process = subprocess.run(
        (*HARNESS, "check", "nosuch"), stdout=follower, stderr=follower, env=environment, check=False
    )
    os.close(follower)
    shown = os.read(leader, 4096)
    os.close(leader)

    assert (2, coloured) == (process.returncode, b"\x1b[" in shown)


def test_control_characters_of_others_reach_no_terminal() -> None:
    """Escape codes in the name of a contract are printed as their code, in tables and in messages."""
    Path("c.toml").write_text(
        'name = "a\\u001b[31mred"\ndescription = "\\u009b31m\\u202e"\n[gap]\nrequired = true\n', encoding="utf-8"
    )
    for command in (("check", "reference", "--no-probe", "--contract", "c.toml"), ("contract", "explain", "c.toml")):
        shown = subprocess.run((*HARNESS, *command), capture_output=True, text=True, check=True).stdout
        assert r"a\x1b[31mred" in shown
        assert not {"\x1b", "\x9b", "\u202e"} & set(shown)


def test_one_bad_golden_is_a_finding() -> None:
    """Damaged goldens in a folder fail by name, and the others are checked."""
    _write("net.py", {})
    subprocess.run((*HARNESS, "golden", "update", "net.py", "--folder", "goldens"), check=True, capture_output=True)
    (good,) = Path("goldens").iterdir()
    content = good.read_bytes()
    bad = {"short": content[:-100], "empty": b"", "other": content.replace(b'"golden"', b'"silver"')}
    for name, damaged in bad.items():
        good.with_stem(name).write_bytes(damaged)
    good.with_stem("folder").mkdir()
    result = subprocess.run(
        (*HARNESS, "golden", "check", "--folder", "goldens", "--json", "out.json"),
        capture_output=True,
        text=True,
        check=False,
    )
    document = json.loads(Path("out.json").read_text(encoding="utf-8"))

    assert 1 == result.returncode
    assert ["pass"] == [model["status"] for model in document["models"]]
    assert ["empty", "folder", "other", "short"] == sorted(
        name for name in (*bad, "folder") for one in document["unused"] if f"{name}.safetensors" in one["observed"]
    )


def test_what_cannot_be_used_is_refused_before_the_work(capsys: pytest.CaptureFixture[str]) -> None:
    """A recipe whose runs cannot pass, an output over an input, and mistyped data are named before anything is computed."""
    Path("long.toml").write_text(RECIPE, encoding="utf-8")
    Path("short.toml").write_text(RECIPE.replace("500", "2"), encoding="utf-8")
    Path("w.safetensors").write_bytes(b"")
    Path("kept.csv").write_text("old", encoding="utf-8")
    Path("kept.csv").chmod(0o444)
    evaluate = ("evaluate", "cloud_2", "--weights", "w.safetensors")
    for command, code, message in (
        (("verify", "cloud_2", "--recipe", "long.toml", "--data", "digits"), 1, "500 epochs declared"),
        (("certify", "cloud_2", "--recipe", "long.toml", "--data", "digits"), 2, "500 epochs declared"),
        (("verify", "cloud_2", "--recipe", "short.toml", "--data", "digits"), 1, "2 epochs declared"),
        ((*evaluate, "--answers", "w.safetensors"), 2, "another file than that of"),
        ((*evaluate, "--answers", "no/a.csv"), 2, "does not exist"),
        ((*evaluate, "--answers", "kept.csv"), 2, "it is read-only"),
        ((*evaluate, "--plot", "a.jpg"), 2, "ends in .png or .svg"),
        ((*evaluate, "--plot", "a"), 2, "ends in .png or .svg"),
        (("train", "cloud_2", "--data", "MNIST"), 2, "Did you mean 'mnist'?"),
        (("train", "cloud_2", "--data", "digit"), 2, "Did you mean 'digits'?"),
        (("train", "cloud_2", "--data", "Digits"), 2, "Did you mean 'digits'?"),
    ):
        assert code == run(command)
        printed = capsys.readouterr()
        assert message in " ".join((printed.out + printed.err).split())
    assert b"" == Path("w.safetensors").read_bytes()


@pytest.mark.parametrize(
    "lingers",
    [
        "threading.Thread(target=time.sleep, args=(600,)).start()",
        "atexit.register(time.sleep, 600)",
        "subprocess.Popen(('sleep', '20')); atexit.register(lambda: [time.sleep(1) for _ in range(600)])",
    ],
)
def test_a_process_that_lingers_does_not_delay_its_result(lingers: str) -> None:
    """Once the result is written, neither a thread nor an exit function of the user's code is waited for."""
    folder = Path("workspace")
    folder.mkdir()
    (folder / PROGRESS_FILE).touch()
    write_request(ConfinementRequest(), folder)
    lines = f"""
import atexit, runpy, subprocess, sys, threading, time
{lingers}
sys.argv = ["worker", "workspace", "0"]
runpy.run_module("harness.sandbox.worker", run_name="__main__")
"""
    subprocess.run((sys.executable, "-c", lines), check=True, timeout=60)

    assert Confined() == read_result(ConfinementRequest(), folder)


def test_a_model_that_was_edited_is_another_one() -> None:
    """A training of seeds whose model was edited meanwhile keeps what is done, and says that the graph is another."""
    Path("short.toml").write_text(RECIPE.replace("500", "1"), encoding="utf-8")
    options = ("--recipe", "short.toml", "--data", "digits", "--engine", "eager", "--out", "o")
    kept = set()
    for change, code in (("pass", 0), ("x = x * 2", 3)):
        _write("net.py", {"forward": change})
        command = (*HARNESS, "train", "net.py", "--seeds", "7-8", *options)
        result = subprocess.run(command, check=False, capture_output=True, text=True)
        kept.add(Path("o/seed-7/record.json").read_bytes())

        assert code == result.returncode, result.stdout
        assert bool(code) == ("graph_digest=" in result.stdout)
    assert 1 == len(kept)
