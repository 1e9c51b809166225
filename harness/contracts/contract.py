"""Contracts: sets of requirements, written in TOML.

The fields of the classes in `REQUIREMENTS` are the valid keys of a contract. The section ``[accuracy]`` is stored unparsed;
`harness.certification` parses the section.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from harness.contracts.interface import InputShape
from harness.contracts.requirement import Requirement, section_of
from harness.contracts.requirements import REQUIREMENTS
from harness.errors import ContractError
from harness.files import read_whole
from harness.tables import expect_mapping, parse_document, read_table, refuse_unknown, shown

R = TypeVar("R", bound=Requirement)
_MAX_BYTES = 2**20


@dataclass(frozen=True, kw_only=True)
class _Heading:
    """The keys of a contract that belong to no requirement."""

    name: str
    description: str = ""
    accuracy: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Contract(_Heading):
    """A contract: structure requirements in the order of `REQUIREMENTS`, and the ``[accuracy]`` table, unparsed."""

    requirements: tuple[Requirement, ...]

    @property
    def requirement_names(self) -> tuple[str, ...]:
        """Names of the contract's requirements, in the order of findings."""
        return tuple(requirement.name for requirement in self.requirements)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of the images to capture a model with: the contract's ``input``, or (1, 28, 28) if not given."""
        asked = self.find(InputShape)
        return asked.input if asked is not None else (1, 28, 28)

    def find(self, kind: type[R]) -> R | None:
        """The contract's requirement of the class ``kind``; None if the contract has none."""
        return next((requirement for requirement in self.requirements if isinstance(requirement, kind)), None)

    def explain(self) -> tuple[str, ...]:
        """A sentence for each structure requirement; the accuracy rule is not included."""
        return tuple(requirement.explain() for requirement in self.requirements)

    def with_accuracy_of(self, other: Contract) -> Contract:
        """A copy of this contract with the accuracy section of ``other``; the name of the copy contains both names."""
        return replace(self, name=f"{self.name} with the accuracy of {other.name}", accuracy=other.accuracy)


def builtin_contracts() -> tuple[str, ...]:
    """Names of the contracts that come with the harness, sorted."""
    folder = resources.files("harness.contracts") / "builtin"
    return tuple(sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")))


def load_contract(name: str) -> Contract:
    """Read a built-in contract by name, or a contract file by path.

    Raises:
        ContractError: there is no such contract, or the file is malformed.
    """
    if name in builtin_contracts():
        return parse_contract(_builtin_text(name), name=name, place=f"built-in contract {name}")
    path = Path(name)
    if not path.is_file():
        close = difflib.get_close_matches(name, builtin_contracts())
        hint = f": did you mean {' or '.join(close)}?" if close else "."
        known = ", ".join(builtin_contracts())
        raise ContractError(f"there is no contract {name!r}{hint} Expected one of {known}, or the path of a TOML file")
    content = read_whole(path, "a contract file", error=ContractError, most=_MAX_BYTES)
    return _parse(content, name=path.stem, place=name)


def parse_contract(text: str, *, name: str, place: str) -> Contract:
    """Read a contract from TOML text.

    ``name`` is the contract's name if the text has no key ``name``; error messages begin with ``place``.

    Raises:
        ContractError: the text is not valid TOML, has an unknown key, or a value of the wrong type or range.
    """
    return _parse(text.encode(errors="surrogatepass"), name=name, place=place)


def _parse(content: bytes, *, name: str, place: str) -> Contract:
    table = parse_document(content, "TOML", where=place, error=ContractError)
    return contract_from_table(table, name=name, place=place)


def contract_from_table(table: dict[str, Any], *, name: str, place: str) -> Contract:
    """Read a contract from a parsed TOML table.

    ``name`` is the contract's name if the table has no key ``name``; error messages begin with ``place``.

    Raises:
        ContractError: the table has an unknown key, or a value of the wrong type or range.
    """
    if "extends" in table:
        table = _extended(table, place)
    _refuse_unknown_keys(table, place)
    given = {field.name: table[field.name] for field in fields(_Heading) if field.name in table}
    heading = read_table(_Heading, {"name": name, **given}, where=place, error=ContractError)
    requirements = tuple(requirement for requirement in _read_requirements(table, place) if requirement.asked)
    return Contract(**vars(heading), requirements=requirements)


def _builtin_text(name: str) -> str:
    return (resources.files("harness.contracts") / "builtin" / f"{name}.toml").read_text(encoding="utf-8")


def _extended(table: dict[str, Any], place: str) -> dict[str, Any]:
    """The contract's keys and sections, together with those of the built-in contract that ``table["extends"]`` names.

    A key or section that both have is taken from ``table``.
    """
    base = table["extends"]
    if base not in builtin_contracts():
        raise ContractError(
            f"{place}: expected extends to name a built-in contract, {' or '.join(builtin_contracts())}, got {shown(base)}"
        )
    parent = tomllib.loads(_builtin_text(base))
    if "extends" in parent:
        parent = _extended(parent, f"built-in contract {base}")
    # A section replaces the whole section of the extended contract; keys of the two sections are not combined.
    return {key: value for key, value in {**parent, **table}.items() if key != "extends"}


def _refuse_unknown_keys(table: Mapping[str, Any], place: str) -> None:
    sections: dict[str, set[str]] = {"": {"extends", *(field.name for field in fields(_Heading))}}
    for requirement in REQUIREMENTS:
        sections.setdefault(requirement.section, set())
        for field in fields(requirement):
            sections.setdefault(section_of(requirement, field), set()).add(field.name)
    top = sections.pop("")
    refuse_unknown(table, top | sections.keys(), where=place, error=ContractError)
    for section, keys in sections.items():
        where = f"{place}, [{section}]"
        given = expect_mapping(table.get(section, {}), where=where, error=ContractError)
        refuse_unknown(given, keys, where=where, error=ContractError)
        if section in table and not given:
            raise ContractError(
                f"{where}: expected at least one of the keys {', '.join(sorted(keys))}, got none, which requires nothing. Add a "
                "key, or remove the section."
            )


def _read_requirements(table: Mapping[str, Any], place: str) -> Iterator[Requirement]:
    """Build each requirement for which the contract has a key or section, and each that has no keys."""
    for requirement in REQUIREMENTS:
        given, sections = {}, set()
        for field in fields(requirement):
            section = section_of(requirement, field)
            keys = table.get(section, {}) if section else table
            if field.name in keys:
                given[field.name] = keys[field.name]
                sections.add(section)
        if given or requirement.section in table or not fields(requirement):
            (section,) = sections if len(sections) == 1 else (requirement.section,)
            where = f"{place}, [{section}]" if section else place
            yield read_table(requirement, given, where=where, error=ContractError)
