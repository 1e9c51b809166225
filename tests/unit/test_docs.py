from __future__ import annotations

import itertools
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import mnist_models
from benchmarks import small_network_search
from benchmarks.replication import RECORDS
from docs import check_site, generated_pages
from harness.claims import RULES
from harness.cli.app import app
from harness.cli.replicate import model_outcome
from harness.contracts import load_contract
from harness.errors import InputError
from harness.grading import parse_assignment
from harness.training import Recipe
from tests.certificates import made_up_certificate

ROOT = Path(__file__).parents[2]
BUILTIN_ASSIGNMENTS = ROOT / "harness" / "grading" / "builtin"
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
    """Read a TOML example as what it is: a recipe, an assignment or its section ``[certificate]``, or a contract.

    Args:
        text: the example.
        folder: a temporary folder.

    Raises:
        InputError: it is none of them.
    """
    table = tomllib.loads(text)
    if "optimizer" in table:
        Recipe.from_mapping(table, name="example")
    elif "points" in table:
        parse_assignment(text.encode(), name="example", place="example", folder=folder)
    elif "certificate" in table:
        whole = (BUILTIN_ASSIGNMENTS / "era-s7.toml").read_text("utf-8") + text
        parse_assignment(whole.encode(), name="example", place="example", folder=folder)
    else:
        path = folder / "example.toml"
        path.write_text(text, "utf-8")
        load_contract(str(path))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_toml_examples_are_valid(path: Path, tmp_path: Path) -> None:
    """Each TOML example in the documentation is a contract, a recipe or an assignment that the strict readers take."""
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

    _, found = generated_pages.replicated(RECORDS)
    ending = f"| {card.expected.outcome} | {model_outcome(found, name)} |"
    assert [True] == [f"| {card.parameters:,} | `{card.contract}` |" in row and row.endswith(ending) for row in rows]


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates of four models: three runs each, but two of `rf_study_3`, which has no log."""
    folder = tmp_path_factory.mktemp("records")
    lasts = {"cloud_2": (9_882, 9_886, 9_890), "pipeline_third": (9_937, 9_938, 9_939), "rf_study_3": (9_943, 9_945)}
    for name, last in lasts.items():
        made_up_certificate(name, last, runs=3).write(folder / f"{name}.json")
    # Its log is of 25 epochs.
    short = Recipe.from_mapping(mnist_models.model_card("rf_study_5").recipe, name="short").with_epochs(15)
    made_up_certificate("rf_study_5", (9_920, 9_924, 9_928), runs=3, recipe=short).write(folder / "rf_study_5.json")
    return folder


def cells(page: str, model: str) -> list[list[str]]:
    """The cells of a page's table rows that begin with the model's name."""
    rows = [
        [cell.strip(" []`") for cell in line.strip("|").split("|")] for line in page.splitlines() if line[:1] == "|"
    ]
    return [row for row in rows if row[0].split("`")[0] == model]


def test_the_replication_page_has_a_row_for_each_published_figure(records: Path) -> None:
    """Each model has three rows: published, our mean, interval, runs, outcome; what was not run or cannot be tested says so."""
    page = generated_pages.replication_page(records)

    best, last, mean = cells(page, "pipeline_third")
    assert ["best", "9,943.0", "9,938.0"] == best[1:4]
    assert ["last", "9,938.0", "9,938.0"] == last[1:4]
    assert ["mean of the last three", "9,937.7", "9,938.0"] == mean[1:4]
    assert [["3", "consistent"]] * 3 == [row[-2:] for row in (best, last, mean)]
    assert [["9,941.0", "", "", "", "not run"], ["9,941.0", "", "", "", "not run"]] == [
        row[2:] for row in cells(page, "cloud_1")[:2]
    ]
    best, last, _ = cells(page, "rf_study_3")
    assert ("9,851.0", "2", "below what we see") == (best[2], *best[-2:])
    assert "not testable: no training log is published" == last[-1]
    assert (
        "not testable: the published log and the recipe have different numbers of epochs"
        == cells(page, "rf_study_5")[0][-1]
    )
    assert 3 * 16 == sum(len(cells(page, name)) for name in mnist_models.list_models())


def test_the_replication_page_says_how_it_was_computed(records: Path) -> None:
    """Joint and corrected confidence, pooled deviation and models, machines, unfinished and shared runs."""
    page = generated_pages.replication_page(records)

    # Of cloud_2, its twin and pipeline_third three figures each, and the best of rf_study_3.
    assert "| confidence | 95 % for all figures together, 99.50 % for each |" in page
    assert "pooled over cloud_2, pipeline_third, rf_study_3 |" in page
    assert "| trained on | engine fast on cpu, processor not reported, torch 2.15.0 |" in page
    assert "* `rf_study_3`: 2 of 3 seeds so far\n" in page
    assert "* `pipeline_second`: the runs of `cloud_2`, which is the same network under the same recipe\n" in page


def test_the_replication_page_names_percentages_that_contradict_their_counts(tmp_path: Path) -> None:
    """The three lines of the log of `pipeline_third`, with or without records."""
    page = generated_pages.replication_page(tmp_path)

    assert "The log of `pipeline_third` prints percentages that its own counts contradict:" in page
    assert ["952", "957", "967"] == re.findall(r"^\* document 002, line (\d+): Prints 99", page, flags=re.MULTILINE)
    assert "9,932, 9,943 and 9,938 of 10,000" in page
    assert 3 * 15 + 1 == page.count("not run |")


def test_the_table_of_models_has_the_outcome_of_the_replication(records: Path) -> None:
    """One outcome for all figures, or each outcome with its figures; `-` for a model of our own."""
    page = generated_pages.models_page(records)
    outcomes = {name: cells(page, name)[0][-1] for name in mnist_models.list_models()}

    assert "-" == outcomes["reference"]
    assert "not run" == outcomes["cloud_1"]
    assert "above what we see: best; consistent: last, mean of the last three" == outcomes["cloud_2"]
    assert "consistent" == outcomes["pipeline_third"]
    assert "below what we see" == outcomes["rf_study_3"]
    assert "not testable: the published log and the recipe have different numbers of epochs" == outcomes["rf_study_5"]


def test_the_readme_has_the_table_of_models(records: Path, tmp_path: Path) -> None:
    """As computed from the cards and from what is on record; other records make another table, and nothing else changes."""
    text = (ROOT / "README.md").read_text("utf-8")
    assert text == generated_pages.readme(text), "run: python -m docs.generated_pages"

    made_up_certificate("reference", [9_939, *[9_950, 9_961] * 24, 9_950], runs=50).write(tmp_path / "reference.json")
    other = generated_pages.readme(text, records, tmp_path)
    rows = {name: cells(other, name)[0] for name in mnist_models.list_models()}
    assert ["7,752", "-", "9,955.1 (50 runs)", "certificate: pass, 49 of 50 runs passed"] == rows["reference"][1:]
    assert ["6,012", "-", "-", "not run"] == rows["reference_small"][1:]
    assert ["5,048", "99.08 %", "9,886.0 (3 runs)"] == rows["cloud_2"][1:4]
    assert rows["cloud_2"][1:] == rows["pipeline_second"][1:]
    assert ["9,944.0 (2 runs)", "below what we see"] == rows["rf_study_3"][3:]
    assert generated_pages.readme(other) == text

    made_up_certificate("reference", [9_939, 9_950], runs=50).write(tmp_path / "reference.json")
    assert (
        "certificate: unfinished, 1 of 2 runs passed"
        == cells(generated_pages.readme(text, records, tmp_path), "reference")[0][-1]
    )


def test_the_page_of_certificates_shows_verdict_figures_and_picture(tmp_path: Path) -> None:
    """Every figure of the summary, the rule, the machine and a picture."""
    made_up_certificate("reference", [9_939, *[9_950, 9_961] * 24, 9_950], runs=50).write(tmp_path / "reference.json")
    page = generated_pages.certificates_page(tmp_path)
    generated_pages.draw_certificates(tmp_path / "site", tmp_path)

    assert (
        "Verdict: **pass**, the pass rate is above 80 %. A run passes with at least 99.4 % of the test images correct in each "
        "of the last 5 epochs."
    ) in page
    assert ("| 49 of 50 passed, 98.0 %; 95 % interval 89.4 to 99.9 %, one-sided 95 % lower bound 90.9 % |") in page
    assert "| mean 9,955.1, standard deviation over seeds 6.0, lowest 9,939 of 10,000 |" in page
    assert "| trained on | engine fast on cpu, processor not reported, torch 2.15.0 |" in page
    (picture,) = re.findall(r"!\[.*\]\((.*)\)", page)
    assert "<svg" in (tmp_path / "site" / picture).read_text("utf-8")


def test_an_unfinished_certificate_shows_no_verdict(tmp_path: Path) -> None:
    """12 of 50 seeds so far have a pass rate but no interval; a model without a certificate is not run."""
    assert "## reference\n\nNot run.\n" in generated_pages.certificates_page(tmp_path)
    made_up_certificate("reference", [9_950, 9_961] * 6, runs=50).write(tmp_path / "reference.json")
    page = generated_pages.certificates_page(tmp_path)

    assert "No verdict: 12 of 50 seeds so far. A run passes with" in page
    assert "| pass rate | 12 of 12 passed, 100.0 % |" in page
    assert "Verdict" not in page


def test_the_search_shows_every_trial_and_every_certificate() -> None:
    """Each network with its accuracy against the first one, and each certificate in declared order, passed or not."""
    page = generated_pages.certificates_page()
    trials = json.loads(small_network_search.RESULTS.read_text("utf-8"))
    parts = page.split("Certified in this order")

    assert [f"{one['mean']:,.1f}" for one in trials] == [cells(parts[0], one["name"])[-1][4] for one in trials]
    assert list(small_network_search.CERTIFIED) == re.findall(r"^\| `([\w.-]+)` \|", parts[1], flags=re.MULTILINE)
    first = next(iter(small_network_search.CERTIFIED))
    assert ["50 of 50 seeds", "48", "87.9 %", "mean 9,951.8, lowest 9,939"] == cells(parts[1], first)[0][1:]


def test_the_part_of_the_audit_shows_every_rule_with_its_example() -> None:
    """Each rule of the audit has a heading, its kind and its example."""
    part = generated_pages.claims_part()
    assert [rule.name for rule in RULES] == re.findall(r"^### `([\w-]+)`$", part, flags=re.MULTILINE)
    assert all(rule.example.rstrip() in part and f"*{rule.kind}*" in part for rule in RULES)


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
