"""Let torchvision download into a folder: arguments are its class and the folder; run by path, as a process of its own.

Its prints and progress bar, and a transfer that never ends, then stay in a process that can be ended, and its socket
time-out changes nothing for anybody else.
"""

import socket
import sys

import torchvision

# Seconds without a byte; torchvision sets no limit of its own.
_SILENCE = 5.0

if __name__ == "__main__":
    socket.setdefaulttimeout(_SILENCE)
    # Of QMNIST this fetches the test files alone; of the others all four.
    getattr(torchvision.datasets, sys.argv[1])(sys.argv[2], train=False, download=True)
