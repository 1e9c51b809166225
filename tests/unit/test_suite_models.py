"""What the examiner says about every shipped model: counts, fields, pooling, dropout, published tables, seeds."""

from __future__ import annotations

import random
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.certification import ConsistencyRule
from harness.contracts import builtin_contracts, examine, load_contract
from harness.findings import Status
from harness.graph import CapturedModel, Graph, capture
from harness.structure import Structure
from harness.training import Recipe, initialise, state_digest
from mnist_models import Summary, SummaryRow, create_model, list_models, model_card

Shipped = Callable[[str], CapturedModel]

NAMES = list_models()
EXPECTED: dict[str, dict[str, Any]] = tomllib.loads(
    Path(__file__).with_name("shipped_models.toml").read_text(encoding="utf-8")
)
PUBLISHED = {name: summary for name in NAMES if (summary := model_card(name).summary) is not None}
TABLES = {name: summary for name, summary in PUBLISHED.items() if summary.rows}
each_model = pytest.mark.parametrize("name", NAMES)


def observed(structure: Structure) -> dict[str, Any]:
    """The structure of a graph in the form of the table of expectations."""
    pool = structure.head_pool
    return {
        "field": [structure.field_before_head[1].size, structure.field_with_head.size],
        "gap": pool.map_size[0] if pool is not None else 0,
        "dropouts": len([site for site in structure.dropouts if site.live]),
        "rate": max((site.p for site in structure.dropouts), default=0.0),
        "norms": len([site for site in structure.batch_norms if site.ordinary]),
        "linear": len(structure.fully_connected),
        "never_called": [module.type for module in structure.never_called],
        "after_head": list(structure.head.after),
    }


def table_of(graph: Graph, summary: Summary) -> list[SummaryRow]:
    """A graph's layers as the published table shows them: only its operations, and shapes only where it has them.

    An operation that the table never shows, such as an activation called as a function, says nothing either way.
    """
    shown = {row.operation for row in summary.rows}
    layers = [layer for layer in Structure(graph).layers if layer.title in shown]
    if summary.format == "torchinfo":
        # Modules in the order of declaration: the two shortcuts come after everything else.
        layers.sort(key=lambda layer: layer.module.startswith("skip"))
        return [SummaryRow(operation=layer.title, parameters=layer.parameters) for layer in layers]
    return [
        SummaryRow(operation=layer.title, shape=layer.shape[1:], parameters=layer.parameters)  # type: ignore[arg-type]
        for layer in layers
    ]


def with_train_operations(graph: Graph, change: Callable[[list[Any]], None]) -> Graph:
    """A graph whose training program was tampered with."""
    operations = list(graph.train.operations)
    change(operations)
    return replace(graph, train=replace(graph.train, operations=tuple(operations)))


def position_of(operations: list[Any], op: str) -> int:
    """Where an operation first stands in a program."""
    return next(at for at, operation in enumerate(operations) if operation.op.startswith(f"aten.{op}."))


def seed_faults(build: Callable[[], nn.Module]) -> list[str]:
    """What is wrong with how a model draws its weights: one seed must give one model, two seeds two."""
    first, again, other = (dict(initialise(build, seed=seed).named_parameters()) for seed in (1, 1, 2))
    drawn = [name for name, tensor in first.items() if tensor.min() < tensor.max()]
    faults = [f"{name} differs under one seed" for name in first if not torch.equal(first[name], again[name])]
    faults += [f"{name} is the same under two seeds" for name in drawn if torch.equal(first[name], other[name])]
    return faults


def test_there_is_an_expectation_for_every_model() -> None:
    """The table of expectations has a row for each shipped model, and no other."""
    assert list(NAMES) == list(EXPECTED)


@each_model
def test_structure(name: str, shipped: Shipped) -> None:
    """Fields, pooling, dropout, batch norm, head and what is never called are those of the table."""
    expected = {key: value for key, value in EXPECTED[name].items() if key != "fails"}

    assert expected == observed(Structure(shipped(name).graph))


@each_model
def test_parameters(name: str, shipped: Shipped) -> None:
    """The graph holds the parameters that the card counts, all of them trainable and read, and no hidden state."""
    count = Structure(shipped(name).graph).parameters
    expected = model_card(name).parameters

    assert (expected, expected, (), ()) == (count.total, count.trainable, count.unreached, count.hidden)


def test_a_parameter_that_nothing_reads_is_counted_and_named(shipped: Shipped) -> None:
    """A tensor added to the graph shows in the total, and as never read."""
    graph = shipped("cloud_2").graph
    extra = replace(graph.tensors[0], name="extra.weight", aliases=())
    count = Structure(replace(graph, tensors=(*graph.tensors, extra))).parameters

    assert model_card("cloud_2").parameters + extra.elements == count.total
    assert (extra,) == count.unreached


@each_model
def test_output(name: str, shipped: Shipped) -> None:
    """The output is one log-probability for each of ten classes, in both programs."""
    graph = shipped(name).graph
    head = Structure(graph).head
    trained = next(operation for operation in graph.train.operations if operation.name == graph.train.output)

    assert ("log-probabilities", 10, ("B", 10), ("B", 10)) == (head.kind, head.classes, head.shape, trained.shape)


@each_model
def test_capture_is_faithful(name: str, shipped: Shipped) -> None:
    """The captured graph repeats, and answers as the model does, bit for bit."""
    assert () == shipped(name).fidelity.differences


@pytest.mark.smoke
@each_model
def test_capture_is_repeatable(name: str) -> None:
    """A second capture gives the same graph, which loading a shipped model takes for granted."""
    assert capture(create_model(name), name=name).fidelity.repeatable


