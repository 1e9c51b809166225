"""Worker processes that run a user's code; they receive typed requests and return typed results or errors, without pickle."""

from harness.sandbox.protocol import Failure, Request, Workspace
from harness.sandbox.runner import Ending, Job, Limits, Outcome, run_processes

__all__ = ["Ending", "Failure", "Job", "Limits", "Outcome", "Request", "Workspace", "run_processes"]
