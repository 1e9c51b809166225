from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from harness.sources import importing
from harness.sources.importing import is_user_file
from tests.model_files import NET, Load, notebook, refusal, write

pytestmark = pytest.mark.smoke  # each test loads files in processes


def test_a_class_that_is_not_there(load: Load, tmp_path: Path) -> None:
    """A wrong class name is refused with the right ones; a class under a condition or in a function, with its place."""
    guarded = NET.replace("class Net", "class Inner").replace("\n", "\n    ")
    content = f'{NET}\nif __name__ == "__main__":\n    from torch import nn{guarded}\n'
    write(tmp_path, {"net.py": content, "guarded.py": f'if __name__ == "__main__":\n    pass{guarded}\n'})

    assert "found nothing. Models that the file defines: Net" in refusal(load, tmp_path / "net.py:Nett")
    assert "Inner' derived from torch.nn.Module, found nothing (it is defined under `if __name__ == " in refusal(
        load, tmp_path / "net.py:Inner"
    )
    assert "Move the class to the top level of the file" in refusal(load, tmp_path / "guarded.py")


def test_what_a_file_needs_around_it(load: Load, tmp_path: Path) -> None:
    """Relative imports, imports from the project's root and an empty command line work in a file given by its path."""
    files = {
        "pkg/__init__.py": "WIDTH = 10\n",
        "pkg/models/net.py": "import argparse\nfrom .. import WIDTH\nfrom .blocks import Layer\nfrom pkg.sizes import PIXELS\n"
        "from torch import nn\nargparse.ArgumentParser().parse_args()\n"
        "class Net(nn.Sequential):\n    def __init__(self):\n        super().__init__(nn.Flatten(), Layer(PIXELS, WIDTH))\n",
        "pkg/models/blocks.py": "from torch import nn\nclass Layer(nn.Linear):\n    pass\n",
        "pkg/sizes.py": "PIXELS = 784\n",
        "pkg/models/torch.py": "raise RuntimeError('the wrong torch')\n",
        "pkg/models/random.py": "raise RuntimeError('the wrong random')\n",
    }
    model, notes = load(write(tmp_path, files) / "pkg" / "models" / "net.py")

    assert (["1.bias", "1.weight"], []) == (sorted(model.state), notes)
    assert not list(tmp_path.rglob("__pycache__"))


def test_a_model_called_as_a_library(load: Load, tmp_path: Path) -> None:
    """A model file called torch.py does not replace the library that it imports."""
    model, _ = load(write(tmp_path, {"torch.py": NET}) / "torch.py")

    assert model.name.endswith("torch.py:Net")
    assert sys.modules["torch"] is torch


def test_a_package_that_is_missing(load: Load, tmp_path: Path) -> None:
    """A missing package that the model does not need is left out with a note; one that it needs is named in the error."""
    summary = "from nosuchsummary import summary\n"
    write(
        tmp_path,
        {
            "spare.py": summary + NET + "summary(Net())\n",
            "needed.py": "import nosuchlayers\n"
            + NET.replace("nn.Linear(784, width, bias=bias)", "nosuchlayers.Linear()"),
            "base.py": "import nosuchlayers\nclass Net(nosuchlayers.Module):\n    pass\n",
        },
    )

    _, notes = load(tmp_path / "spare.py")

    reason = "ModuleNotFoundError: No module named 'nosuchsummary'"
    assert [f"line 1 of spare.py failed with {reason}; from there on, only definitions are executed"] == notes
    assert "failed with ModuleNotFoundError: No module named 'nosuchlayers'" in refusal(load, tmp_path / "needed.py")
    assert "the module 'nosuchlayers' is neither installed nor in the folder of the file" in refusal(
        load, tmp_path / "base.py"
    )


def test_a_file_that_takes_its_model_from_beside(load: Load, tmp_path: Path) -> None:
    """A notebook that imports its model stands for that model; if the import fails, the error says so."""
    lost = notebook("from nosuch import Net", "size = len('abc')")
    write(tmp_path, {"src/model.py": NET, "work.ipynb": notebook("from src.model import Net"), "lost.ipynb": lost})

    assert f"{tmp_path}/work.ipynb:Net" == load(tmp_path / "work.ipynb")[0].name
    words = refusal(load, tmp_path / "lost.ipynb")
    assert words.endswith("Net is missing: line 1 of cell 2 failed with ModuleNotFoundError: No module named 'nosuch'")


def test_a_class_in_a_package(load: Load) -> None:
    """A class is taken from an installed package; a missing package and a class that is not a model are refused."""
    model, _ = load("torch.nn:Flatten")

    assert "torch.nn:Flatten" == model.name
    assert "the module 'nosuch' is neither installed" in refusal(load, "nosuch.package:Net")
    assert "expected a class 'device' derived from torch.nn.Module, found a class that is not" in refusal(
        load, "torch:device"
    )


@pytest.mark.parametrize(
    ("file", "users"),
    [
        (__file__, True),
        (torch.__file__, False),
        (importing.__file__, False),
        (json.__file__, False),
        (None, False),
        ("x.so", False),
    ],
)
def test_user_files_are_recognised(file: str | None, users: bool) -> None:  # noqa: FBT001 - a table's column
    """Only the user's own Python files are imported a second time."""
    assert users is is_user_file(file)


