"""`harness audit`: findings with both quotes, exit codes, JSON and the comparison of submissions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.claims import RULES
from tests.documents import schema_errors

Command = Callable[..., tuple[int, str, str]]
EXAMPLE = {rule.name: rule.example for rule in RULES}


def write(folder: Path, text: str) -> Path:
    """Write a README into a new folder."""
    folder.mkdir()
    path = folder / "README.md"
    path.write_text(text, "utf-8")
    return path


@pytest.mark.parametrize(("rule", "code"), [("count-and-percentage", 1), ("best-above-log", 1), ("best-below-log", 0)])
def test_a_contradiction_or_overstatement_fails(rule: str, code: int, command: Command, tmp_path: Path) -> None:
    """Exit code 1 for what fails and 0 for what is reported; the text quotes what is said and the evidence."""
    ended, out, _ = command("audit", write(tmp_path / "a", EXAMPLE[rule]))
    words = " ".join(out.split())
    assert code == ended
    assert f"claims.{rule}" in words
    assert "evidence README.md:" in words


def test_a_document_without_a_fault_passes(command: Command, tmp_path: Path) -> None:
    """A document whose figures agree has no finding, and the command says what was read."""
    text = EXAMPLE["best-above-log"].replace("99.20", "99.02")
    code, out, _ = command("audit", write(tmp_path / "a", text))
    assert 0 == code
    assert "1 claims, 1 runs, 3 epochs" in " ".join(out.split())


def test_the_document_conforms_to_its_schema(command: Command, tmp_path: Path) -> None:
    """The JSON document holds the counts, the findings with places, and what was not read."""
    folder = tmp_path / "a"
    write(folder, EXAMPLE["count-and-percentage"])
    (folder / "b.md").write_bytes(b"\0")
    code, out, _ = command("audit", folder, "--json", "-")
    document = json.loads(out)
    assert (1, []) == (code, schema_errors(document))
    assert ["README.md", 2] == [document["findings"][0]["said"][key] for key in ("file", "line")]
    assert ["b.md"] == [one["file"] for one in document["unread"]]


def test_a_copied_log_is_found_across_submissions(command: Command, tmp_path: Path) -> None:
    """The same log in two submissions is reported once, a log of its own is not; that is no failure."""
    lines = [
        f"Epoch: {n}\nTest set: Average loss: 0.0{60 - n}, Accuracy: 98{n}0/10000 (98.{n}0%)\n" for n in range(1, 7)
    ]
    own = "".join(lines).replace("0.0", "0.1")
    paths = [
        write(tmp_path / name, text) for name, text in (("a", "".join(lines)), ("b", own), ("c", "".join(lines[1:])))
    ]
    code, out, _ = command("audit", *paths, "--cross", "--json", "-")
    document = json.loads(out)
    assert (0, [], ["same-log"]) == (code, schema_errors(document), [one["rule"] for one in document["findings"]])


def test_what_is_not_read_is_named_across_submissions(command: Command, tmp_path: Path) -> None:
    """A document that cannot be read is named with its submission."""
    paths = [write(tmp_path / name, "# Model 1\n") for name in ("a", "b")]
    paths[1].write_bytes(b"\0")
    code, out, _ = command("audit", *paths, "--cross", "--json", "-")
    document = json.loads(out)
    assert (0, []) == (code, schema_errors(document))
    assert [f"{paths[1]}: README.md"] == [one["file"] for one in document["unread"]]


@pytest.mark.parametrize("options", [("a", "b"), ("a", "--cross"), ("missing.md",)])
def test_a_wrong_usage_is_refused(options: tuple[str, ...], command: Command) -> None:
    """Several paths need --cross, one does not take it, and a path must exist."""
    code, _, err = command("audit", *options)
    assert 2 == code
    assert "expected" in err
