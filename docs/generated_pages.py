"""Pages that are generated from the code when the site is built: models, contracts, schemas, speed and the Python API."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import json
import pkgutil
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import harness
import mnist_models
from benchmarks import training_speed
from harness.certification import ConsistencyRule
from harness.contracts import REQUIREMENTS, Contract, builtin_contracts, load_contract
from harness.contracts.requirement import section_of
from harness.datasets import PUBLISHED
from harness.determinism.axes import Axis, finding
from harness.findings import Status
from harness.training import recipe

ROOT = Path(__file__).parents[1]
SCHEMAS = ROOT / "docs" / "schemas"


def write_pages(folder: Path) -> None:
    """Write every generated page into a folder; a page that has not changed keeps its time of change.

    Args:
        folder: where they go: pages of their own at the top, parts that other pages include under ``parts``.
    """
    pages = {
        "models.md": models_page(),
        "schemas.md": schemas_page(),
        "parts/axes.md": axes_part(),
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
    """A Markdown table; ``|`` inside a cell is escaped."""
    lines = [heads, ["---"] * len(heads), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def models_page() -> str:
    """Every shipped model with the figures of its card, and what each card says."""
    cards = [mnist_models.model_card(name) for name in mnist_models.list_models()]
    rows = [
        (
            f"[`{card.name}`](#{card.name.replace('_', '-')})",
            f"{card.parameters:,}",
            f"`{card.contract}`",
            "-" if card.claim is None else f"{card.claim.test_percent} %",
            " ".join(f"{epoch.correct:,}" for epoch in card.log.epochs[-3:]) if card.log else "-",
            card.expected.outcome,
        )
        for card in cards
    ]
    heads = ("model", "parameters", "contract", "claimed best", "last three epochs", "accuracy rule")
    return "\n\n".join(
        [
            "# The shipped models",
            "Generated from the [cards](../cards.md), which say what the columns mean.",
            table(heads, rows),
            *(_model_section(card) for card in cards),
            "",
        ]
    )


def _model_section(card: mnist_models.ModelCard) -> str:
    facts = [card.description, f"Accuracy rule: {card.expected.outcome}. {card.expected.reason}"]
    sources = [
        f"* document {source.document}, {source.section}, lines {source.lines[0]} to {source.lines[1]}, `{source.repository}`"
        for source in card.sources
    ]
    discrepancies = [
        f"* *{one.kind}*, document {one.document}, lines {one.lines[0]} to {one.lines[1]}: {one.what}"
        for one in card.discrepancies
    ]
    parts = [f"## {card.name}", *facts, f"Recipe: {card.recipe_provenance}"]
    if sources:
        parts += ["Published in:", "\n".join(sources)]
    if discrepancies:
        parts += ["Discrepancies of the publication:", "\n".join(discrepancies)]
    return "\n\n".join(parts)


def contracts_part() -> str:
    """What each built-in contract asks, in the sentences of ``harness contract explain``."""
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
    """Every key of a contract, by requirement."""
    rows = []
    for requirement in REQUIREMENTS:
        sections: dict[str, list[str]] = {}
        for field in dataclasses.fields(requirement):
            sections.setdefault(section_of(requirement, field), []).append(f"`{field.name}`")
        keys = " and ".join((f"`[{name}]` " if name else "") + ", ".join(names) for name, names in sections.items())
        rows.append((f"`{requirement.name}`", keys or "always asked", _docstring(requirement)))
    return table(("requirement", "keys", "meaning"), rows) + "\n"


def recipes_part() -> str:
    """The optimizers and schedules that a recipe can name, each with its keys and their defaults."""
    sections = (("optimizer", recipe.Optimizer), ("schedule", recipe.Schedule))
    tables = []
    for section, kinds in sections:
        rows = [(f"`{kind.name}`", ", ".join(_keys_of(kind)), _docstring(kind)) for kind in get_args(kinds)]
        tables.append(table((f"`[{section}]` `name`", "keys (default)", "meaning"), rows))
    return "\n\n".join(tables) + "\n"


def _docstring(kind: type) -> str:
    """A class's docstring as one line of Markdown."""
    return " ".join(inspect.cleandoc(kind.__doc__ or "").split()).replace("``", "`")


def _keys_of(kind: type) -> Iterator[str]:
    for field in dataclasses.fields(kind):
        yield f"`{field.name}`" + ("" if field.default is dataclasses.MISSING else f" ({json.dumps(field.default)})")


def axes_part() -> str:
    """The axes of the determinism check, in the order of a report, and what is expected on each."""
    rows = [(axis.value, finding(axis, Status.PASS, "").expected) for axis in Axis]
    return table(("axis", "expected"), rows) + "\n"


def datasets_part() -> str:
    """The data sets that can be downloaded, and their files with size and digest."""
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
    """Every direct dependency with the comment that stands beside it in ``pyproject.toml``.

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
    """The means of the engines' accuracies on record, and how far they are shown to be equal."""
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
    """The packages in the order in which they may import each other, and the longest source file."""
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
    """The first paragraph of a module's docstring, without importing it."""
    path = ROOT.joinpath(*name.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    docstring = ast.get_docstring(ast.parse(file.read_text("utf-8"))) or ""
    return docstring.split("\n\n")[0].replace("\n", " ").replace("``", "`")


def schemas_page() -> str:
    """Every JSON schema: the file, and its keys with their descriptions."""
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
    """The speed figures on record, as the benchmark itself prints them, with a section for each machine."""
    sections = []
    for machine in ("intel", "amd"):
        record = json.loads((ROOT / "benchmarks" / "records" / f"training_speed_{machine}.json").read_text("utf-8"))
        text = re.sub("^#", "###", training_speed.markdown(record), flags=re.MULTILINE)
        sections.append(f"## {record['environment']['processor']}\n\n{text}")
    return "# Speed figures\n\n" + "\n".join(sections)


def api_packages() -> list[str]:
    """The packages with a public Python API, `harness` first."""
    inner = [f"harness.{module.name}" for module in pkgutil.iter_modules(harness.__path__)]
    hidden = {"harness.__main__", "harness._version", "harness.cli"}
    return [*sorted(set(inner) - hidden), "mnist_models"]


def api_pages() -> dict[str, str]:
    """One page for each package: what its ``__all__`` names, then the other types that these take or return."""
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
    """What ``__all__`` names, or in a module without one what it defines."""
    if hasattr(package, "__all__"):
        return [getattr(package, name) for name in package.__all__]
    return [one for one in vars(package).values() if getattr(one, "__module__", None) == package.__name__]


def _other_types(package: ModuleType, public: set[int]) -> list[type]:
    """The package's own classes in the annotations of its public names, and in theirs, that no ``__all__`` names."""
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
    """The classes in a function's annotations, or in those of a class's fields, methods and properties."""
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
        path: the included file; one under ``docs/`` is left as it is.
        source: its text, in a list of one.
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
