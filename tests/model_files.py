"""Source files and notebooks that define models, for the tests that import them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.errors import CaptureError, ModelSourceError
from harness.graph import CapturedModel

Load = Callable[..., tuple[CapturedModel, list[str]]]

IMPORTS = "import torch\nfrom torch import nn\n"
NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, width=10, bias=True):
        super().__init__()
        self.layer = nn.Linear(784, width, bias=bias)

    def forward(self, x):
        return self.layer(x.flatten(1))
"""


def flat(name: str, width: object = 10, *, bias: bool = True) -> str:
    """Source of a class that is one layer over all pixels."""
    return (
        f"class {name}(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        f"        self.layer = nn.Linear(784, {width}, bias={bias})\n"
        "    def forward(self, x):\n"
        "        return self.layer(x.flatten(1))\n"
    )


def notebook(*cells: str) -> str:
    """A notebook with these code cells."""
    code = [{"cell_type": "code", "source": cell.splitlines(keepends=True)} for cell in cells]
    return json.dumps({"nbformat": 4, "cells": [{"cell_type": "markdown", "source": ["# A net"]}, *code]})


def write(folder: Path, files: Mapping[str, str]) -> Path:
    """Write files into a folder; returns the folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return folder


def refusal(load: Load, model: object, **options: Any) -> str:  # noqa: ANN401 - passed on
    """The message of the error for a model that cannot be loaded: one paragraph, and a list where there are choices."""
    with pytest.raises((ModelSourceError, CaptureError)) as caught:
        load(model, **options)
    assert "\n" not in str(caught.value).replace("\n- ", "")
    return str(caught.value)
