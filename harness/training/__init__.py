"""Recipe, random streams, training loop, digests, checkpoints and the run record."""

from harness.training.digests import INPUTS, STATES, DigestChain, StepDigests, state_digest, training_tensors
from harness.training.engines import ENGINES, Engine, choose_engine
from harness.training.evaluation import Answers, Evaluation, answer, evaluate
from harness.training.loop import DIGEST_EVERY, Member, Observer, TrainingInterrupted, train, train_group
from harness.training.machine import Environment, available_devices, environment, keep_freed_memory, resolve_device
from harness.training.randomness import RandomStreams, initialise, preserved_randomness
from harness.training.recipe import Recipe, load_recipe
from harness.training.record import EpochResult, RunRecord
from harness.training.run_folder import RECORD_FILE, WEIGHTS_FILE, opened, train_into
from harness.training.seeds import SeedOutcome, SeedsInterrupted, SeedsJob, SeedsObserver, seed_folder, train_seeds
from harness.training.smoke import SmokeResult, smoke_run
from harness.training.steps import Batch, Procedure, Step, Watcher, one_epoch, train_step
from harness.training.weights import load_weights, save_weights

__all__ = [
    "DIGEST_EVERY",
    "ENGINES",
    "INPUTS",
    "RECORD_FILE",
    "STATES",
    "WEIGHTS_FILE",
    "Answers",
    "Batch",
    "DigestChain",
    "Engine",
    "Environment",
    "EpochResult",
    "Evaluation",
    "Member",
    "Observer",
    "Procedure",
    "RandomStreams",
    "Recipe",
    "RunRecord",
    "SeedOutcome",
    "SeedsInterrupted",
    "SeedsJob",
    "SeedsObserver",
    "SmokeResult",
    "Step",
    "StepDigests",
    "TrainingInterrupted",
    "Watcher",
    "answer",
    "available_devices",
    "choose_engine",
    "environment",
    "evaluate",
    "initialise",
    "keep_freed_memory",
    "load_recipe",
    "load_weights",
    "one_epoch",
    "opened",
    "preserved_randomness",
    "resolve_device",
    "save_weights",
    "seed_folder",
    "smoke_run",
    "state_digest",
    "train",
    "train_group",
    "train_into",
    "train_seeds",
    "train_step",
    "training_tensors",
]
