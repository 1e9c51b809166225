# ruff: noqa: SLF001 - torch's foreach operations, one launch for many tensors, have no public names; torch.optim rests on them

"""Whole steps as CUDA graphs: one launch for a step of one run, or of many runs side by side.

Not yet run on a GPU: the logic is tested on the CPU, where a recorder of operations stands in for CUDA.

A small network on a GPU waits for the host, which launches some hundred kernels a step. A CUDA graph holds them all and is
launched as one; with a branch for each of many runs, the device also has enough to do. What a graph holds is fixed when it is
captured: kernels, addresses, and every number that came from Python. Hence:

* **Inputs** are copied into buffers of the graph. A batch of another size, such as an epoch's last, has a graph of its own.
* **Learning rate, momentum and Adam's corrections** move from step to step, so they are read from a tensor on the device that is
  filled before each launch. Torch's own optimizers take a tensor for the rate only (SGD where it is fused, Adam where it is
  ``capturable``), and none for a momentum that a one-cycle schedule moves. So the update is written out here, in torch's order of
  operations and upon torch's own state, and the optimizer stays what checkpoints, digests and schedules know. It differs from
  torch's in the last bit, as a product with the rate is rounded before it is subtracted.
* **Random numbers**: each run draws from a generator of its own, which is registered with the graph and moves on with each
  launch. A network that draws by other means than dropout cannot be told which generator to use, and is refused.
* **Warm-up**: kernels are loaded and libraries set up by steps that must not count; state and generators are put back after.
* **Streams**: autograd runs a gradient on the stream of its forward pass, and a stream that does not belong to the capture would
  spoil it. Each branch warms up and is captured on one stream of its own, and nothing of the warm-up's autograd graph is left.

A run's bits are the same alone and in a group: alone is a group of one. Its branch holds the same kernels, on buffers of its own,
with its own generator, and cuDNN is held to deterministic algorithms chosen without timing. Branches share no memory that either
writes: torch's allocator reuses memory on the stream it was used on only, and cuBLAS has a workspace a stream. (Torch has 32
streams; with more branches some share one and run after one another.) What torch computes by atomic additions, such as the
gradient of adaptive pooling to more than one value, does not repeat on a GPU, alone or not.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.errors import InputError
from harness.graph import Program
from harness.training.evaluation import count_correct, forward
from harness.training.steps import train_step

Work = Callable[[], None]
Tensors = tuple[Tensor, ...] | list[Tensor]
# Images and labels of a run's step, and its loss and right answers from before the optimizer's step.
Given = tuple[Tensor, Tensor]
Found = tuple[Tensor, Tensor]

_WARM_UPS = 2
# ATen's native/Dropout.cpp: the negative saturation value of SELU.
_ALPHA = 1.7580993408473766


@dataclass(frozen=True, kw_only=True, eq=False)
class Branch:
    """What a step of one run is computed with.

    Args:
        module: the network, whose parameters and buffers the steps change.
        network: what runs its training program; it draws from ``generator`` only.
        optimizer: torch's SGD, Adam or AdamW with one group of parameters.
        generator: the run's own, on the network's device.
    """

    module: nn.Module
    network: Callable[[Tensor], Tensor]
    optimizer: torch.optim.Optimizer
    generator: torch.Generator


class Capturer(Protocol):
    """The part that talks to the device. A piece of work is a branch's; branches don't touch each other's tensors."""

    def warm_up(self, works: Sequence[Work]) -> None:
        """Do the works now, each as it will be captured."""

    def capture(self, works: Sequence[Work], generators: Sequence[torch.Generator]) -> Work:
        """What does the works again, upon the same tensors; the generators are those that they draw from.

        Whether capturing does them as well is up to the device.
        """


