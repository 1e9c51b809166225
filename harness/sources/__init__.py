"""Finding, building and capturing models: shipped ones, and those in files, packages, notebooks and folders."""

from harness.sources.building import shipped_recipe
from harness.sources.loading import DEFAULT_SEED, Builds, LoadedModel, load, load_builds, load_model
from harness.sources.source import ModelSource, module_source, parse_source

__all__ = [
    "DEFAULT_SEED",
    "Builds",
    "LoadedModel",
    "ModelSource",
    "load",
    "load_builds",
    "load_model",
    "module_source",
    "parse_source",
    "shipped_recipe",
]
