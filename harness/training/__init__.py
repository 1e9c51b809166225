"""The training of a model: run specs, recipes, the training loop, engines, digests, checkpoints and run records."""

from harness.training.digests import INPUTS, STATES, DigestChain, StepDigests, state_digest, training_tensors
from harness.training.engines import ENGINES, Engine, choose_engine
from harness.training.evaluation import Evaluation, Predictions, evaluate, predict
from harness.training.group import Member, train_group
from harness.training.loop import TrainingInterrupted, train
from harness.training.machine import (
    BIT_RELEVANT,
    Environment,
    available_devices,
    environment,
    keep_freed_memory,
    resolve_device,
)
from harness.training.observer import NullObserver, Observer
from harness.training.randomness import RandomStreams, initialise, preserved_randomness
from harness.training.recipe import Recipe, load_recipe
from harness.training.record import EpochResult, RunRecord
from harness.training.run_folder import (
    PREDICTIONS_FILE,
    RECORD_FILE,
    WEIGHTS_FILE,
    WrongPredictions,
    finished_record,
    opened,
    train_into,
)
from harness.training.run_spec import DIGEST_EVERY, RunSpec
from harness.training.seeds import (
    SeedOutcome,
    SeedsInterrupted,
    SeedsJob,
    SeedsObserver,
    seed_folder,
    seeds_at_once,
    train_seeds,
)
from harness.training.smoke import SmokeResult, smoke_run
from harness.training.steps import Batch, Step, StepCallback, TrainingHooks, shuffled_batches, train_step
from harness.training.weights import load_weights, save_weights

__all__ = [
    "BIT_RELEVANT",
    "DIGEST_EVERY",
    "ENGINES",
    "INPUTS",
    "PREDICTIONS_FILE",
    "RECORD_FILE",
    "STATES",
    "WEIGHTS_FILE",
    "Batch",
    "DigestChain",
    "Engine",
    "Environment",
    "EpochResult",
    "Evaluation",
    "Member",
    "NullObserver",
    "Observer",
    "Predictions",
    "RandomStreams",
    "Recipe",
    "RunRecord",
    "RunSpec",
    "SeedOutcome",
    "SeedsInterrupted",
    "SeedsJob",
    "SeedsObserver",
    "SmokeResult",
    "Step",
    "StepCallback",
    "StepDigests",
    "TrainingHooks",
    "TrainingInterrupted",
    "WrongPredictions",
    "available_devices",
    "choose_engine",
    "environment",
    "evaluate",
    "finished_record",
    "initialise",
    "keep_freed_memory",
    "load_recipe",
    "load_weights",
    "opened",
    "predict",
    "preserved_randomness",
    "resolve_device",
    "save_weights",
    "seed_folder",
    "seeds_at_once",
    "shuffled_batches",
    "smoke_run",
    "state_digest",
    "train",
    "train_group",
    "train_into",
    "train_seeds",
    "train_step",
    "training_tensors",
]
