"""The file of a golden: written and read without loss, and refused if it changed since."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from harness.errors import InputError
from harness.goldens.golden import EnvironmentKey, golden_bytes, golden_path, read_golden, write_golden
from mnist_models import list_models
from tests.golden_models import net_golden

SHIPPED = Path(__file__).parents[2] / "mnist_models" / "goldens"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file of the small network's golden."""
    write_golden(net_golden(), tmp_path / "net.safetensors")
    return tmp_path / "net.safetensors"


@pytest.mark.smoke  # it captures and trains
def test_reading_and_writing_gives_the_same_bytes(path: Path) -> None:
    """An unchanged golden makes no difference in git."""
    assert path.read_bytes() == golden_bytes(net_golden()) == golden_bytes(read_golden(path))


@pytest.mark.smoke  # it captures and trains
@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (
            lambda content: content[:-1] + bytes([content[-1] ^ 1]),
            "is damaged: the content does not match the recorded digest",
        ),
        (
            lambda content: content.replace(b"net.py:Net", b"not.py:Net"),
            "is damaged: the content does not match the recorded digest",
        ),
        (lambda content: content[:-100], "cannot be read: SafetensorError"),
        (lambda _: b"", "cannot be read: SafetensorError"),
        (
            lambda content: content.replace(b"golden/1", b"golden/9"),
            "has format='harness.golden/9'. Record the golden again",
        ),
        (lambda content: content.replace(b'"golden"', b'"silver"'), "cannot be read: KeyError: 'golden'"),
    ],
    ids=["number", "word", "truncated", "empty", "version", "other file"],
)
def test_a_changed_file_is_refused(damage: Callable[[bytes], bytes], expected: str, path: Path) -> None:
    """Damaged, of another version, or not a golden at all: the message says which."""
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=expected):
        read_golden(path)


@pytest.mark.parametrize("name", list_models())
def test_every_shipped_model_has_a_small_golden(name: str) -> None:
    """It can be read, is smaller than 50 kB, and belongs to the model of its name."""
    path = golden_path(SHIPPED, name)
    golden = read_golden(path)
    assert path.stat().st_size < 50_000
    assert (name, name, "") == (golden.model, golden.source, golden.arguments)
    assert () != golden.bits
    assert golden.bits[0] == golden.entry_for(golden.bits[0].key)
    assert path.read_bytes() == golden_bytes(golden)


def test_a_file_name_has_no_special_characters() -> None:
    """A model can be named by a file and a class; everything but letters, digits, hyphen and underscore is replaced."""
    assert Path("folder") / "net-py-Net_2.safetensors" == golden_path(Path("folder"), "net.py:Net_2")


def test_a_key_is_described_on_one_line() -> None:
    """With the name of the accelerator, if there is one."""
    cpu = EnvironmentKey(torch="2.8.0", device="cpu", accelerator="", cpu_capability="AVX2", threads=1)
    cuda = EnvironmentKey(torch="2.8.0", device="cuda", accelerator="H100", cpu_capability="AVX2", threads=2)
    assert "torch 2.8.0, cpu, AVX2, 1 thread" == cpu.describe()
    assert "torch 2.8.0, cuda (H100), AVX2, 2 threads" == cuda.describe()
