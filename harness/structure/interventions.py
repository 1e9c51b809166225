"""Run a rebuilt model with some values replaced, to find by experiment which other values change.

Models run in double precision, where rounding errors are many orders of magnitude smaller than changes by a real dependence;
a model that cannot run in double precision runs in single precision, with a larger tolerance.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping

import torch

from harness.graph.form import Graph
from harness.graph.rebuild import GraphModule

SEED = 4_409
IMAGES = 6
# Relative tolerance for each dtype: far above rounding errors, far below the effect of another image. Integers must be equal.
BOUNDS = {torch.float64: 1e-9, torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}


def rebuilt_in_double(graph: Graph, state: Mapping[str, torch.Tensor]) -> tuple[GraphModule, torch.dtype]:
    """The rebuilt model in evaluation mode, and its input dtype: float64, or float32 if the model fails in float64."""
    module = GraphModule(graph, state).double().eval()
    try:
        with torch.no_grad():
            module(torch.zeros((2, *graph.input_shape), dtype=torch.float64))
    except RuntimeError:
        return GraphModule(graph, state).eval(), torch.float32
    return module, torch.float64


def suitable(module: GraphModule, images: torch.Tensor) -> torch.Tensor:
    """The images, mapped to values between 0 and 1 if the output is finite for such images only.

    A model that takes a square root of the pixels, for example, returns NaN for negative pixels.
    """
    # A copy, since a forward pass may change the model's buffers.
    module, between = copy.deepcopy(module).eval(), images.abs().clamp(max=1)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        finite = [bool(module(candidate).isfinite().all()) for candidate in (images, between)]
    return between if finite == [False, True] else images


def draw_zeros_anew(module: torch.nn.Module) -> None:
    """Replace zeros in parameters by small random numbers, since zero weights hide the effect of earlier operations."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.where(parameter == 0, 0.1 * torch.randn_like(parameter), parameter))


class Interventions:
    """Runs of one model in which some values are replaced and others recorded, by default from the same random state.

    All trainable parameters are perturbed slightly, so that no result holds only for the initial weights.
    """

    def __init__(self, graph: Graph, state: Mapping[str, torch.Tensor]) -> None:
        self.graph = graph
        evaluating, self.dtype = rebuilt_in_double(graph, state)
        self._generator = torch.Generator().manual_seed(SEED)
        with torch.no_grad():
            for parameter in evaluating.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn(parameter.shape, generator=self._generator).to(parameter))
        # A copy for training passes, which update the running statistics that evaluation uses.
        self._training = copy.deepcopy(evaluating).train()
        self._evaluating = evaluating
        self.images = suitable(evaluating, self.normal((IMAGES, *graph.input_shape)))

    @property
    def bound(self) -> float:
        """Relative tolerance: numbers whose relative difference is below count as equal."""
        return max(BOUNDS[self.dtype], 1e-6)

    def normal(self, shape: Collection[int]) -> torch.Tensor:
        """A tensor of the given shape with normally distributed random numbers."""
        return torch.randn(tuple(shape), generator=self._generator).to(self.dtype)

    def value(self, name: str, *, training: bool = False) -> torch.Tensor:
        """The value called ``name``, or the images, in a run in which no value is replaced."""
        return self.images if name == self.graph.input_name else self.run([name], training=training)[name]

    def run(
        self,
        wanted: Collection[str],
        replaced: Mapping[str, torch.Tensor] = {},
        *,
        training: bool = False,
        seed: int = SEED,
    ) -> dict[str, torch.Tensor]:
        """Run one forward pass and return the values named in ``wanted``.

        Each value named in ``replaced``, or the images, is replaced by the given tensor before later operations read it.
        """
        return self._run(self._training if training else self._evaluating, wanted, replaced, seed)

    def changed_by_training(self, sources: Mapping[str, str]) -> set[str]:
        """Names of values whose result in an evaluation pass changes after one training pass, although their input is fixed.

        ``sources`` maps the name of each value to test to the name of the value that it is computed from.
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
                # Clones, so that a later in-place operation changes neither recorded values nor replacements.
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
