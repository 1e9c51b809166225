"""Grading many submissions, several at a time, each of which ends in a verdict."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import cast

from harness.errors import ExaminerError, HarnessError, InputError
from harness.grading.examiner import Grader, examiner_failed, grade
from harness.grading.results import Results, places_for
from harness.grading.verdict import Verdict
from harness.sandbox import warm_workers
from harness.sandbox.kernel import end_with_parent
from harness.training.processes import process_context

_PRELOADED_MODULES = ["harness.grading", "torch._dynamo"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """A submission to grade: its path, its name in reports, and the name of its folder in the results."""

    path: Path
    name: str
    place: str


def tasks_for(paths: Sequence[Path]) -> tuple[Task, ...]:
    """Return a task for each path; two paths that end in the same name are named in full."""
    last = [path.resolve().name for path in paths]
    names = [name if last.count(name) == 1 else str(path) for name, path in zip(last, paths, strict=True)]
    return tuple(
        Task(path=path, name=name, place=place)
        for path, name, place in zip(paths, names, places_for(names), strict=True)
    )


def grade_all(
    tasks: Sequence[Task],
    grader: Grader,
    results: Results | None,
    *,
    jobs: int = 1,
    on_verdict: Callable[[Verdict], None] = lambda _: None,
) -> tuple[Verdict, ...]:
    """Grade all submissions and return their verdicts in the order of the tasks.

    A submission on which an earlier call has reached a verdict is not graded again. If the examiner's process dies on one,
    the verdict on this one is an ``error``.

    Args:
        tasks: the submissions.
        grader: how they are graded; sent to each process, so that it must be picklable if there are several submissions.
        results: where the results are written, each as soon as it is there; None to write none.
        jobs: the number of submissions to grade at a time; of several, each is graded in a process that no other one needs.
        on_verdict: called with each verdict as soon as it is there.

    Raises:
        InputError: the results cannot be written.
    """
    if results:
        for task in tasks:
            results.require_apart(task.path, task.place)
        example = examiner_failed(grader, "example", ExaminerError("not graded yet"))
        results.begin([task.place for task in tasks], example)
    verdicts: dict[str, Verdict] = {}
    graded = (
        _graded_in_processes(tasks, grader, results, min(jobs, len(tasks)))
        if len(tasks) > 1
        else _graded_here(tasks, grader, results)
    )
    for task, verdict in graded:
        verdicts[task.place] = verdict
        on_verdict(verdict)
    ordered = tuple(verdicts[task.place] for task in tasks)
    if results:
        results.write_class(ordered)
    return ordered


_Graded = Iterator[tuple[Task, Verdict]]


def _one(task: Task, grader: Grader, results: Results | None) -> Verdict:
    basis = grader.basis()

    def known(digest: str) -> Verdict | None:
        return results.earlier(task.place, basis, digest) if results else None

    verdict = grade(task.path, grader, name=task.name, store=results, known=known)
    if results:
        results.write(task.place, verdict)
    return verdict


def _graded_here(tasks: Sequence[Task], grader: Grader, results: Results | None) -> _Graded:
    with warm_workers():
        for task in tasks:
            yield task, _one(task, grader, results)


def _graded_in_processes(tasks: Sequence[Task], grader: Grader, results: Results | None, jobs: int) -> _Graded:
    waiting = list(reversed(tasks))
    running: dict[Connection, tuple[BaseProcess, Task]] = {}

    def give(connection: Connection, process: BaseProcess) -> None:
        if waiting:
            running[connection] = (process, waiting.pop())
            connection.send(running[connection][1])
        else:
            connection.send(None)
            process.join()

    try:
        for _ in range(jobs):
            give(*_started(grader, results))
        while running:
            for ready in wait(list(running)):
                connection = cast("Connection", ready)
                process, task = running.pop(connection)
                try:
                    answer = connection.recv()
                except (EOFError, OSError):
                    process.join()
                    answer = examiner_failed(grader, task.name, _crash(process.exitcode or 0))
                    if results:
                        results.write(task.place, answer)
                    if waiting:
                        give(*_started(grader, results))
                else:
                    if isinstance(answer, Exception):
                        raise answer
                    give(connection, process)
                yield task, answer
    finally:
        for process, _ in running.values():
            process.kill()
            process.join()


def _crash(exit_code: int) -> HarnessError:
    if exit_code == -signal.SIGKILL:
        return InputError("the process that graded the submission was killed, as where the memory is not enough")
    return ExaminerError(f"the examiner's process ended with exit code {exit_code}")


def _started(grader: Grader, results: Results | None) -> tuple[Connection, BaseProcess]:
    context = process_context(_PRELOADED_MODULES)
    ours, theirs = context.Pipe()
    process: BaseProcess = getattr(context, "Process")(target=_serve, args=(grader, results, theirs))  # noqa: B009 - typeshed's base context has none
    process.start()
    theirs.close()
    return ours, process


def _serve(grader: Grader, results: Results | None, connection: Connection) -> None:
    """Grade what comes on the connection, one after the other, until None comes."""
    # Ctrl-C sends SIGINT to all processes of the terminal; only the parent answers it, and ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        end_with_parent(os.getppid())
        # Where the memory is not enough, Linux ends this process, not the one that goes on with the other submissions.
        Path("/proc/self/oom_score_adj").write_text("500", "ascii")
    with warm_workers(), contextlib.suppress(EOFError, BrokenPipeError):
        while task := connection.recv():
            try:
                answer: Verdict | Exception = _one(task, grader, results)
            except HarnessError as problem:
                answer = problem
            connection.send(answer)
