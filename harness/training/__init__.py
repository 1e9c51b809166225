"""Recipe, random streams, training loop, digests, checkpoints and the run record."""

from harness.training.digests import INPUTS, STATES, DigestChain, StepDigests, state_digest, training_tensors
from harness.training.evaluation import Answers, Evaluation, answer, evaluate
from harness.training.loop import DIGEST_EVERY, Observer, TrainingInterrupted, train
from harness.training.machine import Environment, available_devices, environment, resolve_device
from harness.training.randomness import RandomStreams, initialise, preserved_randomness
from harness.training.recipe import Recipe, load_recipe
from harness.training.record import EpochResult, RunRecord
from harness.training.smoke import SmokeResult, smoke_run
from harness.training.steps import Batch, Procedure, Step, Watcher, one_epoch, train_step
from harness.training.weights import load_weights, save_weights

__all__ = [
    "DIGEST_EVERY",
    "INPUTS",
    "STATES",
    "Answers",
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
    "answer",
    "available_devices",
    "environment",
    "evaluate",
    "initialise",
    "load_recipe",
    "load_weights",
    "one_epoch",
    "preserved_randomness",
    "resolve_device",
    "save_weights",
    "smoke_run",
    "state_digest",
    "train",
    "train_step",
    "training_tensors",
]
