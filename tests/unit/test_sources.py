"""Finding a model: what MODEL and --args may be, and what comes of files, packages, notebooks and folders."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.errors import CaptureError, ExaminerError, ModelSourceError
from harness.graph import CapturedModel
from harness.sources import load_model, source, worker
from harness.sources.source import parse_arguments, parse_source

NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, width=10, bias=True):
        super().__init__()
        self.layer = nn.Linear(784, width, bias=bias)

    def forward(self, x):
        return self.layer(x.flatten(1))
"""
IMPORTS = "import torch\nfrom torch import nn\n"

Load = Callable[..., tuple[CapturedModel, list[str]]]


def flat(name: str, width: object = 10, *, bias: bool = True) -> str:
    """Source of a class that is one layer over all pixels."""
    return (
        f"class {name}(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        f"        self.layer = nn.Linear(784, {width}, bias={bias})\n"
        "    def forward(self, x):\n"
        "        return self.layer(x.flatten(1))\n"
    )


def notebook(*cells: str) -> str:
    """A notebook with these code cells."""
    code = [{"cell_type": "code", "source": cell.splitlines(keepends=True)} for cell in cells]
    return json.dumps({"nbformat": 4, "cells": [{"cell_type": "markdown", "source": ["# A net"]}, *code]})


def write(folder: Path, files: Mapping[str, str]) -> Path:
    """Put files into a folder; returns the folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return folder


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Loads with the child's work done in this process, which has PyTorch imported already; returns the notes, too."""

    def run_child(_: object, request: Mapping[str, Any], folder: Path) -> str:
        before = set(sys.modules)
        place = Path(request["path"]).parent if request["path"] else Path.cwd()
        with contextlib.chdir(place), monkeypatch.context() as child:
            child.setattr(sys, "path", [*sys.path])
            child.setattr(sys, "argv", [*sys.argv])
            child.setattr(sys, "dont_write_bytecode", True)
            worker.answer(folder)
        for name in set(sys.modules) - before:
            places = (getattr(sys.modules[name], "__file__", ""), *getattr(sys.modules[name], "__path__", ()))
            if any(str(place).startswith(str(tmp_path)) for place in places):
                del sys.modules[name]
        return ""

    def load_here(model: object, **options: Any) -> tuple[CapturedModel, list[str]]:  # noqa: ANN401 - passed on as they are
        notes: list[str] = []
        return load_model(str(model), announce=notes.append, **options), notes

    monkeypatch.setattr(source._Loading, "_run_child", run_child)  # noqa: SLF001 - spares each test an import of PyTorch
    monkeypatch.setattr(source, "_CHILDREN_AT_ONCE", 1)
    return load_here


def refusal(load: Load, model: object, **options: Any) -> str:  # noqa: ANN401 - as above
    """What a model that cannot be had is refused with: one paragraph."""
    with pytest.raises((ModelSourceError, CaptureError)) as caught:
        load(model, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_a_model_argument_stands_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shipped name, files, classes in them, folders and packages are told apart; a tilde is the home folder."""
    write(tmp_path, {"net.py": NET, "déjà vu/my net.ipynb": notebook(NET), "reference": ""})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))

    found = {
        text: (
            model.shipped,
            model.path and model.path.relative_to(tmp_path).as_posix(),
            model.module,
            model.class_name,
        )
        for text in (
            "reference",
            "net.py",
            "~/net.py:Net",
            "déjà vu/my net.ipynb:Net",
            "déjà vu",
            "./déjà vu:Net",
            ".",
            "a.b:C",
        )
        if (model := parse_source(text))
    }

    assert found == {
        "reference": ("reference", None, None, None),
        "net.py": (None, "net.py", None, None),
        "~/net.py:Net": (None, "net.py", None, "Net"),
        "déjà vu/my net.ipynb:Net": (None, "déjà vu/my net.ipynb", None, "Net"),
        "déjà vu": (None, "déjà vu", None, None),
        "./déjà vu:Net": (None, "déjà vu", None, "Net"),
        ".": (None, ".", None, None),
        "a.b:C": (None, None, "a.b", "C"),
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nosuch.ipynb", "does not exist"),
        ("sub/nosuch", "does not exist"),
        ("./weights.pth", "is no Python file or notebook"),
        ("clod_3", "did you mean cloud_3"),
        ("", "no shipped model is called ''"),
        ("a-b:C", "Expected a name from `harness list`"),
    ],
)
def test_what_is_no_model_argument(text: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What exists nowhere is refused, with what would do instead."""
    write(tmp_path, {"weights.pth": ""})
    monkeypatch.chdir(tmp_path)

    with pytest.raises(ModelSourceError, match=words):
        parse_source(text)


def test_literal_arguments() -> None:
    """Constructor arguments are literals by name."""
    text = "dropout_prob=0.1, width=-16, kind='a, b=c', sizes=[1, (2, 3)], last={'x': None},"

    assert parse_arguments(text) == {
        "dropout_prob": 0.1,
        "width": -16,
        "kind": "a, b=c",
        "sizes": [1, (2, 3)],
        "last": {"x": None},
    }
    assert parse_arguments(" ") == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0.1", "0.1 has no name"),
        ("p=open('x')", "is no literal"),
        ("p=__import__('os')", "is no literal"),
        ("p=width", "p=width is no literal"),
        ("p=1, p=2", "p stands there twice"),
        ("**{'p': 1}", "is no name"),
        ("p=1)(q=2", "a bracket is closed"),
        ("p=1) + _(q=2", "a bracket is closed"),
        # What is wrong is said in Python's words, which change with its version.
        ("p=", "got args='p=': "),
        ("p=1 # ", None),
        ("p=\0", "null byte"),
        ("p=" + "[" * 900, "got args"),
        ("p=" + "1" * 3000, "longer than 2,000"),
        ("p={[]: 1}", "is no literal"),
    ],
)
def test_arguments_that_are_no_literals(text: str, words: str | None) -> None:
    """Code, positions and repeated names are refused with the reason; a comment is none."""
    if words is None:
        assert parse_arguments(text) == {"p": 1}
        return
    with pytest.raises(ModelSourceError, match="expected constructor arguments as name=literal") as caught:
        parse_arguments(text)
    assert words in str(caught.value)