class CudaCapturer:
    """Captures with `torch.cuda.graph`, each piece of work on a stream of its own.

    Args:
        device: a CUDA device.
        branches: pieces of work.
    """

    def __init__(self, device: torch.device, branches: int) -> None:
        self._device = device
        with torch.cuda.device(device):
            # A pool may be shared by graphs that run one after the other, and are captured on one stream.
            self._pool = torch.cuda.graph_pool_handle()
            self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            self._side_streams = [torch.cuda.Stream() for _ in range(branches)]  # type: ignore[no-untyped-call]

    def warm_up(self, works: Sequence[Work]) -> None:
        """Do the works on their streams."""
        with torch.cuda.device(self._device), _repeatable_cudnn():
            self._fork_and_join(works)
            torch.cuda.synchronize()

    def capture(self, works: Sequence[Work], generators: Sequence[torch.Generator]) -> Work:
        """Capture the works as parallel branches; none is done yet.

        Raises:
            InputError: a step does something that cannot be captured.
            torch.OutOfMemoryError: there is no room for it.
        """
        with torch.cuda.device(self._device), _repeatable_cudnn():
            graph = torch.cuda.CUDAGraph()
            for generator in generators:
                graph.register_generator_state(generator)
            try:
                with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                    self._fork_and_join(works)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                msg = (
                    "expected a network whose step can be captured as a CUDA graph, got one that cannot: "
                    f"{str(error).splitlines()[0][:200]}. Use --engine eager."
                )
                raise InputError(msg) from error
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
def _repeatable_cudnn() -> Iterator[None]:
    """Deterministic algorithms, and none chosen by timing, which could choose another one for another branch."""
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before


class StepGraphs:
    """Computes the steps of some runs, all of them at once; what is captured is captured when it is first needed.

    From the first step on, the parameters, buffers and optimizer states of the runs must be changed in place only.

    Args:
        branches: the runs.
        capturer: captures and replays.
    """

    def __init__(self, branches: Sequence[Branch], capturer: Capturer) -> None:
        self._branches = tuple(branches)
        self._capturer = capturer
        self._updates: tuple[_Update, ...] = ()
        self._graphs: dict[int, _StepGraph] = {}
        self._latest: _StepGraph | None = None

    def __call__(self, given: Sequence[Given]) -> list[Found]:
        """Compute a step of each run.

        Args:
            given: images and labels for each run, as many images for each.

        Returns:
            Mean loss and right answers of each, still on the device.

        Raises:
            InputError: runs with batches of several sizes, a network's output has another shape than (B, 10), or a step
                cannot be captured.
        """
        sizes = {len(labels) for _, labels in given}
        if len(sizes) != 1 or len(given) != len(self._branches):
            msg = f"expected batches of one size for {len(self._branches)} runs, got sizes={sorted(sizes)} for {len(given)}."
            raise InputError(msg)
        (size,) = sizes
        if size not in self._graphs:
            self._graphs[size] = self._captured(given)
        graph = self._graphs[size]
        graph.fill(given, [update.numbers() for update in self._updates])
        graph.replay()
        if graph is not self._latest:
            self._latest = graph
            for update, gradients in zip(self._updates, graph.gradients, strict=True):
                # Whoever looks at a step from inside finds them where they usually are.
                for parameter, gradient in zip(update.parameters, gradients, strict=True):
                    parameter.grad = gradient
        return graph.found()

    def _captured(self, given: Sequence[Given]) -> _StepGraph:
        kept = [_Kept(branch) for branch in self._branches]
        try:
            if not self._updates:
                # Torch's own optimizers make their state, and note for a schedule that they have been called.
                self._capturer.warm_up(
                    [functools.partial(_plain_step, *its) for its in zip(self._branches, given, strict=True)]
                )
                self._updates = tuple(_update(branch.optimizer) for branch in self._branches)
            graph = _StepGraph(self._branches, self._updates, given)
            for _ in range(_WARM_UPS):
                self._capturer.warm_up(graph.works)
            graph.replay = self._capturer.capture(graph.works, [branch.generator for branch in self._branches])
        finally:
            for state in kept:
                state.put_back()
        return graph


def _plain_step(branch: Branch, given: Given) -> None:
    train_step(branch.network, branch.optimizer, *given)


