from __future__ import annotations

from pathlib import Path

from tests.model_files import IMPORTS, NET, Load, flat, refusal, write


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
        f"taking {path}:Ours, the only one that returns 10 numbers for each image; left out: {path}:Block, {path}:Colour"
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

    assert "no class that is clearly the model" in words
    assert "Net (the constructor of Net needs width" in words
    assert f"{path}:Trial" == load(f"{path}:Trial")[0].name
