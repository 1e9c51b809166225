from __future__ import annotations

from pathlib import Path

from tests.model_files import NET, Load, notebook, refusal, write


def test_a_notebook(load: Load, tmp_path: Path) -> None:
    """The definitions of a notebook are taken, the rest of it is not run, and a note names each cell that is left out."""
    cells = (
        "%matplotlib inline\n!pip install nosuch\nimport torch\nfrom torch import nn",
        "import nosuch\nfrom google.colab import drive",
        "WIDTH: int = 5 * 2\nraise RuntimeError('this is not run')",
        "print 'no Python 3'",
        "class Net(nn.Module):\n    pass",
        "%%time\n" + NET.replace("width=10", "width=WIDTH"),
    )
    model, notes = load(write(tmp_path, {"my net.ipynb": notebook(*cells)}) / "my net.ipynb:Net")

    assert ("B", 10) == model.graph.evaluate.operations[-1].shape
    assert [
        "my net.ipynb: cell 5 is left out: it is not valid Python",
        "my net.ipynb: Net is defined 2 times",
    ] == [note.partition(" (")[0] for note in notes]


def test_a_notebook_whose_model_needs_what_is_not_run(load: Load, tmp_path: Path) -> None:
    """A name that is assigned by code that is not run is missing, and the message says where that code is."""
    calls = notebook("size = dict()", "import torch\n" + NET.replace("784, width", "784, size"))
    write(tmp_path, {"net.ipynb": calls})

    words = "NameError: name 'size' is not defined. size is missing: it is assigned in line 1 of cell 2, by code that is not run"
    assert words in refusal(load, tmp_path / "net.ipynb")
