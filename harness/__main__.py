"""Entry point of `harness` and `python -m harness`; an interruption prints no traceback, even during imports."""

from __future__ import annotations

import os
import sys

INTERRUPTED = 130


def main() -> None:
    """Run the command line and exit with the exit code of the command."""
    try:
        from harness.cli import main as run  # noqa: PLC0415 - within the block

        run()
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted\n")
    except SystemExit as end:
        if end.code != INTERRUPTED:
            raise
    # A regular exit of the interpreter could be reported as killed by the signal, or be interrupted again.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    main()
