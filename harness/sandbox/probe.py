"""Which layers of the sandbox hold on this machine for the current user."""

from __future__ import annotations

from dataclasses import dataclass

from harness.files import temporary_folder
from harness.sandbox.layers import Layer, LayerState
from harness.sandbox.protocol import Request, Workspace
from harness.sandbox.requirement import SandboxRequirement
from harness.sandbox.runner import Job, Limits, run_processes, warm_workers

_SECONDS = 30.0
# Bubblewrap is tried, and nothing is required.
_TRIED = SandboxRequirement(alternatives=(frozenset({Layer.BUBBLEWRAP}), frozenset()))


@dataclass(frozen=True, kw_only=True)
class Confined:
    """The result of a process that was confined and did nothing else."""


@dataclass(frozen=True, kw_only=True)
class ConfinementRequest(Request[Confined]):
    """A request to be confined and to do nothing else."""

    result_type = Confined
    is_confined = True

    def prepare(self) -> None:
        """Import nothing."""

    def perform(self, workspace: Workspace) -> Confined:
        """Confine the process."""
        workspace.confine([])
        return Confined()


def available_layers() -> tuple[LayerState, ...]:
    """Confine a process and return the state of each layer.

    Raises:
        HarnessError: the process could not be confined.
    """
    request = ConfinementRequest()
    with warm_workers() as area, temporary_folder("probe", inside=area) as folder:
        job = Job(request=request, working_folder=folder, sandbox=_TRIED)
        (outcome,) = run_processes([job], folder, limits=Limits(seconds=_SECONDS))
        outcome.result(request)
    return outcome.layers
