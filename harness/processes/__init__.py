"""Child processes that run a user's code: a typed request in, a typed result or an error out, and nothing pickled."""

from harness.processes.protocol import Failure, Request, Workspace
from harness.processes.runner import Ending, Job, Limits, Outcome, run_processes

__all__ = ["Ending", "Failure", "Job", "Limits", "Outcome", "Request", "Workspace", "run_processes"]
