"""The folder of results: a folder of reports for each submission, files about the class, and verdicts to reuse.

A file is written whole or not at all. What an earlier call has written about a submission is taken away before anything is
graded, so that no older result passes for a new one; an earlier verdict that is still valid is written again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import filelock

from harness.errors import InputError, WriteError
from harness.files import file_name, read_whole, write_whole
from harness.grading.verdict import Verdict
from harness.grading.writers import WRITERS, Context, Scope, Writer
from harness.tables import parse_document

VERDICT_FILE = "verdict.json"
_CANONICAL = next(writer for writer in WRITERS if writer.name == "json")
_EARLIER, _BY_NETWORK = Path(".verdicts", "submissions"), Path(".verdicts", "networks")
_MAX_BYTES = 2**26
_MAX_NAME = 100


class Results:
    """Results in ``folder``, which the caller holds with `harness.training.opened`, in the formats of ``writers``.

    The verdict itself is always written. All methods raise an `InputError` if the folder cannot be written or is full.
    """

    def __init__(self, folder: Path, writers: Sequence[Writer]) -> None:
        self.folder = folder
        self._of_submission = [one for one in writers if one.scope is Scope.SUBMISSION and one is not _CANONICAL]
        self._of_class = [one for one in writers if one.scope is Scope.CLASS]

    def require_apart(self, path: Path, place: str) -> None:
        """Check that the folder for the reports of a submission is not the submission itself.

        Raises:
            InputError: it is.
        """
        if (self.folder / place).resolve() == path.resolve():
            raise InputError(
                f"expected a folder for results beside the submissions, got {str(self.folder)!r}, where the reports of "
                f"{str(path)!r} would be written into the submission. Choose another folder with --out."
            )

    def begin(self, places: Sequence[str], example: Verdict) -> None:
        """Take away what an earlier call has written about these submissions and about the class.

        ``example`` is a verdict on nothing, to find out before the work whether the writers have what they need.

        Raises:
            InputError: a format cannot be written here, such as one that needs an environment variable.
        """
        for writer in self._of_submission:
            writer.write([example], context())
        with _explained(self.folder):
            (self.folder / _EARLIER).mkdir(parents=True, exist_ok=True)
            (self.folder / _BY_NETWORK).mkdir(exist_ok=True)
            for place in places:
                verdict = self.folder / place / VERDICT_FILE
                if verdict.exists():
                    verdict.replace(self._earlier(place))
            for writer in WRITERS:
                for place in ["."] if writer.scope is Scope.CLASS else places:
                    (self.folder / place / writer.file_name).unlink(missing_ok=True)

    def earlier(self, place: str, basis: str, digest: str) -> Verdict | None:
        """Return the earlier verdict on a submission if it is final, and basis and digest of the submission are the same."""
        with contextlib.suppress(InputError):
            verdict = read_verdict(self._earlier(place))
            same = (verdict.assignment_digest, verdict.submission_digest) == (basis, digest)
            if same and digest and verdict.is_final:
                return verdict
        return None

    def write(self, place: str, verdict: Verdict) -> None:
        """Write the reports of a submission; the verdict comes last, since it shows that the submission is finished."""
        folder = self.folder / place
        with _explained(folder):
            folder.mkdir(exist_ok=True)
            for writer in (*self._of_submission, _CANONICAL):
                write_whole(folder / writer.file_name, writer.write([verdict], context()))
            self._earlier(place).unlink(missing_ok=True)

    def write_class(self, verdicts: Sequence[Verdict]) -> None:
        """Write the files about the class."""
        for writer in self._of_class:
            write_whole(self.folder / writer.file_name, writer.write(verdicts, context()))

    @contextlib.contextmanager
    def held(self, key: str) -> Iterator[None]:
        """Let no other process grade a network equal to that of ``key`` meanwhile; wait for one that does."""
        lock = filelock.FileLock(self.folder / _BY_NETWORK / f"{key}.lock")
        with _explained(self.folder):
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def get(self, key: str) -> Verdict | None:
        """Return the verdict on an equal network, kept under ``key``."""
        with contextlib.suppress(InputError):
            return read_verdict(self._network(key))
        return None

    def put(self, key: str, verdict: Verdict) -> None:
        """Keep the first verdict on a network that is final, and delete the checkpoints."""
        if verdict.is_final and self.get(key) is None:
            write_whole(self._network(key), _CANONICAL.write([verdict], context()))
        shutil.rmtree(self.checkpoints(key), ignore_errors=True)

    def checkpoints(self, key: str) -> Path:
        """The folder for the checkpoints of a network's trainings."""
        return self.folder / _BY_NETWORK / key

    def _network(self, key: str) -> Path:
        return self.folder / _BY_NETWORK / f"{key}.json"

    def _earlier(self, place: str) -> Path:
        return self.folder / _EARLIER / f"{place}.json"


@contextlib.contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        raise WriteError(
            f"expected a folder for results that can be written, got {str(folder)!r}: {problem.strerror}. Free some space, or "
            "choose another folder with --out."
        ) from problem


def places_for(names: Sequence[str]) -> list[str]:
    """Return the name of a folder for each submission: its own name with unusual characters replaced, distinct for all."""
    plain = [file_name(name)[:_MAX_NAME] for name in names]
    counts = Counter(place.casefold() for place in plain)
    return [
        place if counts[place.casefold()] == 1 else f"{place}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:8]}"
        for name, place in zip(names, plain, strict=True)
    ]


def read_verdict(path: Path) -> Verdict:
    """Read a verdict from its JSON file.

    Raises:
        InputError: the file cannot be read, is no verdict, or contradicts itself.
    """
    content = read_whole(path, "a verdict", most=_MAX_BYTES)
    return Verdict.from_json(parse_document(content, "JSON", where=str(path), error=InputError), where=str(path))


def context() -> Context:
    """Return what reports of this moment and this process say."""
    return Context(environment=dict(os.environ), graded_at=datetime.now(UTC))
