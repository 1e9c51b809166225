from __future__ import annotations

import sys
from pathlib import Path

import torch

from tests.model_files import NET, Load, notebook, refusal, write


def test_a_class_that_is_not_there(load: Load, tmp_path: Path) -> None:
    """A wrong class name is refused with the right ones; a class under a condition or in a function, with its place."""
    guarded = NET.replace("class Net", "class Inner").replace("\n", "\n    ")
    content = f'{NET}\nif __name__ == "__main__":\n    from torch import nn{guarded}\n'
    write(tmp_path, {"net.py": content, "guarded.py": f'if __name__ == "__main__":\n    pass{guarded}\n'})

    assert "found nothing. Models that it defines: Net" in refusal(load, tmp_path / "net.py:Nett")
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

    assert [
        "No module named 'nosuchsummary'; spare.py is read without it, and only its definitions are taken",
    ] == notes
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
