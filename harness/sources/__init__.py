"""Finding, building and capturing models: shipped ones, and those in files, packages, notebooks and folders."""

from harness.sources.building import shipped_recipe
from harness.sources.loading import DEFAULT_SEED, Builds, LoadedModel, load, load_builds, load_each, load_model
from harness.sources.source import ModelSource, find_model_files, module_source, parse_source

__all__ = [
    "DEFAULT_SEED",
    "Builds",
    "LoadedModel",
    "ModelSource",
    "find_model_files",
    "load",
    "load_builds",
    "load_each",
    "load_model",
    "module_source",
    "parse_source",
    "shipped_recipe",
]
