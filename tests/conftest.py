"""Shared fixtures: devices, and the shipped models captured once; unit and property tests use no network and no data set."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import pickle
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.files import write_whole

if TYPE_CHECKING:
    import torch

    from harness.data import Dataset
    from harness.graph import CapturedModel

pytest_plugins = "pytester"

_TESTS = Path(__file__).parent
_SEALED = (_TESTS / "unit", _TESTS / "property")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options of the tests that train: ``--device`` and ``--all``."""
    group = parser.getgroup("mnist-harness", "the tests of mnist-harness")
    group.addoption(
        "--device",
        choices=("auto", "cpu", "cuda", "mps"),
        default="auto",
        help="Where smoke, bench and full train; auto: on each device found.",
    )
    group.addoption("--all", action="store_true", help="full: train every model on a CPU, the large ones too.")


def pytest_configure() -> None:
    """Let the processes that tests start end on signals, also where this one ignores them, as after ``nohup`` or ``&``."""
    for name in ("SIGINT", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_IGN:
            # A program that is started inherits what is ignored, but no handler.
            signal.signal(number, lambda *_: None)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that uses the fixture ``chosen_device`` once for each device that ``--device`` selects."""
    if "chosen_device" in metafunc.fixturenames:
        from harness.training import available_devices  # noqa: PLC0415 - torch only where a test trains

        choice = metafunc.config.getoption("--device")
        names = available_devices() if choice == "auto" else (choice,)
        metafunc.parametrize("chosen_device", names, indirect=True)


@pytest.fixture
def chosen_device(request: pytest.FixtureRequest) -> torch.device:
    """A device that ``--device`` selects; the test is skipped if this machine has no such device."""
    from harness.training import available_devices, resolve_device  # noqa: PLC0415 - torch only where a test trains

    if request.param not in available_devices():
        pytest.skip(f"needs the device {request.param}; this machine has {', '.join(available_devices())}")
    return resolve_device(request.param)


@pytest.fixture(scope="session")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], CapturedModel]:
    """Returns a shipped model, captured with the default seed; each model is captured once for all processes of a test run."""
    import torch  # noqa: PLC0415 - torch only where a test needs it

    from harness.graph import capture  # noqa: PLC0415
    from harness.sources import DEFAULT_SEED  # noqa: PLC0415
    from mnist_models import create_model  # noqa: PLC0415

    folder = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        # The folder of the whole run; a worker's own lies in it.
        folder = folder.parent

    @functools.cache
    def load(name: str) -> CapturedModel:
        path = folder / f"shipped-{name}.pickle"
        if not path.exists():
            torch.manual_seed(DEFAULT_SEED)
            write_whole(path, pickle.dumps(capture(create_model(name), name=name, twice=False)))
        captured: CapturedModel = pickle.loads(path.read_bytes())  # noqa: S301 - our own run wrote it
        return captured

    return load


@pytest.fixture
def quick_load(shipped: Callable[[str], CapturedModel], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let commands and the plugin load a shipped model from the fixture `shipped` instead of capturing it again."""
    import harness.sources  # noqa: PLC0415 - imports torch
    from harness.sources import LoadedModel  # noqa: PLC0415 - imports torch
    from mnist_models import list_models  # noqa: PLC0415

    load, parse = harness.sources.load, harness.sources.parse_source

    def load_quickly(text: str, **options: Any) -> LoadedModel:  # noqa: ANN401 - passed on as they are
        usual = options.get("seed", 1) == 1 and options.get("input_shape", (1, 28, 28)) == (1, 28, 28)
        as_shipped = text in list_models() and usual and not options.get("arguments")
        return LoadedModel(model=shipped(text), source=parse(text)) if as_shipped else load(text, **options)

    monkeypatch.setattr(harness.sources, "load", load_quickly)
    monkeypatch.setattr(harness.sources, "load_model", lambda text, **options: load_quickly(text, **options).model)


@pytest.fixture
def worker_here(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Perform the requests to worker processes in the test process, which has already imported PyTorch."""
    from harness.sandbox import Job, runner, worker  # noqa: PLC0415 - imports torch

    class Ended:
        """A finished process with the exit code 0."""

        layers = ()

        def poll(self) -> int:
            return 0

        end = poll

    def perform(folder: Path, job: Job) -> Ended:
        before = set(sys.modules)
        with contextlib.chdir(job.working_folder), monkeypatch.context() as process:
            process.setattr(sys, "path", [*sys.path])
            process.setattr(sys, "argv", [*sys.argv])
            process.setattr(sys, "dont_write_bytecode", True)
            if "PYTHONHASHSEED" in job.variables:
                process.setenv("PYTHONHASHSEED", job.variables["PYTHONHASHSEED"])
            worker.main(folder, prepare=False)
        for name in set(sys.modules) - before:
            module = sys.modules[name]
            places = (getattr(module, "__file__", ""), *getattr(module, "__path__", ()))
            if any(str(place).startswith((str(folder), str(tmp_path_factory.getbasetemp()))) for place in places):
                del sys.modules[name]
        return Ended()

    monkeypatch.setattr(runner, "start_process", perform)


@pytest.fixture
def load(worker_here: None) -> Callable[..., tuple[CapturedModel, list[str]]]:  # noqa: ARG001 - loads in this process
    """Loads a model with `load_model`; returns the captured model and the sentences that were announced."""
    from harness.sources import load_model  # noqa: PLC0415 - imports torch

    def load_here(model: object, **options: Any) -> tuple[CapturedModel, list[str]]:  # noqa: ANN401 - passed on
        notes: list[str] = []
        return load_model(str(model), announce=notes.append, **options), notes

    return load_here


@pytest.fixture
def golden_training_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the goldens train each model with each recipe only once for all tests of a process."""
    from harness.goldens import check, measurement  # noqa: PLC0415 - imports torch
    from tests.golden_models import train_once  # noqa: PLC0415

    for module in (check, measurement):
        monkeypatch.setattr(module, "train_briefly", train_once)


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs the command line in this process; returns the exit code, the standard output and the standard error."""
    from harness.cli.app import run  # noqa: PLC0415 - imports torch

    def run_command(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return run_command


@pytest.fixture(autouse=True)
def _sealed(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Block data sets, and connections to other machines, in unit and property tests."""
    if not any(request.path.is_relative_to(folder) for folder in _SEALED):
        return
    monkeypatch.setenv("HARNESS_OFFLINE", "1")
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path_factory.getbasetemp() / "no-cache"))
    monkeypatch.delenv("HARNESS_DATA", raising=False)
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def guarded_connect(self: socket.socket, address: Any) -> None:  # noqa: ANN401 - as the socket's family has it
        if self.family in (socket.AF_INET, socket.AF_INET6):
            _refuse_other_machines(address[0])
        connect(self, address)

    def guarded_look_up(host: Any, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - passed on as they are
        _refuse_other_machines(host)
        return look_up(host, *arguments, **options)

    monkeypatch.setattr(socket.socket, "connect", guarded_connect)
    monkeypatch.setattr(socket, "getaddrinfo", guarded_look_up)


def _refuse_other_machines(host: object) -> None:
    if host not in (None, "", "localhost", "127.0.0.1", "::1"):
        # pytest.fail: the code under test could catch an OSError as a failed connection.
        pytest.fail(f"a unit test asked the network for {host!r}")


@pytest.fixture(autouse=True, scope="session")
def _one_thread(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run unit and property tests on one thread: on small networks, several threads mostly wait for each other."""
    sealed = [item for item in request.session.items if any(item.path.is_relative_to(folder) for folder in _SEALED)]
    if len(sealed) < len(request.session.items):
        yield
        return
    from harness.graph import computing_threads  # noqa: PLC0415 - imports torch

    with computing_threads(1):
        yield


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Run a test that is neither a unit test nor a property test on one thread."""
    from harness.graph import computing_threads  # noqa: PLC0415 - imports torch

    with computing_threads(1):
        yield


@pytest.fixture
def known_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every training record the same environment, without calling git."""
    from harness.training import loop  # noqa: PLC0415 - torch only where it is needed
    from tests import made_up  # noqa: PLC0415

    monkeypatch.setattr(loop, "environment", lambda _: made_up.ENVIRONMENT)


@pytest.fixture(scope="session")
def constant_graph() -> CapturedModel:
    """The captured model `tests.determinism_models.Constant`."""
    from harness.graph import capture  # noqa: PLC0415 - torch only where it is needed
    from tests.determinism_models import Constant  # noqa: PLC0415

    return capture(Constant(), name="constant", twice=False)


@pytest.fixture
def mnist_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Expect the made-up files of `tests.mnist_files`, with an empty cache and no network; returns the path of the cache."""
    from harness.data import loading  # noqa: PLC0415 - torch only where it is needed
    from tests.mnist_files import expect_made_up_files  # noqa: PLC0415

    expect_made_up_files(monkeypatch)
    for variable in ("HARNESS_DATA", "HARNESS_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(loading, "unreachable_reason", lambda _address: "no route to host")
    return tmp_path / "cache"


@pytest.fixture
def few_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reduce every loaded data set to 256 training and 100 test images, so that an epoch takes milliseconds."""
    import harness.data  # noqa: PLC0415 - torch only where it is needed

    load = harness.data.load_dataset

    def load_few(choice: str, **options: Any) -> Dataset:  # noqa: ANN401 - passed on as they are
        data = load(choice, **options)
        return dataclasses.replace(
            data,
            train_images=data.train_images[:256],
            train_labels=data.train_labels[:256],
            test_images=data.test_images[:100],
            test_labels=data.test_labels[:100],
        )

    monkeypatch.setattr(harness.data, "load_dataset", load_few)


@pytest.fixture
def short_run(tmp_path: Path, command: Callable[..., tuple[int, str, str]]) -> Callable[..., Path]:
    """Trains cloud_2 for a few steps on the digits, with further options of `harness train`; returns the path of the record."""
    recipe = tmp_path / "short.toml"
    recipe.write_text('batch_size = 512\nepochs = 2\n[optimizer]\nname = "sgd"\nlr = 0.1\n', encoding="utf-8")

    def train(name: str, *options: object) -> Path:
        folder = tmp_path / name
        shared = ("--recipe", recipe, "--data", "digits", "--device", "cpu", "--out", folder)
        code, _, _ = command("train", "cloud_2", *shared, *options)
        assert code == 0
        return folder / "record.json"

    return train
