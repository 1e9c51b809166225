"""The network is asked with a limit, and a download ends whatever happens."""

import socket
import sys
import time
from pathlib import Path

import pytest

from harness.data.download import download_into, why_unreachable
from harness.errors import DataMissingError

PYTHON = (sys.executable, "-I", "-S", "-c")


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


def test_silent_server_is_given_up() -> None:
    """A server that takes the connection and says nothing is given up after the limit."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        started = time.monotonic()
        reason = why_unreachable(f"http://127.0.0.1:{server.getsockname()[1]}/", limit=0.2)
    assert "timed out" in reason or "no answer" in reason
    assert time.monotonic() - started < 2


def test_hanging_name_lookup_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name lookup, which has no time-out of its own, is left behind after the limit."""

    def hang(*_args: object, **_named: object) -> list[object]:
        time.sleep(1.0)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    started = time.monotonic()
    assert why_unreachable("http://mnist.invalid/", limit=0.2) == "no answer within 0.2 s"
    assert time.monotonic() - started < 0.9


def test_refused_connection_is_known_at_once() -> None:
    """A refused connection is no reason to wait for the limit."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    started = time.monotonic()
    assert why_unreachable(f"http://127.0.0.1:{port}/", limit=30)
    assert time.monotonic() - started < 5


def test_failing_downloader_is_quoted(tmp_path: Path) -> None:
    """The downloader's last line stands in the error."""
    with pytest.raises(DataMissingError, match="exit code 3: out of luck"):
        download_into(tmp_path, command=(*PYTHON, "print('one'); print('out of luck'); raise SystemExit(3)"))


def test_mute_downloader_is_reported(tmp_path: Path) -> None:
    """A downloader that fails without a word is an error too."""
    with pytest.raises(DataMissingError, match="exit code 1: it said nothing"):
        download_into(tmp_path, command=(*PYTHON, "raise SystemExit(1)"))


def test_stalled_download_is_ended(tmp_path: Path) -> None:
    """A downloader that brings nothing any more is ended."""
    started = time.monotonic()
    with pytest.raises(DataMissingError, match=r"stalled: nothing arrived for 0.3 s"):
        download_into(tmp_path, command=(*PYTHON, "import time; time.sleep(60)"), silence=0.3)
    assert time.monotonic() - started < 10


# Writes a byte more every hundredth of a second, for a minute.
DRIP = """
import pathlib, sys, time
with (pathlib.Path(sys.argv[1]) / "drip.gz").open("wb", buffering=0) as file:
    for _ in range(6000):
        file.write(b"x")
        time.sleep(0.01)
"""


def test_dripping_download_is_ended(tmp_path: Path) -> None:
    """A downloader that is never silent and never done is ended as well."""
    heard: list[int] = []
    started = time.monotonic()
    with pytest.raises(DataMissingError, match=r"given up after 0.6 s"):
        download_into(tmp_path, command=(*PYTHON, DRIP), progress=heard.append, limit=0.6)
    assert time.monotonic() - started < 10
    assert heard == sorted(heard)
    assert heard[-1] > 0


def test_downloader_does_not_speak_to_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """What the downloader prints reaches nobody when it succeeds."""
    download_into(tmp_path, command=(*PYTHON, "import sys; print('noise'); print('noise', file=sys.stderr)"))
    assert capfd.readouterr() == ("", "")
