from __future__ import annotations

import json

import pytest
import torch

from harness.determinism import user_files
from harness.determinism.user_files import is_user_file


@pytest.mark.parametrize(
    ("file", "users"),
    [
        (__file__, True),
        (torch.__file__, False),
        (user_files.__file__, False),
        (json.__file__, False),
        (None, False),
        ("x.so", False),
    ],
)
def test_user_files_are_recognised(file: str | None, users: bool) -> None:  # noqa: FBT001 - a table's column
    """Only the user's own Python files are imported a second time."""
    assert users is is_user_file(file)
