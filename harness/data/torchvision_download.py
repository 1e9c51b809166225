"""Let torchvision download MNIST into the folder given as the only argument; run by path, as a process of its own.

Its prints and progress bar, and a transfer that never ends, then stay in a process that can be ended, and its socket
time-out changes nothing for anybody else.
"""

import socket
import sys

from torchvision.datasets import MNIST

# Seconds without a byte; torchvision sets no limit of its own.
_SILENCE = 5.0

if __name__ == "__main__":
    socket.setdefaulttimeout(_SILENCE)
    MNIST(sys.argv[1], download=True)
