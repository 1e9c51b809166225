"""Texts of error messages."""

from __future__ import annotations

import pytest

from harness.errors import visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("caf\u00e9 \u4e2d\n\tx::y :: z", "caf\u00e9 \u4e2d\n\tx::y :: z"),
        ("\x1b[2J\x00\r\x9b", r"\u001b[2J\u0000\u000d\u009b"),
        ("::error::x\n  ::set-output name=x::1\n:x", "\\u003a:error::x\n  \\u003a:set-output name=x::1\n:x"),
        ("\u202egnp.py\u2028\ud800", r"\u202egnp.py\u2028\ud800"),
    ],
)
def test_a_text_of_a_user_acts_on_nothing(text: str, shown: str) -> None:
    """Codes of terminals, workflow commands, reversed text and halves of characters are shown as escapes."""
    assert shown == visible(text)
