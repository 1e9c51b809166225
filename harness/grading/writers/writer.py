"""The form of a writer, and what the writers share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, TypeVar

from harness.grading.verdict import Verdict
from harness.reporting import harmless

T = TypeVar("T")


class Scope(StrEnum):
    """What a file is written for."""

    SUBMISSION = "submission"
    CLASS = "class"


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a file says that is no part of a verdict.

    ``environment`` holds the environment variables of the process; ``graded_at`` is in UTC.
    """

    environment: Mapping[str, str]
    graded_at: datetime


@dataclass(frozen=True, kw_only=True)
class Writer:
    """A format of reports.

    ``write`` returns the content of the file ``file_name``; it takes exactly one verdict if the scope is a submission.
    """

    name: str
    scope: Scope
    file_name: str
    write: Callable[[Sequence[Verdict], Context], bytes]


def with_harmless_texts(value: T) -> T:
    """Return a verdict, or a part of one, with `harmless` applied to all its texts."""
    changed: Any = value
    if isinstance(value, str) and not isinstance(value, StrEnum):
        changed = harmless(value)
    elif isinstance(value, tuple):
        changed = tuple(map(with_harmless_texts, value))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        changed = dataclasses.replace(changed, **{name: with_harmless_texts(getattr(value, name)) for name in names})
    return changed  # type: ignore[no-any-return]
