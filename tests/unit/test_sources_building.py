from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from harness.errors import ModelSourceError
from harness.sources import module_source
from harness.sources.building import module_builder, parse_arguments
from tests.model_files import IMPORTS, NET, Load, flat, refusal, write


def test_literal_arguments() -> None:
    """Constructor arguments are literals by name."""
    text = "dropout_prob=0.1, width=-16, kind='a, b=c', sizes=[1, (2, 3)], last={'x': None},"

    assert {
        "dropout_prob": 0.1,
        "width": -16,
        "kind": "a, b=c",
        "sizes": [1, (2, 3)],
        "last": {"x": None},
    } == parse_arguments(text)
    assert {} == parse_arguments(" ")
    assert {"p": 1} == parse_arguments("p=1 # a comment")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0.1", "0.1 is not given by name"),
        ("p=open('x')", "is not a literal"),
        ("p=__import__('os')", "is not a literal"),
        ("p=width", "p=width is not a literal"),
        ("p=1, p=2", "p is given twice"),
        ("**{'p': 1}", "is not given by name"),
        ("p=1)(q=2", "a closing bracket has no opening bracket"),
        ("p=1) + _(q=2", "a closing bracket has no opening bracket"),
        # Python's own message, which depends on its version.
        ("p=", "got args='p=': "),
        ("p=\0", "null byte"),
        ("p=" + "[" * 900, "got args"),
        ("p=" + "1" * 3000, "longer than 2,000"),
        ("p={[]: 1}", "is not a literal"),
    ],
)
def test_arguments_that_are_no_literals(text: str, words: str) -> None:
    """Code, positional arguments and repeated names are refused with the reason."""
    with pytest.raises(ModelSourceError, match="expected constructor arguments as name=literal") as caught:
        parse_arguments(text)
    assert words in str(caught.value)


def test_arguments_reach_the_constructor(load: Load, tmp_path: Path) -> None:
    """A model is built with the arguments given, drawn with the seed, and named after both file and arguments."""
    write(tmp_path, {"net.py": NET.replace("width=10", "width")})
    torch.manual_seed(7)
    expected = torch.nn.Linear(784, 12, bias=False).weight

    model, notes = load(tmp_path / "net.py", arguments="width=12,  bias=False", seed=7)

    assert f"{tmp_path / 'net.py'}:Net(width=12, bias=False)" == model.name
    assert (["layer.weight"], []) == (list(model.state), notes)
    assert torch.equal(expected, model.state["layer.weight"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("", '--args "width=..."'),
        ("width=10, depth=2", "takes no argument depth: expected only width, bias"),
        ("width='ten'", "building Net(width='ten') failed: TypeError"),
    ],
)
def test_arguments_that_do_not_fit(arguments: str, words: str, load: Load, tmp_path: Path) -> None:
    """Missing, unknown and unusable arguments are refused, with the accepted ones."""
    write(tmp_path, {"net.py": NET.replace("width=10", "width")})

    assert words in refusal(load, tmp_path / "net.py:Net", arguments=arguments)


@pytest.fixture
def clean_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore the path, the arguments and the modules of this process, which an import changes."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "argv", [*sys.argv])
    monkeypatch.setattr(sys, "modules", {**sys.modules})
    monkeypatch.setattr(sys, "dont_write_bytecode", True)


@pytest.mark.usefixtures("clean_imports")
def test_a_builder_initialises_lazy_modules(tmp_path: Path) -> None:
    """A lazy layer is initialised when it is built, so that an optimizer accepts its parameters."""
    lazy = (
        "class Lazy(nn.Sequential):\n    def __init__(self):\n"
        "        super().__init__(nn.Flatten(), nn.LazyLinear(10))\n"
    )
    path = write(tmp_path, {"lazy.py": IMPORTS + lazy}) / "lazy.py"
    module = module_builder(module_source(str(path), None), "")(1)

    assert (10, 784) == module[1].weight.shape  # type: ignore[index]
    assert module.training


@pytest.mark.usefixtures("clean_imports")
def test_a_file_with_several_models_is_ambiguous(tmp_path: Path) -> None:
    """A builder needs one class, and a file with two does not say which one is meant."""
    path = write(tmp_path, {"two.py": IMPORTS + flat("Net") + flat("Other")}) / "two.py"
    with pytest.raises(
        ModelSourceError, match=r"holds several models. Name one of these:\n- .*two.py:Net\n- .*two.py:Other"
    ):
        module_builder(module_source(str(path), None), "")


def test_a_shipped_model_is_built_under_the_seed() -> None:
    """The builder of a shipped model draws the weights that the constructor draws under that seed."""
    build = module_builder(module_source("cloud_2", None), "")
    one, again, other = (torch.cat([p.flatten() for p in build(seed).parameters()]) for seed in (1, 1, 2))

    assert torch.equal(one, again)
    assert not torch.equal(one, other)
