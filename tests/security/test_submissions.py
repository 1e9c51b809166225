"""Submissions that attack: each has its honest outcome, nothing outside changes, and nothing is left."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.contracts import examine, load_contract
from harness.errors import HarnessError, InputError, ModelSourceError, SandboxError
from harness.graph import CapturedModel
from harness.sandbox import (
    DEFAULT_REQUIREMENT,
    NO_REQUIREMENT,
    Layer,
    SandboxRequirement,
    available_layers,
    open_submission,
    runner,
    warm_workers,
)
from harness.sandbox.kernel import machine
from harness.sources import load_model
from harness.sources.loading import LOAD_TIMEOUT_SECONDS
from harness.tables import printable
from tests.security.attacks import ATTACKS, DEPENDING_ON_USER, NET, Attack

pytestmark = [
    pytest.mark.smoke,
    pytest.mark.skipif(machine() is None, reason="the layers are implemented for Linux on x86-64 and aarch64"),
]
CONTRACT = load_contract("era-s7")
MOST_MEMORY = 200 * 2**20
# Of starting, killing and deleting, on a busy machine.
SLACK_SECONDS, ENDING_SECONDS = 20.0, 10.0
NOBODY = 65_534
# None lets itself be stopped; the last two also leave something to be ended or deleted.
ENDLESS = ("loop that catches everything", "stop itself", "loops in many threads", "fill the disk with small files")
# Tried without bubblewrap.
SELECTED = ("read a file", "append", "change the mode", "daemon", "fork bomb", "kill the worker", "network")


@pytest.fixture(scope="module", autouse=True)
def area(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep one worker for all tests of this module, in a folder for temporary files that nothing else uses."""
    # Made now, so that it outlives that folder.
    tmp_path_factory.getbasetemp()
    with tempfile.TemporaryDirectory(prefix="attacks-") as temporary, pytest.MonkeyPatch.context() as patch:
        # Users of the sandbox pass through it.
        Path(temporary).chmod(0o711)
        patch.setattr(tempfile, "tempdir", temporary)
        patch.setenv("TMPDIR", temporary)
        with warm_workers() as folder:
            yield folder
        assert [] == list(Path(temporary).glob("harness-*"))


@pytest.fixture(scope="module")
def honest(area: Path, tmp_path_factory: pytest.TempPathFactory) -> CapturedModel:
    """The network that the attacks define, without an attack."""
    if not {Layer.LANDLOCK, Layer.SECCOMP} <= {one.layer for one in available_layers() if one.holds}:
        pytest.skip("needs Landlock and seccomp")
    folder = tmp_path_factory.mktemp("honest")
    (folder / "net.py").write_text(NET, encoding="utf-8")
    found = load_submission(folder, area, sandbox=NO_REQUIREMENT)
    examine(found, CONTRACT, probe=False)
    return found


@pytest.fixture(scope="module")
def demanded(area: Path) -> SandboxRequirement:  # noqa: ARG001 - the worker is kept in it
    """The default requirement or, if it does not hold for this user, none."""
    try:
        DEFAULT_REQUIREMENT.require(available_layers())
    except SandboxError:
        return NO_REQUIREMENT
    return DEFAULT_REQUIREMENT


@pytest.fixture(autouse=True)
def _memory(honest: CapturedModel) -> Iterator[None]:  # noqa: ARG001 - after it, everything is imported
    """Check that an attack raises the memory of this process by less than a limit, at any moment."""
    # Sets the peak to the present size: that of earlier tests, or of the parent, may be higher than any of this one.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = peak_memory()
    yield
    assert peak_memory() - before < MOST_MEMORY


