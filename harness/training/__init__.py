"""Recipe, random streams, training loop, checkpoints and the run record."""

from harness.training.loop import Evaluation, Observer, TrainingInterrupted, evaluate, train
from harness.training.machine import Environment, available_devices, environment, resolve_device
from harness.training.randomness import initialise
from harness.training.recipe import Recipe, load_recipe
from harness.training.record import EpochResult, RunRecord, state_digest
from harness.training.smoke import SmokeResult, smoke_run

__all__ = [
    "Environment",
    "EpochResult",
    "Evaluation",
    "Observer",
    "Recipe",
    "RunRecord",
    "SmokeResult",
    "TrainingInterrupted",
    "available_devices",
    "environment",
    "evaluate",
    "initialise",
    "load_recipe",
    "resolve_device",
    "smoke_run",
    "state_digest",
    "train",
]
