"""Fetch a data set by torchvision's downloader, with the limits that it lacks."""

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
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import DataMissingError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
_TORCHVISION = Path(__file__).with_name("torchvision_download.py")


def why_unreachable(address: str, *, limit: float = 5.0) -> str:
    """Why ``address`` gives no answer to a HEAD request within ``limit`` seconds; empty if it does.

    Proxies of the environment are used, as the downloader does. Resolving a name knows no time-out, so a thread waits
    for the answer, and is left behind if none comes.
    """
    answers: queue.SimpleQueue[str] = queue.SimpleQueue()

    def ask() -> None:
        request = urllib.request.Request(address, method="HEAD")  # noqa: S310 - an address of this package
        try:
            with urllib.request.urlopen(request, timeout=limit):  # noqa: S310
                answers.put("")
        except (OSError, http.client.HTTPException) as error:
            answers.put(str(error) or type(error).__name__)

    threading.Thread(target=ask, daemon=True).start()
    try:
        return answers.get(timeout=limit)
    except queue.Empty:
        return f"no answer within {limit:g} s"


def torchvision_command(name: str) -> tuple[str, ...]:
    """What runs torchvision's downloader for its class ``name``; the folder comes last."""
    return (sys.executable, "-P", str(_TORCHVISION), name)


def download_into(
    folder: Path,
    *,
    command: Sequence[str],
    progress: Callable[[int], None] | None = None,
    silence: float = 60.0,
    limit: float = 600.0,
) -> None:
    """Download into ``folder``, in torchvision's layout; the content is not verified here.

    Args:
        folder: an existing folder.
        command: what to run with the folder as last argument.
        progress: called with the bytes fetched so far.
        silence: seconds without a new byte after which it is given up.
        limit: seconds after which it is given up in any case.

    Raises:
        DataMissingError: it failed, stalled or took too long; the process is ended.
    """
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [*command, str(folder)], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            _watch(process, folder, progress=progress, silence=silence, limit=limit)
        finally:
            process.kill()
            process.wait()
        if process.returncode:
            log.seek(0)
            said = log.read().decode(errors="replace").strip() or "it said nothing"
            raise DataMissingError(
                f"torchvision's download failed with exit code {process.returncode}: {said.splitlines()[-1]}"
            )


def _watch(
    process: subprocess.Popen[bytes],
    folder: Path,
    *,
    progress: Callable[[int], None] | None,
    silence: float,
    limit: float,
) -> None:
    """Wait for the process, reporting what arrives in the folder."""
    started = last_news = time.monotonic()
    known = 0
    while process.poll() is None:
        sizes = {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
        now = time.monotonic()
        if sum(sizes.values()) != known:
            known, last_news = sum(sizes.values()), now
            if progress is not None:
                progress(sum(size for path, size in sizes.items() if path.suffix == ".gz"))
        if now - last_news > silence:
            raise DataMissingError(f"the download stalled: nothing arrived for {silence:g} s after {known:,} bytes")
        if now - started > limit:
            raise DataMissingError(f"the download was given up after {limit:g} s with {known:,} bytes")
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.1)
