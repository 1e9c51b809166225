from __future__ import annotations

import pytest

from harness.reporting import harmless, shortened


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Café, größer als 3", "Café, größer als 3"),
        ("a\x1b[31mred\x1b[0m\x1b]0;title\x07", "ared"),
        ("\x1b\x00", "\\u001b\\u0000"),
        ("two\r\nlines\tand\u2028more", "two lines and more"),
        ("\u202egnp.exe\u2066\u200f", "\\u202egnp.exe\\u2066\\u200f"),
        ("\ud800\ufffe\U000e0041", "\\ud800\\ufffe\\ue0041"),
        ("::error file=a::b", ": :error file=a: :b"),
        (":::::", ": : : : :"),
        ("##[group]x", "# #[group]x"),
    ],
)
def test_a_text_becomes_one_visible_line(text: str, expected: str) -> None:
    """Letters of all languages stay; escape codes go, invisible characters and workflow commands become visible words."""
    assert expected == harmless(text)


def test_a_long_text_is_cut_within_its_bytes() -> None:
    """The limit counts bytes, and no character is cut in two."""
    assert "é" * 48 + "…" == harmless("é" * 10_000, most=100)
    assert "a" * 100 == shortened("a" * 100, 100)
    assert "a" * 97 + "…" == shortened("a" * 101, 100)
