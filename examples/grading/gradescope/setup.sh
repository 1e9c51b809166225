#!/usr/bin/env bash
# Builds the image of a Gradescope autograder: Python and mnist-harness, outside of /autograder.
# Replace OWNER by the owner of the repository of mnist-harness.
set -euo pipefail
apt-get update -qq
apt-get install -qq -y git python3 python3-venv
cd /
python3 -m venv /opt/mnist-harness
/opt/mnist-harness/bin/python -P -m pip install --quiet git+https://github.com/OWNER/mnist-harness
