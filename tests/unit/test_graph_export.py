"""What an exported program becomes: batch size, runtime symbols, submodules and constants."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from harness.graph.export import export_program, renamed_program
from harness.graph.form import RUNTIME_CUDNN, RUNTIME_DEVICE, Program, Ref, Symbol


class Net(nn.Module):
    """A shared layer, a norm, a literal and a created tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, images: Tensor) -> Tensor:
        """Four numbers an image."""
        values = self.fc(self.norm(self.fc(images.view(images.size(0), 4))))
        result: Tensor = values * torch.tensor([1.0, 2.0, 3.0, 4.0]) + torch.zeros(4, device=values.device)
        return result.clamp(max=float("inf"))


@pytest.fixture(scope="module")
def exported() -> tuple[Program, dict[str, Tensor], str]:
    """The network in evaluation mode, exported with the names of its own state dict."""
    net = Net().eval()
    names = {name: name for name in net.state_dict()}
    return export_program(net, torch.zeros(3, 1, 2, 2), names, "net", mode="evaluation")


def test_the_batch_size_stays_open(exported: tuple[Program, dict[str, Tensor], str]) -> None:
    """Shapes name the batch size `B`, and the size of the example is in none of them."""
    program, _, input_name = exported

    assert {"B", 4} >= {dim for operation in program.operations for dim in operation.shape}
    assert Ref(input_name) in next(op for op in program.operations if op.kind.name == "view").args


def test_what_depends_on_the_machine_is_a_symbol(exported: tuple[Program, dict[str, Tensor], str]) -> None:
    """Whether cuDNN is on, the device of a created tensor, and a number that JSON does not have."""
    program, _, _ = exported
    operations = {operation.kind.name: operation for operation in program.operations}

    assert RUNTIME_CUDNN == operations["batch_norm"].args[8]
    assert RUNTIME_DEVICE == operations["zeros"].kwargs["device"]
    assert Symbol("float", "inf") in (*operations["clamp"].args, *operations["clamp"].kwargs.values())


def test_submodules_and_constants_are_named(exported: tuple[Program, dict[str, Tensor], str]) -> None:
    """A module that is called a second time has its own name; a literal is a constant."""
    program, constants, _ = exported

    assert ["fc", "fc"] == [op.module for op in program.operations if op.kind.name == "linear"]
    assert [[1.0, 2.0, 3.0, 4.0]] == [value.tolist() for value in constants.values()]


def test_values_can_be_renamed(exported: tuple[Program, dict[str, Tensor], str]) -> None:
    """Every use of a name changes, and nothing else."""
    program, _, input_name = exported
    other = renamed_program(program, {input_name: "pixels"})

    assert program == renamed_program(other, {"pixels": input_name})
    assert "pixels" in {ref for operation in other.operations for ref in operation.refs()}