class _StepGraph:
    """The steps of some runs for one size of batches: its buffers, and what fills and reads them."""

    replay: Work

    def __init__(self, branches: Sequence[Branch], updates: Sequence[_Update], given: Sequence[Given]) -> None:
        self._images = [images.clone() for images, _ in given]
        self._labels = [labels.clone() for _, labels in given]
        device = self._images[0].device
        self._numbers = torch.zeros(len(branches), updates[0].count, device=device)
        # Outside of the graph's own memory, in which another graph may write.
        self._losses = torch.zeros(len(branches), device=device)
        self._rights = torch.zeros(len(branches), dtype=torch.int64, device=device)
        self.gradients: list[tuple[Tensor, ...]] = [()] * len(branches)
        self.works = [
            functools.partial(self._work, index, branch, update)
            for index, (branch, update) in enumerate(zip(branches, updates, strict=True))
        ]

    def _work(self, index: int, branch: Branch, update: _Update) -> None:
        output = forward(branch.network, self._images[index])
        loss = functional.cross_entropy(output, self._labels[index])
        gradients = torch.autograd.grad(loss, update.parameters)
        with torch.no_grad():
            update.move(gradients, self._numbers[index].unbind())
            self._losses[index].copy_(loss)
            self._rights[index].copy_(count_correct(output, self._labels[index]))
        self.gradients[index] = gradients

    def fill(self, given: Sequence[Given], numbers: Sequence[Sequence[float]]) -> None:
        torch._foreach_copy_(self._images, [images for images, _ in given])
        torch._foreach_copy_(self._labels, [labels for _, labels in given])
        # From ordinary memory this is safe: the driver has read it when the call returns.
        self._numbers.copy_(torch.tensor(numbers, dtype=torch.float32), non_blocking=True)

    def found(self) -> list[Found]:
        # The next launch writes over the buffers.
        return list(zip(self._losses.clone().unbind(), self._rights.clone().unbind(), strict=True))


class _Kept:
    """A run's state before a capture."""

    def __init__(self, branch: Branch) -> None:
        self._branch = branch
        self._fresh = not branch.optimizer.state
        self._tensors = [(tensor, tensor.detach().clone()) for tensor in self._all()]
        self._generator = branch.generator.get_state()

    def put_back(self) -> None:
        """Into the same tensors, as a graph knows them by their address."""
        with torch.no_grad():
            for tensor, before in self._tensors:
                tensor.copy_(before)
            if self._fresh:
                # Zeros are what each of these optimizers begins with; SGD's first momentum is then the gradient, as in torch.
                for tensor in _states(self._branch.optimizer):
                    tensor.zero_()
        self._branch.generator.set_state(self._generator)

    def _all(self) -> Iterator[Tensor]:
        yield from self._branch.module.parameters()
        yield from self._branch.module.buffers()
        yield from _states(self._branch.optimizer)


