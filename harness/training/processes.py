"""Processes that begin with PyTorch imported."""

from __future__ import annotations

import multiprocessing
import signal
from multiprocessing import forkserver
from multiprocessing.context import BaseContext


def process_context(preloaded: list[str]) -> BaseContext:
    """Return a context whose processes are forked from a server that has imported the modules ``preloaded``.

    Forking this process itself would copy the locks of its threads. Where there is no fork server, each process imports
    what it needs.
    """
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    context.set_forkserver_preload(preloaded)
    if method == "forkserver":
        # Ctrl-C sends SIGINT to the fork server, too, which would print a traceback during its imports. It inherits the
        # set of blocked signals.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        forkserver.ensure_running()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    return context
