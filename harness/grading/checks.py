"""The checks against cheating: findings about the three builds of a submission, and requirements that its model must meet.

Nothing that a submission says about itself counts, except the capture itself: the examiner rebuilds the model from its graph
and computes all of this from graph and tensors.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch

from harness.contracts.requirement import LISTED, ExaminedModel, Requirement
from harness.contracts.requirements import BatchRule
from harness.findings import Finding, Status
from harness.graph import CapturedModel, graph_to_json
from harness.graph.form import Argument, Graph, Program, argument_types
from harness.graph.module_state import same_tensor
from harness.structure import Structure

BUILD, INITIAL_WEIGHTS, PERMUTED_LABELS = "build", "initial weights", "permuted labels"
CHECKS = (BUILD, INITIAL_WEIGHTS, "state budget", "batch independence", "pure evaluation")
TRAINED_CHECKS = (PERMUTED_LABELS,)
CLAIMS = "claims"
# Above these, examining takes longer and more memory than a grader has; assignments ask for some 10,000 parameters. The others
# are for one image.
MAX_PARAMETERS, MAX_MACS, MAX_ACTIVATION_BYTES = 20_000_000, 10**9, 2**28
_BUILD_EXPECTED = "the model is built in time, and is the same network whenever it is built"
_WEIGHTS_EXPECTED = "initial weights that repeat with the seed and change with another seed"
# Their numbers are settings, not weights: one value of each is free.
_WITH_SETTINGS = frozenset({"dropout", "normalisation"})
# Their whole numbers make or choose numbers; those of other families are sizes and dimensions.
_WITH_POSITIONS = frozenset({"creation", "reordering", "size", "slicing", "windows"})
# Far more than a network for small images has. Each operation could stand for a number, such as by a plus or minus.
_MAX_OPERATIONS = 1_000


def judge_claims(found: Sequence[Finding]) -> Finding:
    """Judge the documents of a submission by the findings of `harness audit` on them."""
    wrong = [one for one in found if one.status is Status.FAIL]
    return Finding(
        requirement=CLAIMS,
        status=Status.FAIL if wrong else Status.PASS,
        expected="no claim that its own evidence contradicts",
        observed=f"{len(wrong)} of {len(found)} findings on the documents are contradictions or overstatements",
        evidence=tuple(f"{one.observed}; {one.expected}" for one in wrong),
        hint=wrong[0].hint if wrong else "",
    )


def build_failure(problem: str, hint: str = "") -> Finding:
    """Return the finding ``build`` for a submission that holds no usable model; ``problem`` says why, in one sentence."""
    return Finding(
        requirement=BUILD, status=Status.FAIL, expected=_BUILD_EXPECTED, observed=problem.rstrip("."), hint=hint
    )


def same_network(builds: Sequence[CapturedModel]) -> Finding:
    """Return the finding ``build`` for models that were built in processes of their own: their graphs must be equal."""
    first, *others = [_without_version(build) for build in builds]
    if first != others[0]:
        return build_failure(
            "two builds with the same seed give different networks",
            "let the network depend on nothing but its arguments: no time, no files that change, no random choices of layers",
        )
    if any(first != other for other in others):
        return build_failure(
            "another seed gives another network, or another constant in it",
            "draw random numbers for weights only: a random tensor that is not a parameter or a buffer is part of the network",
        )
    layers = Structure(builds[0].graph).layers
    sizes = (
        ("numbers", sum(spec.elements for spec in builds[0].graph.tensors), MAX_PARAMETERS),
        ("multiply-accumulates per image", sum(layer.macs for layer in layers), MAX_MACS),
        ("bytes of activations per image", sum(layer.activation_bytes for layer in layers), MAX_ACTIVATION_BYTES),
    )
    for what, size, most in sizes:
        if size > most:
            problem = f"the model has {size:,} {what}, more than the {most:,} that are graded"
            return build_failure(problem, "use fewer or smaller layers")
    return Finding(
        requirement=BUILD,
        status=Status.PASS,
        expected=_BUILD_EXPECTED,
        observed=f"the same network in {len(builds)} builds",
        evidence=(f"digest of the graph {builds[0].graph.exact_digest()[:16]}",),
    )


def _without_version(build: CapturedModel) -> dict[str, object]:
    return {key: value for key, value in graph_to_json(build.graph).items() if key != "torch"}


def initial_weights(first: CapturedModel, again: CapturedModel, other: CapturedModel) -> Finding:
    """Return the finding ``initial weights``: ``again`` was built with the seed of ``first``, ``other`` with another one.

    A weight whose elements are all equal, such as the ones of a batch norm, need not change.
    """
    changed = [name for name, tensor in first.state.items() if not same_tensor(tensor, again.state[name])]
    fixed = [name for name in fixed_parameters(first, other) if _spec_is_trained(first, name)]
    observed, hint = "they repeat with the seed and change with another one", ""
    if changed:
        observed = f"not repeated with the same seed: {', '.join(changed[:LISTED])}"
        hint = "draw initial weights with torch's random numbers only, and do not seed them by time or system"
    elif fixed:
        observed = f"the same whatever the seed: {', '.join(fixed[:LISTED])}"
        hint = "let the layers initialise themselves: load no weights and set no seed while the model is built"
    return Finding(
        requirement=INITIAL_WEIGHTS,
        status=Status.FAIL if hint else Status.PASS,
        expected=_WEIGHTS_EXPECTED,
        observed=observed,
        hint=hint,
    )


def fixed_parameters(first: CapturedModel, other: CapturedModel) -> tuple[str, ...]:
    """Names of the parameters that have the same values in two builds with different seeds, unless all elements are equal."""
    return tuple(
        spec.name
        for spec in first.graph.tensors
        if spec.kind == "parameter"
        and same_tensor(first.state[spec.name], other.state[spec.name])
        and not is_constant(first.state[spec.name])
    )


def _spec_is_trained(captured: CapturedModel, name: str) -> bool:
    spec = captured.graph.tensor(name)
    return spec is not None and spec.requires_grad


def is_constant(tensor: torch.Tensor) -> bool:
    """Whether all elements of a tensor are equal, so that the tensor holds one number."""
    return not tensor.numel() or bool((tensor == tensor.flatten()[0]).all())


@dataclass(frozen=True, kw_only=True)
class StateBudget(Requirement):
    """At most ``most`` numbers that training does not change: with more, a submission could hold trained weights.

    Elements of constants and buffers that forward reads count, except running statistics; so do the numbers ``held`` in
    parameters, by their names, and those that are written into the operations: each occurrence, except the further ones of
    the most frequent value of an argument, or all of them if it is 0 or 1.
    """

    name: ClassVar[str] = "state budget"
    section: ClassVar[str] = ""

    most: int
    held: Mapping[str, int] = field(default_factory=dict)

    @property
    def expected(self) -> str:
        """The limit, as a phrase."""
        return f"at most {self.most:,} numbers besides trainable weights and running statistics"

    def decide(self, model: ExaminedModel) -> Finding:
        """Count the numbers in constants, buffers, frozen parameters and operations."""
        graph = model.captured.graph
        held = {spec.name: spec.elements for spec in model.structure.parameters.hidden} | dict(self.held)
        literals = _literals(graph)
        total = sum(held.values()) + literals
        return self.finding(
            holds=total <= self.most,
            observed=f"{total:,} numbers",
            evidence=[
                *(f"{name}: {elements:,}" for name, elements in list(held.items())[:LISTED]),
                *([f"{literals:,} numbers in operations"] if literals else []),
            ],
            hint="train all weights: register them as parameters, and leave constants out of the network",
        )


def _literals(graph: Graph) -> int:
    """How many numbers are written into the operations of a graph's programs, where both have the same only once."""
    train, evaluate = (_written_numbers(program) for program in (graph.train, graph.evaluate))
    total = max(max(len(program.operations) for program in (graph.train, graph.evaluate)) - _MAX_OPERATIONS, 0)
    for place in {**train, **evaluate}:
        found = train[place] | evaluate[place]
        ((most_frequent, times),) = found.most_common(1)
        total += found.total() - times + (not place.is_setting and most_frequent not in (0, 1))
    return total