def _states(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    for state in optimizer.state.values():
        yield from (value for value in state.values() if isinstance(value, Tensor))


class _Update(Protocol):
    """An optimizer's step, with what moves from step to step as numbers on the device."""

    parameters: list[Tensor]
    count: int

    def numbers(self) -> list[float]:
        """Those of the step that comes; asked once for each step."""

    def move(self, gradients: Tensors, numbers: Sequence[Tensor]) -> None:
        """Take the step."""


class _Sgd:
    """`torch.optim.SGD`, whose formulas these are."""

    count = 2

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        (self._group,) = optimizer.param_groups
        self.parameters = _reached(self._group)
        self._momenta = [
            optimizer.state[parameter]["momentum_buffer"] for parameter in self.parameters if self._group["momentum"]
        ]

    def numbers(self) -> list[float]:
        return [self._group["lr"], self._group["momentum"]]

    def move(self, gradients: Tensors, numbers: Sequence[Tensor]) -> None:
        lr, momentum = numbers
        if self._group["weight_decay"]:
            gradients = torch._foreach_add(gradients, self.parameters, alpha=self._group["weight_decay"])
        if self._momenta:
            torch._foreach_mul_(self._momenta, momentum)
            torch._foreach_add_(self._momenta, list(gradients))
            ahead = self._group["nesterov"]
            gradients = (
                torch._foreach_add(gradients, torch._foreach_mul(self._momenta, momentum)) if ahead else self._momenta
            )
        torch._foreach_sub_(self.parameters, list(torch._foreach_mul(gradients, lr)))


class _Adam:
    """`torch.optim.Adam` and `torch.optim.AdamW`, whose formulas these are."""

    count = 7

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        (self._group,) = optimizer.param_groups
        self.parameters = _reached(self._group)
        self._decoupled = isinstance(optimizer, torch.optim.AdamW)
        states = [optimizer.state[parameter] for parameter in self.parameters]
        self._means = [state["exp_avg"] for state in states]
        self._squares = [state["exp_avg_sq"] for state in states]
        # One count for all parameters, which are moved together; it is on the CPU.
        self._steps = states[0]["step"]
        for state in states:
            state["step"] = self._steps

    def numbers(self) -> list[float]:
        self._steps += 1
        lr, (beta1, beta2), step = self._group["lr"], self._group["betas"], self._steps.item()
        return [
            lr / (1 - beta1**step),
            beta1,
            1 - beta1,
            beta2,
            1 - beta2,
            1 / math.sqrt(1 - beta2**step),
            1 - lr * self._group["weight_decay"],
        ]

    def move(self, gradients: Tensors, numbers: Sequence[Tensor]) -> None:
        size, beta1, rest1, beta2, rest2, correction, decay = numbers
        if self._decoupled:
            torch._foreach_mul_(self.parameters, decay)
        elif self._group["weight_decay"]:
            gradients = torch._foreach_add(gradients, self.parameters, alpha=self._group["weight_decay"])
        torch._foreach_mul_(self._means, beta1)
        torch._foreach_add_(self._means, list(torch._foreach_mul(gradients, rest1)))
        squares = torch._foreach_mul(gradients, gradients)
        torch._foreach_mul_(squares, rest2)
        torch._foreach_mul_(self._squares, beta2)
        torch._foreach_add_(self._squares, list(squares))
        spreads = torch._foreach_sqrt(self._squares)
        torch._foreach_mul_(spreads, correction)
        torch._foreach_add_(spreads, self._group["eps"])
        moves = torch._foreach_div(self._means, spreads)
        torch._foreach_mul_(moves, size)
        torch._foreach_sub_(self.parameters, list(moves))


def _reached(group: Mapping[str, Any]) -> list[Tensor]:
    """The parameters that the loss depends on, as seen at the step before."""
    return [parameter for parameter in group["params"] if parameter.grad is not None]


def _update(optimizer: torch.optim.Optimizer) -> _Update:
    return _Sgd(optimizer) if isinstance(optimizer, torch.optim.SGD) else _Adam(optimizer)


def seeded_operations(generator: torch.Generator | None) -> dict[str, Callable[..., Tensor]]:
    """ATen's dropouts by name, drawing from a generator; on a CPU they give ATen's bits from the same random state.

    Args:
        generator: on the device of the network; None for torch's global one.
    """
    return {
        f"aten.{name}{ending}.default": functools.partial(
            _dropout,
            generator=generator,
            whole_maps="feature" in name,
            saturated="alpha" in name,
            in_place=bool(ending),
        )
        for name in ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")
        for ending in ("", "_")
    }


def _dropout(
    values: Tensor,
    p: float,
    train: bool,  # noqa: FBT001 - as in the program
    *,
    generator: torch.Generator | None,
    whole_maps: bool,
    saturated: bool,
    in_place: bool,
) -> Tensor:
    """As ATen's native/Dropout.cpp has it."""
    if not train or p == 0:
        return values
    if p == 1:
        return values.mul_(0) if in_place else values * 0
    shape = (*values.shape[:2], *(1 for _ in values.shape[2:])) if whole_maps else values.shape
    noise = values.new_empty(shape) if whole_maps else torch.empty_like(values)
    noise.bernoulli_(1 - p, generator=generator)
    if not saturated:
        noise.div_(1 - p)
        return values.mul_(noise) if in_place else values * noise
    a = 1 / math.sqrt((_ALPHA**2 * p + 1) * (1 - p))
    added = noise.add(-1).mul_(_ALPHA * a).add_(_ALPHA * a * p)
    noise.mul_(a)
    return values.mul_(noise).add_(added) if in_place else (values * noise).add_(added)


def draws_otherwise(program: Program) -> str:
    """The first of a program's operations that draws random numbers and is no dropout; empty if there is none."""
    seeded = seeded_operations(None).keys()
    return next(
        (op for op in (operation.op for operation in program.operations) if op not in seeded and _draws(op)), ""
    )


def _draws(op: str) -> bool:
    library, _, rest = op.partition(".")
    name, _, overload = rest.partition(".")
    if library != "aten":
        return False
    return torch.Tag.nondeterministic_seeded in getattr(getattr(torch.ops.aten, name), overload).tags
