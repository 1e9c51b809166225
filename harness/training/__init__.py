"""Recipe, random streams, training loop, digests, checkpoints and the run record."""

from harness.training.digests import INPUTS, STATES, DigestChain, StepDigests, state_digest, training_tensors
from harness.training.loop import DIGEST_EVERY, Observer, TrainingInterrupted, train
from harness.training.machine import Environment, available_devices, environment, resolve_device
from harness.training.randomness import RandomStreams, initialise, preserved_randomness
from harness.training.recipe import Recipe, load_recipe
from harness.training.record import EpochResult, RunRecord
from harness.training.smoke import SmokeResult, smoke_run
from harness.training.steps import Batch, Evaluation, Procedure, Step, Watcher, evaluate, one_epoch, train_step

__all__ = [
    "DIGEST_EVERY",
    "INPUTS",
    "STATES",
    "Batch",
    "DigestChain",
    "Environment",
    "EpochResult",
    "Evaluation",
    "Observer",
    "Procedure",
    "RandomStreams",
    "Recipe",
    "RunRecord",
    "SmokeResult",
    "Step",
    "StepDigests",
    "TrainingInterrupted",
    "Watcher",
    "available_devices",
    "environment",
    "evaluate",
    "initialise",
    "load_recipe",
    "one_epoch",
    "preserved_randomness",
    "resolve_device",
    "smoke_run",
    "state_digest",
    "train",
    "train_step",
    "training_tensors",
]
