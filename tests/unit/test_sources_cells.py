from __future__ import annotations

import ast
import json
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
    """Cells of text count, worksheets of old notebooks are read, and a Python file is one cell, whatever its bytes."""
    old = {"worksheets": [{"cells": [{"cell_type": "code", "input": ["x = ", "1"]}]}]}
    write(tmp_path, {"new.ipynb": notebook("x = 1", "y = 2"), "old.ipynb": json.dumps(old)})
    (tmp_path / "net.py").write_bytes(b"\xef\xbb\xbfx = 1  # caf\xe9")

    assert [("cell 2", "x = 1"), ("cell 3", "y = 2")] == [
        (cell.place, cell.source) for cell in read_cells(tmp_path / "new.ipynb")
    ]
    assert [("cell 1", "x = 1")] == [(cell.place, cell.source) for cell in read_cells(tmp_path / "old.ipynb")]
    assert [("net.py", "x = 1  # caf\ufffd")] == [(cell.place, cell.source) for cell in read_cells(tmp_path / "net.py")]


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
