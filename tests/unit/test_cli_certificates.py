"""Certificates by the command line, on the embedded digits: verdicts, labels, comparisons, exit codes, refusals."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.certification import Certificate, Declaration
from harness.cli import certificates, compare, replicate
from harness.cli.inputs import dataset_for
from harness.training import RunRecord, SeedOutcome
from tests.certificates import made_up_certificate
from tests.documents import schema_errors

pytestmark = pytest.mark.smoke

Command = Callable[..., tuple[int, str, str]]

RECIPE = """\
batch_size = 64
epochs = 6

[optimizer]
name = "sgd"
lr = 0.1
momentum = 0.9
"""
# Under any other name, the rule of the contract digits would replace this one.
CONTRACT = """\
name = "digits"

[accuracy]
target = {target}
rule = "last"
last = 2
max_epochs = 6
"""
SMALL = ("--data", "digits", "--recipe", "short.toml", "--contract", "mine.toml")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a short recipe and a contract that a certification of the digits meets."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short.toml").write_text(RECIPE, encoding="utf-8")
    (tmp_path / "mine.toml").write_text(CONTRACT.format(target=70.0), encoding="utf-8")
    (tmp_path / "hard.toml").write_text(CONTRACT.format(target=100), encoding="utf-8")
    return tmp_path


def document(path: Path) -> dict[str, Any]:
    """A JSON document that conforms to its schema."""
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    assert [] == schema_errors(found)
    return found


def test_certify_compare_and_place(here: Path, command: Command) -> None:
    """A fixed certificate passes and draws itself; compared with itself it is identical; a run of it is placed within it."""
    rates = ("--runs", "3", "--p0", "0.2", "--p1", "0.9", "--alpha", "0.1")
    certify = ("certify", "cloud_2", *SMALL, *rates, "--out")
    code, out, _ = command(*certify, "a", "--json", "a.json", "--plot", "a.png", "--html", "a.html")
    found = document(here / "a.json")

    assert 0 == code
    assert "NOT MNIST" in out
    assert "PASS cloud_2 against the accuracy of digits" in " ".join(out.split())
    assert ("pass", 3, 3) == tuple(found["summary"][key] for key in ("verdict", "runs", "passed"))
    assert "digits" == found["declaration"]["data_name"]
    assert (here / "a.png").read_bytes().startswith(b"\x89PNG")

    page = (here / "a.html").read_text("utf-8")
    assert [] == [words for words in ("3 of 3", "required: ", "the pass rate is above 20 %") if words not in page]

    # Continued without the folders of its first two runs: they are not trained again, and the progress counts them.
    whole = Certificate.read(here / "a.json")
    (here / "part").mkdir()
    replace(whole, runs=whole.runs[:2]).write(here / "part" / "certificate.json")
    code, _, err = command(*certify, "part")
    assert (0, f"seed {whole.runs[2].seed}") == (code, "".join(re.findall(r"(seed \d+)  complete.*\(3 of 3\)", err)))
    assert 1 == err.count("complete")
    assert whole.counted == Certificate.read(here / "part" / "certificate.json").counted

    code, out, _ = command("compare", "a.json", "a/certificate.json", "--json", "c.json", "--html", "c.html")
    assert "mean +0.0 images" in (here / "c.html").read_text("utf-8")
    assert (0, "identical") == (code, document(here / "c.json")["outcome"])
    assert "identical" == out.strip().splitlines()[-1]

    # An option for what the certificate states is refused, not ignored.
    for others, option in (
        (("a/certificate.json", "--runs", "100"), "--runs"),
        (("a/certificate.json", "--data", "digits"), "--data"),
        (("cloud_2", "--salt", "77"), "--salt"),
        (("cloud_2", "--contract", "era-s7"), "--contract"),
        (("cloud_2", "--recipe-a", "short.toml"), "--recipe-a"),
    ):
        code, _, err = command("compare", "a.json", *others)
        assert (2, True) == (code, f"no option {option}, which has no effect" in " ".join(err.split()))

    # Among runs that are near to it, a run whose last epoch is far worse.
    seed = Certificate.read(here / "a.json").runs[0].seed
    record = here / "a" / f"seed-{seed}" / "record.json"
    assert 0 == command("compare", "a.json", str(record), "--json", "p.json")[0]
    assert {"within"} == {epoch["outcome"] for epoch in document(here / "p.json")["epochs"]}
    assert "consistent" == document(here / "p.json")["outcome"]
    slow = json.loads(record.read_text("utf-8"))
    counts = [epoch["test_correct"] for epoch in slow["epochs"]]
    near = [
        replace(
            run,
            correct=tuple(one - lost for one in counts),
            wrong=tuple((index, 0) for index in range(360 - counts[-1] + lost)),
        )
        for lost, run in enumerate(whole.runs)
    ]
    replace(whole, runs=tuple(near)).write(here / "near.json")
    slow["epochs"][-1]["test_correct"] = counts[-1] // 2
    (here / "slow.json").write_text(json.dumps(slow), encoding="utf-8")
    code, out, _ = command("compare", "near.json", "slow.json", "--html", "p.html")
    assert "the run is worse than the 3 complete runs of cloud_2" in (here / "p.html").read_text("utf-8")
    assert (1, True) == (code, "the run is worse than the 3 complete runs of cloud_2" in out)

    # The same seeds by another recipe: a model beside a certificate.
    (here / "slow.toml").write_text(RECIPE.replace("0.1", "0.0001"), encoding="utf-8")
    other = ("cloud_2", "--recipe-b", "slow.toml", "--data", "digits")
    code, out, _ = command("compare", "a.json", *other, "--json", "d.json")
    assert (1, "B is worse") == (code, document(here / "d.json")["outcome"])
    assert [run.seed for run in Certificate.read(here / "a.json").runs] == [
        pair["seed"] for pair in document(here / "d.json")["seeds"]
    ]


def test_a_sequential_certificate_ends_early(here: Path, command: Command) -> None:
    """A rule that no run meets fails after the fewest runs; the exit code is 1, and nothing is trained again."""
    arguments = ("certify", "cloud_2", *SMALL[:-1], "hard.toml", "--out", "hard")
    code, out, _ = command(*arguments, "--json", "hard.json")
    found = document(here / "hard.json")

    assert (1, "fail", 3) == (code, found["summary"]["verdict"], found["summary"]["runs"])
    assert "expected: 28.7 at a pass rate of 95 %, 22.1 at a pass rate of 80 %" in out
    records = {path: path.stat().st_mtime_ns for path in here.glob("hard/seed-*/record.json")}
    assert code == command(*arguments)[0]
    assert records == {path: path.stat().st_mtime_ns for path in here.glob("hard/seed-*/record.json")}


def test_replicate_uses_records_on_file(here: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained once, then read. With digits in the place of MNIST, no published figure can be compared."""
    for module in (certificates, replicate):
        monkeypatch.setattr(module, "dataset_for", lambda data: replace(dataset_for(data), name="mnist"))
    arguments = ("replicate", "cloud_2", "--data", "digits", "--runs", "2", "--records", "records", "--json", "r.json")
    code, out, _ = command(*arguments, "--out", "out")
    found = document(here / "r.json")

    assert 3 == code
    assert {"published for 10,000 test images, our runs have 360"} == {one["reason"] for one in found["figures"]}
    assert "cloud_2" == Certificate.read(here / "records" / "cloud_2.json").declaration.model
    assert ["out/cloud_2"] == [path.relative_to(here).as_posix() for path in here.glob("out/*")]
    assert (code, out) == command(*arguments)[:2]
    assert [] == list(here.glob("records/seed-*"))
    assert not (here / "runs").exists()

    # The training of a seed crashes: the model has no record, and the message says why.
    monkeypatch.setattr(importlib.import_module("harness.certification.certify"), "train_seeds", crash)
    code, _, err = command("replicate", "rf_study_3", *arguments[2:])
    assert (2, True) == (code, "got 0 of 2 seeds so far, since seed " in " ".join(err.split()))
    assert "out of memory. Run the same command again to continue" in " ".join(err.split())
    assert ["cloud_2.json"] == [path.name for path in here.glob("records/*")]


