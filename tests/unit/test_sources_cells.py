from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

from harness.errors import ModelSourceError
from harness.sources.cells import parse, read_cells
from tests.model_files import notebook, write


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("%matplotlib inline\nx = 1", "pass\nx = 1"),
        ("if x:\n    !pip install \\\n        y\nz = 1", "if x:\n    pass\n    pass\nz = 1"),
        ("files = !ls\nprint?\n?print", "pass\npass\npass"),
        ("x = (3\n%2)", "x = 3 % 2"),
        ("%%time\nx = 1", "pass\nx = 1"),
        ("%%bash\nls", ""),
        ("%%writefile net.py\nx = 1", "pass\nx = 1"),
        ("%%writefile notes.txt\nx = 1", ""),
    ],
)
def test_magics_are_left_out(source: str, lines: str) -> None:
    """Magics and shell lines are no code; a line of Python that begins with a percent sign is, and so is a timed cell."""
    assert ast.unparse(ast.parse(lines)) == ast.unparse(parse(source))


@pytest.mark.parametrize("source", ["print 'no'", "\0", "[" * 10_000])
def test_what_is_not_python_is_a_syntax_error(source: str) -> None:
    """Whatever Python raises for text that is not Python, it is a syntax error."""
    with pytest.raises(SyntaxError):
        parse(source)


def test_code_cells_are_numbered_as_in_the_notebook(tmp_path: Path) -> None:
    """Cells of text count, worksheets of old notebooks are read, and a Python file is one cell, in the encoding it declares."""
    old = {"worksheets": [{"cells": [{"cell_type": "code", "input": ["x = ", "1"]}]}]}
    write(tmp_path, {"new.ipynb": notebook("x = 1", "y = 2"), "old.ipynb": json.dumps(old)})
    (tmp_path / "net.py").write_bytes(b"\xef\xbb\xbfx = 1\r\ny = 2\r\n")
    (tmp_path / "old.py").write_bytes(b"#!/usr/bin/python\n# -*- coding: cp1252 -*-\nx = 1  # caf\xe9")

    assert [("cell 2", "x = 1"), ("cell 3", "y = 2")] == [
        (cell.place, cell.source) for cell in read_cells(tmp_path / "new.ipynb")
    ]
    assert [("cell 1", "x = 1")] == [(cell.place, cell.source) for cell in read_cells(tmp_path / "old.ipynb")]
    assert [("net.py", "x = 1\ny = 2\n")] == [(cell.place, cell.source) for cell in read_cells(tmp_path / "net.py")]
    assert read_cells(tmp_path / "old.py")[0].source.endswith("x = 1  # café")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("not JSON", "is not a Jupyter notebook: expected a JSON document with a list of cells, got JSONDecodeError"),
        ("[]", "is not a Jupyter notebook"),
        ("{}", "is not a Jupyter notebook"),
        ('{"cells": [{}]}', "is not a Jupyter notebook"),
        ('{"cells": [], "metadata": {"language_info": {"name": "R"}}}', "with language='R'"),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_what_is_no_notebook_is_refused(content: str | None, words: str, tmp_path: Path) -> None:
    """A document without cells, a notebook of another language and a file that is missing are refused with the reason."""
    if content is not None:
        write(tmp_path, {"net.ipynb": content})

    with pytest.raises(ModelSourceError, match=words):
        read_cells(tmp_path / "net.ipynb")


CODE = "# Modèle d'élève\nclass Net:\n    pass\n"
JSON = notebook(CODE)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "net.py",
            CODE.encode("cp1252"),
            "not encoded in UTF-8, as expected: byte 0xe8 in line 1. The encoding is probably cp1252 (Wind",
        ),
        (
            "net.py",
            CODE.encode("cp1252"),
            "iconv -f cp1252 -t utf-8 net.py > new-net.py, or declare the encoding in the first line",
        ),
        ("my net.ipynb", b'{"cells": "\xe9"}', "iconv -f cp1252 -t utf-8 'my net.ipynb' > 'new-my net.ipynb'"),
        (
            "net.py",
            b"# -*- coding: ascii -*-\n" + CODE.encode(),
            "not encoded in ASCII, as expected: byte 0xc3 in line 2",
        ),
        ("net.py", b"# coding: nosuch\nx = 1\n", "declares the encoding 'nosuch', which Python does not know"),
        ("net.py", b"x = '\x81\xff'", "byte 0x81 in line 1. Save the file as UTF-8 in an editor"),
        ("net.py", CODE.encode("utf-16"), "net.py is encoded in UTF-16: expected UTF-8. Save the file as UTF-8"),
        ("net.py", CODE.encode("utf-16-le"), "net.py is encoded in UTF-16-LE"),
        ("net.ipynb", JSON.encode("utf-16-be"), "net.ipynb is encoded in UTF-16-BE"),
        ("net.ipynb", b"\xfe\xff" + JSON.encode("utf-16-be"), "net.ipynb is encoded in UTF-16"),
        ("net.py", CODE.encode("utf-32"), "net.py is encoded in UTF-32"),
        ("net.ipynb", b"", "net.ipynb is an empty file (0 bytes): expected a Jupyter notebook"),
        ("net.ipynb", b"\xef\xbb\xbf \n", "net.ipynb is an empty file (5 bytes)"),
        ("net.py", b"", "net.py is an empty file (0 bytes): expected Python code"),
        ("net.py", JSON.encode(), "net.py is a Jupyter notebook: expected Python code. Rename the file to net.ipynb"),
        ("net.py", b"PK\x03\x04\x00\x00", "net.py is not text but a ZIP archive, such as torch.save writes"),
        ("net.ipynb", b"\x1f\x8b\x08", "net.ipynb is not text but a gzip archive"),
        ("net.py", b"x = 1\n\x00\x01y = 2\n", "net.py is not text but binary data"),
        ("net.ipynb", b"\n<!DOCTYPE html><html>", "net.ipynb is an HTML page that a browser saved"),
    ],
)
def test_what_is_no_text_in_utf_8_is_refused(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    """Another encoding, a file of another kind and an empty one are named, with what to do."""
    (tmp_path / name).write_bytes(content)

    with pytest.raises(ModelSourceError, match=re.escape(words)):
        read_cells(tmp_path / name)