def test_a_shipped_model_takes_no_arguments() -> None:
    """Arguments for a shipped model are refused before anything is built."""
    with pytest.raises(ModelSourceError, match="takes no arguments"):
        load_model("reference", arguments="width=3")


def test_arguments_reach_the_constructor(load: Load, tmp_path: Path) -> None:
    """A model is built with the arguments given, drawn with the seed, and named after both file and arguments."""
    write(tmp_path, {"net.py": NET.replace("width=10", "width")})
    torch.manual_seed(7)
    expected = torch.nn.Linear(784, 12, bias=False).weight

    model, notes = load(tmp_path / "net.py", arguments="width=12,  bias=False", seed=7)

    assert model.name == f"{tmp_path / 'net.py'}:Net(width=12, bias=False)"
    assert (list(model.state), notes) == (["layer.weight"], [])
    assert torch.equal(expected, model.state["layer.weight"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("", '--args "width=..."'),
        ("width=10, depth=2", "takes no argument depth: expected width, bias"),
        ("width='ten'", "building Net(width='ten') failed: TypeError"),
    ],
)
def test_arguments_that_do_not_fit(arguments: str, words: str, load: Load, tmp_path: Path) -> None:
    """Missing, unknown and unusable arguments are told with what would do."""
    write(tmp_path, {"net.py": NET.replace("width=10", "width")})

    assert words in refusal(load, tmp_path / "net.py:Net", arguments=arguments)


def test_building_blocks_and_other_networks_are_not_taken(load: Load, tmp_path: Path) -> None:
    """Of a block that needs arguments, a part, a network over colours and the model, the model is taken and the choice told."""
    content = (
        IMPORTS + "class Block(nn.Module):\n    def __init__(self, c):\n        super().__init__()\n"
        "        self.c = nn.Conv2d(1, c, 28)\n"
        "    def forward(self, x):\n        return self.c(x)\n"
        "class Colour(nn.Module):\n    def __init__(self):\n        super().__init__()\n        self.c = nn.Conv2d(3, 10, 28)\n"
        "    def forward(self, x):\n        return self.c(x).flatten(1)\n"
        "class Ours(nn.Module):\n    def __init__(self):\n        super().__init__()\n        self.b = Block(10)\n"
        "    def forward(self, x):\n        return self.b(x).flatten(1)\n"
        "Alias = Ours\n"
    )
    path = write(tmp_path, {"net.py": content}) / "net.py"

    model, notes = load(path)

    assert model.name == f"{path}:Ours"
    assert notes == [
        f"taking {path}:Ours, the one that gives 10 figures for each image; left out: {path}:Block, {path}:Colour"
    ]


def test_equal_networks_are_one_and_different_ones_are_asked_for(load: Load, tmp_path: Path) -> None:
    """Two names of one graph need no question; a usual name does not decide between two graphs."""
    same, other = flat("First") + flat("Second"), flat("Old", bias=False) + flat("Net")
    write(tmp_path, {"same.py": IMPORTS + same, "other.py": IMPORTS + other})

    model, notes = load(tmp_path / "same.py")
    words = refusal(load, tmp_path / "other.py")

    assert model.name == f"{tmp_path}/same.py:First"
    assert notes == [f"taking {model.name}, which is the same network as {tmp_path}/same.py:Second"]
    assert "2 different networks that give 10 figures for each image" in words
    assert words.index("other.py:Net (7,850 parameters, output (B, 10))") < words.index("other.py:Old (7,840 ")