def crash(_: object, seeds: tuple[int, ...], *__: object, enough: Callable[[SeedOutcome], bool], **___: object) -> None:
    """The training of the first seed ends without a record."""
    enough(SeedOutcome(seed=seeds[0], folder=Path(), record=None, problem="out of memory"))


def test_replicate_compares_with_runs_on_mnist_only(here: Path, command: Command) -> None:
    """Before a training and for certificates on file; the latter are of today's network and recipe, and finished."""
    code, _, err = command("replicate", "cloud_2", "--data", "digits", "--out", "out")
    assert (2, True) == (
        code,
        "expected MNIST, which the accuracies are published for, got embedded" in " ".join(err.split()),
    )
    assert not (here / "out").exists()
    (here / "file").touch()
    code, _, err = command("replicate", "cloud_2", "--records", "file")
    assert (2, True) == (code, "could not create the folder 'file'" in " ".join(err.split()))

    on_file = here / "records" / "cloud_2.json"
    on_file.parent.mkdir()
    for runs, changes, message in (
        (1, {}, "to hold a finished certificate, got 1 of 2 seeds so far"),
        (2, {"graph_digest": "a" * 64}, "to hold runs of the network and recipe of cloud_2, got others"),
        (
            2,
            {"data_name": "digits", "data_title": "embedded digits"},
            "to hold runs on MNIST, got runs on embedded digits",
        ),
    ):
        made_up_certificate("cloud_2", [9_900, 9_910][:runs], runs=2, **changes).write(on_file)
        code, _, err = command("replicate", "cloud_2", "--records", "records")
        assert (2, True) == (code, message in " ".join(err.split()))
    made_up_certificate("cloud_2", [9_900, 9_910], runs=2).write(on_file)
    code, out, _ = command("replicate", "cloud_2", "--records", "records", "--json", "r.json")
    outcomes = {one["outcome"] for one in document(here / "r.json")["figures"]}
    _, _, err = command("replicate", "pipeline_second", "--records", "records")
    assert "pipeline_second: the same network and recipe as cloud_2, whose runs are used" in " ".join(err.split())
    pooled = "(log odds of a correct prediction), pooled over cloud_2"
    assert (int(outcomes != {"consistent"}), True) == (code, pooled in " ".join(out.split()))


