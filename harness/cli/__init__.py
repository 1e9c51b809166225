"""The command line: one module a subcommand; the only room that prints or exits."""

from harness.cli.app import main

__all__ = ["main"]
