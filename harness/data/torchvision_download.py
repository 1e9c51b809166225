"""A script that runs torchvision's downloader; the arguments are the name of a data set class and the folder.

In a separate process, torchvision's output and progress bar are not shown, a stalled transfer can be killed, and the
socket time-out does not affect other code.
"""

import socket
import sys

import torchvision

# Seconds without a byte; torchvision sets no limit.
_TIMEOUT = 5.0

if __name__ == "__main__":
    socket.setdefaulttimeout(_TIMEOUT)
    # train=False selects QMNIST's test files; the other classes download all four files either way.
    getattr(torchvision.datasets, sys.argv[1])(sys.argv[2], train=False, download=True)