def test_a_model_without_a_published_log_has_no_spread_of_its_last_epoch(here: Path, command: Command) -> None:
    """Only the claimed best can be tested; the document is valid JSON."""
    (here / "records").mkdir()
    made_up_certificate("rf_study_3", [9_900, 9_910], runs=2).write(here / "records" / "rf_study_3.json")
    _, out, _ = command("replicate", "rf_study_3", "--records", "records", "--json", "r.json")

    assert ["best"] == list(document(here / "r.json")["sd"])
    assert "nan" not in out


def test_models_are_compared_in_folders_of_their_own(here: Path, command: Command) -> None:
    """Each model has a subfolder of --out; an error of B comes before the training of A."""
    arguments = ("compare", "cloud_2", "cloud_3", *SMALL[:2], "--contract", "mine.toml", "--runs", "2", "--out", "out")
    recipes = ("--recipe-a", "short.toml", "--recipe-b", "short.toml")
    code, _, err = command("compare", "cloud_2", "cloud_33", *arguments[3:], *recipes)
    assert (2, False) == (code, (here / "out").exists())
    assert "cloud_33" in err

    assert command(*arguments, *recipes)[0] in (0, 1, 3)
    assert ["cloud_2", "cloud_3"] == [
        Certificate.read(here / "out" / side / "certificate.json").declaration.model for side in "AB"
    ]
    mnist = replace(Certificate.read(here / "out/A/certificate.json").declaration, data_digest="e" * 64)
    Certificate(declaration=mnist, runs=Certificate.read(here / "out/A/certificate.json").runs).write(here / "m.json")
    code, _, err = command("compare", "m.json", "cloud_3", "--data", "digits")
    assert (2, True) == (code, "expected the data of the certificate" in err)
    Certificate(declaration=mnist).write(here / "m.json")
    code, _, err = command("compare", "m.json", "cloud_3", "--data", "digits")
    assert (2, True) == (code, "at least two runs, got one with 0" in " ".join(err.split()))


