from __future__ import annotations

import itertools
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import mnist_models
from docs import check_site, generated_pages
from harness.cli.app import app
from harness.contracts import load_contract
from harness.errors import InputError
from harness.training import Recipe

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("tests/*.md")]
SESSIONS = sorted(ROOT.glob("docs/sessions/*.console"))


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language in a Markdown text."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def commands(text: str) -> Iterator[list[str]]:
    """The words after ``harness`` of each command in a console example, without its comment, environment and pipe."""
    for line in re.findall(r"^\$ (.*)", text, flags=re.MULTILINE):
        words = list(itertools.takewhile(lambda word: word not in {"|", "||", "&&"}, shlex.split(line, comments=True)))
        while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
            del words[0]
        if words[:1] == ["harness"]:
            yield words[1:]


def parse(words: list[str]) -> None:
    """Parse a command line as click does, without running it.

    Raises:
        click.UsageError: a command, an option or an argument is wrong.
    """
    command: click.Command = app
    context = click.Context(app, info_name="harness")
    while isinstance(command, click.Group):
        name, command_, words = command.resolve_command(context, words)
        assert command_ is not None
        command, context = command_, click.Context(command_, info_name=name, parent=context)
    command.parse_args(context, words)


@pytest.mark.parametrize("path", [*PAGES, *SESSIONS], ids=lambda path: path.name)
def test_console_examples_are_valid_commands(path: Path) -> None:
    """Each `harness` command in a console example parses: command, options, number of arguments and their types."""
    text = path.read_text("utf-8")
    for example in blocks(text, "console") if path.suffix == ".md" else [text]:
        for words in commands(example):
            parse(words)


@pytest.mark.parametrize("line", ["harness chek net.py", "harness check net.py --contrat era-s7", "harness replay"])
def test_an_example_that_is_no_valid_command_is_noticed(line: str) -> None:
    """A misspelt command, a misspelt option and a missing argument are found in an example."""
    (words,) = commands(f"$ HARNESS_OFFLINE=1 {line}  # a comment\n")

    with pytest.raises(click.UsageError):
        parse(words)


def read_toml_example(text: str, folder: Path) -> None:
    """Read a TOML example as what it is: a recipe if it declares an optimizer, a contract otherwise.

    Args:
        text: the example.
        folder: a temporary folder.

    Raises:
        InputError: it is neither.
    """
    table = tomllib.loads(text)
    if "optimizer" in table:
        Recipe.from_mapping(table, name="example")
    else:
        path = folder / "example.toml"
        path.write_text(text, "utf-8")
        load_contract(str(path))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_toml_examples_are_valid(path: Path, tmp_path: Path) -> None:
    """Each TOML example in the documentation is a contract or a recipe that the strict readers take."""
    for example in blocks(path.read_text("utf-8"), "toml"):
        read_toml_example(example, tmp_path)


@pytest.mark.parametrize("text", ["[parameters]\nbellow = 8000\n", 'epochs = 1\n[optimizer]\nname = "sgd"\nlr = 0.1\n'])
def test_a_toml_example_that_is_not_valid_is_noticed(text: str, tmp_path: Path) -> None:
    """A contract with an unknown key and a recipe without its batch size are refused."""
    with pytest.raises(InputError):
        read_toml_example(text, tmp_path)


@pytest.mark.parametrize("name", mnist_models.list_models())
def test_the_page_of_models_has_a_row_for_each(name: str) -> None:
    """The generated table states the card's number of parameters, contract and expected outcome."""
    card = mnist_models.model_card(name)
    rows = [line for line in generated_pages.models_page().splitlines() if line.startswith(f"| [`{name}`]")]

    assert [True] == [
        f"| {card.parameters:,} | `{card.contract}` |" in row and row.endswith(f"| {card.expected.outcome} |")
        for row in rows
    ]


def test_generated_pages_that_are_no_longer_written_are_deleted(tmp_path: Path) -> None:
    """Writing the pages again leaves what is unchanged and deletes a page of a package that is gone."""
    generated_pages.write_pages(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.md")}
    (tmp_path / "api" / "harness.gone.md").write_text("# gone\n", "utf-8")

    generated_pages.write_pages(tmp_path)

    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.md")}


def test_every_package_has_a_page_that_names_its_public_types() -> None:
    """The API has a page for each package but the command line, with the types that its public names return."""
    pages = generated_pages.api_pages()

    assert {"harness.graph", "harness.structure", "harness.training", "mnist_models"} <= set(pages)
    assert "harness.cli" not in pages
    assert ".. autoclass:: harness.training.recipe.SGD\n" in pages["harness.training"]


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("[a](docs/recipes.md#keys)", "[a](recipes.md#keys)"),
        ("[a](CONTRIBUTING.md)", "[a](contributing.md)"),
        ("[a](LICENSE)", "[a](../LICENSE)"),
        ("[a](https://example.org/docs/x.md)", "[a](https://example.org/docs/x.md)"),
        ("[a](#below)", "[a](#below)"),
    ],
)
def test_links_of_an_included_file_fit_the_site(link: str, expected: str) -> None:
    """A link relative to the repository becomes one relative to docs/, where the file is included."""
    source = [link]
    generated_pages.rewrite_links(ROOT / "README.md", source)

    assert [expected] == source


GOOD_PAGE = '<a href="other.html#part">x</a><a href="https://example.org/">y</a><a href="#here">z</a><p id="here">'


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        (GOOD_PAGE, []),
        ('<a href="gone.html">', ["page.html: gone.html leads to no file"]),
        ('<a href="other.html#gone">', ["page.html: other.html#gone leads to no anchor"]),
        ('<a href="#gone">', ["page.html: #gone leads to no anchor"]),
        ('<img src="gone.svg">', ["page.html: gone.svg leads to no file"]),
        ('<a href="htp://example.org/">', ["page.html: htp://example.org/ is no web address"]),
        ('<a href="https://example org/">', ["page.html: https://example org/ is no web address"]),
        (
            '<script src="https://cdn.example.org/x.js"></script>',
            ["page.html: the page loads https://cdn.example.org/x.js from another host"],
        ),
    ],
)
def test_a_broken_link_of_the_site_is_noticed(page: str, expected: list[str], tmp_path: Path) -> None:
    """Links to missing files and anchors, malformed web addresses and what another host would serve are faults."""
    (tmp_path / "page.html").write_text(page, "utf-8")
    (tmp_path / "other.html").write_text('<p id="part">', "utf-8")

    assert expected == list(check_site.site_faults(tmp_path))
    assert check_site.main([str(tmp_path)]) == bool(expected)