class _Place(NamedTuple):
    """An argument of all operations of one kind."""

    kind: str
    argument: str
    is_setting: bool


def _written_numbers(program: Program) -> defaultdict[_Place, Counter[Argument]]:
    """Count the numbers in each place of a program, and the whole numbers that choose or make numbers."""
    found: defaultdict[_Place, Counter[Argument]] = defaultdict(Counter)
    for operation in program.operations:
        types, family = argument_types(operation.op), operation.kind.family
        given = dict(zip(types or map(str, range(len(operation.args))), operation.args, strict=False))
        for name, value in {**given, **operation.kwargs}.items():
            is_size = "int" in types.get(name, "int") and name != "divisor_override"
            place = _Place(operation.kind.name, name, is_setting=is_size or family in _WITH_SETTINGS)
            numbers = tuple(_numbers(value))
            if not is_size:
                found[place].update(numbers)
            elif numbers and family in _WITH_POSITIONS:
                found[place][numbers] += 1
    return defaultdict(Counter, {place: counts for place, counts in found.items() if counts})


def _numbers(value: Argument) -> Iterator[float]:
    if isinstance(value, tuple):
        for one in value:
            yield from _numbers(one)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


@dataclass(frozen=True, kw_only=True)
class BatchIndependence(BatchRule):
    """An image's prediction in evaluation depends on no other image, so that test images give nothing away together."""

    name: ClassVar[str] = "batch independence"

    independent: bool = True


@dataclass(frozen=True, kw_only=True)
class PureEvaluation(Requirement):
    """Evaluation passes over the same images give the same predictions and change nothing in the model."""

    name: ClassVar[str] = "pure evaluation"
    section: ClassVar[str] = ""
    expected = "evaluation gives the same predictions every time and changes nothing in the model"

    def decide(self, model: ExaminedModel) -> Finding:
        """Repeat evaluation passes, and search the evaluation program for random numbers and changed tensors."""
        changed = model.structure.changed_in_evaluation
        drawn = model.structure.random_operations(model.captured.graph.evaluate)
        dropped = [site.module or "forward" for site in model.structure.dropouts if site.active_in_evaluation]
        faults = [
            *([f"evaluation changes {', '.join(changed[:LISTED])}"] if changed else []),
            *([f"evaluation draws random numbers: {', '.join(drawn[:LISTED])}"] if drawn else []),
            *([f"dropout is active in evaluation: {', '.join(dropped[:LISTED])}"] if dropped else []),
        ]
        repeats = model.experiments.evaluation_repeats
        return self.finding(
            holds=repeats and not faults,
            observed="; ".join(faults) or ("as required" if repeats else "repeated evaluation passes differ"),
            hint="keep dropout and updates of tensors in training only: F.dropout(x, p, self.training)",
        )
