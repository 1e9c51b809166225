"""Small made-up inputs for the tests of several packages: a data set, a model, an environment, a run record, a finding."""

from __future__ import annotations

import copy
import itertools
import os
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import nn

from harness.benchmarking import WORKLOAD, Block, Measurement
from harness.contracts import examine, parse_contract
from harness.data import Dataset
from harness.findings import Finding
from harness.graph import CapturedModel, Graph
from harness.graph.form import Operation, Program, Ref, TensorSpec, ValueMeta
from harness.training import INPUTS, STATES, Environment, EpochResult, Recipe, RunRecord, RunSpec, StepDigests

# A capture costs half a second of a core: unless this is asked for, tests examine a sample.
EVERY_NETWORK = os.environ.get("HARNESS_EVERY_NETWORK") == "1"

RECIPE = Recipe.from_mapping({"batch_size": 16, "epochs": 3, "optimizer": {"name": "sgd", "lr": 0.1}}, name="made-up")


def dataset(*, train: int = 48, test: int = 40) -> Dataset:
    """Bars whose row tells the class, in noise: a small network learns them in a few steps."""
    generator = torch.Generator().manual_seed(0)

    def part(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.arange(n) % 10
        images = torch.randint(0, 64, (n, 1, 28, 28), dtype=torch.uint8, generator=generator)
        for image, label in zip(images, labels.tolist(), strict=True):
            image[0, 2 * label + 4] = 255
        return images, labels

    (train_images, train_labels), (test_images, test_labels) = part(train), part(test)
    return Dataset(
        name="digits",
        title="made-up bars",
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        digest="d" * 64,
        mean=0.15,
        std=0.2,
        source="made up",
    )


def network(*, dropout: float = 0.0) -> nn.Module:
    """(B, 1, 28, 28) to (B, 10) logits, with batch norm."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 7, stride=7),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


def spec(recipe: Recipe = RECIPE, **changes: Any) -> RunSpec:  # noqa: ANN401 - each field has a type of its own
    """The description of a run of the made-up network; any field may be given."""
    fields: dict[str, Any] = {
        "model": "net",
        "source": "",
        "arguments": "",
        "graph_digest": "g" * 64,
        "recipe": recipe,
        "seed": 1,
        "engine": "eager",
        "device": "cpu",
        "digest_every": 100,
    }
    return RunSpec(**(fields | changes))


ENVIRONMENT = Environment(
    harness="0.1.0",
    commit=None,
    python="3.11.7",
    torch="2.8.0",
    torchvision="0.23.0",
    platform="Linux",
    processor=None,
    cpu_capability="AVX2",
    threads=2,
    accelerator=None,
    cuda=None,
    driver=None,
    deterministic=False,
)


def digests(step: int, **changed: str) -> StepDigests:
    """A run's digests after a step, all alike but for those given."""
    same: dict[str, str] = dict.fromkeys((*INPUTS, *STATES), f"{step:016x}")
    return StepDigests(step=step, **{**same, **changed})


def record(
    counts: Sequence[int],
    *,
    total: int = 10_000,
    declared: int | None = None,
    status: Literal["complete", "interrupted", "diverged"] = "complete",
) -> RunRecord:
    """A run with these test counts, one an epoch."""
    return RunRecord(
        **spec(RECIPE.with_epochs(declared or len(counts))).declared(),
        data_name="mnist",
        data_title="MNIST",
        data_digest="d" * 64,
        status=status,
        epochs=tuple(
            EpochResult(
                epoch=epoch,
                lr=0.1,
                train_loss=0.5,
                train_correct=50_000,
                train_total=60_000,
                test_loss=0.25,
                test_correct=count,
                test_total=total,
                seconds=1.5,
            )
            for epoch, count in enumerate(counts, start=1)
        ),
        state_digest="0" * 64,
        digests=(digests(0),),
        environment=ENVIRONMENT,
        started="2026-01-02T03:04:05+00:00",
        wall_seconds=12.5,
    )


def decided(model: CapturedModel, text: str, requirement: str) -> Finding:
    """A contract's finding on one requirement."""
    contract = parse_contract(text, name="mine", place="mine.toml")
    return next(found for found in examine(model, contract, probe=False) if found.requirement == requirement)


def convolution_graph(**changes: object) -> Graph:
    """A 3x2 convolution with stride 2x1 and padding 1x0 on a 1x5x4 image."""
    settings = {"stride": (2, 1), "padding": (1, 0), "kernel": (3, 2), "shape": ("B", 1, 3, 3), **changes}
    operation = Operation(
        name="y",
        op="aten.conv2d.default",
        args=(Ref("x"), Ref("w"), None, settings["stride"], settings["padding"]),  # type: ignore[arg-type]  # as written above
        outputs=(ValueMeta(shape=settings["shape"], dtype="float32"),),  # type: ignore[arg-type]
    )
    program = Program(operations=(operation,), output="y")
    weight = TensorSpec(name="w", kind="parameter", shape=(1, 1, *settings["kernel"]), dtype="float32")  # type: ignore[misc]
    return Graph(
        input_shape=(1, 5, 4),
        input_name="x",
        tensors=(weight,),
        modules=(),
        train=program,
        evaluate=program,
        torch_version="",
    )


# A small graph as JSON: a convolution with dropout in training, a view of the images in evaluation.
GRAPH_DOCUMENT: dict[str, Any] = {
    "schema": "harness.graph/1",
    "torch": "2.8.0",
    "input": {"name": "x", "shape": [1, 4, 4]},
    "tensors": [
        {
            "name": "conv.weight",
            "kind": "parameter",
            "shape": [2, 1, 3, 3],
            "dtype": "float32",
            "requires_grad": True,
            "aliases": ["tied.weight"],
            "content": "",
            "persistent": True,
        },
        {
            "name": "conv.bias",
            "kind": "parameter",
            "shape": [2],
            "dtype": "float32",
            "requires_grad": True,
            "aliases": [],
            "content": "",
            "persistent": True,
        },
    ],
    "modules": [{"path": "", "type": "Net", "parameters": 0}, {"path": "conv", "type": "Conv2d", "parameters": 20}],
    "train": {
        "operations": [
            {
                "name": "conv2d",
                "op": "aten.conv2d.default",
                "args": [{"ref": "x"}, {"ref": "conv.weight"}, {"ref": "conv.bias"}, [1, 1], [1, 1]],
                "kwargs": {},
                "outputs": [{"shape": ["B", 2, 4, 4], "dtype": "float32"}],
                "module": "conv",
                "module_type": "Conv2d",
            },
            {
                "name": "dropout",
                "op": "aten.dropout.default",
                "args": [{"ref": "conv2d"}, 0.5, True],
                "kwargs": {},
                "outputs": [{"shape": ["B", 2, 4, 4], "dtype": "float32"}],
                "module": "",
                "module_type": "",
            },
        ],
        "output": "dropout",
    },
    "eval": {
        "operations": [
            {
                "name": "flat",
                "op": "aten.view.default",
                "args": [{"ref": "x"}, [-1, 16]],
                "kwargs": {"dtype": {"dtype": "float32"}},
                "outputs": [{"shape": ["B", 16], "dtype": "float32"}],
                "module": "",
                "module_type": "",
            }
        ],
        "output": "flat",
    },
}


Change = Callable[[dict[str, Any]], object]


def changed_document(change: Change) -> dict[str, Any]:
    """The graph of `GRAPH_DOCUMENT` after a change."""
    document = copy.deepcopy(GRAPH_DOCUMENT)
    change(document)
    return document


def measurement(*ratios: list[float]) -> Measurement:
    """A benchmark with blocks of these ratios to the reference workload, on a machine that gets slower and slower."""

    def block(rounds: list[float]) -> Block:
        slowing = [0.01 * 1.1**index for index in range(len(rounds) + 1)]
        pairs = zip(rounds, itertools.pairwise(slowing), strict=True)
        return Block(
            seconds=tuple(ratio * (before + after) / 2 for ratio, (before, after) in pairs),
            reference_seconds=tuple(slowing),
        )

    return Measurement(
        workload=WORKLOAD,
        device="cpu",
        clock="cpu",
        threads=1,
        xdist=False,
        waits=0,
        blocks=tuple(map(block, ratios)),
    )
