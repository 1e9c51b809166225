"""Whatever a document, a file of tensors or an option holds, the command line answers without an internal error."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import math
import pickle
import unicodedata
import warnings
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from harness.cli.app import app, run
from harness.cli.golden import SHIPPED
from harness.errors import CheckpointError, GraphFormatError, InputError
from harness.goldens import golden_path, read_golden
from harness.graph import CapturedModel, GraphModule, graph_from_json, graph_to_json
from harness.training import load_weights
from harness.training.checkpoint import Checkpoints, _digest
from tests.made_up import measurement, network, record
from tests.strategies import control_texts, json_values, option_values, places_in, toml_values

# What a command may end with: a result, wrong input, undecided or interrupted; 4 is a defect of the harness.
ALLOWED = {0, 1, 2, 3, 130}
MARK = "@here@"
KEPT = "read-only"
pytestmark = pytest.mark.usefixtures("quick_load")
often = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
seldom = settings(often, max_examples=40)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in a folder into which an option may make a command write, with what it must not write into."""
    monkeypatch.chdir(tmp_path)
    Path("kept.json").write_text(KEPT, encoding="utf-8")
    Path("kept.json").chmod(0o444)
    Path("link.json").symlink_to("kept.json")
    Path("loop.json").symlink_to("loop.json")
    Path("folder").mkdir()