def test_a_class_that_nobody_could_build_is_not_passed_over(load: Load, tmp_path: Path) -> None:
    """Beside a class that needs arguments, the one that does not is no sure choice; named, it is taken."""
    path = write(tmp_path, {"net.py": NET.replace("width=10", "width") + flat("Trial")}) / "net.py"

    words = refusal(load, path)

    assert "no class that is sure to be the model" in words
    assert "Net (the constructor of Net needs width" in words
    assert load(f"{path}:Trial")[0].name == f"{path}:Trial"


def test_a_class_that_is_not_there(load: Load, tmp_path: Path) -> None:
    """A wrong class name is told with the right ones; what hides under a guard or in a function, with its place."""
    guarded = NET.replace("class Net", "class Inner").replace("\n", "\n    ")
    content = f'{NET}\nif __name__ == "__main__":\n    from torch import nn{guarded}\n'
    write(tmp_path, {"net.py": content, "guarded.py": f'if __name__ == "__main__":\n    pass{guarded}\n'})

    assert "found nothing. Classes there: Net" in refusal(load, tmp_path / "net.py:Nett")
    assert "Inner' derived from torch.nn.Module, found nothing (it stands under `if __name__ == " in refusal(
        load, tmp_path / "net.py:Inner"
    )
    assert "Move the class to the file's outermost level" in refusal(load, tmp_path / "guarded.py")


def test_what_a_file_needs_around_it(load: Load, tmp_path: Path) -> None:
    """Relative imports, imports from the project's root and a sane command line work in a file given by its path."""
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

    assert (sorted(model.state), notes) == (["1.bias", "1.weight"], [])
    assert not list(tmp_path.rglob("__pycache__"))


def test_a_model_called_as_a_library(load: Load, tmp_path: Path) -> None:
    """A model file called torch.py does not take the place of the library that it imports."""
    model, _ = load(write(tmp_path, {"torch.py": NET}) / "torch.py")

    assert model.name.endswith("torch.py:Net")
    assert sys.modules["torch"] is torch


def test_a_package_that_is_missing(load: Load, tmp_path: Path) -> None:
    """A missing package that the model does not need is survived and told; one that it needs is named."""
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

    assert notes == [
        "No module named 'nosuchsummary'; spare.py is read without it, and only its definitions are taken",
    ]
    assert "failed with ModuleNotFoundError: No module named 'nosuchlayers'" in refusal(load, tmp_path / "needed.py")
    assert "the module 'nosuchlayers' is neither installed here nor beside the file" in refusal(
        load, tmp_path / "base.py"
    )


def test_a_notebook(load: Load, tmp_path: Path) -> None:
    """Definitions of a notebook are taken, its work is not, and what a cell left out is told."""
    cells = (
        "%matplotlib inline\n!pip install nosuch\nimport torch\nfrom torch import nn",
        "import nosuch\nfrom google.colab import drive",
        "WIDTH: int = 5 * 2\nraise RuntimeError('this is work')",
        "print 'no Python 3'",
        "class Net(nn.Module):\n    pass",
        "%%time\n" + NET.replace("width=10", "width=WIDTH"),
    )
    model, notes = load(write(tmp_path, {"my net.ipynb": notebook(*cells)}) / "my net.ipynb:Net")

    assert model.graph.evaluate.operations[-1].shape == ("B", 10)
    assert [note.partition(" (")[0] for note in notes] == [
        "my net.ipynb: cell 5 is left out: it is no valid Python",
        "my net.ipynb: Net is defined 2 times",
    ]


def test_a_notebook_whose_model_needs_what_is_not_run(load: Load, tmp_path: Path) -> None:
    """A name that only work makes is missing, and the message says where it is made."""
    calls = notebook("size = dict()", "import torch\n" + NET.replace("784, width", "784, size"))
    write(tmp_path, {"net.ipynb": calls})

    words = (
        "NameError: name 'size' is not defined. size is not there: line 1 of cell 2 makes it, by code that is not run"
    )
    assert words in refusal(load, tmp_path / "net.ipynb")


