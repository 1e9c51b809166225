"""Download of a data set by torchvision's downloader, with time limits, which torchvision does not have."""

from __future__ import annotations

import contextlib
import http.client
import queue
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.errors import DataMissingError

_TORCHVISION = Path(__file__).with_name("torchvision_download.py")


def unreachable_reason(address: str, *, limit: float = 5.0) -> str:
    """Return why ``address`` does not respond to a HEAD request within ``limit`` seconds; empty if a response arrives.

    The request uses the proxies of the environment, as torchvision's downloader does. Name resolution has no time-out,
    so the request runs in a daemon thread, which is abandoned after the limit.
    """
    reasons: queue.SimpleQueue[str] = queue.SimpleQueue()

    def request_head() -> None:
        request = urllib.request.Request(address, method="HEAD")  # noqa: S310 - an address of this package
        try:
            with urllib.request.urlopen(request, timeout=limit):  # noqa: S310
                reasons.put("")
        except (OSError, http.client.HTTPException) as error:
            reasons.put(str(error) or type(error).__name__)

    threading.Thread(target=request_head, daemon=True).start()
    try:
        return reasons.get(timeout=limit)
    except queue.Empty:
        return f"no response within {limit:g} s"


def torchvision_command(name: str) -> tuple[str, ...]:
    """Return the command that runs torchvision's downloader for the class ``name``; the caller appends the target folder."""
    return (sys.executable, "-P", str(_TORCHVISION), name)


def download_into(
    folder: Path,
    *,
    command: Sequence[str],
    progress: Callable[[int], None] | None = None,
    stall_limit: float = 60.0,
    limit: float = 600.0,
) -> None:
    """Download a data set into the existing folder ``folder``, in torchvision's layout, without verifying the content.

    ``folder`` is appended to ``command`` as the last argument. ``progress`` is called with the number of bytes received
    so far. The download is aborted after ``stall_limit`` seconds without a new byte, and after ``limit`` seconds in
    total.

    Raises:
        DataMissingError: the download failed, stalled or took longer than ``limit``; the process is killed.
    """
    started = last_growth = time.monotonic()
    known = 0
    with tempfile.TemporaryFile() as log:
        arguments = [*command, str(folder)]
        process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None:
                sizes = {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
                now = time.monotonic()
                if sum(sizes.values()) != known:
                    known, last_growth = sum(sizes.values()), now
                    if progress is not None:
                        progress(sum(size for path, size in sizes.items() if path.suffix == ".gz"))
                if now - last_growth > stall_limit:
                    raise DataMissingError(f"no data received for {stall_limit:g} s, after {known:,} bytes")
                if now - started > limit:
                    raise DataMissingError(
                        f"the transfer is not complete after {limit:g} s, with {known:,} bytes received"
                    )
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=0.1)
        finally:
            process.kill()
            process.wait()
        if process.returncode:
            log.seek(0)
            output = log.read().decode(errors="replace").strip() or "no output"
            code, reason = process.returncode, output.splitlines()[-1]
            raise DataMissingError(f"torchvision's downloader ended with exit code {code}: {reason}")
