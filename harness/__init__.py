"""Checks of small image classifiers: structure, reproducibility and accuracy, with evidence for each result."""

from harness._version import __version__

__all__ = ["__version__"]
