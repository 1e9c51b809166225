"""Requests and downloads end within their limits."""

import socket
import sys
import time
from pathlib import Path

import pytest

from harness.data.download import download_into, unreachable_reason
from harness.errors import DataMissingError

PYTHON = (sys.executable, "-I", "-S", "-c")


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


def test_unresponsive_server_times_out() -> None:
    """A server that accepts the connection and sends nothing is unreachable after the limit."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        started = time.monotonic()
        reason = unreachable_reason(f"http://127.0.0.1:{server.getsockname()[1]}/", limit=0.2)
    assert "timed out" in reason or "no response" in reason
    assert time.monotonic() - started < 2


def test_hanging_name_resolution_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name resolution, which has no time-out of its own, is abandoned after the limit."""

    def hang(*_args: object, **_named: object) -> list[object]:
        time.sleep(1.0)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    started = time.monotonic()
    assert unreachable_reason("http://mnist.invalid/", limit=0.2) == "no response within 0.2 s"
    assert time.monotonic() - started < 0.9


def test_refused_connection_is_reported_at_once() -> None:
    """A refused connection is reported without waiting for the limit."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    started = time.monotonic()
    assert unreachable_reason(f"http://127.0.0.1:{port}/", limit=30)
    assert time.monotonic() - started < 5


def test_failing_downloader_is_quoted(tmp_path: Path) -> None:
    """The error quotes the downloader's last line."""
    with pytest.raises(DataMissingError, match="exit code 3: out of luck"):
        download_into(tmp_path, command=(*PYTHON, "print('one'); print('out of luck'); raise SystemExit(3)"))


def test_failing_downloader_without_output_is_reported(tmp_path: Path) -> None:
    """A downloader that fails without output is an error, too."""
    with pytest.raises(DataMissingError, match="exit code 1: no output"):
        download_into(tmp_path, command=(*PYTHON, "raise SystemExit(1)"))


def test_stalled_download_is_killed(tmp_path: Path) -> None:
    """A downloader that receives no more data is killed after the stall limit."""
    started = time.monotonic()
    with pytest.raises(DataMissingError, match=r"no data received for 0.3 s"):
        download_into(tmp_path, command=(*PYTHON, "import time; time.sleep(60)"), stall_limit=0.3)
    assert time.monotonic() - started < 10


# Writes one byte every hundredth of a second, for a minute.
SLOW = """
import pathlib, sys, time
with (pathlib.Path(sys.argv[1]) / "slow.gz").open("wb", buffering=0) as file:
    for _ in range(6000):
        file.write(b"x")
        time.sleep(0.01)
"""


def test_slow_download_is_killed(tmp_path: Path) -> None:
    """A downloader that keeps receiving data is killed after the overall limit."""
    heard: list[int] = []
    started = time.monotonic()
    with pytest.raises(DataMissingError, match=r"not complete after 0.6 s"):
        download_into(tmp_path, command=(*PYTHON, SLOW), progress=heard.append, limit=0.6)
    assert time.monotonic() - started < 10
    assert heard == sorted(heard)
    assert heard[-1] > 0


def test_downloader_output_is_captured(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The output of a successful downloader does not reach the terminal."""
    download_into(tmp_path, command=(*PYTHON, "import sys; print('noise'); print('noise', file=sys.stderr)"))
    assert capfd.readouterr() == ("", "")
