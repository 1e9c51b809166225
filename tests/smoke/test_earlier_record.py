"""A run record of an earlier version of the package: trained again, it must give the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.data import load_dataset
from harness.findings import Status
from harness.reproducibility import Replay, Rerun
from harness.sources import load_model
from harness.training import RunRecord

pytestmark = pytest.mark.smoke

# `harness train five_step_4 --recipe reference --data digits --engine eager --threads 1 --seed 7 --epochs 3
# --digest-every 10`, at the commit that the record names.
RECORD = Path(__file__).parent / "records" / "five_step_4-on-digits.json"


def test_an_earlier_record_replays_bit_equal(one_thread: None) -> None:  # noqa: ARG001 - a fixture
    """Skipped in another environment than the recorded one, where the last bits may differ."""
    record = RunRecord.read(RECORD)
    captured = load_model(record.source, seed=record.seed)
    rerun = Rerun(record=record, captured=captured, dataset=load_dataset("digits"), device=torch.device("cpu"))
    finding = Replay(record=record, repeated=rerun.train(), noise=None).finding()

    if finding.status is Status.UNKNOWN:
        pytest.skip(f"{finding.observed}; {'; '.join(finding.evidence)}")
    assert Status.PASS is finding.status, finding.describe()
