"""Training of the declared seeds of a certificate until the pass-rate test reaches a verdict."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from harness.certification.certificate import Certificate, CertifiedRun, Crash, Declaration
from harness.errors import InputError
from harness.training import (
    PREDICTIONS_FILE,
    SeedsJob,
    SeedsObserver,
    WrongPredictions,
    finished_record,
    opened,
    seed_folder,
    train_seeds,
)

CERTIFICATE_FILE = "certificate.json"
# The largest number of attempts to train a seed whose training crashes.
_ATTEMPTS = 3


def certify(
    declaration: Declaration, job: SeedsJob, folder: Path, *, processes: int, observer: SeedsObserver
) -> Certificate:
    """Train the declared seeds in order until the pass-rate test reaches a verdict.

    The outcomes are counted in declared order, even if the runs end in another order. A run that failed the accuracy
    rule or diverged is never repeated. A seed whose training crashed is attempted up to three times, and the
    certificate lists each crash. The certificate file is written before the first run and after each run, so that an
    interrupted certification can be continued and reaches the same verdict; the folders of runs that are already in the
    certificate are not needed for that.

    Args:
        declaration: the declaration of the certificate.
        job: loads the model and the data for the training of one seed.
        folder: the folder for the certificate file and for one subfolder per seed.
        processes: number of seeds to train at the same time.
        observer: an object whose methods are called as the training of the seeds proceeds.

    Returns:
        The certificate; without a verdict if a seed failed three times.

    Raises:
        SeedsInterrupted: a KeyboardInterrupt came; the certificate so far is written.
        InputError: the folder holds the runs of another declaration or cannot be written, or another process writes to it.
    """
    with opened(folder):
        path = folder / CERTIFICATE_FILE
        certificate = _opened(Certificate(declaration=declaration, sandbox=job.spec.sandbox), path)

        def enough() -> bool:
            """Add the finished runs to the certificate, in declared order; return whether the test has reached a verdict."""
            nonlocal certificate
            runs = list(certificate.runs)
            for seed in declaration.seeds[len(runs) :]:
                run = None if certificate.end else _ended(seed_folder(folder, seed))
                if run is None:
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
    """Read the finished run in a folder, if there is one."""
    record = finished_record(folder)
    if record is None:
        return None
    complete = record.status == "complete"
    return CertifiedRun.of(record, WrongPredictions.read(folder / PREDICTIONS_FILE) if complete else None)


def _opened(new: Certificate, path: Path) -> Certificate:
    """Read the existing certificate, or write a new certificate that has no runs yet."""
    if not path.exists():
        new.write(path)
        return new
    certificate = Certificate.read(path)
    declared, found = vars(new.declaration), vars(certificate.declaration)
    if changed := [name for name in declared if declared[name] != found[name]]:
        raise InputError(
            f"expected {str(path)!r} to hold a certificate with the same declaration, got a certificate whose declaration "
            f"differs in {', '.join(changed)}. Choose another folder with --out: the declaration of an existing certificate "
            "cannot be changed."
        )
    return certificate
