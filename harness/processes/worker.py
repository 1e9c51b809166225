"""The worker process: reads the request in its workspace, performs the request and writes the result to the workspace.

Run as ``python -m harness.processes.worker FOLDER`` by `harness.processes.runner`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from harness.processes.protocol import Failure, Workspace, read_request, write_result


def main(folder: Path, *, prepare: bool = True) -> None:
    """Perform the request in a workspace; write the result, or the error that was raised, to the workspace.

    With ``prepare``, the method `prepare` of the request is called first.
    """
    try:
        request = read_request(folder)
        if prepare:
            request.prepare()
        write_result(request.perform(Workspace(folder=folder)), folder)
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent raises it
        write_result(Failure.of(error), folder)


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    main(Path(sys.argv[1]))
