"""The command in surroundings that it did not choose: interrupted imports, lost output, no home folder, tampering models."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open

from harness.errors import ModelSourceError
from harness.sandbox.kernel import machine
from harness.sources import load_model
from harness.training import RunRecord, load_weights

pytestmark = pytest.mark.smoke

# The one shell that keeps the exit code of each command of a pipe.
BASH = shutil.which("bash")
# Two names each for a layer and for a weight: 80 + 16 + 90 + 10 parameters.
SHARED = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.c, self.bn, self.fc, self.fc2 = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 10), nn.Linear(8, 10)
        self.again = self.c
        self.fc2.weight = self.fc.weight

    def forward(self, x):
        x = torch.relu(self.bn(self.c(x))).mean((2, 3))
        return self.fc(x) + self.fc2(x)
"""
RECIPE = 'batch_size = 256\nepochs = 1\n[optimizer]\nname = "sgd"\nlr = 0.1\n'
# Interrupts the process at the import of the module that is named, as Ctrl-C does.
INTERRUPTED_IMPORT = """
import os, signal, sys

class Interrupter:
    def find_spec(self, name, *_):
        if name == {name!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupter())
sys.argv = ["harness", "check", "reference"]
from harness.__main__ import main
main()
"""


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in a folder with a model of shared tensors and a recipe of one epoch."""
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(SHARED, encoding="utf-8")
    Path("short.toml").write_text(RECIPE, encoding="utf-8")


def harness(*arguments: str | bytes, **options: object) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "harness", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize(
    "name", ["click", "harness.cli.options", "torch", "torch.nn", "numpy", "harness.structure", "sympy"]
)
def test_an_interrupted_import_is_one_line(name: str) -> None:
    """Ctrl-C while Python imports ends with one line and 130, whatever is imported."""
    code = INTERRUPTED_IMPORT.format(name=name)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (130, "") == (result.returncode, result.stdout)
    assert ["error: interrupted"] == [line for line in result.stderr.splitlines() if line]


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-", "| true", "2>/dev/full"])
def test_lost_output_changes_no_exit_code(closed: str) -> None:
    """Closed streams and a reader that has gone leave the verdict as it is, and no traceback."""
    for command, expected in (("list", 0), ("contract explain nosuch", 2)):
        script = f"{sys.executable} -m harness {command} {closed}; echo ${{PIPESTATUS[0]}} >code"
        result = subprocess.run(script, shell=True, capture_output=True, text=True, check=True, executable=BASH)  # noqa: S602

        assert f"{expected}\n" == Path("code").read_text(encoding="utf-8")
        assert "Traceback" not in result.stderr


def test_a_result_that_does_not_fit_on_the_disk_is_said() -> None:
    """A result that could not be written is exit code 3 with the reason, as text and as JSON."""
    for options in ((), ("--json", "-")):
        with Path("/dev/full").open("w", encoding="utf-8") as full:
            command = [sys.executable, "-m", "harness", "list", *options]
            result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)

        assert 3 == result.returncode
        assert "could not be written to standard output: No space left on device" in result.stderr


def test_a_training_outlives_its_reader() -> None:
    """A training whose output nobody reads any more ends with its record and the exit code of its result."""
    command = [
        sys.executable,
        "-m",
        "harness",
        "train",
        "cloud_2",
        "--recipe",
        "short.toml",
        "--data",
        "digits",
        "--out",
        "o",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        process.stderr.close()

    assert 0 == process.returncode
    assert "complete" == RunRecord.read("o/record.json").status


def test_a_user_without_a_home_and_a_name() -> None:
    """A user id without an entry and without HOME, as in many containers, examines models and is told about the cache."""
    # What Python runs first in every process.
    Path("sitecustomize.py").write_text(
        "import pwd\ndef missing(*_):\n    raise KeyError('uid not found')\npwd.getpwuid = pwd.getpwnam = missing\n",
        encoding="utf-8",
    )
    hidden = {"HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "XDG_CACHE_HOME", "HARNESS_CACHE", "HARNESS_DATA"}
    surroundings = {key: value for key, value in os.environ.items() if key not in hidden}
    surroundings |= {"PYTHONPATH": str(Path.cwd()), "HARNESS_OFFLINE": "1"}
    expected = {"doctor": 0, "check net.py": 1, "check ~/net.py": 2, "verify reference --quick --data mnist": 2}

    results = {command: harness(*command.split(), env=surroundings) for command in expected}

    assert expected == {command: result.returncode for command, result in results.items()}
    assert "got '~/net.py' of a user without a home folder" in results["check ~/net.py"].stderr
    assert "mnist-harness" in results["doctor"].stdout


def test_paths_that_are_no_text() -> None:
    """A contract, a folder and a document may have any bytes in their names; a model may not, and is told why."""
    Path(os.fsdecode(b"strict\xff.toml")).write_text("[parameters]\nmax = 8000\n", encoding="utf-8")
    Path(os.fsdecode(b"net\xff.py")).write_text(SHARED, encoding="utf-8")
    options = (b"--recipe", b"short.toml", b"--data", b"digits", b"--out", b"o\xff")

    checked = harness(b"check", b"cloud_2", b"--contract", b"strict\xff.toml", b"--json", b"found\xff.json")
    trained = harness(b"train", b"cloud_2", *options)
    refused = harness(b"check", b"net\xff.py")

    assert (0, 0, 2) == (checked.returncode, trained.returncode, refused.returncode)
    assert "against strict\\udcff, structure only" in checked.stdout
    assert "pass" == json.loads(Path(os.fsdecode(b"found\xff.json")).read_text(encoding="utf-8"))["status"]
    assert "expected a path in UTF-8" in refused.stderr


def test_tensors_with_two_names() -> None:
    """A model with shared layers and weights: every seed completes, it is counted once, and its weights come back shared."""
    options = ("--recipe", "short.toml", "--data", "digits")
    seeds = harness("train", "net.py", "--seeds", "0-1", *options, "--out", "seeds", "--json", "seeds.json")
    evaluated = harness(
        *(
            "evaluate",
            "net.py",
            "--weights",
            "seeds/seed-0/weights.safetensors",
            "--data",
            "digits",
            "--json",
            "found.json",
        )
    )
    shown = harness("show", "net.py", "--json", "-")
    captured = load_model("net.py", seed=0)
    module = captured.to_module()
    load_weights(module, Path("seeds/seed-0/weights.safetensors"))
    with safe_open("seeds/seed-0/weights.safetensors", framework="pt") as file:
        names = set(file.keys())

    assert (0, 0) == (seeds.returncode, evaluated.returncode), seeds.stderr + evaluated.stderr
    assert ["complete"] * 2 == [seed["status"] for seed in json.loads(Path("seeds.json").read_text("utf-8"))["seeds"]]
    assert 196 == json.loads(shown.stdout)["parameters"]
    assert {"c.weight", "fc.weight", "fc2.bias"} <= names
    assert not {"again.weight", "fc2.weight"} & names
    record = RunRecord.read("seeds/seed-0/record.json")
    assert record.state_digest == json.loads(Path("found.json").read_text("utf-8"))["state_digest"]
    assert record.epochs[-1].test_correct == json.loads(Path("found.json").read_text("utf-8"))["correct"]


@pytest.mark.parametrize(
    "damage",
    [
        "os.ftruncate(descriptor, 9)",
        "(folder / '0.json').unlink()",
        "(folder / '0.json').unlink(); (folder / '0.json').mkdir()",
        "(folder / '0.safetensors').write_bytes(b'')",
    ],
)
@pytest.mark.skipif(machine() is None, reason="finds its folder as a confined process does")
def test_a_model_that_damages_its_result_is_told(damage: str) -> None:
    """A file that writes over what the process returns is an error about that file."""
    Path("net.py").write_text(
        "import os\nfrom pathlib import Path\nfolder = Path(os.environ['HOME']).parent\n"
        f"def damage(descriptor):\n    {damage}\nos.fsync = damage\n{SHARED}",
        encoding="utf-8",
    )
    with pytest.raises(ModelSourceError, match="got unreadable data"):
        load_model("net.py")
