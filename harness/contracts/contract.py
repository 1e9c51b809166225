"""Contracts: sets of requirements, written in TOML.

The structure sections are read here. ``[accuracy]`` belongs to the certification room: it is carried along unread.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from harness.errors import ContractError

Presence = Literal["required", "forbidden"]

FEATURES = ("gap", "dropout", "batch_norm", "linear")
_OUTPUTS = ("log-probabilities", "logits")
_KEYS = (
    "name",
    "description",
    "extends",
    "input",
    "classes",
    "any_of",
    "parameters",
    "receptive_field",
    "head",
    *FEATURES,
    "batch",
    "gradients",
    "cost",
    "accuracy",
)


def _bounds_in_words(minimum: int | None, maximum: int | None) -> list[str]:
    words = [f"at most {maximum:,}"] if maximum is not None else []
    return words + ([f"at least {minimum:,}"] if minimum is not None else [])


@dataclass(frozen=True, kw_only=True)
class ParameterBudget:
    """How many parameters are allowed; hidden state counts towards it unless ``hidden_state`` is false.

    ``below`` is strict, ``max`` and ``min`` are inclusive.
    """

    below: int | None = None
    max: int | None = None
    min: int | None = None
    hidden_state: bool = True

    @property
    def words(self) -> str:
        """The bounds in words, such as ``fewer than 8,000``."""
        below = [f"fewer than {self.below:,}"] if self.below is not None else []
        return " and ".join([*below, *_bounds_in_words(self.min, self.max)])


@dataclass(frozen=True, kw_only=True)
class FieldBound:
    """How much of the image a position must see, in pixels along both axes, before the head's pooling or including it."""

    min: int | None = None
    max: int | None = None
    including_pool: bool = False

    @property
    def words(self) -> str:
        """The bounds in words, such as ``at least 20``."""
        return " and ".join(_bounds_in_words(self.min, self.max))


@dataclass(frozen=True, kw_only=True)
class BatchRule:
    """How the model must treat a batch in evaluation.

    ``independent``: an image's answer does not depend on the others, nor on their order or number. ``strict_size``: images of
    another size are an error or get one answer each, never more or fewer answers than images.
    """

    independent: bool = False
    strict_size: bool = False


@dataclass(frozen=True, kw_only=True)
class CostBound:
    """What one image may cost in evaluation: multiply-accumulates, and bytes of all activations together; inclusive."""

    max_macs: int | None = None
    max_activation_bytes: int | None = None

    @property
    def words(self) -> str:
        """The bounds in words."""
        macs = [f"{self.max_macs:,} multiply-accumulates"] if self.max_macs is not None else []
        memory = (
            [f"{self.max_activation_bytes:,} bytes of activations"] if self.max_activation_bytes is not None else []
        )
        return f"at most {' and '.join([*macs, *memory])}"


