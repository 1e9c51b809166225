"""Made-up verdicts: one on an honest submission, one whose texts attack every format."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

from harness.findings import Finding, Status
from harness.grading import (
    ExaminedModel,
    GradedRequirement,
    GradedRun,
    GradedTraining,
    LayerRow,
    Penalty,
    Verdict,
    Visibility,
    WrongImage,
)
from harness.grading.writers import Context
from harness.sandbox import Layer, LayerState
from tests.made_up import ENVIRONMENT

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "=cmd|' /C calc'!A0",
    "x" * 10_000,
    "\u202egnp.exe",
    "::error::forged",
    "\x1b[2Jcleared\x00",
    "\ud800",
    "| a | b |\n# title ![x](https://example.org/x.png)",
    "{{ 7 * 7 }}{% raw %}",
    "]]>&lt;&#x3c;",
    "\r\n::set-output name=score::100",
)

CONTEXT = Context(
    environment={
        "CLASSROOM": "cnn",
        "ASSIGNMENT": "session-7",
        "ASSIGNMENT_TYPE": "individual",
        "OWNER": "jane",
        "SUBMISSION_TAG": "submit/2026-11-26T10-00-00Z-1a2b3c4",
        "COMMIT_URL": "https://example.org/commit",
        "RELEASE_URL": "https://example.org/release",
        "REVIEW_URL": "https://example.org/review",
    },
    graded_at=datetime(2026, 11, 26, 10, 30, tzinfo=UTC),
)


def requirement(
    name: str, status: Status = Status.PASS, *, points: int = 2, max_points: int = 2, observed: str = "as expected"
) -> GradedRequirement:
    """A requirement whose finding has evidence and a hint."""
    finding = Finding(
        requirement=name,
        status=status,
        expected=f"what {name} asks for",
        observed=observed,
        evidence=("conv1: 16 channels", "bn1: 16 channels"),
        hint="" if status is Status.PASS else f"change {name}",
    )
    return GradedRequirement(finding=finding, points=points, max_points=max_points)


def verdict(submission: str = "jane", *requirements: GradedRequirement, penalties: tuple[Penalty, ...] = ()) -> Verdict:
    """A verdict without a model; by default, 4 of 6 points."""
    return Verdict(
        submission=submission,
        assignment="era-s7",
        assignment_digest="a" * 64,
        requirements=requirements
        or (requirement("parameters"), requirement("dropout", Status.FAIL, points=0), requirement("output")),
        penalties=penalties,
        environment=ENVIRONMENT,
    )


def full_verdict() -> Verdict:
    """A verdict with all that a page shows."""
    layers = (
        LayerRow(
            name="conv1", operation="convolution 3x3", output_shape=(16, 26, 26), parameters=144, receptive_field=3
        ),
        LayerRow(name="bn1", operation="batch norm", output_shape=(16, 26, 26), parameters=32, receptive_field=3),
        LayerRow(name="pool1", operation="max pooling 2x2", output_shape=(16, 13, 13), parameters=0, receptive_field=4),
        LayerRow(
            name="conv2", operation="convolution 3x3", output_shape=(16, 11, 11), parameters=2304, receptive_field=8
        ),
        LayerRow(
            name="conv3", operation="convolution 3x3", output_shape=(24, 9, 9), parameters=3456, receptive_field=12
        ),
        LayerRow(
            name="conv4", operation="convolution 3x3", output_shape=(24, 7, 7), parameters=5184, receptive_field=16
        ),
        LayerRow(
            name="gap", operation="average pooling 7x7", output_shape=(24, 1, 1), parameters=0, receptive_field=28
        ),
        LayerRow(name="fc", operation="linear", output_shape=(10,), parameters=240, receptive_field=None),
    )
    runs = (
        GradedRun(
            seed=1,
            train_correct=(56_100, 58_200, 58_900, 59_050, 59_200, 59_280, 59_350, 59_390, 59_420, 59_450),
            test_correct=(9_812, 9_880, 9_911, 9_921, 9_930, 9_938, 9_942, 9_941, 9_943, 9_944),
        ),
        GradedRun(
            seed=2,
            train_correct=(55_900, 58_100, 58_850, 59_000, 59_160, 59_240, 59_310, 59_370, 59_400, 59_440),
            test_correct=(9_790, 9_871, 9_902, 9_918, 9_929, 9_935, 9_937, 9_939, 9_941, 9_938),
        ),
    )
    confusion = tuple(
        tuple(
            990 - 3 * label if label == predicted else int(predicted == (label + 3) % 10) * (label + 2)
            for predicted in range(10)
        )
        for label in range(10)
    )
    pixels = bytes(
        255 if (x - 14) ** 2 + (y - 14) ** 2 < 70 and (x - 14) ** 2 + (y - 14) ** 2 > 25 else 0
        for y in range(28)
        for x in range(28)
    )
    wrong = tuple(
        WrongImage(
            index=247 * (n + 1),
            label=n % 10,
            predicted=(n + 3) % 10,
            width=28,
            pixels=base64.b64encode(pixels).decode(),
        )
        for n in range(24)
    )
    return Verdict(
        submission="submissions/jane-doe",
        assignment="era-s7",
        assignment_digest="a" * 64,
        requirements=(
            requirement("parameters", points=2, observed="7,998 parameters"),
            requirement("dropout", Status.FAIL, points=0, observed="no dropout runs in training"),
            requirement("global_average_pooling", observed="7x7 to 1x1 before the last layer"),
            requirement(
                "receptive_field", Status.UNKNOWN, points=2, observed="could not be decided: the operation roll"
            ),
            requirement("certificate", Status.SKIP, points=0, observed="not checked: the assignment does not train"),
            requirement(
                "accuracy", Status.FAIL, points=0, max_points=4, observed="9,938 of 10,000 in epoch 10 of seed 2"
            ),
        ),
        penalties=(Penalty(reason="submitted one day late", points=1),),
        model=ExaminedModel(name="Net", graph_digest="b" * 64, parameters=11_360, layers=layers),
        training=GradedTraining(
            recipe="reference",
            data_title="MNIST",
            train_total=60_000,
            test_total=10_000,
            required=9_940,
            counted_epochs=3,
            runs=runs,
            confusion=confusion,
            wrong=wrong,
        ),
        sandbox=(
            LayerState(layer=Layer.LIMITS, holds=True, detail="4 GiB of memory, 60 s of CPU"),
            LayerState(layer=Layer.USER, holds=False, detail="this process is not root"),
            LayerState(layer=Layer.LANDLOCK, holds=True, detail="ABI 7"),
            LayerState(layer=Layer.SECCOMP, holds=True, detail="x86-64"),
        ),
        environment=ENVIRONMENT,
        claims=(
            Finding(
                requirement="accuracy-claim",
                status=Status.FAIL,
                expected="a log that shows 99.45 %",
                observed="99.41 % is the best epoch of the log",
                evidence=('README.md, line 14: "Final test accuracy: 99.45 %"',),
                hint="correct the sentence, or add the log of the run",
            ),
        ),
        notes=("The file net.py defines two models; Net is graded.",),
    )


def hostile_verdict(text: str) -> Verdict:
    """The full verdict, with an attack as every text that a submission can choose."""
    full = full_verdict()
    assert full.model is not None
    finding = Finding(
        requirement="parameters", status=Status.FAIL, expected=text, observed=text, evidence=(text, text), hint=text
    )
    return Verdict(
        submission=text,
        assignment="era-s7",
        assignment_digest="a" * 64,
        requirements=(
            GradedRequirement(finding=finding, points=0, max_points=3),
            GradedRequirement(
                finding=requirement("dropout").finding, points=1, max_points=1, visibility=Visibility.AFTER_DUE_DATE
            ),
        ),
        penalties=(Penalty(reason=text, points=0),),
        model=ExaminedModel(
            name=text,
            graph_digest="b" * 64,
            parameters=1,
            layers=(LayerRow(name=text, operation=text, output_shape=(1,), parameters=1, receptive_field=28),),
        ),
        training=full.training,
        sandbox=(LayerState(layer=Layer.LIMITS, holds=True, detail=text),),
        environment=ENVIRONMENT,
        claims=(finding,),
        notes=(text,),
    )
