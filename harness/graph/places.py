"""Locations in a user's own files (file and line) of running code, errors and exported operations."""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import FrameType

import torch

_HARNESS, _TORCH, _PYTHON = (str(Path(file).parent) for file in (Path(__file__).parent, torch.__file__, os.__file__))
_STACK_LINE = re.compile(r'File "([^"]*)", line (\d+)')


def place_of(frame: FrameType | None) -> str:
    """The innermost line of user code in a frame's call stack, as in `` in line 3 of net.py``; empty if there is none."""
    places = []
    while frame is not None:
        places.append((frame.f_code.co_filename, frame.f_lineno))
        frame = frame.f_back
    return _first(places)


def place_of_error(error: BaseException) -> str:
    """The innermost line of user code in an error's traceback, in the format of `place_of`; empty if there is none."""
    frames = traceback.extract_tb(error.__traceback__)
    return _first((frame.filename, frame.lineno or 0) for frame in reversed(frames))


def place_in_stack(stack: str | None) -> str:
    """The innermost line of user code in torch's stack trace of an exported operation, in the format of `place_of`."""
    return _first((file, int(line)) for file, line in reversed(_STACK_LINE.findall(stack or "")))


def _first(places: Iterable[tuple[str, int]]) -> str:
    """The first location outside Python and torch, formatted; empty if the harness comes before, or there is none."""
    for file, line in places:
        if file.startswith(_HARNESS):
            return ""
        of_python = file.startswith(_PYTHON) and "site-packages" not in file
        if not (of_python or file.startswith(("<", _TORCH))):
            return f" in line {line} of {Path(file).name}"
    return ""
