"""Pages that are generated from the code when the site is built: models, contracts, schemas, speed and the Python API."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import harness
import mnist_models
from benchmarks import training_speed
from harness.contracts import builtin_contracts, load_contract

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
        "parts/contracts.md": contracts_part(),
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
        sections.append(f"### `{name}`\n\n" + "\n".join(f"* {sentence}" for sentence in contract.explain()))
    return "\n\n".join(sections) + "\n"


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
    """The speed figures on record, as the benchmark itself prints them."""
    record = json.loads((ROOT / "benchmarks" / "records" / "training_speed.json").read_text("utf-8"))
    return training_speed.markdown(record)


def api_packages() -> list[str]:
    """The packages with a public Python API, `harness` first."""
    inner = [f"harness.{module.name}" for module in pkgutil.iter_modules(harness.__path__)]
    hidden = {"harness.__main__", "harness._version", "harness.cli", "harness.pytest_plugin"}
    return [*sorted(set(inner) - hidden), "mnist_models"]


def api_pages() -> dict[str, str]:
    """One page for each package: what its ``__all__`` names, then the other types that these take or return."""
    names = api_packages()
    public = {id(one) for module in map(importlib.import_module, names) for one in _public(module)}
    pages = {name: _api_page(importlib.import_module(name), public) for name in names}
    summaries = table(
        ("package", "what it does"),
        [(f"[`{name}`]({name}.md)", (importlib.import_module(name).__doc__ or "").split("\n\n")[0]) for name in names],
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