@dataclass(frozen=True, kw_only=True)
class Contract:
    """What is asked of a model. What is None or empty is not asked.

    Args:
        name: what the contract is called.
        description: the same in a sentence.
        input: shape of one input image.
        classes: columns of the output.
        outputs: what the output may be.
        parameters: the parameter budget.
        receptive_field: bounds on the receptive field.
        features: whether ``gap``, ``dropout``, ``batch_norm`` and ``linear`` are required or forbidden.
        any_of: features of which at least one must be there.
        bare_head: nothing but the output's softmax may follow the last layer with weights.
        batch: how a batch must be treated.
        gradients: every trainable parameter must get a finite gradient.
        cost: bounds on the cost of one image.
        accuracy: the ``[accuracy]`` table as written, or None.
    """

    name: str
    description: str = ""
    input: tuple[int, ...] | None = None
    classes: int | None = None
    outputs: tuple[str, ...] = _OUTPUTS
    parameters: ParameterBudget | None = None
    receptive_field: FieldBound | None = None
    features: Mapping[str, Presence]
    any_of: tuple[str, ...] = ()
    bare_head: bool = False
    batch: BatchRule | None = None
    gradients: bool = False
    cost: CostBound | None = None
    accuracy: Mapping[str, Any] | None = None

    @property
    def asks_output(self) -> bool:
        """Whether anything is asked of the output: how many classes, or of which kind."""
        return self.classes is not None or self.outputs != _OUTPUTS

    def with_accuracy_of(self, other: Contract) -> Contract:
        """This contract's structure with another contract's accuracy section, both named."""
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
        text = (resources.files("harness.contracts") / "builtin" / f"{name}.toml").read_text(encoding="utf-8")
        return parse_contract(text, name=name, place=f"built-in contract {name}")
    path = Path(name)
    if not path.is_file():
        close = difflib.get_close_matches(name, builtin_contracts())
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        msg = f"there is no contract {name!r}: {hint}Expected one of {', '.join(builtin_contracts())}, or the path of a TOML file"
        raise ContractError(msg)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        msg = f"contract file {name} cannot be read: {error}"
        raise ContractError(msg) from error
    return parse_contract(text, name=path.stem, place=name)


