"""The axes that train with other seeds: no two seeds may give the same stream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from harness.determinism.axes import Axis, finding, not_applicable
from harness.determinism.model_under_test import ModelUnderTest
from harness.determinism.snapshot import TORCH_RANDOM, StateSnapshot
from harness.findings import Finding, Status
from harness.training import RandomStreams, preserved_randomness, shuffled_batches, state_digest
from harness.training.randomness import device_random_state

# Added to the seed of the run.
_OFFSETS = (1, 2, 3, 10, 100, 2**16, 2**32)
_HINTS = {
    Axis.WEIGHTS: "Draw the weights with torch's initialisers, and set no seed in the constructor.",
    Axis.ORDER: "Seed the loader's generator with the whole seed: torch.Generator().manual_seed(seed).",
    Axis.AUGMENTATION: "Draw it from the run's own stream.",
    Axis.DROPOUT: "Set no seed in forward.",
}


def other_seeds(model: ModelUnderTest) -> Iterator[Finding]:
    """Compare each random stream under several seeds."""
    recipe, own_seed = model.spec.recipe, model.spec.seed
    seeds = [(own_seed + offset) % 2**63 for offset in (0, *_OFFSETS)]
    weights, order, augmentation, refused = {}, {}, {}, []
    for seed in seeds:
        try:
            (first,) = model.trace(seed=seed, upto=1)
        except Exception as error:
            if seed == own_seed:
                raise
            refused.append(f"seed={seed} is refused: {type(error).__name__}: {error}")
            continue
        weights[seed] = first.start.parameters
        order[seed] = first.start.order
        augmentation[seed] = first.start.augmentation
    has_own_loader = model.hooks.batches is not shuffled_batches
    yield _all_differ(Axis.WEIGHTS, weights, refused)
    yield _all_differ(Axis.ORDER, order, refused)
    if has_own_loader:
        yield not_applicable(Axis.AUGMENTATION, "the loader is your own, and its images include what it draws")
    elif recipe.augmentation is None:
        yield not_applicable(Axis.AUGMENTATION, "the recipe has no augmentation")
    else:
        yield _all_differ(Axis.AUGMENTATION, augmentation, refused)
    dropout = _dropout_streams(model, seeds)
    if dropout:
        yield _all_differ(Axis.DROPOUT, dropout, ())
    else:
        yield not_applicable(Axis.DROPOUT, "the network draws nothing in training")


def _dropout_streams(model: ModelUnderTest, seeds: Sequence[int]) -> dict[int, str]:
    """For each seed, a digest of the outputs for the same images and weights; empty if the network draws nothing."""
    images = model.data.normalise(model.data.train_images[: model.spec.recipe.batch_size])
    found, draws = {}, False
    for seed in seeds:
        module = model.module().to(model.device).train()
        with preserved_randomness(model.device), torch.no_grad():
            RandomStreams(seed, model.device)
            before = StateSnapshot(module, model.device)
            output: Tensor = module(images)
            draws |= TORCH_RANDOM in before.changed(StateSnapshot(module, model.device))
            found[seed] = state_digest({"output": output, "state": device_random_state(model.device)})
    return found if draws else {}


def _all_differ(axis: Axis, digests: Mapping[int, str], refused: Sequence[str]) -> Finding:
    equal: dict[str, list[int]] = {}
    for seed, digest in digests.items():
        equal.setdefault(digest, []).append(seed)
    # Torch's generator on the CPU uses only the lower 32 bits of a seed, so seeds that agree in these may give equal streams.
    distinct = {seed % 2**32 for seed in digests}
    groups = [seeds for seeds in equal.values() if len({seed % 2**32 for seed in seeds}) > 1]
    if not groups:
        pairs = len(distinct) * (len(distinct) - 1) // 2
        cut = "; of a seed only the lower 32 bits count" if len(equal) < len(digests) else ""
        return finding(axis, Status.PASS, f"differs in all {pairs} pairs of {len(distinct)} seeds{cut}", refused)
    stream = axis.value.partition(": ")[2]
    if len(equal) == 1:
        cause = f"cause: the seed is ignored: {stream} equal under all {len(digests)} seeds"
    else:
        cause = f"cause: seeds collapse: {len(equal)} different values of {stream} under {len(digests)} seeds"
    listed = (f"equal: seeds {', '.join(map(str, seeds))}" for seeds in groups)
    first, second = groups[0][:2]
    observed = f"bit-equal under seed={first} and seed={second}"
    return finding(axis, Status.FAIL, observed, (cause, *listed, *refused), _HINTS[axis])
