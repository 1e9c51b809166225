from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import ModelSourceError
from harness.sources import load_model
from tests.model_files import IMPORTS, NET, Load, flat, notebook, refusal, write


def test_a_folder_with_one_model(load: Load, tmp_path: Path) -> None:
    """One network in a file and in a notebook, and a block in a file of its own, are one clear choice."""
    uses = "from torch import nn\nfrom blocks import Block\nclass Net(nn.Sequential):\n    def __init__(self):\n"
    files = {
        "blocks.py": NET.replace("Net", "Block").replace("width=10", "width"),
        "net.py": uses + "        super().__init__(Block(10))\n",
        "work.ipynb": notebook(IMPORTS + flat("Same")),
        "train.py": "raise RuntimeError('never imported')\n",
        "tests/test_net.py": IMPORTS + flat("Stub", bias=False),
    }

    model, notes = load(write(tmp_path, files))

    assert f"{tmp_path}/net.py:Net" == model.name
    assert [
        f"taking {model.name}, which is the same network as {tmp_path}/work.ipynb:Same; left out: {tmp_path}/blocks.py:Block"
    ] == notes


def test_a_folder_with_several_models(load: Load, tmp_path: Path) -> None:
    """Different networks in a folder are listed as they can be typed; a class name with the folder chooses one."""
    files = {"a b.py": IMPORTS + flat("Net"), "b.py": IMPORTS + flat("Other", bias=False), "c.py": f"1 / 0\n{NET}"}
    write(tmp_path, files)

    words = refusal(load, tmp_path)

    assert f"'{tmp_path}/a b.py:Net' (7,850 parameters, output (B, 10)); {tmp_path}/b.py:Other (7,840" in words
    assert "c.py (importing" in words
    assert f"{tmp_path}/b.py:Other" == load(f"{tmp_path}:Other")[0].name


def test_a_folder_with_too_many_models(tmp_path: Path) -> None:
    """More files than can be loaded in time are listed before anything is imported."""
    write(
        tmp_path,
        {f"net{number}.py": "from torch import nn\nclass Net(nn.Module):\n    1 / 0\n" for number in range(13)},
    )

    with pytest.raises(ModelSourceError, match="holds 13 files that define models, more than the 12 that are loaded"):
        load_model(str(tmp_path))
