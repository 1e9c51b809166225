from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import ModelSourceError
from harness.graph import CapturedModel
from harness.sources import ModelSource, load_model, module_source, parse_source
from harness.sources import source as source_module
from harness.sources.cells import read_cells
from harness.sources.definitions import bases_in_text
from harness.sources.source import find_model_files
from tests.model_files import IMPORTS, NET, Load, flat, notebook, refusal, write

pytestmark = pytest.mark.smoke  # each test loads files in processes

CONTROLS = Path(__file__).parents[1] / "controls"


def test_what_a_model_argument_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shipped names, files, classes in them, folders and packages are recognised; a tilde is the home folder."""
    write(tmp_path, {"net.py": NET, "déjà vu/my net.ipynb": notebook(NET), "reference": "", "a:b/net.py": NET})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    expected = {
        "reference": ModelSource(text="", shipped="reference"),
        "net.py": ModelSource(text="", path=f"{tmp_path}/net.py"),
        "~/net.py:Net": ModelSource(text="", path=f"{tmp_path}/net.py", class_name="Net"),
        "déjà vu/my net.ipynb:Net": ModelSource(text="", path=f"{tmp_path}/déjà vu/my net.ipynb", class_name="Net"),
        "déjà vu": ModelSource(text="", path=f"{tmp_path}/déjà vu"),
        "./déjà vu:Net": ModelSource(text="", path=f"{tmp_path}/déjà vu", class_name="Net"),
        ".": ModelSource(text="", path=str(tmp_path)),
        "a:b": ModelSource(text="", path=f"{tmp_path}/a:b"),
        "./a:b:Net": ModelSource(text="", path=f"{tmp_path}/a:b", class_name="Net"),
        "a.b:C": ModelSource(text="", module="a.b", class_name="C"),
    }

    for text, source in expected.items():
        assert replace(source, text=text) == parse_source(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nosuch.ipynb", "does not exist"),
        ("sub/nosuch", "does not exist"),
        ("./weights.pth", "is not a Python file or notebook"),
        ("clod_3", "did you mean cloud_3"),
        ("", "no shipped model is called ''"),
        ("a-b:C", "Expected a name from `harness list`"),
    ],
)
def test_what_is_no_model_argument(text: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What exists nowhere is refused, with what is accepted instead."""
    write(tmp_path, {"weights.pth": ""})
    monkeypatch.chdir(tmp_path)

    with pytest.raises(ModelSourceError, match=words):
        parse_source(text)


def test_the_chosen_class_is_found_again() -> None:
    """The source of a captured model's module is its file and class, whatever its arguments; of a shipped one its name."""
    captured = CapturedModel(name=f"{CONTROLS / 'tiny.py'}:Tiny(width=2)", graph=None, state={}, fidelity=None)  # type: ignore[arg-type]
    found = module_source(str(CONTROLS), captured, arguments="width=2")

    assert (str(CONTROLS / "tiny.py"), "Tiny") == (found.path, found.class_name)
    assert "cloud_1" == module_source("cloud_1", None).shipped


def test_a_folder_of_several_models_is_ambiguous() -> None:
    """Without a captured class, a folder with several files does not say which one is meant."""
    with pytest.raises(ModelSourceError, match=r"Name one of these:\n- .*counts_calls.py"):
        module_source(str(CONTROLS), None)


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
        *(f"importing {tmp_path}/{name} ({n} of 3)" for n, name in enumerate(("blocks.py", "net.py", "work.ipynb"), 1)),
        f"taking {model.name}, which is the same network as {tmp_path}/work.ipynb:Same",
        f"left out: {tmp_path}/blocks.py:Block, a building block of {tmp_path}/net.py:Net",
    ] == notes


