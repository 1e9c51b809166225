"""Training of the declared seeds of a certificate until the pass-rate test reaches a verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from harness.certification.certificate import Certificate, CertifiedRun, Crash, Declaration
from harness.certification.consistency import require_test_images
from harness.errors import InputError
from harness.training import (
    PREDICTIONS_FILE,
    RECORD_FILE,
    RunRecord,
    SeedOutcome,
    SeedsJob,
    SeedsObserver,
    WrongPredictions,
    opened,
    seed_folder,
    train_seeds,
)

CERTIFICATE_FILE = "certificate.json"
# The largest number of attempts to train a seed whose training crashes.
_ATTEMPTS = 3
# Fields in which a run must agree with the declaration.
_DECLARED = ("graph_digest", "recipe", "data_digest", "engine", "device")


def certify(
    declaration: Declaration,
    job: SeedsJob,
    folder: Path,
    *,
    processes: int,
    observer: SeedsObserver,
    on_wait: Callable[[], None] | None = None,
) -> Certificate:
    """Train the declared seeds in order until the pass-rate test reaches a verdict.

    The outcomes are counted in declared order, even if the runs end in another order. A run that failed the accuracy
    rule or diverged is never repeated. A seed whose training crashed is attempted up to three times, before further
    seeds are started, and the certificate lists each crash. The certificate file is written before the first run and
    after each run and crash, so that an interrupted certification can be continued and reaches the same verdict; the
    folders of runs that are already in the certificate are not needed for that.

    Args:
        declaration: the declaration of the certificate.
        job: loads the model and the data for the training of one seed.
        folder: the folder for the certificate file and for one subfolder per seed.
        processes: number of seeds to train at the same time.
        observer: an object whose methods are called as the training of the seeds proceeds.
        on_wait: called before the end of another process that writes to the folder is waited for; without it, such a
            process is an error.

    Returns:
        The certificate; without a verdict if the training of a seed crashed three times.

    Raises:
        SeedsInterrupted: a KeyboardInterrupt came; the certificate so far is written.
        InputError: the folder holds the runs of another declaration or of training with ``--validation``, or cannot be
            written, or another process writes to it.
    """
    with opened(folder, on_wait=on_wait):
        path = folder / CERTIFICATE_FILE
        certificate = _opened(Certificate(declaration=declaration, sandbox=job.spec.sandbox), path)
        for seed in declaration.seeds[len(certificate.runs) :]:
            _refuse_validation(seed_folder(folder, seed) / RECORD_FILE)

        ended: dict[int, CertifiedRun] = {}
        attempts: Counter[int] = Counter()

        def enough(outcome: SeedOutcome) -> bool:
            """Add the runs that have ended, in declared order, or the crash; return whether no further seed is to be started."""
            nonlocal certificate
            if outcome.record is None:
                attempts[outcome.seed] += 1
                crash = Crash(seed=outcome.seed, problem=outcome.problem)
                certificate = replace(certificate, crashes=(*certificate.crashes, crash))
                certificate.write(path)
                return True
            ended[outcome.seed] = _certified(outcome.record, outcome.folder, declaration)
            while not certificate.end and (run := ended.get(declaration.seeds[len(certificate.runs)])):
                certificate = replace(certificate, runs=(*certificate.runs, run))
                certificate.write(path)
            return certificate.end is not None

        while not certificate.end and max(attempts.values(), default=0) < _ATTEMPTS:
            waiting = declaration.seeds[len(certificate.runs) :]
            train_seeds(job, waiting, folder, processes=processes, observer=observer, enough=enough)
    return certificate


def _refuse_validation(path: Path) -> None:
    """Refuse a record, if there is one, of a run that was tested on training images; a damaged one says nothing."""
    try:
        record = RunRecord.read(path) if path.exists() else None
    except InputError:
        return
    if record:
        require_test_images(record)


def _certified(record: RunRecord, folder: Path, declaration: Declaration) -> CertifiedRun:
    """Summarise the run in a folder.

    Raises:
        InputError: the run is of another network, recipe, data set, engine or device than declared.
    """
    if changed := [name for name in _DECLARED if getattr(record, name) != getattr(declaration, name)]:
        raise InputError(
            f"expected {str(folder)!r} to hold a run as declared, got a run with another {', '.join(changed)}. Keep model and "
            "data unchanged during a certification, and choose another folder with --out."
        )
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
