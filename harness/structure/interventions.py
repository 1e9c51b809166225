"""Run a rebuilt model with some values replaced, to find by experiment what other values depend on.

Numbers are compared in double precision, where rounding stays many orders of magnitude below any real dependence; a model that
cannot run in double precision is compared in single precision with a larger tolerance.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping

import torch

from harness.graph.form import Graph
from harness.graph.rebuild import GraphModule

SEED = 4_409
IMAGES = 6
# Relative to the size of the numbers: far above rounding, far below an image's influence. Other types hold whole numbers.
BOUNDS = {torch.float64: 1e-9, torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}


def rebuilt_in_double(graph: Graph, state: Mapping[str, torch.Tensor]) -> tuple[GraphModule, torch.dtype]:
    """The model in evaluation mode and its input dtype: float64, or float32 if it cannot run in float64."""
    module = GraphModule(graph, state).double().eval()
    try:
        with torch.no_grad():
            module(torch.zeros((2, *graph.input_shape), dtype=torch.float64))
    except RuntimeError:
        return GraphModule(graph, state).eval(), torch.float32
    return module, torch.float64


def suitable(module: GraphModule, images: torch.Tensor) -> torch.Tensor:
    """The images, mapped to between 0 and 1 if the model requires this, for example for a square root."""
    # A copy: a pass may change the model's state.
    module, between = copy.deepcopy(module).eval(), images.abs().clamp(max=1)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        finite = [bool(module(candidate).isfinite().all()) for candidate in (images, between)]
    return between if finite == [False, True] else images


def draw_zeros_anew(module: torch.nn.Module) -> None:
    """Replace zero weights by small random ones: a zero-initialised branch would hide the effect of its operations."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.where(parameter == 0, 0.1 * torch.randn_like(parameter), parameter))


class Interventions:
    """Runs of one model, all from the same random state, with values replaced and others recorded.

    All trainable weights are perturbed slightly, so that no result holds only for the initial weights.
    """

    def __init__(self, graph: Graph, state: Mapping[str, torch.Tensor]) -> None:
        self.graph = graph
        evaluating, self.dtype = rebuilt_in_double(graph, state)
        self._generator = torch.Generator().manual_seed(SEED)
        with torch.no_grad():
            for parameter in evaluating.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn(parameter.shape, generator=self._generator).to(parameter))
        # A training pass moves running statistics, which evaluation reads.
        self._training = copy.deepcopy(evaluating).train()
        self._evaluating = evaluating
        self.images = suitable(evaluating, self.normal((IMAGES, *graph.input_shape)))

    @property
    def bound(self) -> float:
        """Relative tolerance below which numbers count as equal."""
        return max(BOUNDS[self.dtype], 1e-6)

    def normal(self, shape: Collection[int]) -> torch.Tensor:
        """Normally distributed numbers."""
        return torch.randn(tuple(shape), generator=self._generator).to(self.dtype)

    def value(self, name: str, *, training: bool = False) -> torch.Tensor:
        """The value of this name, or the images, with nothing replaced."""
        return self.images if name == self.graph.input_name else self.run([name], training=training)[name]

    def run(
        self,
        wanted: Collection[str],
        replaced: Mapping[str, torch.Tensor] = {},
        *,
        training: bool = False,
        seed: int = SEED,
    ) -> dict[str, torch.Tensor]:
        """Run one pass with some values or the images replaced once computed, and return the ``wanted`` values."""
        return self._run(self._training if training else self._evaluating, wanted, replaced, seed)

    def changed_by_training(self, sources: Mapping[str, str]) -> set[str]:
        """Values of an evaluation pass that one training pass changes although their sources are held fixed.

        ``sources`` maps each value to the one that it is computed from.
        """
        replaced = {source: self.normal(self.value(source).shape) for source in sources.values()}
        before = self.run(sources, replaced)
        trained = copy.deepcopy(self._evaluating).train()
        self._run(trained, (), {self.graph.input_name: 3 * self.images + 1}, SEED)
        after = self._run(trained.eval(), sources, replaced, SEED)
        return {name for name in sources if not torch.equal(before[name], after[name])}

    def _run(
        self, module: GraphModule, wanted: Collection[str], replaced: Mapping[str, torch.Tensor], seed: int
    ) -> dict[str, torch.Tensor]:
        seen: dict[str, torch.Tensor] = {}

        def change(name: str) -> Callable[[torch.Tensor], torch.Tensor]:
            def changed(value: torch.Tensor) -> torch.Tensor:
                # Clones: a later operation in place must not change what is kept, nor what is given.
                value = replaced[name].clone() if name in replaced else value
                if name in wanted:
                    seen[name] = value.clone()
                return value

            return changed

        images = replaced.get(self.graph.input_name, self.images)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module.run_with(images, {name: change(name) for name in {*wanted, *replaced}})
        return seen
