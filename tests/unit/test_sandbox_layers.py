"""The layers of the sandbox by name."""

from __future__ import annotations

import pytest

from harness.errors import InputError
from harness.sandbox.layers import Layer, switched_off, unavailable_layers


def test_layers_are_switched_off_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable holds names separated by commas; another name is an error."""
    monkeypatch.delenv("HARNESS_SANDBOX_WITHOUT", raising=False)
    assert frozenset() == switched_off()
    monkeypatch.setenv("HARNESS_SANDBOX_WITHOUT", "landlock, user")
    assert {Layer.LANDLOCK, Layer.USER} == switched_off()
    monkeypatch.setenv("HARNESS_SANDBOX_WITHOUT", "landlock,firejail")
    with pytest.raises(InputError, match="expected layers of the sandbox in HARNESS_SANDBOX_WITHOUT, got 'firejail'"):
        switched_off()


def test_elsewhere_no_layer_holds() -> None:
    """Each layer is listed with what it needs."""
    assert [(layer, False, "needs Linux on x86-64 or aarch64") for layer in Layer] == [
        (state.layer, state.holds, state.detail) for state in unavailable_layers()
    ]