def test_a_folder_with_several_models(load: Load, tmp_path: Path) -> None:
    """Different networks in a folder are listed as they can be typed; a class name with the folder chooses one."""
    files = {"a b.py": IMPORTS + flat("Net"), "b.py": IMPORTS + flat("Other", bias=False), "c.py": f"{NET}1 +\n"}
    write(tmp_path, files)

    words = refusal(load, tmp_path)

    assert f"\n- '{tmp_path}/a b.py:Net' (7,850 parameters, output (B, 10))\n- {tmp_path}/b.py:Other (7,840" in words
    assert f"\n- {tmp_path}/c.py (is not valid Python: invalid syntax in line 11 of c.py" in words
    assert f"{tmp_path}/b.py:Other" == load(f"{tmp_path}:Other")[0].name


def test_a_folder_with_too_many_models(tmp_path: Path) -> None:
    """More files than can be loaded in time are listed before anything is imported."""
    write(
        tmp_path,
        {f"net{number}.py": "from torch import nn\nclass Net(nn.Module):\n    1 / 0\n" for number in range(13)},
    )

    with pytest.raises(ModelSourceError, match="holds 13 files that define models, more than the 12 that are loaded"):
        load_model(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("old.py", ("# élève\n" + IMPORTS + flat("Old")).encode("cp1252"), "is not encoded in UTF-8"),
        ("old.py", (IMPORTS + flat("Old")).encode("utf-16"), "is encoded in UTF-16"),
        ("old.py", notebook(IMPORTS + flat("Old")).encode(), "Rename the file to old.ipynb"),
        ("old.ipynb", notebook(IMPORTS + flat("Old"))[:-9].encode(), "is not a Jupyter notebook"),
        ("old.py", (IMPORTS + flat("Old") + "print 'done'\n").encode(), "is not valid Python"),
    ],
)
def test_a_file_that_cannot_be_read_is_not_passed_over(
    name: str, content: bytes, words: str, load: Load, tmp_path: Path
) -> None:
    """Of a folder's files, one that seems to define a model and cannot be read is a question, with the reason."""
    (write(tmp_path, {"net.py": NET}) / name).write_bytes(content)

    found = refusal(load, tmp_path)

    assert f"but {name} failed" in found.replace(f"{tmp_path}/", "")
    assert words in found


def test_a_folder_with_the_name_of_a_file(load: Load, tmp_path: Path) -> None:
    """A folder that is called like a Python file is a folder."""
    write(tmp_path, {"net.py/net.py": NET, "empty.py/notes.txt": ""})

    assert f"{tmp_path}/net.py/net.py:Net" == load(tmp_path / "net.py")[0].name
    assert "empty.py' holds no model" in refusal(load, tmp_path / "empty.py")


def test_large_files_are_searched_and_not_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A syntax tree takes a thousand times the memory of its text: files beyond a limit, one by one or together, have none."""
    monkeypatch.setattr(source_module, "_MAX_PARSED_TEXT", 1_000)
    monkeypatch.setattr(source_module, "_MAX_PARSED_TEXTS", 1_500)
    searched: list[int] = []
    real = bases_in_text

    def search(text: str) -> dict[str, frozenset[str]]:
        searched.append(len(text))
        return real(text)

    monkeypatch.setattr(source_module, "bases_in_text", search)
    net = "class Net(nn.Module): pass\n"
    for name, length in (("a.py", 1_001), ("b.py", 900), ("c.py", 700), ("d.py", 500)):
        (tmp_path / name).write_text(net + "#" * (length - len(net)), encoding="utf-8")

    assert ["a.py", "b.py", "c.py", "d.py"] == [path.name for path in find_model_files(tmp_path)]
    assert [1_001, 700] == searched


def test_notebooks_of_millions_of_lists_are_not_read(tmp_path: Path) -> None:
    """Each list of a document takes many times its text."""
    (tmp_path / "net.py").write_text("class Net(nn.Module): pass\n", encoding="utf-8")
    (tmp_path / "net.ipynb").write_text("[" + "[]," * 500_000 + "[]]", encoding="utf-8")

    assert ["net.py"] == [path.name for path in find_model_files(tmp_path)]
    with pytest.raises(ModelSourceError, match="got ValueError: more than 500,000 lists and objects"):
        read_cells(tmp_path / "net.ipynb")
