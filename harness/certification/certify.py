"""Training the seeds of a certificate until its verdict is reached."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from harness.certification.certificate import Certificate, CertifiedRun, Crash, Declaration
from harness.errors import InputError
from harness.training import (
    PREDICTIONS_FILE,
    RECORD_FILE,
    RunRecord,
    SeedsJob,
    SeedsObserver,
    WrongPredictions,
    opened,
    seed_folder,
    train_seeds,
)

CERTIFICATE_FILE = "certificate.json"
# How often a run that ended before its training did is started again.
_ATTEMPTS = 3


def certify(
    declaration: Declaration, job: SeedsJob, folder: Path, *, processes: int, observer: SeedsObserver
) -> Certificate:
    """Train the declared seeds in their order, until the design reaches a verdict.

    The certificate is written before the first run and after each run; to continue, the folders of the runs that it
    holds are not needed. Outcomes count in declared order, whichever run ends first. A run that failed the accuracy
    rule or diverged is never repeated. A seed whose training crashed is attempted up to three times, and each crash is
    listed. An interrupted certification can be continued and reaches the same verdict.

    Args:
        declaration: what to certify.
        job: how to train a seed of it.
        folder: the folder of the certificate and of the seeds' folders.
        processes: how many seeds to train at a time.
        observer: is called as the seeds proceed.

    Returns:
        The certificate; without a verdict if a seed failed three times.

    Raises:
        SeedsInterrupted: a KeyboardInterrupt came; the certificate so far is written.
        InputError: the folder holds the runs of another declaration or cannot be written, or another process writes to it.
    """
    with opened(folder):
        path = folder / CERTIFICATE_FILE
        certificate = _opened(declaration, path)

        def enough() -> bool:
            """Add finished runs in declared order; return whether a verdict is reached."""
            nonlocal certificate
            runs = list(certificate.runs)
            for seed in declaration.seeds[len(runs) :]:
                run = _ended(seed_folder(folder, seed))
                if run is None or certificate.end:
                    break
                runs.append(run)
                certificate = replace(certificate, runs=tuple(runs))
                certificate.write(path)
            return certificate.end is not None

        attempts: Counter[int] = Counter()
        while not enough() and max(attempts.values(), default=0) < _ATTEMPTS:
            waiting = declaration.seeds[len(certificate.runs) :]
            outcomes = train_seeds(job, waiting, folder, processes=processes, observer=observer, enough=enough)
            failed = [outcome for outcome in outcomes if outcome.record is None]
            attempts.update(outcome.seed for outcome in failed)
            crashes = tuple(Crash(seed=outcome.seed, problem=outcome.problem) for outcome in failed)
            certificate = replace(certificate, crashes=(*certificate.crashes, *crashes))
            certificate.write(path)
    return certificate


def _ended(folder: Path) -> CertifiedRun | None:
    """The run in a folder; None if it has not ended."""
    if not (folder / RECORD_FILE).exists():
        return None
    record = RunRecord.read(folder / RECORD_FILE)
    if record.status == "interrupted":
        return None
    complete = record.status == "complete"
    return CertifiedRun.of(record, WrongPredictions.read(folder / PREDICTIONS_FILE) if complete else None)


def _opened(declaration: Declaration, path: Path) -> Certificate:
    """Read the existing certificate, or write a new one that holds only the declaration."""
    if not path.exists():
        certificate = Certificate(declaration=declaration)
        certificate.write(path)
        return certificate
    certificate = Certificate.read(path)
    found = certificate.declaration
    if changed := [name for name in vars(declaration) if getattr(declaration, name) != getattr(found, name)]:
        raise InputError(
            f"expected a certificate of this declaration in {str(path)!r}, found that of another, which differs in "
            f"{', '.join(changed)}. Choose another folder with --out; a declared certification is not changed."
        )
    return certificate
