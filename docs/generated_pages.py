"""Pages that are generated from code and records when the site is built: models, certificates, contracts, schemas, speed, API.

`python -m docs.generated_pages` also writes the table of models into README.md, which a test compares with the records.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import inspect
import json
import pkgutil
import re
import statistics
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import harness
import mnist_models
from benchmarks import replication, small_network_search, training_speed
from harness.certification import Certificate, ConsistencyRule, Replication, replicate
from harness.claims import RULES
from harness.cli.certificates import certificate_facts, conclusion, draw_certificate
from harness.cli.replicate import model_outcome, published, replication_facts, replication_rows
from harness.contracts import REQUIREMENTS, Contract, builtin_contracts, load_contract
from harness.contracts.requirement import section_of
from harness.datasets import PUBLISHED
from harness.determinism.axes import Axis, finding
from harness.findings import Status
from harness.grading import Assignment, builtin_assignments, load_assignment
from harness.grading.assignment import OwnRecipe
from harness.training import recipe

ROOT = Path(__file__).parents[1]
SCHEMAS = ROOT / "docs" / "schemas"
CERTIFICATES = ROOT / "mnist_models" / "certificates"
# The comments in README.md before and after its table of models.
_README_TABLE = "<!-- table of models: python -m docs.generated_pages -->", "<!-- end of the table of models -->"
PICTURE = "pictures/certificate-{}.svg"


def write_pages(folder: Path) -> None:
    """Write every generated page into a folder; a file whose content does not change is not written.

    Args:
        folder: the target folder: whole pages at the top level, and parts that other pages include under ``parts``.
    """
    pages = {
        "models.md": models_page(),
        "certificates.md": certificates_page(),
        "replication.md": replication_page(),
        "schemas.md": schemas_page(),
        "parts/assignments.md": assignments_part(),
        "parts/axes.md": axes_part(),
        "parts/claims.md": claims_part(),
        "parts/contracts.md": contracts_part(),
        "parts/requirements.md": requirements_part(),
        "parts/datasets.md": datasets_part(),
        "parts/dependencies.md": dependencies_part(),
        "parts/equivalence.md": equivalence_part(),
        "parts/packages.md": packages_part(),
        "parts/recipes.md": recipes_part(),
        "speed-figures.md": speed_page(),
        **{f"api/{name}.md": text for name, text in api_pages().items()},
    }
    for name, text in pages.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")
    for path in folder.rglob("*.md"):
        if path.relative_to(folder).as_posix() not in pages:
            path.unlink()


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table with the column titles ``heads``; ``|`` inside a cell of ``rows`` is escaped."""
    lines = [heads, ["---"] * len(heads), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def models_page(records: Path = replication.RECORDS) -> str:
    """Every shipped model with the figures of its card and its replication on record, and what each card says."""
    cards = [mnist_models.model_card(name) for name in mnist_models.list_models()]
    _, found = replicated(records)
    rows = [
        (
            f"[`{card.name}`](#{card.name.replace('_', '-')})",
            f"{card.parameters:,}",
            f"`{card.contract}`",
            "-" if card.claim is None else f"{card.claim.test_percent} %",
            " ".join(f"{epoch.correct:,}" for epoch in card.log.epochs[-3:]) if card.log else "-",
            card.expected.outcome,
            model_outcome(found, card.name),
        )
        for card in cards
    ]
    heads = ("model", "parameters", "contract", "claimed best", "last three epochs", "accuracy rule", "replication")
    return "\n\n".join(
        [
            "# The shipped models",
            "Generated from the [cards](../cards.md), which say what the columns mean, and the [replication](replication.md).",
            table(heads, rows),
            *(_model_section(card) for card in cards),
            "",
        ]
    )


def readme(text: str, records: Path = replication.RECORDS, certificates: Path = CERTIFICATES) -> str:
    """Return the text of README.md with its table of models computed again from the cards, certificates and replication."""
    replicas, found = replicated(records)
    own = own_certificates(certificates)
    rows = []
    for card in map(mnist_models.model_card, mnist_models.list_models()):
        certificate = own.get(card.name) or replicas.get(card.name)
        lasts = [run.correct[-1] for run in certificate.runs if run.status == "complete"] if certificate else []
        if card.name not in own:
            outcome = model_outcome(found, card.name)
        elif certificate is None:
            outcome = "not run"
        else:
            verdict = f"certificate: {certificate.verdict or 'unfinished'}"
            outcome = f"{verdict}, {sum(certificate.outcomes)} of {len(certificate.runs)} runs passed"
        rows.append(
            (
                f"`{card.name}`",
                f"{card.parameters:,}",
                "-" if card.claim is None else f"{card.claim.test_percent} %",
                f"{statistics.fmean(lasts):,.1f} ({len(lasts)} runs)" if lasts else "-",
                outcome,
            )
        )
    heads = ("model", "parameters", "claimed best", "our last epoch, of 10,000", "our certificate or replication")
    start, end = _README_TABLE
    before, after = text.partition(start)[0], text.partition(end)[2]
    return f"{before}{start}\n{table(heads, rows)}\n{end}{after}"


def _model_section(card: mnist_models.ModelCard) -> str:
    facts = [card.description, f"Accuracy rule: {card.expected.outcome}. {card.expected.reason}"]
    sources = [
        f"* document {source.document}, {source.section}, lines {source.lines[0]} to {source.lines[1]}, `{source.repository}`"
        for source in card.sources
    ]
    discrepancies = [f"* *{one.kind}*, {_place(one)}: {one.what}" for one in card.discrepancies]
    parts = [f"## {card.name}", *facts, f"Recipe: {card.recipe_provenance}"]
    if sources:
        parts += ["Published in:", "\n".join(sources)]
    if discrepancies:
        parts += ["Discrepancies of the publication:", "\n".join(discrepancies)]
    return "\n\n".join(parts)


def _place(one: mnist_models.Discrepancy) -> str:
    first, last = one.lines
    return f"document {one.document}, " + (f"line {first}" if first == last else f"lines {first} to {last}")


@functools.cache
def replicated(records: Path) -> tuple[dict[str, Certificate], Replication]:
    """The certificates on record of the published models, and the comparison of all published figures with them."""
    certificates = replication.recorded(records)
    documented = [name for name in mnist_models.list_models() if mnist_models.model_card(name).sources]
    return certificates, replicate([published(name) for name in documented], certificates)


def replication_page(records: Path = replication.RECORDS) -> str:
    """All published figures compared with our runs on record, how, and which published percentages contradict their counts."""
    certificates, found = replicated(records)
    distinct = {one.declaration.model: one for one in certificates.values()}.values()
    machines = sorted({machine for one in distinct for machine in one.machines})
    notes = [f"* `{one.declaration.model}`: {one.progress}" for one in distinct if one.end is None]
    notes += [
        f"* `{name}`: the runs of `{one.declaration.model}`, which is the same network under the same recipe"
        for name, one in certificates.items()
        if name != one.declaration.model
    ]
    parts = [
        "# Replication of published accuracies",
        (
            "Correct predictions on the test images, as published and in our runs of the same network and recipe. Each interval "
            "is Student's t prediction interval for one more run, computed with the log odds of a correct prediction, whose "
            "standard deviation over seeds is pooled over models. A published best epoch is compared with the best of as many "
            f"epochs of ours. Generated from the certificates in `{replication.RECORDS.relative_to(ROOT).as_posix()}`, which "
            "`harness replicate` writes."
        ),
        table(*replication_rows(found)),
        table(("", ""), [*replication_facts(found), ("trained on", "; ".join(machines) or "no runs")]),
        "\n".join(notes),
        "## Printed percentages that are not in the counts",
        "The table above uses the published counts of correct predictions.",
    ]
    for card in map(mnist_models.model_card, mnist_models.list_models()):
        if wrong := [one for one in card.discrepancies if one.kind == "count"]:
            parts += [
                f"The log of `{card.name}` prints percentages that its own counts contradict:",
                "\n".join(f"* {_place(one)}: {one.what}" for one in wrong),
                card.expected.reason,
            ]
    return "\n\n".join(part for part in parts if part) + "\n"


def own_certificates(folder: Path = CERTIFICATES) -> dict[str, Certificate | None]:
    """The committed certificate of each of our own models; None for a model without one."""
    own = [name for name in mnist_models.list_models() if not mnist_models.model_card(name).sources]
    paths = {name: folder / f"{name}.json" for name in own}
    return {name: Certificate.read(path) if path.exists() else None for name, path in paths.items()}


def certificates_page(folder: Path = CERTIFICATES) -> str:
    """The committed certificates of our own models: verdict, figures and picture."""
    parts = [
        "# Certificates of our own models",
        "Generated from the shipped certificates. [Certify accuracy](../certificates.md) says what the figures mean.",
    ]
    for name, certificate in own_certificates(folder).items():
        parts.append(f"## {name}")
        if certificate is None:
            parts.append("Not run.")
            continue
        verdict, rule = certificate.verdict, certificate.declaration.rule
        found = (
            f"Verdict: **{verdict}**, {conclusion(certificate)}" if verdict else f"No verdict: {certificate.progress}"
        )
        parts += [
            f"{found}. A run passes with {rule.skipped('')[1].expected}.",
            table(("", ""), list(certificate_facts(certificate))),
            f"![The runs and the test]({PICTURE.format(name)})",
        ]
    return "\n\n".join([*parts, *_search()]) + "\n"


def _search() -> list[str]:
    """How our networks were chosen: every network that was tried, by the accuracy on images left out of the training."""
    found = {one["name"]: one for one in json.loads(small_network_search.RESULTS.read_text("utf-8"))}
    first = next(iter(small_network_search.CERTIFIED))
    rows = [
        (
            f"`{name}`",
            one["difference"],
            ", ".join(map(str, one["seeds"])),
            f"{one['minimum']:,}",
            f"{one['mean']:,.1f}",
            f"{one['mean'] - found[first]['mean']:+.1f}",
        )
        for name, one in found.items()
    ]
    method = (
        f"{len(found)} networks and recipes were compared: trained on 50,000 training images, tested on the 10,000 others. The "
        "test images chose nothing. Counts are of the 10,000, over the last five epochs of each seed; with two seeds, "
        f"differences of six images are chance. `{first}` was `reference` at first, and all have its recipe, but for what the "
        "second column says. The number in a name is that of the parameters; 6,128 are the fewest that were published with each "
        "of the last five epochs at 99.4 %."
    )
    return [
        "## The search for small networks",
        method,
        table(("network", "otherwise", "seeds", "lowest epoch", "mean", f"against `{first}`"), rows),
        "Certified in this order, each declared before its certificate. Each certificate holds for its network alone.",
        table(
            ("network", "seeds", "passed", "95 % lower bound of the pass rate", "counted epochs"), list(_candidates())
        ),
    ]


def _candidates() -> Iterator[tuple[str, ...]]:
    """For each network of the search that is certified, the outcome of its certificate."""
    for name, path in small_network_search.CERTIFIED.items():
        if not path.exists():
            yield f"`{name}`", "not run", "", "", ""
            continue
        certificate = Certificate.read(path)
        summary = certificate.summary()
        bound = "-" if summary["lower_bound"] is None else f"{100 * summary['lower_bound']:.1f} %"
        counted = f"mean {summary['mean']:,.1f}, lowest {summary['minimum']:,}" if certificate.counted else "-"
        yield f"`{name}`", certificate.progress, str(summary["passed"]), bound, counted


def draw_certificates(folder: Path, certificates: Path = CERTIFICATES) -> None:
    """Draw the pictures that `certificates_page` shows into the folder of the generated pages."""
    for name, certificate in own_certificates(certificates).items():
        if certificate is not None:
            path = folder / PICTURE.format(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            draw_certificate(certificate, path)


def contracts_part() -> str:
    """Return the requirements of each built-in contract, in the sentences of ``harness contract explain``."""
    sections = []
    for name in builtin_contracts():
        contract = load_contract(name)
        sections.append(f"### `{name}`\n\n" + "\n".join(f"* {sentence}" for sentence in _sentences(contract)))
    return "\n\n".join(sections) + "\n"


def _sentences(contract: Contract) -> Iterator[str]:
    yield from contract.explain()
    if contract.accuracy is not None:
        for finding in ConsistencyRule.from_table(contract.accuracy).skipped(""):
            yield f"{finding.requirement.capitalize()}: {finding.expected}."


def requirements_part() -> str:
    """Return a table of all requirements of contracts, with the keys and the meaning of each requirement."""
    rows = []
    for requirement in REQUIREMENTS:
        sections: dict[str, list[str]] = {}
        for field in dataclasses.fields(requirement):
            sections.setdefault(section_of(requirement, field), []).append(f"`{field.name}`")
        keys = " and ".join((f"`[{name}]` " if name else "") + ", ".join(names) for name, names in sections.items())
        rows.append((f"`{requirement.name}`", keys or "always asked", _docstring(requirement)))
    return table(("requirement", "keys", "meaning"), rows) + "\n"


def assignments_part() -> str:
    """Return tables of the keys of an assignment and of its section ``[own_recipe]``, and of the built-in assignments."""
    sections = [
        table(("key", "default", "meaning"), list(_documented(Assignment))),
        "### `[own_recipe]`",
        table(("key", "default", "meaning"), list(_documented(OwnRecipe))),
        "## Built-in assignments",
        table(
            ("name", "asks for", "points"),
            [
                (
                    f"`{name}`",
                    one.description,
                    ", ".join(f"{key} {points}" for key, points in one.points.items() if points),
                )
                for name, one in ((name, load_assignment(name)) for name in builtin_assignments())
            ],
        ),
    ]
    return "\n\n".join(sections) + "\n"


def _documented(kind: type) -> Iterator[tuple[str, str, str]]:
    """For each field of a dataclass: its name, its default, and its meaning from the section ``Args`` of the docstring."""
    described = inspect.cleandoc(kind.__doc__ or "").partition("Args:\n")[2].partition("\n\n")[0]
    meanings = dict(re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", described, flags=re.MULTILINE))
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for name, meaning in meanings.items():
        default = fields[name].default
        shown = "" if default in (dataclasses.MISSING, None) or default in ("", ()) else f"`{json.dumps(default)}`"
        yield f"`{name}`", shown, " ".join(meaning.split()).replace("``", "`")


def recipes_part() -> str:
    """Return tables of the optimizers and schedules that a recipe can name, with the keys of each and their defaults."""
    sections = (("optimizer", recipe.Optimizer), ("schedule", recipe.Schedule))
    tables = []
    for section, kinds in sections:
        rows = [(f"`{kind.name}`", ", ".join(_keys_of(kind)), _docstring(kind)) for kind in get_args(kinds)]
        tables.append(table((f"`[{section}]` `name`", "keys (default)", "meaning"), rows))
    return "\n\n".join(tables) + "\n"


def _docstring(kind: type) -> str:
    """Return the docstring of a class as one line of Markdown."""
    return " ".join(inspect.cleandoc(kind.__doc__ or "").split()).replace("``", "`")


def _keys_of(kind: type) -> Iterator[str]:
    for field in dataclasses.fields(kind):
        yield f"`{field.name}`" + ("" if field.default is dataclasses.MISSING else f" ({json.dumps(field.default)})")


def axes_part() -> str:
    """Return a table of the sources of nondeterminism that the determinism check varies, with the expected result of each."""
    rows = [(axis.value, finding(axis, Status.PASS, "").expected) for axis in Axis]
    return table(("axis", "expected"), rows) + "\n"


def claims_part() -> str:
    """Return the rules of the audit: kind, when it yields a finding, what to do, and an example."""
    parts = [
        f"### `{rule.name}`\n\n*{rule.kind}*. {rule.what} {rule.fix}\n\n`````text\n{rule.example.rstrip()}\n`````"
        for rule in RULES
    ]
    return "\n\n".join(parts) + "\n"


def datasets_part() -> str:
    """Return a table of the downloadable data sets, and a table of MNIST's files with sizes and digests."""
    heads = ("`--data`", "data set", "training and test images", "mean, standard deviation")
    rows = []
    for one in PUBLISHED.values():
        trained = PUBLISHED[one.train_on] if one.train_on else one
        counts = f"{trained.files[0].shape[0]:,}, {one.files[-2].shape[0] - one.first_test_image:,}"
        scale = "{}, {}".format(*trained.scale) if trained.scale else "of its training images"
        title = f"{trained.title} for training, {one.title} for testing" if one.train_on else one.title
        rows.append((f"`{one.name}`", title, counts, scale))
    files = [(f"`{file.name}`", f"{file.size:,}", f"`{file.sha256}`") for file in PUBLISHED["mnist"].files]
    digests = table(("MNIST's file", "bytes", "SHA-256, decompressed"), files)
    return f"{table(heads, rows)}\n\n{digests}\n"


def dependencies_part() -> str:
    """Return a table of the direct dependencies, with the comment next to each dependency in ``pyproject.toml``.

    Raises:
        ValueError: a dependency has no comment.
    """
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    project = tomllib.loads(text)
    groups = {"to run": project["project"]["dependencies"], **project["project"]["optional-dependencies"]}
    groups |= project["dependency-groups"]
    rows, seen = [], set()
    for group, requirements in groups.items():
        for requirement in requirements:
            if isinstance(requirement, str) and requirement not in seen:
                seen.add(requirement)
                reason = re.search(rf'"{re.escape(requirement)}",  # (.+)', text)
                if reason is None:
                    raise ValueError(f"expected a comment beside {requirement!r} in pyproject.toml that says what for")
                rows.append((re.split("[<>=]", requirement)[0], group, reason[1]))
    return table(("package", "extra or group", "why"), rows) + "\n"


def equivalence_part() -> str:
    """Return a table of the recorded mean accuracies of the engines, with the tests of equivalence with the engine eager."""
    record = json.loads((ROOT / "benchmarks" / "records" / "engine_equivalence.json").read_text("utf-8"))
    rows = []
    for name, arm in record["arms"].items():
        test = arm["against_eager"]
        against = within = ""
        if test:
            against = "{:+.3f} ({:+.3f} to {:+.3f})".format(test["difference"], *test["interval_90"])
            within = f"{'yes' if test['equivalent'] else 'not shown'}, p = {test['p_equivalence']:.2g}"
            if test["p_difference"] < record["level"]:
                within += f"; different, p = {test['p_difference']:.2g}"
        figures = (f"{arm['seeds'] - arm['silent']}", f"{arm['mean']:.3f}", f"{arm['standard_deviation']:.3f}")
        rows.append((name, *figures, against, within))
    heads = (
        "engine",
        "seeds in the mean",
        "mean (%)",
        "standard deviation",
        "against eager, 90 % interval",
        "within 0.05 points",
    )
    return table(heads, rows) + "\n"


def packages_part() -> str:
    """Return a table of the packages, each after the packages that it may import, and name the longest source file."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    (layers,) = (one["layers"] for one in settings["tool"]["importlinter"]["contracts"] if one["type"] == "layers")
    rows = [("`mnist_models`", _summary("mnist_models"))]
    for layer in reversed(layers):
        names = [f"harness.{name}" for name in layer.split(" | ") if not name.startswith("_")]
        rows += [(f"`{name}`", _summary(name)) for name in names]
    files = [path for package in ("harness", "mnist_models") for path in (ROOT / package).rglob("*.py")]
    lines = {path: path.read_text("utf-8").count("\n") for path in files}
    longest = max(files, key=lambda path: lines[path])
    name = longest.relative_to(ROOT).as_posix()
    summary = _summary(name.removesuffix(".py").replace("/", "."))
    figure = f"The longest source file is `{name}`, {lines[longest]:,} lines: {summary[0].lower()}{summary[1:]}"
    return f"{table(('package', 'what it does'), rows)}\n\n{figure}\n"


def _summary(name: str) -> str:
    """Return the first paragraph of the docstring of the module called ``name``, without importing the module."""
    path = ROOT.joinpath(*name.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    docstring = ast.get_docstring(ast.parse(file.read_text("utf-8"))) or ""
    return docstring.split("\n\n")[0].replace("\n", " ").replace("``", "`")


def schemas_page() -> str:
    """Return the page of the JSON schemas: for each schema, the file and the keys with their descriptions."""
    parts = [
        "# JSON documents",
        "Each document names its schema under the key `schema`. The schemas follow JSON Schema 2020-12.",
    ]
    for path in sorted(SCHEMAS.glob("*.schema.json")):
        schema = json.loads(path.read_text("utf-8"))
        parts += [
            f"## {schema['title']}",
            f"{schema['description'].rstrip('.')}. Schema: [{path.name}](../schemas/{path.name}).",
            *_schema_tables(schema),
        ]
    return "\n\n".join(parts) + "\n"


def _schema_tables(schema: Mapping[str, Any]) -> Iterator[str]:
    heads = ("key", "type", "meaning")
    yield table(heads, list(_keys(schema)))
    for name, part in schema.get("$defs", {}).items():
        if "properties" in part:
            yield f"`{name}`: {part.get('description', '')}".rstrip(": ")
            yield table(heads, list(_keys(part)))
        elif "anyOf" in part:
            yield f"`{name}`: {part['description']}"
            yield table(heads, [key for one in part["anyOf"] if "properties" in one for key in _keys(one)])


def _keys(schema: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for key, value in schema["properties"].items():
        yield f"`{key}`", _kind(value), value.get("description", "")


def _kind(value: Mapping[str, Any]) -> str:
    if "$ref" in value:
        return f"`{value['$ref'].rpartition('/')[2]}`"
    if "const" in value:
        return f"`{json.dumps(value['const'])}`"
    if "enum" in value:
        return ", ".join(f"`{json.dumps(one)}`" for one in value["enum"])
    if value.get("type") == "array" and isinstance(value.get("items"), dict) and value["items"]:
        return f"array of {_kind(value['items'])}"
    kinds = value.get("type", "any")
    return kinds if isinstance(kinds, str) else " or ".join(kinds)


def speed_page() -> str:
    """Return the recorded speed figures as printed by the benchmark, with a section for each machine."""
    sections = []
    for machine in ("intel", "amd"):
        record = json.loads((ROOT / "benchmarks" / "records" / f"training_speed_{machine}.json").read_text("utf-8"))
        text = re.sub("^#", "###", training_speed.markdown(record), flags=re.MULTILINE)
        sections.append(f"## {record['environment']['processor']}\n\n{text}")
    return "# Speed figures\n\n" + "\n".join(sections)


def api_packages() -> list[str]:
    """Return the names of the packages with a public Python API, `harness` first."""
    inner = [f"harness.{module.name}" for module in pkgutil.iter_modules(harness.__path__)]
    hidden = {"harness.__main__", "harness._version", "harness.cli"}
    return [*sorted(set(inner) - hidden), "mnist_models"]


def api_pages() -> dict[str, str]:
    """Return one page for each package: the names in ``__all__``, then the other types that these names take or return."""
    names = api_packages()
    public = {id(one) for module in map(importlib.import_module, names) for one in _public(module)}
    pages = {name: _api_page(importlib.import_module(name), public) for name in names}
    summaries = table(
        ("package", "what it does"),
        [(f"[`{name}`]({name}.md)", _summary(name)) for name in names],
    )
    lines = "\n".join(names)
    pages["index"] = f"# Python API\n\n{summaries}\n\n```{{toctree}}\n:hidden:\n\n{lines}\n```\n"
    return pages


def _api_page(package: ModuleType, public: set[int]) -> str:
    directives = [f".. automodule:: {package.__name__}\n   :members:\n   :show-inheritance:"]
    if others := _other_types(package, public):
        directives.append(".. rubric:: Types that these take or return")
        directives += [f".. autoclass:: {one.__module__}.{one.__qualname__}\n   :members:" for one in others]
    body = "\n\n".join(directives)
    return f"# {package.__name__}\n\n```{{eval-rst}}\n{body}\n```\n"


def _public(package: ModuleType) -> list[Any]:
    """Return the objects that ``__all__`` of a module names or, without ``__all__``, the objects that the module defines."""
    if hasattr(package, "__all__"):
        return [getattr(package, name) for name in package.__all__]
    return [one for one in vars(package).values() if getattr(one, "__module__", None) == package.__name__]


def _other_types(package: ModuleType, public: set[int]) -> list[type]:
    """Return the package's classes that occur in annotations of public names or of such classes, but in no ``__all__``."""
    found: dict[str, type] = {}
    waiting: list[Any] = _public(package)
    while waiting:
        for one in _annotated(waiting.pop()):
            inside = one.__module__.startswith(f"{package.__name__}.")
            if inside and id(one) not in public and not one.__name__.startswith("_") and one.__name__ not in found:
                found[one.__name__] = one
                waiting.append(one)
    return [found[name] for name in sorted(found)]


def _annotated(thing: object) -> Iterator[type]:
    """Yield the classes in the annotations of a function, or of the fields, methods and properties of a class."""
    members = [thing, *(vars(thing).values() if inspect.isclass(thing) else ())]
    scope = vars(sys.modules[getattr(thing, "__module__", None) or __name__])
    for member in members:
        function = getattr(member, "fget", None) or getattr(member, "func", None) or member
        annotations = getattr(function, "__annotations__", None)
        for annotation in (annotations or {}).values():
            for word in re.findall(r"\w+", str(annotation)):
                value = scope.get(word)
                yield from (one for one in (value, *get_args(value)) if inspect.isclass(one))


LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]*)(#[^)\s]*)?\)")
# Files outside docs/ that pages include, and where the site has them.
INCLUDED = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
INCLUDED["tests/README.md"] = "tests.md"


def rewrite_links(path: Path, source: list[str]) -> None:
    """Make the relative links of an included file relative to ``docs/``, in place.

    Args:
        path: the included file; the links of a file under ``docs/`` are not changed.
        source: the text of the file, as a list with one element.
    """
    path = path.resolve()
    if path.is_relative_to(ROOT / "docs"):
        return

    def moved(match: re.Match[str]) -> str:
        target = (path.parent / match[1]).resolve().relative_to(ROOT).as_posix()
        if target in INCLUDED:
            target = INCLUDED[target]
        else:
            target = target.removeprefix("docs/") if target.startswith("docs/") else f"../{target}"
        return f"]({target}{match[2] or ''})"

    source[0] = LINK.sub(moved, source[0])


if __name__ == "__main__":
    (ROOT / "README.md").write_text(readme((ROOT / "README.md").read_text("utf-8")), "utf-8")
