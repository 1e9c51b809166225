"""Whole steps as CUDA graphs: one launch for a step of one run, or of several runs side by side.

This module has not run on a GPU yet. Its tests run on the CPU, where CUDA is replaced by an object that records
operations.

A small network on a GPU waits for the host, which launches some hundred kernels per step. A CUDA graph of the step
needs a single launch; with one branch per run, several runs keep the device busy. Kernels, addresses and every number
computed in Python are fixed when a graph is captured. Therefore:

* **Inputs** are copied into buffers of the graph. Each batch size, such as that of an epoch's last batch, has a graph
  of its own.
* **Optimizer steps** read the hyperparameters that change from the device, see `harness.training.graph_optimizers`.
* **Random numbers**: each run draws from a generator of its own, registered with the graph and advanced by each launch.
  A network with random operations other than dropout is refused, since no generator can be set for them.
* **Warm-up**: before a capture, some steps are run to load kernels and set up libraries. State and generators are
  restored afterwards, so that these steps have no effect.
* **Streams**: autograd computes a gradient on the CUDA stream of its forward pass, and a stream outside of the capture
  would invalidate the capture. Each branch is warmed up and captured on a stream of its own, and no autograd graph of
  the warm-up remains.

A run has the same bits alone (as a group of one) and in a group: its branch holds the same kernels, on its own buffers,
with its own generator, and cuDNN uses deterministic algorithms chosen without timing. No branch reads or writes memory
that another branch writes: torch's allocator reuses memory only on the stream that it was used on, and cuBLAS has a
workspace per stream. (Torch has 32 streams; with more branches, some share a stream and run one after another.) What
torch computes by atomic additions, such as the gradient of adaptive pooling to more than one value, is not reproducible
on a GPU, alone or in a group.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.errors import InputError
from harness.training.evaluation import count_correct, forward
from harness.training.graph_optimizers import Update, update_of
from harness.training.steps import train_step

# Computes one step of one branch.
Work = Callable[[], None]
# Of one step of a run: the images and labels; the loss and the number of correct predictions before the update.
StepInput = tuple[Tensor, Tensor]
StepResult = tuple[Tensor, Tensor]

_WARM_UPS = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class Branch:
    """One run of a group: the module to train, and the network function, optimizer and generator that compute its steps.

    ``network`` runs the training program of ``module`` and draws only from ``generator``, which belongs to this run and
    is on the module's device. The optimizer is torch's SGD, Adam or AdamW with one parameter group.
    """

    module: nn.Module
    network: Callable[[Tensor], Tensor]
    optimizer: torch.optim.Optimizer
    generator: torch.Generator


class Capturer(Protocol):
    """Captures steps on one type of device.

    A step is given as functions without arguments, the works, each of which computes one branch; branches share no
    tensors.
    """

    def warm_up(self, works: Sequence[Work]) -> None:
        """Run each work once, under the same conditions as in the later capture."""

    def capture(self, works: Sequence[Work], generators: Sequence[torch.Generator]) -> Work:
        """Return a function that runs the works (one per branch) again on the same tensors.

        The works draw from ``generators``. Whether capturing runs the works as well depends on the device.
        """


class CudaCapturer:
    """Captures a step of ``branches`` branches as one CUDA graph, each branch on a separate CUDA stream."""

    def __init__(self, device: torch.device, branches: int) -> None:
        self._device = device
        with torch.cuda.device(device):
            # Graphs may share a memory pool if they run one after another and are captured on the same stream.
            self._pool = torch.cuda.graph_pool_handle()
            self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            self._side_streams = [torch.cuda.Stream() for _ in range(branches)]  # type: ignore[no-untyped-call]

    def warm_up(self, works: Sequence[Work]) -> None:
        """Run each work once on its stream, and wait until the device has finished."""
        with torch.cuda.device(self._device), _deterministic_cudnn():
            self._fork_and_join(works)
            torch.cuda.synchronize()

    def capture(self, works: Sequence[Work], generators: Sequence[torch.Generator]) -> Work:
        """Capture the works as parallel branches of a graph, without running them.

        Raises:
            InputError: a step contains an operation that cannot be captured.
            torch.OutOfMemoryError: the graph does not fit into the device's memory.
        """
        with torch.cuda.device(self._device), _deterministic_cudnn():
            graph = torch.cuda.CUDAGraph()
            for generator in generators:
                graph.register_generator_state(generator)
            try:
                with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                    self._fork_and_join(works)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                raise InputError(
                    "expected a network whose step can be captured as a CUDA graph, but the capture failed: "
                    f"{str(error).splitlines()[0][:200]}. Use --engine eager."
                ) from error
        return functools.partial(self._replay, graph)

    def _replay(self, graph: torch.cuda.CUDAGraph) -> None:
        with torch.cuda.device(self._device):
            graph.replay()

    def _fork_and_join(self, works: Sequence[Work]) -> None:
        main = torch.cuda.current_stream()
        for stream in self._side_streams:
            stream.wait_stream(main)
        for stream, work in zip(self._side_streams, works, strict=True):
            with torch.cuda.stream(stream):
                work()
        for stream in self._side_streams:
            main.wait_stream(stream)


@contextmanager
def _deterministic_cudnn() -> Iterator[None]:
    """In the block, make cuDNN use deterministic algorithms that are chosen without timing.

    Chosen by timing, the algorithms could differ between branches.
    """
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before


class StepGraphs:
    """Computes one step of each run of a group at once, by a captured graph.

    A graph is captured when a batch size first occurs. From the first step on, parameters, buffers and optimizer states
    of the runs must only be changed in place.
    """

    def __init__(self, branches: Sequence[Branch], capturer: Capturer) -> None:
        self._branches = tuple(branches)
        self._capturer = capturer
        self._updates: tuple[Update, ...] = ()
        self._graphs: dict[int, _StepGraph] = {}
        self._latest: _StepGraph | None = None

    def __call__(self, inputs: Sequence[StepInput]) -> list[StepResult]:
        """Compute one step of each run; ``inputs`` holds the images and labels of each, all of the same batch size.

        Returns:
            Mean loss and number of correct predictions of each run, on the device.

        Raises:
            InputError: the batch sizes differ, the shape of a network's output is not (B, 10), or a step cannot be captured.
        """
        sizes = {len(labels) for _, labels in inputs}
        if len(sizes) != 1 or len(inputs) != len(self._branches):
            msg = f"expected {len(self._branches)} batches of one size, one per run, got {len(inputs)} of sizes={sorted(sizes)}."
            raise InputError(msg)
        (size,) = sizes
        if size not in self._graphs:
            self._graphs[size] = self._captured(inputs)
        graph = self._graphs[size]
        graph.fill(inputs, [update.numbers() for update in self._updates])
        graph.replay()
        if graph is not self._latest:
            self._latest = graph
            for update, gradients in zip(self._updates, graph.gradients, strict=True):
                # Step callbacks read gradients from the parameters.
                for parameter, gradient in zip(update.parameters, gradients, strict=True):
                    parameter.grad = gradient
        return graph.results()

    def _captured(self, inputs: Sequence[StepInput]) -> _StepGraph:
        snapshots = [_Snapshot(branch) for branch in self._branches]
        try:
            if not self._updates:
                # Torch's optimizers create their state in the first step; schedules check that it has been taken.
                self._capturer.warm_up(
                    [functools.partial(_plain_step, *run) for run in zip(self._branches, inputs, strict=True)]
                )
                self._updates = tuple(update_of(branch.optimizer) for branch in self._branches)
            graph = _StepGraph(self._branches, self._updates, inputs)
            for _ in range(_WARM_UPS):
                self._capturer.warm_up(graph.works)
            graph.replay = self._capturer.capture(graph.works, [branch.generator for branch in self._branches])
        finally:
            for snapshot in snapshots:
                snapshot.restore()
        return graph


def _plain_step(branch: Branch, inputs: StepInput) -> None:
    train_step(branch.network, branch.optimizer, *inputs)


class _StepGraph:
    """The graph of a group's step for one batch size, with the buffers for its inputs, hyperparameters and results."""

    replay: Work

    def __init__(self, branches: Sequence[Branch], updates: Sequence[Update], inputs: Sequence[StepInput]) -> None:
        self._images = [images.clone() for images, _ in inputs]
        self._labels = [labels.clone() for _, labels in inputs]
        device = self._images[0].device
        self._numbers = torch.zeros(len(branches), updates[0].count, device=device)
        # Outside of the memory pool, which another graph may overwrite.
        self._losses = torch.zeros(len(branches), device=device)
        self._corrects = torch.zeros(len(branches), dtype=torch.int64, device=device)
        self.gradients: list[tuple[Tensor, ...]] = [()] * len(branches)
        self.works = [
            functools.partial(self._work, index, branch, update)
            for index, (branch, update) in enumerate(zip(branches, updates, strict=True))
        ]

    def _work(self, index: int, branch: Branch, update: Update) -> None:
        output = forward(branch.network, self._images[index])
        loss = functional.cross_entropy(output, self._labels[index])
        gradients = torch.autograd.grad(loss, update.parameters)
        with torch.no_grad():
            update.apply(gradients, self._numbers[index].unbind())
            self._losses[index].copy_(loss)
            self._corrects[index].copy_(count_correct(output, self._labels[index]))
        self.gradients[index] = gradients

    def fill(self, inputs: Sequence[StepInput], numbers: Sequence[Sequence[float]]) -> None:
        torch._foreach_copy_(self._images, [images for images, _ in inputs])
        torch._foreach_copy_(self._labels, [labels for _, labels in inputs])
        # Non-blocking is safe, since the driver has read pageable memory when the call returns.
        self._numbers.copy_(torch.tensor(numbers, dtype=torch.float32), non_blocking=True)

    def results(self) -> list[StepResult]:
        # The next launch overwrites the buffers.
        return list(zip(self._losses.clone().unbind(), self._corrects.clone().unbind(), strict=True))


class _Snapshot:
    """A copy of a run's tensors and random state, to undo the effects of warm-up and capture."""

    def __init__(self, branch: Branch) -> None:
        self._branch = branch
        self._fresh = not branch.optimizer.state
        self._tensors = [(tensor, tensor.detach().clone()) for tensor in self._state()]
        self._generator = branch.generator.get_state()

    def restore(self) -> None:
        """Copy the saved values back into the same tensors, since a graph refers to tensors by their addresses."""
        with torch.no_grad():
            for tensor, before in self._tensors:
                tensor.copy_(before)
            if self._fresh:
                # All three optimizers start from zeros; SGD's first momentum is then the gradient, as in torch.
                for tensor in _optimizer_state(self._branch.optimizer):
                    tensor.zero_()
        self._branch.generator.set_state(self._generator)

    def _state(self) -> Iterator[Tensor]:
        yield from self._branch.module.parameters()
        yield from self._branch.module.buffers()
        yield from _optimizer_state(self._branch.optimizer)


def _optimizer_state(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    for state in optimizer.state.values():
        yield from (value for value in state.values() if isinstance(value, Tensor))
