"""A module's state is put back, whatever a pass has changed."""

from __future__ import annotations

import torch
from torch import nn

from harness.graph.module_state import ModuleState, same_tensor


class Net(nn.Module):
    """A layer, a count and a list."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)
        self.calls, self.seen = 0, [1]


def test_everything_is_put_back() -> None:
    """Attributes, lists, hooks, numbers that share memory, gradients, and what was added or removed."""
    net = Net()
    memory = torch.zeros(4)
    net.register_buffer("one", memory[:3])
    net.register_buffer("other", memory[1:])
    net.register_buffer("expanded", torch.ones(1).expand(3))
    weight = net.fc.weight
    state = ModuleState(net)

    net.calls, net.seen[:] = 3, [1, 2]
    memory.add_(1)
    net.get_buffer("expanded")[:1].zero_()
    net.register_buffer("new", torch.ones(1))
    net.fc.register_parameter("bias", None)
    net.fc.register_forward_hook(lambda *_: None)
    with torch.no_grad():
        weight.data = torch.zeros(3, 3)
    weight.requires_grad = False
    net.eval()
    assert ["calls"] == state.changed_attributes()
    state.restore()

    assert (0, [1], True) == (net.calls, net.seen, net.training)
    assert [0.0] * 4 == memory.tolist()
    assert [1.0] * 3 == net.get_buffer("expanded").tolist()
    assert {"fc.weight", "fc.bias", "one", "other", "expanded"} <= state.names
    assert not hasattr(net, "new")
    assert (torch.Size([2, 2]), True, None) == (weight.shape, weight.requires_grad, weight.grad)
    assert net.fc.bias is not None
    assert not net.fc._forward_hooks  # noqa: SLF001 - torch has no public way to list hooks
    assert [] == state.changed_attributes()


def test_tensors_are_compared_to_the_bit() -> None:
    """NaN is equal to itself; another type, shape or number is not."""
    one = torch.tensor([1.0, float("nan")])

    assert same_tensor(one, one.clone())
    for other in (one.double(), one[:1], torch.tensor([1.0, 2.0]), one[:, None]):
        assert not same_tensor(one, other)
