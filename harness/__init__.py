"""An examiner for small image classifiers."""

from harness._version import __version__

__all__ = ["__version__"]
