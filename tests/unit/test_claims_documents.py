"""Documents become lines with their places; what cannot be read is named, and nothing outside the path is opened."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import nbformat
import pytest

from harness.claims.documents import MAX_LINE, Document, Line, find_documents
from harness.claims.evidence import Unread
from harness.errors import InputError


def lines(path: Path) -> list[tuple[str, str]]:
    """The place and the text of each line, or the reason why it was not read."""
    found = Document(path=path, name=path.name).lines()
    return [(str(one.place), one.text if isinstance(one, Line) else one.reason) for one in found]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_is_read_in_its_encoding(encoding: str, tmp_path: Path) -> None:
    """A byte order mark tells the encoding, as that of a log that PowerShell wrote."""
    path = tmp_path / "a.log"
    path.write_bytes("Epoch: 1\r\n█ done\n".encode(encoding))
    assert [("a.log:1", "Epoch: 1"), ("a.log:2", "█ done")] == lines(path)


def test_a_line_is_what_a_terminal_shows(tmp_path: Path) -> None:
    """The last state of a line that was updated in place is read, without colours; undecodable bytes do not matter."""
    path = tmp_path / "a.log"
    path.write_bytes(b"10%|#\r99%|##\r\x1b[32m100%|###\x1b[0m\r   \r\n\xffend\n")
    assert [("a.log:1", "100%|###"), ("a.log:2", "\ufffdend")] == lines(path)


def test_a_line_that_is_too_long_is_named(tmp_path: Path) -> None:
    """A long line is not read, and the next one is; the last state of a line updated in place is short."""
    path = tmp_path / "a.md"
    path.write_text("9" * (MAX_LINE + 1) + "\n" + "50%|##\r" * 50_000 + "100%|####\n", "utf-8")
    assert [("a.md:1", f"a line of {MAX_LINE + 2:,} characters is not read"), ("a.md:2", "100%|####")] == lines(path)


def test_a_notebook_has_cells_and_outputs(tmp_path: Path) -> None:
    """Lines of a notebook are counted within the cell's source or the output."""
    v4: Any = nbformat.v4
    output = v4.new_output("stream", name="stdout", text="Epoch: 1\nTest\n")
    cells = [v4.new_markdown_cell("# Model 1\ntext"), v4.new_code_cell("train()", outputs=[output])]
    path = tmp_path / "a.ipynb"
    path.write_text(v4.writes(v4.new_notebook(cells=cells)), "utf-8")
    found = dict(lines(path))
    assert "# Model 1" == found["a.ipynb: cell 1, line 1"]
    assert "train()" == found["a.ipynb: cell 2, line 1"]
    assert "Test" == found["a.ipynb: cell 2, output 1, line 2"]


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"cells": 3, "nbformat": 4, "nbformat_minor": 5, "metadata": {}}',
        b'{"cells": [{"cell_type": "code", "outputs": 7}], "nbformat": 4, "nbformat_minor": 5, "metadata": {}}',
        b'{"nbformat": "x"}',
        b"{}",
        b'{"cells": [{"cell_type": "code", "source": [], "outputs": []}], "nbformat": 4, "nbformat_minor": 5, "metadata": {}}',
        b'{"cells": [{"cell_type": "markdown", "source": []}], "nbformat": 4, "nbformat_minor": 2, "metadata": {}}',
        b'{"nbformat": 3, "nbformat_minor": 0, "worksheets": [{"cells": [{"cell_type": "code", "input": "x"}]}]}',
        b'{"nbformat": 2, "worksheets": [{"cells": [{"cell_type": "code"}]}]}',
    ],
)
def test_a_notebook_that_is_none_is_named(content: bytes, tmp_path: Path) -> None:
    """Malformed, deeply nested and foreign JSON is no notebook, and no error either."""
    path = tmp_path / "a.ipynb"
    path.write_bytes(content)
    found = list(Document(path=path, name="a.ipynb").lines())
    assert any(isinstance(one, Unread) for one in found)


def test_a_binary_file_is_not_read(tmp_path: Path) -> None:
    """A file with null bytes is named."""
    path = tmp_path / "a.txt"
    path.write_bytes(b"PK\x03\x04\0\0")
    assert [("a.txt:1", "a binary file is not read")] == lines(path)


def test_only_regular_files_of_the_folder_are_read(tmp_path: Path) -> None:
    """Links, pipes, hidden folders and environments are left out; links and pipes are named."""
    folder = tmp_path / "submission"
    for name in ("docs", ".ipynb_checkpoints", "venv"):
        (folder / name).mkdir(parents=True)
        (folder / name / "a.md").touch()
    (tmp_path / "secret.md").touch()
    (folder / "link.md").symlink_to(tmp_path / "secret.md")
    (folder / "out").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe.log")
    documents, left_out = find_documents(folder)
    assert ["docs/a.md"] == [document.name for document in documents]
    assert ["out", "link.md", "pipe.log"] == [one.place.file for one in left_out]


@pytest.mark.parametrize("name", ["missing.md", "empty", "pipe"])
def test_a_path_without_a_document_is_refused(name: str, tmp_path: Path) -> None:
    """A path that does not exist, a folder without documents and a pipe are input errors."""
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="expected a"):
        find_documents(tmp_path / name)
