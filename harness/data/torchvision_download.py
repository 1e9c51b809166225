"""A script that runs torchvision's downloader; its arguments are the name of the data set's class and the folder.

This keeps torchvision's output, its progress bar and a stalled transfer in a process that can be killed, and the socket
time-out affects no other code.
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
