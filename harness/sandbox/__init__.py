"""Worker processes that run a user's code; they receive typed requests and return typed results or errors, without pickle."""

from harness.sandbox.layers import Layer, LayerState, layers_line
from harness.sandbox.probe import available_layers
from harness.sandbox.protocol import Failure, Request, Workspace
from harness.sandbox.requirement import DEFAULT_REQUIREMENT, NO_REQUIREMENT, SandboxRequirement
from harness.sandbox.runner import Ending, Job, Limits, Outcome, run_processes, warm_workers
from harness.sandbox.submissions import Submission, SubmissionLimits, open_submission

__all__ = [
    "DEFAULT_REQUIREMENT",
    "NO_REQUIREMENT",
    "Ending",
    "Failure",
    "Job",
    "Layer",
    "LayerState",
    "Limits",
    "Outcome",
    "Request",
    "SandboxRequirement",
    "Submission",
    "SubmissionLimits",
    "Workspace",
    "available_layers",
    "layers_line",
    "open_submission",
    "run_processes",
    "warm_workers",
]
