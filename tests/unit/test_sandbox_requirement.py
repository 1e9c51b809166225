"""Requirements on the sandbox: how they are written, what meets them, and what is said if nothing does."""

from __future__ import annotations

import pytest

from harness.errors import InputError, SandboxError
from harness.sandbox import DEFAULT_REQUIREMENT, NO_REQUIREMENT, Layer, LayerState, SandboxRequirement
from harness.sandbox import requirement as requirement_module


def states(**holds: bool) -> list[LayerState]:
    """The states of layers by their names."""
    return [
        LayerState(layer=Layer(name), holds=state, detail="version 7" if state else f"no {name} here")
        for name, state in holds.items()
    ]


@pytest.mark.parametrize(
    ("text", "alternatives"),
    [
        ("seccomp", ({Layer.SECCOMP},)),
        (" seccomp + limits , user", ({Layer.SECCOMP, Layer.LIMITS}, {Layer.USER})),
        ("none", (set(),)),
        ("seccomp+bubblewrap,seccomp+landlock+user", DEFAULT_REQUIREMENT.alternatives),
    ],
)
def test_a_requirement_is_parsed(text: str, alternatives: tuple[set[Layer], ...]) -> None:
    """Plus joins layers, a comma separates alternatives; what is printed can be parsed again."""
    found = SandboxRequirement.parse(text)

    assert tuple(map(frozenset, alternatives)) == found.alternatives
    assert found == SandboxRequirement.parse(str(found))


@pytest.mark.parametrize("text", ["", "firejail", "seccomp,", "seccomp+none", "seccomp landlock", "SECCOMP"])
def test_other_texts_are_refused(text: str) -> None:
    """The message names the text, an example and all layers."""
    with pytest.raises(InputError) as caught:
        SandboxRequirement.parse(text)

    words = (f"got {text!r}", "bubblewrap+seccomp,user+landlock+seccomp", "Layers: bubblewrap, user, limits, landlock")
    assert [] == [word for word in words if word not in str(caught.value)]


@pytest.mark.parametrize(
    "holding",
    [
        {"seccomp": True, "bubblewrap": True, "landlock": False},
        {"seccomp": True, "landlock": True, "user": True, "bubblewrap": False},
    ],
)
def test_each_alternative_meets_the_requirement(holding: dict[str, bool]) -> None:
    """The layers of one alternative are enough; without one of them, they are not."""
    DEFAULT_REQUIREMENT.require(states(**holding))

    for name in [name for name, holds in holding.items() if holds]:
        with pytest.raises(SandboxError):
            DEFAULT_REQUIREMENT.require(states(**holding | {name: False}))
        with pytest.raises(SandboxError):
            DEFAULT_REQUIREMENT.require(states(**{other: holds for other, holds in holding.items() if other != name}))


def test_nothing_is_required() -> None:
    """Without a requirement, no layer need hold."""
    NO_REQUIREMENT.require([])


def test_the_error_says_what_is_missing_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Required layers, those that hold, why the others do not, and a remedy for each alternative."""
    monkeypatch.setattr(requirement_module, "machine", lambda: "x86_64")
    with pytest.raises(SandboxError) as caught:
        DEFAULT_REQUIREMENT.require(states(bubblewrap=False, limits=True, user=False, landlock=True, seccomp=True))

    assert (
        "expected a sandbox with bubblewrap + seccomp, or user + landlock + seccomp for the model's code, which has not run, "
        "got limits + landlock + seccomp. Missing: bubblewrap: no bubblewrap here; user: no user here. To get it, install "
        "bubblewrap, on a host that allows user namespaces or as root, or run as root, such as in a container. If you trust the "
        "code, require no layers (--require-sandbox none, or --trust-submission for a submission)."
    ) == str(caught.value)


def test_the_remedy_elsewhere_is_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no layer is implemented, nothing can be installed."""
    monkeypatch.setattr(requirement_module, "machine", lambda: None)
    with pytest.raises(
        SandboxError, match=r"got none of the layers.*To get it, run the command on Linux on x86-64 or aarch64"
    ):
        DEFAULT_REQUIREMENT.require([])
