#!/usr/bin/env bash
# Builds the image of a Gradescope autograder: Python and mnist-harness, outside of /autograder.
set -euo pipefail
apt-get update -qq
apt-get install -qq -y python3 python3-venv
cd /
python3 -m venv /opt/mnist-harness
/opt/mnist-harness/bin/python -P -m pip install --quiet mnist-harness
