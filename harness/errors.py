"""The exceptions that the harness raises.

Each class also derives from the builtin exception of the same kind, so that callers can catch the builtin exception. A
message is one paragraph: what was expected, what was given, what to do. If there are choices, they follow the paragraph
as a list, see `one_a_line`.
"""

from __future__ import annotations

from collections.abc import Iterable


class HarnessError(Exception):
    """Base class of all exceptions of the harness."""


class InputError(HarnessError, ValueError):
    """A path, an option or a file that the user named cannot be used. Exit code 2."""


class WriteError(InputError):
    """A file or a folder cannot be written, such as on a full disk. Exit code 2."""


class ModelSourceError(InputError):
    """The model that the argument MODEL names could not be found, imported or built. Exit code 2."""


class BusyError(ModelSourceError):
    """The machine was too busy to import PyTorch in time; no code of the file has run. Exit code 2."""


class SlowModelError(ModelSourceError):
    """A file was not imported, or its model not built, within the time limit; a faster machine may need less. Exit code 2."""


class SandboxError(InputError):
    """A layer of the sandbox that was required does not hold; no code of the model has run. Exit code 2."""


class SubmissionError(InputError):
    """A submission is refused: it is damaged, too large, or holds what no model needs. Exit code 2."""


class CaptureError(InputError):
    """A model was built, but its operations cannot be captured as a graph. Exit code 2."""


class GraphFormatError(InputError):
    """A graph file is malformed, has another version, or contains an operation that is not allowed. Exit code 2."""


class ContractError(InputError):
    """A contract is malformed or does not exist. Exit code 2."""


class RecipeError(InputError):
    """A training recipe is malformed, or a value in the recipe is out of range. Exit code 2."""


class DataError(InputError):
    """Data files are damaged or have other content than published. Exit code 2."""


class DataMissingError(DataError, FileNotFoundError):
    """Data files were not found and could not be downloaded. Exit code 2."""


class CheckpointError(HarnessError, RuntimeError):
    """A run cannot be resumed, because the checkpoint in the folder is from a run with other settings. Exit code 2."""


class ExaminerError(HarnessError, RuntimeError):
    """An internal error of the harness, such as results that contradict each other; not caused by the model. Exit code 4."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, without a final full stop, for use inside another message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else "no message").rstrip(".")[:300]


def one_a_line(items: Iterable[str]) -> str:
    """Format a list for the end of a message, with one item per line, each after a hyphen."""
    return "".join(f"\n- {' '.join(item.split())}" for item in items)
