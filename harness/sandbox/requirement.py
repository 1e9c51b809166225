"""Requirements on the sandbox, such as ``seccomp+bubblewrap,seccomp+landlock+user``, and the error if one is not met."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.errors import InputError, SandboxError
from harness.sandbox.kernel import SUPPORTED, machine
from harness.sandbox.layers import Layer, LayerState, confine_submission

_NONE = "none"
_REMEDIES: Mapping[Layer, str] = {
    Layer.BUBBLEWRAP: "install bubblewrap, on a host that allows user namespaces or as root",
    Layer.LIMITS: "allow resource limits to be lowered",
    Layer.USER: "run as root, such as in a container",
    Layer.LANDLOCK: "use a kernel with Landlock, Linux 5.13 or later",
    Layer.SECCOMP: "use a kernel with seccomp filters",
}


@dataclass(frozen=True, kw_only=True)
class SandboxRequirement:
    """The layers that must hold before code of a submission runs: all layers of one of the ``alternatives``.

    An alternative without layers requires nothing.
    """

    alternatives: tuple[frozenset[Layer], ...]

    @staticmethod
    def parse(text: str) -> SandboxRequirement:
        """Parse a requirement: ``+`` joins layers that must all hold, ``,`` separates alternatives; or ``none``.

        Raises:
            InputError: the text names something else than layers.
        """
        if text.strip() == _NONE:
            return NO_REQUIREMENT
        try:
            alternatives = tuple(
                frozenset(Layer(name.strip()) for name in alternative.split("+")) for alternative in text.split(",")
            )
        except ValueError:
            raise InputError(
                f"expected layers of the sandbox, such as {DEFAULT_REQUIREMENT}, or {_NONE}, got {text!r}. Join layers that must "
                f"all hold by +, and separate alternatives by commas. Layers: {', '.join(Layer)}."
            ) from None
        return SandboxRequirement(alternatives=alternatives)

    def __str__(self) -> str:
        if not all(self.alternatives):
            return _NONE
        return ",".join("+".join(_ordered(alternative)) for alternative in self.alternatives)

    def require(self, states: Iterable[LayerState]) -> None:
        """Check that all layers of one of the alternatives hold.

        Raises:
            SandboxError: layers are missing; the message says which and why, and what to do.
        """
        found = {state.layer: state for state in states}
        holding = {layer for layer, state in found.items() if state.holds}
        missing = [alternative - holding for alternative in self.alternatives]
        if not all(missing):
            return
        reasons = "; ".join(
            f"{layer}: {found[layer].detail if layer in found else 'not tried'}"
            for layer in _ordered(frozenset().union(*missing))
        )
        remedies = [" and ".join(_REMEDIES[layer] for layer in _ordered(layers)) for layers in missing]
        remedy = ", or ".join(remedies) if machine() else f"run the command on {SUPPORTED}"
        raise SandboxError(
            f"expected a sandbox with {', or '.join(map(_joined, self.alternatives))} for the model's code, which has not run, "
            f"got {_joined(holding) or 'none of the layers'}. Missing: {reasons}. To get it, {remedy}. If you trust the code, "
            f"require no layers (--require-sandbox {_NONE}, or --trust-submission for a submission)."
        )


@dataclass(frozen=True, kw_only=True)
class Confinement:
    """How a process is confined: the requirement on it, see `SandboxRequirement.parse`, and what `confine_submission` takes.

    ``bubblewrap`` says whether the process was started in bubblewrap.
    """

    requirement: str
    user: int
    without: tuple[Layer, ...]
    bubblewrap: LayerState

    def apply(self, folder: Path, readable: Iterable[Path]) -> tuple[LayerState, ...]:
        """Confine this process to a folder for good, and return the state of each layer."""
        states = confine_submission(folder, readable=readable, user=self.user, without=self.without)
        return (self.bubblewrap, *states)


def _ordered(layers: Collection[Layer]) -> list[Layer]:
    return [layer for layer in Layer if layer in layers]


def _joined(layers: Collection[Layer]) -> str:
    return " + ".join(_ordered(layers))


DEFAULT_REQUIREMENT = SandboxRequirement(
    alternatives=(
        frozenset({Layer.SECCOMP, Layer.BUBBLEWRAP}),
        frozenset({Layer.SECCOMP, Layer.LANDLOCK, Layer.USER}),
    )
)
NO_REQUIREMENT = SandboxRequirement(alternatives=(frozenset(),))
