"""Child processes that run a user's code: typed requests in, typed results or errors out, without pickle."""

from harness.sandbox.protocol import Failure, Request, Workspace
from harness.sandbox.runner import Ending, Job, Limits, Outcome, run_processes

__all__ = ["Ending", "Failure", "Job", "Limits", "Outcome", "Request", "Workspace", "run_processes"]
