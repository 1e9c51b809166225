"""Finding, building and capturing models: shipped ones, and those in files, packages, notebooks and folders."""

from harness.sources.loading import DEFAULT_SEED, load_each, load_model
from harness.sources.source import ModelSource, find_model_files, module_source, parse_source

__all__ = [
    "DEFAULT_SEED",
    "ModelSource",
    "find_model_files",
    "load_each",
    "load_model",
    "module_source",
    "parse_source",
]
