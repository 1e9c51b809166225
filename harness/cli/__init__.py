"""The command line, one module per command: the only package that prints or sets an exit code."""

from harness.cli.app import main

__all__ = ["main"]
