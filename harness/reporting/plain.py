"""Text of others, such as the names in a submission, made harmless for terminals, logs, spreadsheets and pages."""

from __future__ import annotations

import re
import unicodedata

_ESCAPE_CODES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-~])")
# GitHub's runner carries out a line that begins with the first prefix, or contains the second.
_COMMANDS = (("::", ": :"), ("##[", "# #["))


def harmless(text: str, *, most: int = 2000) -> str:
    r"""Return the text as one line of visible characters, of at most ``most`` bytes in UTF-8.

    Escape codes are left out; other characters that are invisible, change the direction of writing or have no meaning
    (Unicode's categories C, Zl and Zp) are written as their code, such as ``\u202e``. Prefixes of workflow commands are
    separated by a space. A longer text ends with an ellipsis.
    """
    # The first cut bounds the work.
    text = " ".join(_ESCAPE_CODES.sub("", text[: 8 * most]).split())
    text = "".join(f"\\u{ord(one):04x}" if _is_invisible(one) else one for one in text)
    for prefix, separated in _COMMANDS:
        while prefix in text:
            text = text.replace(prefix, separated)
    return shortened(text, most)


def shortened(text: str, most: int) -> str:
    """Return the text if it has at most ``most`` bytes in UTF-8, otherwise its beginning and an ellipsis."""
    content = text.encode()
    return text if len(content) <= most else content[: most - len("…".encode())].decode(errors="ignore") + "…"


def _is_invisible(character: str) -> bool:
    category = unicodedata.category(character)
    return category.startswith("C") or category in ("Zl", "Zp")