@each_model
def test_era_s7_fails_what_the_table_says(name: str, shipped: Shipped) -> None:
    """Every model fails exactly the requirements of era-s7 that it is known to fail."""
    findings = examine(shipped(name), load_contract("era-s7"))

    failing = [finding.requirement for finding in findings if finding.status is not Status.PASS]

    assert EXPECTED[name]["fails"] == failing


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_total(name: str, shipped: Shipped) -> None:
    """The graph's parameters are the published total."""
    assert PUBLISHED[name].total == Structure(shipped(name).graph).parameters.total


@pytest.mark.parametrize("name", TABLES)
def test_published_table(name: str, shipped: Shipped) -> None:
    """The layers that run are the published ones, row by row."""
    assert list(TABLES[name].rows) == table_of(shipped(name).graph, TABLES[name])


def widen(operations: list[Any]) -> None:
    """Make the map after the first pooling a row larger."""
    at = position_of(operations, "max_pool2d")
    meta = operations[at].outputs[0]
    operations[at] = replace(operations[at], outputs=(replace(meta, shape=("B", 10, 13, 12)),))


def drop(operations: list[Any]) -> None:
    """Leave the first dropout out."""
    del operations[position_of(operations, "dropout")]


def swap(operations: list[Any]) -> None:
    """Let the first activation and the batch norm after it change places."""
    first, second = position_of(operations, "relu"), position_of(operations, "batch_norm")
    first_op, second_op = operations[first].op, operations[second].op
    operations[first], operations[second] = (
        replace(operations[first], op=second_op),
        replace(operations[second], op=first_op),
    )


@pytest.mark.parametrize("change", [widen, drop, swap])
def test_a_changed_layer_is_a_difference(change: Callable[[list[Any]], None], shipped: Shipped) -> None:
    """A map of another size, a layer less and two layers in another order do not pass for the published table."""
    graph = with_train_operations(shipped("cloud_1").graph, change)

    assert list(TABLES["cloud_1"].rows) != table_of(graph, TABLES["cloud_1"])


def test_a_changed_count_is_a_difference(shipped: Shipped) -> None:
    """A shortcut with other weights does not pass for the published one, though its table has no shapes."""
    graph = shipped("pipeline_third").graph
    tensors = [replace(spec, shape=(15, *spec.shape[1:])) if "skip2" in spec.name else spec for spec in graph.tensors]

    changed = replace(graph, tensors=tuple(tensors))

    assert list(TABLES["pipeline_third"].rows) != table_of(changed, TABLES["pipeline_third"])


def test_an_activation_that_the_table_lists_must_be_there(shipped: Shipped) -> None:
    """Leaving all activations out is a difference where the table lists them, and none where it does not."""

    def without_activations(operations: list[Any]) -> None:
        for at, operation in enumerate(operations):
            if operation.op.startswith("aten.relu"):
                operations[at] = replace(operation, op="aten.clone.default")

    silent, listed = (
        with_train_operations(shipped(name).graph, without_activations) for name in ("five_step_1", "cloud_1")
    )

    assert list(TABLES["five_step_1"].rows) == table_of(silent, TABLES["five_step_1"])
    assert list(TABLES["cloud_1"].rows) != table_of(listed, TABLES["cloud_1"])


@each_model
def test_seeds(name: str) -> None:
    """The same seed draws the same model bit for bit; another seed draws other weights throughout."""
    assert [] == seed_faults(lambda: create_model(name))


class Fixed(nn.Linear):
    """Weights that do not depend on the seed."""

    def reset_parameters(self) -> None:
        nn.init.trunc_normal_(self.weight, generator=torch.Generator().manual_seed(3))
        nn.init.zeros_(self.bias)


class Unseeded(nn.Linear):
    """Weights that depend on more than torch's seed."""

    def reset_parameters(self) -> None:
        numbers: Tensor = torch.tensor([random.SystemRandom().random() for _ in range(self.weight.numel())])
        self.weight.data.copy_(numbers.view_as(self.weight))
        nn.init.normal_(self.bias)


@pytest.mark.parametrize(
    ("build", "fault"),
    [
        (lambda: Fixed(2, 2), "weight is the same under two seeds"),
        (lambda: Unseeded(2, 2), "weight differs under one seed"),
    ],
)
def test_a_model_that_ignores_its_seed_is_found(build: Callable[[], nn.Module], fault: str) -> None:
    """The check of seeds fails a model with fixed weights and one that draws from elsewhere."""
    assert [fault] == seed_faults(build)


@each_model
def test_captured_weights_are_those_of_the_seed(name: str, shipped: Shipped) -> None:
    """A loaded model has the weights that its seed draws, and its capture moved none of them."""
    drawn = initialise(lambda: create_model(name), seed=1)

    assert state_digest(drawn.state_dict()) == state_digest(shipped(name).state)


@each_model
def test_recipe_is_expressible(name: str) -> None:
    """The card's recipe is a recipe, and survives being written and read."""
    recipe = Recipe.from_mapping(model_card(name).recipe, name=name)

    assert recipe == Recipe.from_mapping(recipe.to_mapping(), name=name)


def test_the_reference_must_keep_9940_over_five_epochs() -> None:
    """The contract of the reference model asks for 9,940 of 10,000 in each of the last 5 of at most 15 epochs."""
    rule = ConsistencyRule.from_table(load_contract("reference").accuracy or {})

    assert (9_940, "last", 5, 15) == (rule.required(10_000), rule.rule, rule.last, rule.max_epochs)


@each_model
def test_card_names_a_contract_with_a_rule(name: str) -> None:
    """Each card's contract is built in and asks for accuracy, so the full suite has something to decide."""
    contract = model_card(name).contract

    assert contract in builtin_contracts()
    assert load_contract(contract).accuracy is not None