def peak_memory() -> int:
    """The largest number of bytes of memory that this process has had since its peak was reset."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def load_submission(
    path: Path,
    area: Path,
    seconds: float = LOAD_TIMEOUT_SECONDS,
    sandbox: SandboxRequirement = DEFAULT_REQUIREMENT,
    said: list[str] | None = None,
) -> CapturedModel:
    """Load the model of a submission as grading does."""
    with open_submission(path, inside=area) as found:
        return load_model(
            str(found.folder), timeout=seconds, sandbox=sandbox, announce=([] if said is None else said).append
        )


def snapshot(folder: Path) -> dict[str, tuple[int, ...] | bytes]:
    """Mode, owner, times and content of a folder and all that is in it."""
    found: dict[str, tuple[int, ...] | bytes] = {}
    for path in (folder, *folder.rglob("*")):
        status = path.lstat()
        # The time of the last change of anything, metadata included.
        found[f"{path} status"] = (status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, status.st_ctime_ns)
        found[str(path)] = path.read_bytes() if path.is_file() and status.st_size < MOST_MEMORY else b""
    return found


def made_outside(folder: Path) -> Path:
    """Make a folder that everybody may read and write, with a file of which the same holds."""
    outside = folder / "outside"
    (outside / "answers").mkdir(parents=True)
    for path in (outside / "secret", outside / "answers.py", outside / "answers" / "labels"):
        path.write_text("ANSWER = 7", encoding="utf-8")
        path.chmod(0o666)
    outside.chmod(0o777)
    return outside


def processes(mark: str) -> set[int]:
    """The processes whose environment, at their start, holds a text; all that a worker starts inherit its environment."""
    found = set()
    for place in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if place.name.isdigit() and mark.encode() in (place / "environ").read_bytes():
                found.add(int(place.name))
    return found


def attacked(attack: Attack, folder: Path, area: Path, honest: CapturedModel, **options: SandboxRequirement) -> None:
    """Check all that holds for every attack, with the sandbox as given."""
    outside, project = made_outside(folder), folder / "project"
    project.mkdir()
    submission = attack.build(project, outside)
    before, running, said = snapshot(folder), processes(str(area)), list[str]()
    started = time.monotonic()
    model, message = None, ""
    try:
        model = load_submission(submission, area, attack.seconds, said=said, **options)
    except HarnessError as error:
        message = str(error)

    assert time.monotonic() - started < attack.seconds + SLACK_SECONDS
    assert before == snapshot(folder)
    assert processes(str(area)) <= running | workers()
    assert [] == [path for path in area.iterdir() if not path.name.startswith((".", "harness-worker"))]
    assert [] == [text for text in (message, *said) if printable(text) != text or "ANSWER = 7" in text]
    if attack.refused:
        assert re.search(attack.refused, message)
        return
    assert model is not None, message
    if attack.findings:
        found = {finding.requirement: finding.status for finding in examine(model, CONTRACT, probe=False)}
        assert attack.findings.items() <= found.items()
    else:
        assert honest.graph.exact_digest() == model.graph.exact_digest()


def workers() -> set[int]:
    """The processes that wait for submissions, with those that bubblewrap starts for them; they run no submission."""
    found = {worker._process.pid for worker in runner._workers.values()}  # noqa: SLF001 - which processes they are
    for _ in range(2):
        found |= {child for process in found for child in children_of(process)}
    return found


def children_of(process: int) -> set[int]:
    """The child processes of a process."""
    with contextlib.suppress(OSError):
        return {int(one) for one in Path(f"/proc/{process}/task/{process}/children").read_text("utf-8").split()}
    return set()


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_an_attack_has_its_honest_outcome(
    attack: Attack, tmp_path: Path, area: Path, honest: CapturedModel, demanded: SandboxRequirement
) -> None:
    """The outcome is a clear error or the truth; outside nothing was read or changed, and nothing is left."""
    attacked(attack, tmp_path, area, honest, sandbox=demanded)


@pytest.mark.parametrize(
    "attack",
    [attack for number, attack in enumerate(ATTACKS) if number % 12 == 0 or attack.name in SELECTED],
    ids=lambda attack: attack.name,
)
def test_an_attack_fails_without_bubblewrap(attack: Attack, tmp_path: Path, area: Path, honest: CapturedModel) -> None:
    """The same holds for the walls that need nothing installed."""
    attacked(attack, tmp_path, area, honest, sandbox=NO_REQUIREMENT)


def test_there_are_enough_attacks() -> None:
    """Each attack has a name of its own."""
    assert len(ATTACKS) == len({attack.name for attack in ATTACKS})
    assert len(ATTACKS) > 200


@pytest.mark.parametrize("name", ENDLESS)
def test_the_next_submission_does_not_wait(
    name: str, tmp_path: Path, area: Path, honest: CapturedModel, demanded: SandboxRequirement
) -> None:
    """A submission that never ends delays the next one by its own limit, and by what it takes to end and delete it."""
    endless = next(attack for attack in ATTACKS if attack.name == name)
    for folder in ("next", "endless"):
        (tmp_path / folder).mkdir()
    (tmp_path / "next" / "net.py").write_text(NET, encoding="utf-8")
    submission = endless.build(tmp_path / "endless", made_outside(tmp_path))

    def load_next() -> float:
        started = time.monotonic()
        assert honest.graph == load_submission(tmp_path / "next", area, sandbox=demanded).graph
        return time.monotonic() - started

    alone = load_next()
    started = time.monotonic()
    with pytest.raises(ModelSourceError, match=endless.refused):
        load_submission(submission, area, endless.seconds, demanded)
    load_next()

    assert time.monotonic() - started - alone < endless.seconds + ENDING_SECONDS


@pytest.mark.parametrize("replaced", ["file", "folder"])
def test_a_race_reads_nothing_outside(replaced: str, tmp_path: Path) -> None:
    """While a file, or a folder, is replaced by a link to a secret over and over, no copy has the secret."""
    outside, project = made_outside(tmp_path), tmp_path / "project"
    (project / "src").mkdir(parents=True)
    target = project / "src" / ("secret" if replaced == "file" else "")
    (project / "src" / "secret").write_text("honest", encoding="utf-8")
    link, aside = tmp_path / "link", tmp_path / "aside"
    link.symlink_to(outside / "secret" if replaced == "file" else outside)
    stopped = threading.Event()

    def replace() -> None:
        while not stopped.is_set():
            for new in (link, aside):
                with contextlib.suppress(OSError):
                    target.rename(aside if new is link else link)
                    new.rename(target)

    thread = threading.Thread(target=replace)
    thread.start()
    copies = []
    try:
        for _ in range(100):
            with contextlib.suppress(InputError), open_submission(project) as found:
                copies += [path.read_text("utf-8") for path in found.folder.rglob("secret")]
    finally:
        stopped.set()
        thread.join()

    assert set(copies) <= {"honest"}


# It keeps the capability to read all files, since Python may lie in the home folder of root.
AS_OTHER_USER = """
import ctypes, os, sys
library = ctypes.CDLL(None)
library.prctl(8, 1, 0, 0, 0)
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(4, 4, 4, 0, 0, 0)
assert library.capset(header, data) == 0 and library.prctl(47, 2, 2, 0, 0) == 0
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root becomes another user")
def test_the_attacks_fail_for_another_user() -> None:
    """The attacks whose outcome may depend on it fail, too, if the examiner is not root and not in bubblewrap."""
    tests = [f"{Path(__file__)}::test_an_attack_has_its_honest_outcome[{name}]" for name in DEPENDING_ON_USER]
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, NOBODY, NOBODY)
        done = subprocess.run(
            [
                *(sys.executable, "-c", AS_OTHER_USER, "-m", "pytest", "-q", "-n", "0", "-m", "smoke", *tests),
                *("-p", "no:cacheprovider", "--basetemp", f"{folder}/pytest"),
            ],
            cwd=Path(__file__).parents[2],
            env=os.environ | {"TMPDIR": folder, "HOME": folder, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
    assert f"{len(DEPENDING_ON_USER)} passed" in done.stdout, done.stdout[-3000:] + done.stderr[-3000:]