def test_a_file_that_takes_its_model_from_beside(load: Load, tmp_path: Path) -> None:
    """A notebook that imports its model stands for that model; where the import failed, that is told."""
    lost = notebook("from nosuch import Net", "size = len('abc')")
    write(tmp_path, {"src/model.py": NET, "work.ipynb": notebook("from src.model import Net"), "lost.ipynb": lost})

    assert load(tmp_path / "work.ipynb")[0].name == f"{tmp_path}/work.ipynb:Net"
    words = refusal(load, tmp_path / "lost.ipynb")
    assert words.endswith(
        "Net is not there: line 1 of cell 2 failed with ModuleNotFoundError: No module named 'nosuch'"
    )


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

    assert model.name == f"{tmp_path}/net.py:Net"
    assert notes == [
        f"taking {model.name}, which is the same network as {tmp_path}/work.ipynb:Same; left out: {tmp_path}/blocks.py:Block"
    ]


def test_a_folder_with_several_models(load: Load, tmp_path: Path) -> None:
    """Different networks in a folder are a question, in words that can be typed; a class in the folder answers it."""
    files = {"a b.py": IMPORTS + flat("Net"), "b.py": IMPORTS + flat("Other", bias=False), "c.py": f"1 / 0\n{NET}"}
    write(tmp_path, files)

    words = refusal(load, tmp_path)

    assert f"'{tmp_path}/a b.py:Net' (7,850 parameters, output (B, 10)); {tmp_path}/b.py:Other (7,840" in words
    assert "c.py (importing" in words
    assert load(f"{tmp_path}:Other")[0].name == f"{tmp_path}/b.py:Other"


def test_a_folder_with_too_many_models(tmp_path: Path) -> None:
    """More files than can be tried are listed before anything is imported."""
    write(
        tmp_path,
        {f"net{number}.py": "from torch import nn\nclass Net(nn.Module):\n    1 / 0\n" for number in range(13)},
    )

    with pytest.raises(ModelSourceError, match="holds 13 files that define models, too many to try each"):
        load_model(str(tmp_path))


def test_a_class_in_a_package(load: Load) -> None:
    """A class is taken from an installed package; a missing package and a class that is no model are told."""
    model, _ = load("torch.nn:Flatten")

    assert model.name == "torch.nn:Flatten"
    assert "the module 'nosuch' is neither installed" in refusal(load, "nosuch.package:Net")
    assert "expected a class 'device' derived from torch.nn.Module, found type" in refusal(load, "torch:device")


def test_an_unreadable_answer_is_no_fault_of_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a child hands back is checked: damage is the examiner's failure, not a verdict."""
    path = write(tmp_path, {"net.py": NET}) / "net.py"
    good = {"name": "net.py:Net", "key": "net.py:Net", "parts": [], "runs": True, "error": None}
    answers = ["", "[]", "{}", json.dumps({"error": None, "notes": [], "candidates": [good]})]

    for answer in answers:

        def run_child(_: object, __: object, folder: Path, answer: str = answer) -> str:
            (folder / "result.json").write_text(answer, encoding="utf-8")
            (folder / "0.json").write_text('{"fidelity": {}}', encoding="utf-8")
            return ""

        monkeypatch.setattr(source._Loading, "_run_child", run_child)  # noqa: SLF001
        with pytest.raises(ExaminerError, match="handed back something unreadable"):
            load_model(str(path))


def test_a_capture_that_breaks_is_no_fault_of_the_model(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unforeseen error in the child is the examiner's, with the child's traceback."""

    def breaks(*_: object, **__: object) -> CapturedModel:
        raise ZeroDivisionError("by chance")

    monkeypatch.setattr(worker, "capture", breaks)

    with pytest.raises(ExaminerError, match="ZeroDivisionError: by chance") as caught:
        load(write(tmp_path, {"net.py": NET}) / "net.py")
    assert "in breaks" in caught.value.__notes__[0]


@pytest.mark.smoke  # a whole process: slow
def test_a_real_child(tmp_path: Path) -> None:
    """A file with spaces and accents in its path, beside files called as libraries, is loaded by a process of its own."""
    folder = tmp_path / "déjà vu"
    noise = "import sys\nprint('x' * 1_000_000)\nassert sys.argv[1:] == []\nimport sympy, random, queue\n"
    wrong = dict.fromkeys(("torch.py", "random.py", "sympy.py", "numpy.py"), "raise RuntimeError('the wrong one')\n")
    write(folder, wrong | {"my net.py": noise + NET})

    model = load_model(f"{folder}/my net.py", arguments="bias=False")

    assert model.name == f"{folder}/my net.py:Net(bias=False)"
    assert model.fidelity.holds
    assert sorted(path.name for path in folder.iterdir()) == ["my net.py", *sorted(wrong)]


def test_a_child_that_is_too_slow(tmp_path: Path) -> None:
    """A child that has not even imported PyTorch when the time is up is not called the model's fault."""
    path = write(tmp_path, {"net.py": NET}) / "net.py"

    with pytest.raises(ModelSourceError, match="within 0 seconds: expected PyTorch to be imported by then"):
        load_model(str(path), timeout=0.1)