REST = "; from there on, only definitions are executed"


@pytest.mark.parametrize(
    ("failing", "why"),
    [
        ("open('train.csv')", "FileNotFoundError: [Errno 2] No such file or directory: 'train.csv'"),
        ("assert torch.cuda.device_count() > 99", "AssertionError: no message"),
        ("raise SystemExit(2)", "SystemExit: 2"),
        ("for epoch in range(3):\n    train(epoch)", "NameError: name 'train' is not defined"),
    ],
)
def test_a_statement_that_fails(failing: str, why: str, load: Load, tmp_path: Path) -> None:
    """From a statement that fails on, only the definitions of a file are taken; what stands before it has run."""
    content = f"import torch\nwidth = len('0123456789')\n{failing}\n{NET.replace('width=10', 'width=width')}\nNet().cuda(1 / 0)\n"
    model, notes = load(write(tmp_path, {"net.py": content}) / "net.py")

    assert (10, 784) == tuple(model.state["layer.weight"].shape)
    line = 2 + len(failing.splitlines())
    assert [f"line {line} of net.py failed with {why}{REST}"] == notes


def test_a_class_that_is_replaced_after_a_failure(load: Load, tmp_path: Path) -> None:
    """A class that code which is not run replaces or changes is not the model; simple changes are made."""
    end = "Net.forward = {}\n"
    files = {
        "wrapped.py": f"{NET}1 / 0\nNet = wrap(Net)\n",
        "patched.py": f"{NET}1 / 0\n{end.format('patch()')}",
        "simple.py": f"{NET}1 / 0\ndef wide(self, x):\n    return x.flatten(1)\n{end.format('wide')}",
        "twice.py": f"{NET}1 / 0\nclass Net(Net):\n    size = 1 / 0\n",
    }
    write(tmp_path, files)

    for name in ("wrapped", "patched"):
        assert f"Net is missing: line 12 of {name}.py changes it, and is not run" in refusal(
            load, tmp_path / f"{name}.py"
        )
    assert ("B", 784) == load(tmp_path / "simple.py")[0].graph.evaluate.operations[-1].shape
    assert "line 12 of twice.py failed with ZeroDivisionError" in refusal(load, tmp_path / "twice.py:Net")


@pytest.mark.parametrize(
    "commands",
    [
        "!pip install torchsummary\n%matplotlib inline",
        "# In[1]:\nget_ipython().system('pip install torchsummary')\nget_ipython().run_line_magic('matplotlib', 'inline')",
        "from IPython import get_ipython\nfiles = get_ipython().getoutput('ls')",
    ],
)
def test_a_file_that_a_notebook_exported(commands: str, load: Load, tmp_path: Path) -> None:
    """Commands of a notebook in a Python file let it be read like the notebook: its training is not run."""
    content = f"{commands}\n{NET}\nimport sys\nsys.exit(Net().fit())\n"
    model, notes = load(write(tmp_path, {"work.py": content}) / "work.py")

    assert model.name.endswith("work.py:Net")
    assert [
        "work.py has commands of a notebook and is read like a notebook: only its definitions are executed"
    ] == notes


def test_a_notebook_treats_the_file_beside_it_alike(load: Load, tmp_path: Path) -> None:
    """A file that a notebook, or a file that fails, imports its class from is read as if it were named itself."""
    beside = "import nosuchsummary\n" + NET + "nosuchsummary.summary(Net())\n"
    files = {
        "model.py": beside,
        "exported.py": "!pip install x\n" + NET,
        "deep/layers.py": "open('nosuch.csv')\n" + NET,
        "deep/lost.py": "import nosuchlayers\nclass Net(nosuchlayers.Module):\n    pass\n",
        "work.ipynb": notebook("from model import Net", "net = Net().cuda()"),
        "other.ipynb": notebook("from exported import *"),
        "main.py": "from deep.layers import Net\n1 / 0\n",
        "lost.ipynb": notebook("from deep.lost import Net"),
    }
    write(tmp_path, files)

    _, notes = load(tmp_path / "work.ipynb")
    assert [f"line 1 of model.py failed with ModuleNotFoundError: No module named 'nosuchsummary'{REST}"] == notes
    assert "exported.py failed with SyntaxError: invalid syntax" in load(tmp_path / "other.ipynb")[1][0]
    assert [f"line 1 of {name} failed with" for name in ("main.py", "layers.py")] == [
        note.partition(" with")[0] + " with" for note in load(tmp_path / "main.py")[1]
    ]
    words = refusal(load, tmp_path / "lost.ipynb")
    assert words.endswith("line 2 of lost.py failed with NameError: name 'nosuchlayers' is not defined")


def test_a_model_that_the_file_does_not_reach_is_named(load: Load, tmp_path: Path) -> None:
    """A model in a function or under a condition is left out with its place."""
    inner, other = (f"    class {name}(nn.Module):\n        pass\n" for name in ("Inner", "Other"))
    content = f"{NET}\ndef make():\n{inner}if not Net:\n{other}"
    _, notes = load(write(tmp_path, {"net.py": content}) / "net.py")

    assert [
        "left out: Inner, which is defined in the function make (line 13 of net.py)",
        "left out: Other, which is defined under `if not Net:` (line 16 of net.py)",
    ] == notes