def parse_contract(text: str, *, name: str, place: str) -> Contract:
    """Read a contract from TOML text.

    Args:
        text: the document.
        name: what to call the contract unless the document says.
        place: where the text came from, for messages.

    Raises:
        ContractError: no valid TOML, an unknown key, or a value of the wrong type or range.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        msg = f"{place} is not valid TOML: {error}"
        raise ContractError(msg) from error
    if "extends" in table:
        table = _extended(table, place)
    reader = _Table(table, place, _KEYS)
    features: dict[str, Presence] = {}
    for feature in FEATURES:
        section = reader.section(feature, ("required", "forbidden"))
        if section is None:
            continue
        required, forbidden = section.flag("required"), section.flag("forbidden")
        if required and forbidden:
            msg = f"{place}: [{feature}] is both required and forbidden; keep one"
            raise ContractError(msg)
        if required or forbidden:
            features[feature] = "required" if required else "forbidden"
    any_of = reader.strings("any_of")
    for feature in any_of:
        if feature not in FEATURES:
            msg = f"{place}: any_of names {feature!r}; expected some of {', '.join(FEATURES)}"
            raise ContractError(msg)
    head = reader.section("head", ("output", "bare"))
    output = head.string("output") if head is not None else None
    if output is not None and output not in _OUTPUTS:
        msg = f"{place}: [head] output is {output!r}; expected one of {', '.join(_OUTPUTS)}"
        raise ContractError(msg)
    gradients = reader.section("gradients", ("complete",))
    accuracy = reader.section("accuracy", None)
    return Contract(
        name=reader.string("name") or name,
        description=reader.string("description") or "",
        input=reader.sizes("input"),
        classes=reader.count("classes", least=1),
        outputs=_OUTPUTS if output is None else (output,),
        parameters=_budget(reader),
        receptive_field=_field_bound(reader),
        features=features,
        any_of=any_of,
        bare_head=head is not None and head.flag("bare"),
        batch=_batch_rule(reader),
        gradients=gradients is not None and gradients.flag("complete"),
        cost=_cost_bound(reader),
        accuracy=None if accuracy is None else accuracy.data,
    )


def _extended(table: dict[str, Any], place: str) -> dict[str, Any]:
    """The document with what it does not say itself taken from the built-in contract it extends."""
    base = table["extends"]
    if base not in builtin_contracts():
        msg = f"{place}: extends {base!r}; expected one of {', '.join(builtin_contracts())}"
        raise ContractError(msg)
    text = (resources.files("harness.contracts") / "builtin" / f"{base}.toml").read_text(encoding="utf-8")
    parent = tomllib.loads(text)
    if "extends" in parent:
        parent = _extended(parent, f"built-in contract {base}")
    # Sections replace sections whole: half of one rule and half of another would be neither.
    return {key: value for key, value in {**parent, **table}.items() if key != "extends"}


def _budget(reader: _Table) -> ParameterBudget | None:
    section = reader.section("parameters", ("below", "max", "min", "hidden_state"))
    if section is None:
        return None
    hidden = section.data.get("hidden_state", True)
    if not isinstance(hidden, bool):
        msg = f"{section.place}: hidden_state={hidden!r}; expected true or false"
        raise ContractError(msg)
    budget = ParameterBudget(
        below=section.count("below"), max=section.count("max"), min=section.count("min"), hidden_state=hidden
    )
    if budget.below is None and budget.max is None and budget.min is None:
        msg = f"{section.place} bounds nothing: expected at least one of below (strict), max, min (inclusive)"
        raise ContractError(msg)
    return budget


def _field_bound(reader: _Table) -> FieldBound | None:
    section = reader.section("receptive_field", ("min", "max", "including_pool"))
    if section is None:
        return None
    bound = FieldBound(
        min=section.count("min"), max=section.count("max"), including_pool=section.flag("including_pool")
    )
    if bound.min is None and bound.max is None:
        msg = f"{section.place} bounds nothing: expected min or max, in pixels"
        raise ContractError(msg)
    return bound


def _batch_rule(reader: _Table) -> BatchRule | None:
    section = reader.section("batch", ("independent", "strict_size"))
    if section is None:
        return None
    rule = BatchRule(independent=section.flag("independent"), strict_size=section.flag("strict_size"))
    return rule if rule.independent or rule.strict_size else None


def _cost_bound(reader: _Table) -> CostBound | None:
    section = reader.section("cost", ("max_macs", "max_activation_bytes"))
    if section is None:
        return None
    bound = CostBound(max_macs=section.count("max_macs"), max_activation_bytes=section.count("max_activation_bytes"))
    if bound.max_macs is None and bound.max_activation_bytes is None:
        msg = f"{section.place} bounds nothing: expected max_macs or max_activation_bytes"
        raise ContractError(msg)
    return bound


class _Table:
    """One TOML table, read with its keys checked; every complaint names the place and the value."""

    def __init__(self, data: Mapping[str, Any], place: str, keys: tuple[str, ...] | None) -> None:
        self.data = data
        self.place = place
        for key in data:
            if keys is not None and key not in keys:
                close = difflib.get_close_matches(key, keys, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"expected some of {', '.join(keys)}"
                msg = f"{place}: unknown key {key!r}: {hint}"
                raise ContractError(msg)

    def _complain(self, key: str, expected: str) -> ContractError:
        value = self.data[key]
        return ContractError(f"{self.place}: {key}={value!r} ({type(value).__name__}); expected {expected}")

    def section(self, key: str, keys: tuple[str, ...] | None) -> _Table | None:
        if key not in self.data:
            return None
        value = self.data[key]
        if not isinstance(value, dict):
            raise self._complain(key, f"a section [{key}]")
        return _Table(value, f"{self.place}: [{key}]", keys)

    def flag(self, key: str) -> bool:
        value = self.data.get(key, False)
        if not isinstance(value, bool):
            raise self._complain(key, "true or false")
        return value

    def count(self, key: str, *, least: int = 0) -> int | None:
        value = self.data.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            raise self._complain(key, f"a whole number from {least}")
        return value

    def string(self, key: str) -> str | None:
        value = self.data.get(key)
        if value is not None and not isinstance(value, str):
            raise self._complain(key, "a text in quotes")
        return value

    def strings(self, key: str) -> tuple[str, ...]:
        value = self.data.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._complain(key, "a list of texts")
        return tuple(value)

    def sizes(self, key: str) -> tuple[int, ...] | None:
        value = self.data.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or not value or not all(type(item) is int and item > 0 for item in value):
            raise self._complain(key, "a list of sizes such as [1, 28, 28]")
        return tuple(value)