def answer(*arguments: str) -> tuple[int, str]:
    """The exit code of a command and what it printed, on streams that take every character as those of `main` do."""
    streams = [io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace") for _ in range(2)]
    with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
        code = run(arguments)
    printed = ""
    for stream in streams:
        stream.flush()
        stream.seek(0)
        printed += stream.read()
    return code, printed


def require_answer(*arguments: str) -> int:
    """Check that a command ends with an allowed exit code, no traceback, and only what a terminal prints; return the code."""
    code, printed = answer(*arguments)
    assert code in ALLOWED, printed[-2000:]
    assert "Traceback" not in printed
    assert set() == controls(printed)
    assert KEPT == Path("kept.json").read_text(encoding="utf-8")
    assert [True, True] == [Path(link).is_symlink() for link in ("link.json", "loop.json")]
    return code


def controls(text: str) -> set[str]:
    """The characters of a text, other than line feeds and tabulators, that change a terminal instead of being printed."""
    return {one for one in text if one not in "\n\t" and unicodedata.category(one) in {"Cc", "Cf", "Zl", "Zp"}}


def changed(document: Any, place: tuple[str | int, ...], value: str) -> str:  # noqa: ANN401 - any JSON
    """A JSON document with the text of another value in one place."""
    if not place:
        return value
    document = copy.deepcopy(document)
    inner = document
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = MARK
    return json.dumps(document).replace(f'"{MARK}"', value)


RECORD = record([30, 35, 40]).to_json()
MEASURED = measurement(*[[1.0, 1.1, 1.2, 1.0, 0.9]] * 8)
BENCHMARK = {
    "machine_info": {
        "cpu": {"brand_raw": "A"},
        "harness": {"cpu_capability": "AVX2", "accelerator": None, "cuda": None, "torch": "2.15.0", "commit": "c"},
    },
    "datetime": "2026-01-01",
    "benchmarks": [
        {
            "fullname": "test_speed.py::test_step",
            "extra_info": {"calibration": MEASURED.to_json()},
        }
    ],
}


@often
@given(place=st.sampled_from(places_in(RECORD)), value=json_values)
def test_no_record_is_an_internal_error(place: tuple[str | int, ...], value: str) -> None:
    """Whatever stands anywhere in a record, it is compared or refused."""
    Path("good.json").write_text(json.dumps(RECORD), encoding="utf-8")
    Path("record.json").write_text(changed(RECORD, place, value), encoding="utf-8")
    require_answer("bisect", "good.json", "record.json", "--no-rerun", "--json", "-")
    require_answer("replay", "record.json", "--data", "nosuch")


DESCRIBED = [("graph_digest",), ("data_digest",)]
EDITED = [
    *DESCRIBED,
    ("state_digest",),
    *(place for place in places_in(RECORD) if place[:1] == ("epochs",) and len(place) == 3 and place[2] != "seconds"),
]


@often
@given(place=st.sampled_from(EDITED))
def test_no_edited_record_is_believed(place: tuple[str | int, ...]) -> None:
    """A record with another digest or figure is no equal run; where only its description differs, that is printed."""
    found: Any = RECORD
    for key in place:
        found = found[key]
    other = found + 1 if isinstance(found, int | float) else f"{found[:-1]}{'0' if found[-1] != '0' else '1'}"
    Path("good.json").write_text(json.dumps(RECORD), encoding="utf-8")
    Path("record.json").write_text(changed(RECORD, place, json.dumps(other)), encoding="utf-8")
    assert 0 == require_answer("bisect", "good.json", "good.json", "--no-rerun")
    code, printed = answer("bisect", "good.json", "record.json", "--no-rerun")
    assert code in {1, 2} or (place in DESCRIBED and str(place[0]) in printed)


@often
@given(place=st.sampled_from(places_in(BENCHMARK)), value=json_values)
def test_no_benchmark_run_is_an_internal_error(place: tuple[str | int, ...], value: str) -> None:
    """Whatever stands anywhere in a saved benchmark run, it is compared or refused."""
    Path("good.json").write_text(json.dumps(BENCHMARK), encoding="utf-8")
    Path("run.json").write_text(changed(BENCHMARK, place, value), encoding="utf-8")
    require_answer("bench", "compare", "good.json", "run.json", "--json", "-")


CONTRACT = """name = "mine"
description = "strict"
input = [1, 28, 28]
[parameters]
max = 8000
below = 9000
[receptive_field]
min = 3
max = 28
[gap]
required = true
[dropout]
max_p = 0.1
[head]
classes = 10
output = "logits"
[cost]
max_macs = 100000
[accuracy]
target = 99.4
rule = "last"
last = 3
max_epochs = 15
"""
RECIPE = """batch_size = 64
epochs = 3
[optimizer]
name = "sgd"
lr = 0.1
momentum = 0.9
weight_decay = 0.0
[schedule]
name = "one-cycle"
max_lr = 0.1
pct_start = 0.3
[augmentation]
rotation = 10.0
shift = 0.1
scale = [0.9, 1.1]
"""


def changed_line(text: str, number: int, value: str) -> str:
    """A TOML document with another value in one of its lines; a section's heading is left out."""
    lines = text.splitlines()
    key, equals, _ = lines[number].partition(" = ")
    lines[number] = f"{key} = {value}" if equals else ""
    return "\n".join(lines)


@often
@given(number=st.integers(0, len(CONTRACT.splitlines()) - 1), value=toml_values)
def test_no_contract_is_an_internal_error(number: int, value: str) -> None:
    """Whatever value a key of a contract has, it is explained or refused."""
    Path("contract.toml").write_text(changed_line(CONTRACT, number, value), encoding="utf-8")
    require_answer("contract", "explain", "contract.toml")


@often
@given(
    section=st.sampled_from(("parameters", "receptive_field")),
    low=st.integers(1, 50),
    high=st.integers(1, 50),
    bound=st.sampled_from(("max", "below")),
)
def test_a_contract_that_no_model_meets_is_refused(section: str, low: int, high: int, bound: str) -> None:
    """Bounds are accepted if and only if a number lies within them."""
    bound = bound if section == "parameters" else "max"
    Path("contract.toml").write_text(f"[{section}]\nmin = {low}\n{bound} = {high}\n", encoding="utf-8")
    possible = low < high if bound == "below" else low <= high
    assert (0 if possible else 2) == require_answer("contract", "explain", "contract.toml")


@often
@given(target=st.decimals("0.001", 100, places=3))
def test_a_target_as_a_fraction_is_refused(target: Decimal) -> None:
    """A target is in percent: one under 1 is refused with the percentage that was meant."""
    Path("contract.toml").write_text(
        f'[accuracy]\ntarget = {target}\nrule = "best"\nmax_epochs = 15\n', encoding="utf-8"
    )
    code, printed = answer("contract", "explain", "contract.toml")
    assert (2 if target < 1 else 0) == code
    assert (target < 1) == (f"Did you mean target={(target * 100).normalize():f}" in printed)


@often
@given(kept=st.sets(st.sampled_from(("gap", "dropout", "parameters", "receptive_field", "head", "cost", "accuracy"))))
def test_a_section_without_a_key_is_refused(kept: set[str]) -> None:
    """A section that asks nothing is refused, whichever others there are."""
    Path("contract.toml").write_text("".join(f"[{name}]\n" for name in sorted(kept)), encoding="utf-8")
    assert (2 if kept else 0) == require_answer("contract", "explain", "contract.toml")


@settings(often, max_examples=8)
@given(epochs=st.integers(1, 2) | st.integers(16, 10**6))
def test_a_recipe_that_cannot_pass_is_not_trained(epochs: int) -> None:
    """More epochs than a contract allows, or fewer than it counts, fail before any training."""
    Path("contract.toml").write_text(CONTRACT[CONTRACT.index("[accuracy]") :], encoding="utf-8")
    Path("recipe.toml").write_text(RECIPE.replace("epochs = 3", f"epochs = {epochs}"), encoding="utf-8")
    options = ("--contract", "contract.toml", "--recipe", "recipe.toml", "--data", "digits", "--out", "run")
    assert 1 == require_answer("verify", "cloud_2", *options)
    assert not Path("run/record.json").exists()


@often
@given(text=control_texts)
def test_no_control_character_reaches_the_terminal(text: str) -> None:
    """Whatever a contract, a recipe, a document, a record or an argument is called, it is printed as text."""
    quoted = json.dumps(text)
    Path("contract.toml").write_text(f"name = {quoted}\ndescription = {quoted}\n[gap]\nrequired = true\n", "utf-8")
    require_answer("contract", "explain", "contract.toml")
    require_answer("check", "cloud_2", "--no-probe", "--contract", "contract.toml")
    Path("a.md").write_text(f"Accuracy: 9934/10000 (99.40%) {text}\n# {text}\n", encoding="utf-8")
    require_answer("audit", "a.md")
    name = text.replace("\0", "")
    if name.strip("/. "):
        Path(name).write_text("Accuracy: 9934/10000 (99.40%)\n", encoding="utf-8")
        require_answer("audit", name)
        require_answer("contract", "explain", name)
        require_answer("check", name)
    Path("record.json").write_text(json.dumps({**RECORD, "model": text, "data_title": text, "source": text}), "utf-8")
    require_answer("replay", "record.json", "--data", "nosuch")
    require_answer("bisect", "record.json", "record.json", "--no-rerun")


@often
@given(number=st.integers(0, len(RECIPE.splitlines()) - 1), value=toml_values)
def test_no_recipe_is_an_internal_error(number: int, value: str) -> None:
    """Whatever value a key of a recipe has, the recipe is read or refused."""
    Path("recipe.toml").write_text(changed_line(RECIPE, number, value), encoding="utf-8")
    require_answer("repro", "cloud_2", "--recipe", "recipe.toml", "--data", "nosuch")


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    """The header of a shipped golden."""
    from safetensors import safe_open  # noqa: PLC0415 - as in the package

    with safe_open(golden_path(SHIPPED, "cloud_2"), framework="pt") as file:
        found: dict[str, Any] = json.loads(file.metadata()["golden"])
    return found


@seldom
@given(data=st.data(), value=json_values)
def test_no_golden_is_an_internal_error(golden: dict[str, Any], data: st.DataObject, value: str) -> None:
    """Whatever stands in the header of a golden, it is listed or named as unreadable."""
    places = [place for place in places_in(golden) if len(place) < 3]
    text = changed(golden, data.draw(st.sampled_from(places)), value)
    path = Path("cloud_2.safetensors")
    path.write_bytes(save({"x": torch.zeros(1)}, {"golden": text.encode(errors="replace").decode()}))
    require_answer("golden", "list", "--folder", ".", "--json", "-")
    with contextlib.suppress(InputError):
        read_golden(path)


@seldom
@given(data=st.data(), cut=st.booleans())
def test_no_damaged_golden_is_believed(data: st.DataObject, cut: bool) -> None:  # noqa: FBT001 - drawn
    """A golden that was cut off or has another byte anywhere is refused or another one, and is not replaced."""
    content = golden_path(SHIPPED, "cloud_2").read_bytes()
    at = data.draw(st.integers(0, len(content) - 1))
    damaged = (
        content[:at]
        if cut
        else content[:at] + bytes([content[at] ^ data.draw(st.integers(1, 255))]) + content[at + 1 :]
    )
    Path("cloud_2.safetensors").write_bytes(damaged)
    require_answer("golden", "list", "--folder", ".")
    with pytest.raises(InputError):
        read_golden(Path("cloud_2.safetensors"))
    assert damaged == Path("cloud_2.safetensors").read_bytes()


@often
@given(data=st.data(), value=json_values)
def test_no_graph_is_an_internal_error(
    shipped: Callable[[str], CapturedModel], data: st.DataObject, value: str
) -> None:
    """Whatever stands anywhere in a graph, it is rebuilt or refused as a graph."""
    captured = shipped("cloud_2")
    document = graph_to_json(captured.graph)
    text = changed(document, data.draw(st.sampled_from(places_in(document))), value)
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        return
    with contextlib.suppress(GraphFormatError):
        GraphModule(graph_from_json(parsed), captured.state)


class Run:
    """An object that would run code when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit(9)",)


TENSORS: dict[str, Callable[[], object]] = {
    "sparse": lambda: torch.eye(3).to_sparse(),
    "quantised": lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
    "meta": lambda: torch.empty(3, device="meta"),
    "complex": lambda: torch.zeros(10, dtype=torch.complex64),
    "empty": lambda: torch.zeros(0),
    "NaN": lambda: torch.full((10,), math.nan),
    "bool": lambda: torch.zeros(10, dtype=torch.bool),
    "expanded": lambda: torch.zeros(1).expand(10),
    "bfloat16": lambda: torch.zeros(10, dtype=torch.bfloat16),
    "float8": lambda: torch.zeros(10).to(torch.float8_e4m3fn),
    "number": lambda: 10**4000,
    "text": lambda: "\ud800",
    "list": lambda: [[[]]],
    "code": Run,
    "none": lambda: None,
}


def made(kind: str) -> object:
    """An object of a kind; PyTorch warns of its own deprecated ones."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return TENSORS[kind]()


def file_bytes(content: object) -> bytes:
    """What `torch.save` writes for an object."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(content, buffer)
    return buffer.getvalue()


@seldom
@given(
    kind=st.sampled_from(sorted(TENSORS)),
    key=st.sampled_from(("0.weight", "state_dict", "", "\ud800", 7)),
    wrap=st.sampled_from(("state", "alone", "nested")),
    cut=st.integers(0, 4),
)
def test_no_file_of_weights_is_an_internal_error(kind: str, key: object, wrap: str, cut: int) -> None:
    """Whatever a file of weights holds in place of tensors, it is loaded or refused, and no code in it runs."""
    state: dict[object, object] = dict(network().state_dict().items())
    state[key] = made(kind)
    content = file_bytes({"state": state, "alone": made(kind), "nested": {"model": state}}[wrap])
    path = Path("weights.pt")
    path.write_bytes(content[: len(content) * (4 - cut) // 4])
    with contextlib.suppress(InputError):
        load_weights(network(), path)
    with contextlib.suppress(InputError):
        load_weights(network(), path.rename("weights.safetensors"))


@seldom
@given(
    content=st.binary(max_size=60) | st.sampled_from((b"", b"\0" * 100, b"\xff" * 8 + b"{}", pickle.dumps({"a": 1})))
)
def test_no_bytes_as_weights_are_an_internal_error(content: bytes) -> None:
    """Bytes that are no file of weights are wrong input on the command line, under each suffix."""
    for suffix in (".pt", ".safetensors"):
        Path(f"weights{suffix}").write_bytes(content)
        require_answer("evaluate", "cloud_2", "--weights", f"weights{suffix}", "--data", "nosuch")


@seldom
@given(
    kind=st.sampled_from(sorted(TENSORS)),
    key=st.sampled_from(("run", "module", "optimizer", "epochs", "chain", 7)),
    cut=st.integers(0, 3),
)
def test_no_checkpoint_is_an_internal_error(kind: str, key: object, cut: int, tmp_path: Path) -> None:
    """A checkpoint with foreign content is skipped with a warning, or refused as that of another run."""
    folder = tmp_path / "checkpoints"
    checkpoints = Checkpoints(folder, run={"seed": 1})
    state: dict[object, object] = {"run": {"seed": 1}, "module": {}}
    state[key] = made(kind)
    content = file_bytes(made(kind) if cut == 3 else state)
    content = content[: len(content) // 2] if cut == 1 else content
    path = folder / f"epoch-0001-{_digest(content)}.pt"
    path.write_bytes(content)
    said: list[str] = []
    with contextlib.suppress(CheckpointError):
        checkpoints.restore(lambda found: network().load_state_dict(found["module"]), warn=said.append)
    path.unlink()


def options() -> list[tuple[tuple[str, ...], str]]:
    """Every option with a value of every command, and the command with arguments that end it before it trains."""
    own = {
        ("train",): ("cloud_2", "--data", "nosuch"),
        ("verify",): ("cloud_2", "--data", "nosuch"),
        ("repro",): ("cloud_2", "--data", "nosuch"),
        ("evaluate",): ("cloud_2", "--weights", "nosuch", "--data", "nosuch"),
        ("show",): ("nosuch",),
        ("check",): ("nosuch",),
        ("replay",): ("nosuch.json",),
        ("bisect",): ("nosuch.json", "nosuch.json"),
        ("golden", "check"): ("nosuch.py",),
        ("golden", "update"): ("nosuch.py",),
        ("bench", "compare"): ("nosuch.json", "nosuch.json"),
        ("contract", "explain"): ("nosuch",),
        ("audit",): ("nosuch.md",),
        ("certify",): ("nosuch",),
        ("compare",): ("nosuch.json", "nosuch"),
    }

    def below(group: click.Group, names: tuple[str, ...]) -> list[tuple[tuple[str, ...], str]]:
        found = []
        for name, command in group.commands.items():
            here = (*names, name)
            if isinstance(command, click.Group):
                found += below(command, here)
                continue
            for parameter in command.params:
                words = (*here, *own.get(here, ()))
                if isinstance(parameter, click.Option) and not parameter.is_flag:
                    found.append((words, parameter.opts[-1]))
                elif isinstance(parameter, click.Argument):
                    found.append((here, ""))
        return found

    return below(app, ())


@settings(often, max_examples=300)
@given(option=st.sampled_from(options()), value=option_values)
def test_no_option_is_an_internal_error(option: tuple[tuple[str, ...], str], value: str) -> None:
    """Whatever value an option or an argument has, a command ends with an answer."""
    words, name = option
    if value in ("/", ".", "/dev/zero") and not name:
        # A whole file system as the argument would be searched.
        return
    if name == "--json" and value.startswith("/dev"):
        return
    require_answer(*words, *([name] if name else []), value)


def test_an_internal_error_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The property fails for a reader that lets an error of Python through."""
    monkeypatch.setattr("harness.training.load_recipe", {}.__getitem__)
    code, _ = answer("repro", "cloud_2", "--recipe", "recipe.toml", "--data", "nosuch")
    assert code not in ALLOWED


def test_a_control_character_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The property fails for a command line that prints texts of others as they are."""
    monkeypatch.setattr("harness.cli.console.printable", str)
    Path("contract.toml").write_text('name = "\\u202e"\n[gap]\nrequired = true\n', encoding="utf-8")
    _, printed = answer("contract", "explain", "contract.toml")
    assert {"\u202e"} == controls(printed)
