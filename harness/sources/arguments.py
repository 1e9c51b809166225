"""Constructor arguments of a model as the user types them: ``--args "dropout_prob=0.1, width=16"``."""

from __future__ import annotations

import ast
from typing import Any

from harness.errors import ModelSourceError

_MAX_CHARACTERS = 2_000


def parse_arguments(text: str) -> dict[str, Any]:
    """Read constructor arguments such as ``dropout_prob=0.1, width=16``; nothing is evaluated.

    Values are literals: numbers, quoted strings, True, False, None, and tuples, lists, dictionaries and sets of these.

    Raises:
        ModelSourceError: the text is anything else.
    """
    try:
        if len(text) > _MAX_CHARACTERS:
            raise ValueError(f"the text is longer than {_MAX_CHARACTERS:,} characters")  # noqa: TRY301 - one message for all
        return _literals(text)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        reason = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
        msg = (
            f'expected constructor arguments as name=literal, such as "dropout_prob=0.1, width=16", got args={text[:200]!r}: '
            f"{reason}. Literals are numbers, quoted strings, True, False, None, and tuples and lists of them"
        )
        raise ModelSourceError(msg) from error


def _literals(text: str) -> dict[str, Any]:
    call = ast.parse(f"_({text}\n)", mode="eval").body
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        raise ValueError("a bracket is closed that was never opened")  # noqa: TRY004 - about the text, not a type
    if call.args:
        raise ValueError(f"{ast.unparse(call.args[0])} has no name")
    found: dict[str, Any] = {}
    for keyword in call.keywords:
        if keyword.arg is None:
            raise ValueError(f"**{ast.unparse(keyword.value)} has no name")
        if keyword.arg in found:
            raise ValueError(f"{keyword.arg} is given twice")
        try:
            found[keyword.arg] = ast.literal_eval(keyword.value)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{keyword.arg}={ast.unparse(keyword.value)} is not a literal") from error
    return found
