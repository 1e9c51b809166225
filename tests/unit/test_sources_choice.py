from __future__ import annotations

from pathlib import Path

import pytest

from tests.model_files import IMPORTS, NET, Load, flat, notebook, refusal, write

pytestmark = pytest.mark.smoke  # each test loads files in processes


def test_building_blocks_and_other_networks_are_not_taken(load: Load, tmp_path: Path) -> None:
    """Of a block that needs arguments, a network for colour images and the model, the model is taken, with a note."""
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

    assert f"{path}:Ours" == model.name
    assert [
        f"taking {path}:Ours, the only class that returns 10 numbers for each image",
        f"left out: {path}:Block, a building block of {path}:Ours",
        f"left out: {path}:Colour (it takes images of shape (3, 28, 28))",
    ] == notes


def test_equal_networks_are_one_and_different_ones_are_ambiguous(load: Load, tmp_path: Path) -> None:
    """Two classes with one graph are one model; a usual name does not decide between two graphs."""
    same, other = flat("First") + flat("Second"), flat("Old", bias=False) + flat("Net")
    write(tmp_path, {"same.py": IMPORTS + same, "other.py": IMPORTS + other})

    model, notes = load(tmp_path / "same.py")
    words = refusal(load, tmp_path / "other.py")

    assert f"{tmp_path}/same.py:First" == model.name
    assert [f"taking {model.name}, which is the same network as {tmp_path}/same.py:Second"] == notes
    assert "2 different networks that return 10 numbers for each image" in words
    assert words.index("other.py:Net (7,850 parameters, output (B, 10))") < words.index("other.py:Old (7,840 ")


def test_a_class_that_could_not_be_built_prevents_a_choice(load: Load, tmp_path: Path) -> None:
    """Of a class that needs arguments and one that does not, neither is certainly the model; named, it is taken."""
    path = write(tmp_path, {"net.py": NET.replace("width=10", "width") + flat("Trial")}) / "net.py"

    words = refusal(load, path)

    assert "a network that returns 10 numbers for each image, but Net failed. Name one of these:\n- " in words
    assert "Net (the constructor of Net needs width" in words
    assert f"{path}:Trial" == load(f"{path}:Trial")[0].name


CRASHES = "class Last(nn.Module):\n    def __init__(self{0}):\n        super().__init__()\n        self.fc = nn.Linear({1}, 10)\n"


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        (CRASHES.format("", 783) + "    def forward(self, x):\n        return self.fc(x.flatten(1))\n", "Last ("),
        (
            CRASHES.format("", 784) + "    def forward(self, x):\n        return self.fc(x.flaten(1))\n",
            "AttributeError",
        ),
        (CRASHES.format("", 784), 'Module [Last] is missing the required "forward" function'),
        (CRASHES.format("", 784) + "    def forward(self, x, y):\n        return self.fc(x)\n", "Last ("),
        (CRASHES.format(", width", 784), "needs width"),
        (CRASHES.format("", "'784'"), "building Last() failed: TypeError"),
    ],
    ids=["wrong size", "typing error", "no forward", "two inputs", "argument", "constructor"],
)
def test_a_class_that_fails_is_never_passed_over(last: str, reason: str, load: Load, tmp_path: Path) -> None:
    """Beside a class that works, one that fails in whatever way is a question, with the reason."""
    path = write(tmp_path, {"net.py": f"{IMPORTS}{flat('Net')}{last}"}) / "net.py"

    words = refusal(load, path)

    assert "a network that returns 10 numbers for each image, but Last failed. Name one of these:" in words
    works, fails = words.split("\n- ")[1:]
    assert f"{path}:Net (7,850 parameters, output (B, 10))" == works
    assert fails.startswith(f"{path}:Last (")
    assert reason in fails


def test_a_class_that_cannot_be_defined_is_never_passed_over(load: Load, tmp_path: Path) -> None:
    """A class whose definition fails, in a file or in a notebook, is a question like one that fails later."""
    broken = "class Last(nn.Module):\n    width = nosuch\n"
    cells = IMPORTS + flat("Net")
    files = {
        "net.py": f"{cells}{broken}",
        "cells.ipynb": notebook(cells, broken),
        "syntax.ipynb": notebook(cells, "class Last(nn.Module):\n    def forward(self, x)\n        return x\n"),
        "again.ipynb": notebook(cells, broken, flat("Last", 11)),
    }
    write(tmp_path, files)

    for name in ("net.py", "cells.ipynb", "syntax.ipynb"):
        assert f"\n- {tmp_path}/{name}:Last (the class is not defined: " in refusal(load, tmp_path / name)
    assert f"{tmp_path}/again.ipynb:Net" == load(tmp_path / "again.ipynb")[0].name


def test_optional_blocks_do_not_stop_a_choice(load: Load, tmp_path: Path) -> None:
    """A block behind a flag, named directly, as a default, in a table or in a function, is left out with the reason."""
    block = "class {}(nn.Module):\n    def __init__(self, channels):\n        super().__init__()\n"
    blocks = "".join(block.format(name) for name in ("Direct", "Default", "Table", "Function", "Beside"))
    net = (
        "def make(kind):\n    return Function(3) if kind else None\n"
        "TABLE = {'a': nn.ReLU, 'b': [Table]}\n"
        "class Net(nn.Module):\n    def __init__(self, kind='', block=Default):\n        super().__init__()\n"
        "        self.layer = nn.Linear(784, 10)\n"
        "        if kind:\n            self.extra = Direct(3) or block(3) or TABLE[kind][0](3) or make(kind) or beside.Other(3)\n"
        "    def forward(self, x):\n        return self.layer(x.flatten(1))\n"
    )
    other = IMPORTS + block.format("Other")
    path = write(tmp_path, {"net.py": IMPORTS + "import beside\n" + blocks + net, "beside.py": other}) / "net.py"

    words = refusal(load, path)
    path.write_text(path.read_text(encoding="utf-8").replace(block.format("Beside"), ""), encoding="utf-8")
    model, notes = load(tmp_path)

    assert "but Beside failed" in words
    assert f"{path}:Net" == model.name
    blocks_left_out = [note for note in notes if note.endswith(f", an optional building block of {path}:Net")]
    names = {note.partition(" (")[0].rpartition(":")[2] for note in blocks_left_out}
    assert {"Direct", "Default", "Table", "Function", "Other"} == names


def test_a_loss_does_not_stop_a_choice(load: Load, tmp_path: Path) -> None:
    """A module without parameters whose forward needs two arguments is no network: it is left out with the reason."""
    loss = "class Loss(nn.Module):\n    def forward(self, outputs, labels):\n        return (outputs - labels).mean()\n"
    path = write(tmp_path, {"net.py": IMPORTS + flat("Net") + loss}) / "net.py"

    _, notes = load(path)

    assert f"left out: {path}:Loss (its forward needs 2 arguments, and the model has no parameters)" == notes[-1]


def test_classes_that_name_each_other_are_no_blocks(load: Load, tmp_path: Path) -> None:
    """Two classes that fail and name each other are both a question, not both passed over."""
    one = (
        "class {0}(nn.Module):\n    def __init__(self, width):\n        super().__init__()\n        self.other = {1}\n"
    )
    content = IMPORTS + flat("Net") + one.format("First", "Second") + one.format("Second", "First")

    assert "but First, Second failed" in refusal(load, write(tmp_path, {"net.py": content}) / "net.py")