def test_both_models_are_judged_by_the_contract_of_the_first(
    here: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The contracts of the cards differ; without an option, seeds and rule are those of A for both."""
    declared = []

    def declare(declaration: Declaration, *_: object, **__: object) -> Certificate:
        declared.append(declaration)
        return Certificate(declaration=declaration)

    monkeypatch.setattr(importlib.import_module("harness.certification"), "certify", declare)
    monkeypatch.setattr(compare, "finished", lambda certificate: certificate)
    (here / "own.toml").write_text(CONTRACT.format(target=70).replace("digits", "own"), encoding="utf-8")
    for options, contracts in (((), ["reference"] * 2), (("--contract", "own.toml"), ["own"] * 2)):
        code, _, err = command("compare", "reference", "five_step_4", "--data", "digits", "--runs", "2", *options)
        assert (2, True) == (code, "at least two seeds for which both A and B have a run" in " ".join(err.split()))
        assert contracts == [declaration.contract.partition(" ")[0] for declaration in declared]
        assert declared[0].seeds == declared[1].seeds
        declared.clear()


def test_runs_on_validation_images_are_recorded_and_refused(here: Path, command: Command) -> None:
    """`train --validation` says so in the record, the title and the folder; such a record is compared with no certificate."""
    code, out, err = command("train", "cloud_2", *SMALL[:4], "--epochs", "1", "--validation", "200")
    (path,) = here.glob("runs/*validation200*/record.json")
    record = RunRecord.read(path)

    assert (0, 200, 200) == (code, record.validation, record.epochs[0].test_total)
    assert "validated on 200 of its training images" in out
    assert "validated on 200 of its training images" in err
    assert 0 == command("replay", str(path))[0]
    made_up_certificate("cloud_2", [9_900, 9_910], runs=2).write(here / "c.json")
    code, _, err = command("compare", "c.json", str(path))
    assert (2, True) == (code, "which was tested on 200 training images" in " ".join(err.split()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("certify", "cloud_2", "--data", "digits", "--p0", "0.99"), "expected p0 < p1"),
        (("certify", "cloud_2", "--data", "digits", "--alpha", "2"), "expected 0 < alpha < 0.5"),
        (("certify", "nosuch", "--data", "digits"), "nosuch"),
        (("compare", "nosuch.json", "cloud_2"), "which cannot be read"),
        (("compare", "short.json", "cloud_2"), "is not valid JSON"),
        (("compare", "list.json", "cloud_2"), "got 'list.json' with schema=None. Name the certificate first"),
        (("compare", "cloud_2", "list.json"), "got 'list.json' with schema=None"),
        (("compare", "cloud_2", "cloud_3", "--margin", "inf"), "inf is not a finite number"),
        (("compare", "cloud_2", "cloud_3", "--margin", "nan"), "nan is not a finite number"),
        (("bench", "compare", "--allow", "1e400"), "is not a finite number"),
        (("certify", "cloud_2", *SMALL[:2], "--recipe", "one.toml", *SMALL[4:]), "expected a recipe of 2 to"),
        (("replicate", "reference"), "expected all, or a model that a document publishes"),
        (("power", "--sd", "-1", "--correlation", "0.5"), "got sd=-1.0"),
        (("power", "--sd", "0.05", "--correlation", "2"), "got correlation=2.0"),
        (("power", "--sd", "0.05", "--correlation", "0.5", "--target", "x"), "expected --target"),
        (("power", "--sd", "0.05", "--correlation", "0.5", "--last", "99"), "got last=99"),
        (("train", "cloud_2", "--data", "digits", "--validation", "5000"), "from 1 to 1,436 validation images"),
    ],
)
def test_wrong_input_is_refused(arguments: tuple[str, ...], message: str, here: Path, command: Command) -> None:
    """Exit code 2, and a message that names the value."""
    (here / "short.json").write_text("[", encoding="utf-8")
    (here / "list.json").write_text("[]", encoding="utf-8")
    (here / "one.toml").write_text(RECIPE.replace("epochs = 6", "epochs = 1"), encoding="utf-8")
    code, _, err = command(*arguments)
    assert 2 == code
    assert message in " ".join(err.split())


def test_power_is_a_table_a_picture_and_a_document(here: Path, command: Command) -> None:
    """Better models pass more often; the document holds every row."""
    code, out, _ = command("power", "--sd", "0.05", "--correlation", "0.6", "--json", "p.json", "--plot", "p.svg")
    rows = document(here / "p.json")["rows"]

    assert 0 == code
    assert "99.4 % or more (9,940 of 10,000) in each of the last 5 epochs" in out
    assert sorted(row["run_passes"] for row in rows) == [row["run_passes"] for row in rows]
    assert "<svg" in (here / "p.svg").read_text("utf-8")
