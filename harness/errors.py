"""Everything the examiner raises on purpose.

Each class derives from the builtin that fits, so that a caller who knows nothing of the harness can still catch it.
Messages are one paragraph: what was expected, what came, what to do.
"""

from __future__ import annotations


class HarnessError(Exception):
    """Base of every error raised on purpose."""


class InputError(HarnessError, ValueError):
    """Something the user gave cannot be used: a path, an option, a file. Exit code 2."""


class ModelSourceError(InputError):
    """A model could not be found, loaded or built from what the user named. Exit code 2."""


class CaptureError(InputError):
    """A model was built, but cannot be captured as a graph. Exit code 2."""


class GraphFormatError(InputError):
    """A serialised graph is malformed, of another version, or asks for an operation that is not allowed. Exit code 2."""


class ContractError(InputError):
    """A contract file is malformed or asks for something that does not exist. Exit code 2."""


class RecipeError(InputError):
    """A training recipe is malformed or out of range. Exit code 2."""


class DataError(InputError):
    """Data files are unusable: the content is not what it should be. Exit code 2."""


class DataMissingError(DataError, FileNotFoundError):
    """Data files are not there and could not be fetched. Exit code 2."""


class CheckpointError(HarnessError, RuntimeError):
    """A checkpoint cannot be resumed from. Exit code 2."""


class ExaminerError(HarnessError, RuntimeError):
    """The examiner itself failed or contradicts itself; never the model's fault. Exit code 4."""
