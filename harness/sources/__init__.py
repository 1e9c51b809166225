"""Models where they are: shipped, in files, packages, notebooks and folders."""

from harness.sources.source import DEFAULT_SEED, eager_source, load_model, parse_source

__all__ = ["DEFAULT_SEED", "eager_source", "load_model", "parse_source"]
