"""Reading a data set from a folder, and the state of MNIST on this machine; made-up files replace MNIST's."""

import hashlib
import tempfile
from pathlib import Path

import platformdirs
import pytest
import torch

from harness.data import find_mnist, is_offline, load_dataset, loading
from harness.data.folders import cached_copy
from harness.datasets import PUBLISHED
from harness.errors import DataError, DataMissingError, InputError
from tests.mnist_files import ARRAYS, CONTENTS, contents_of, fill, fill_packed, no_network

pytestmark = pytest.mark.usefixtures("mnist_cache")


@pytest.mark.parametrize("gzipped", [True, False], ids=["gzipped", "plain"])
@pytest.mark.parametrize("layout", [".", "MNIST/raw", "raw"])
def test_named_folder_is_read(tmp_path: Path, layout: str, *, gzipped: bool) -> None:
    """A named folder is read flat or in torchvision's layout, gzipped or not."""
    fill(tmp_path / "data" / layout, gzipped=gzipped)
    dataset = load_dataset(tmp_path / "data")
    assert (dataset.name, dataset.title, dataset.mean, dataset.std) == ("mnist", "MNIST", 0.1307, 0.3081)
    assert torch.equal(ARRAYS["train-images-idx3-ubyte"], dataset.train_images[:, 0])
    assert torch.equal(torch.tensor((7, 8, 9)), dataset.train_labels)
    assert torch.equal(ARRAYS["t10k-images-idx3-ubyte"], dataset.test_images[:, 0])
    assert torch.equal(torch.tensor((0, 1)), dataset.test_labels)
    assert dataset.digest == hashlib.sha256(b"".join(CONTENTS.values())).hexdigest()
    assert dataset.source == f"folder {(tmp_path / 'data').resolve()}"


def test_missing_files_are_named(tmp_path: Path) -> None:
    """A folder with three of the four files is an error that names only the fourth."""
    folder = fill(tmp_path / "data")
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataMissingError, match=r"missing=t10k-labels-idx1-ubyte\. Nothing was changed"):
        load_dataset(folder)


def place(name: str, folder: Path) -> None:
    """Put the made-up MNIST files into a folder, under other names or elsewhere."""
    for file, content in CONTENTS.items():
        path = folder / name.format(file=file, kaggle=file.replace("-idx", ".idx"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "{kaggle}",
            "train-images.idx3-ubyte is named as on Kaggle: rename the file to train-images-idx3-ubyte,",
        ),
        (
            "{kaggle}.gz",
            "train-images.idx3-ubyte.gz is named as on Kaggle: rename the file to train-images-idx3",
        ),
        ("{file}/{file}", "There is train-images-idx3-ubyte/train-images-idx3-ubyte: name the folder "),
        ("archive/{kaggle}", "There is archive/train-images.idx3-ubyte: name the folder "),
        ("mnist/{file}.gz", "There is mnist/train-images-idx3-ubyte.gz: name the folder "),
        ("archive.zip", "There is archive.zip: extract the files from the archive. "),
    ],
)
def test_what_is_there_instead_is_said(name: str, words: str, tmp_path: Path) -> None:
    """Kaggle's names, files one folder deeper and archives are named with what to do."""
    place(name, tmp_path)
    with pytest.raises(DataMissingError) as caught:
        load_dataset(tmp_path)
    assert f"missing={', '.join(CONTENTS)}. {words}" in str(caught.value)


@pytest.mark.parametrize(("name", "words"), [("nosuch", "there is no such folder"), ("file", "this path is a file")])
def test_a_path_that_is_no_folder_is_named(name: str, words: str, tmp_path: Path) -> None:
    """A missing folder and a file in its place are told apart."""
    (tmp_path / "file").touch()
    with pytest.raises(DataMissingError, match=f"{name}, but {words}: missing="):
        load_dataset(tmp_path / name)


@pytest.mark.parametrize("path", ["~nosuchuser/data", "~nosuchuser"])
def test_a_home_folder_that_does_not_exist_is_named(path: str) -> None:
    """The home folder of an unknown user is wrong input."""
    with pytest.raises(InputError, match=f"got '{path}' of a user without a home folder. Write the whole path"):
        load_dataset(path)


@pytest.mark.parametrize("answer", [RuntimeError("no home"), Path("~/.cache/mnist-harness")])
def test_the_cache_of_a_user_without_a_home_is_temporary(answer: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no home folder is known, whether that is an error or an unexpanded path, the cache is a temporary folder."""

    def user_cache_path(_: str) -> Path:
        if isinstance(answer, Path):
            return answer
        raise answer  # type: ignore[misc]

    monkeypatch.delenv("HARNESS_CACHE")
    monkeypatch.setattr(platformdirs, "user_cache_path", user_cache_path)
    assert Path(tempfile.gettempdir(), "mnist-harness", "MNIST") == cached_copy(PUBLISHED["mnist"])


def test_flipped_byte_is_an_error_and_nothing_is_written(tmp_path: Path) -> None:
    """A file with one wrong byte is refused, and the user's folder is not changed."""
    folder = fill(tmp_path / "data", gzipped=False)
    path = folder / "train-images-idx3-ubyte"
    path.write_bytes(CONTENTS[path.name][:-1] + b"\x77")
    before = contents_of(tmp_path)
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.*expected SHA-256.*found.*Nothing was changed"):
        load_dataset(str(folder))
    assert before == contents_of(tmp_path)


@pytest.mark.parametrize("flat", [True, False], ids=["flat", "unpacked"])
def test_mnist_files_are_not_read_as_another_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, flat: bool
) -> None:
    """MNIST's flat files of the same names, or decompressed files, are not read as another data set."""
    folder = fill(tmp_path / "data") if flat else fill(tmp_path / "data" / "KMNIST" / "raw", gzipped=False).parents[1]
    monkeypatch.setenv("HARNESS_DATA", str(folder))
    with pytest.raises(
        DataMissingError,
        match=r"the four KMNIST files in .*missing=train-images-idx3-ubyte.gz, .*gzipped, under KMNIST/raw",
    ):
        load_dataset("kmnist")


def test_truncated_file_of_another_data_set_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A truncated file is an error with its path, both digests and the remedy, and is not changed."""
    path = fill_packed(tmp_path, "fashion-mnist") / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-3])
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
    before = contents_of(tmp_path)
    with pytest.raises(
        DataError, match=r"FashionMNIST/raw/t10k-labels-idx1-ubyte.gz is not .*expected MD5 .*found .*Put "
    ):
        load_dataset("fashion-mnist")
    assert before == contents_of(tmp_path)


def test_status_lists_verified_damaged_and_missing_files(
    tmp_path: Path, mnist_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The status lists every folder and file without a network request, and a remedy."""
    monkeypatch.setattr(loading, "unreachable_reason", no_network)
    fill(mnist_cache / "MNIST" / "raw")
    folder = fill(tmp_path / "data", gzipped=False)
    (folder / "train-labels-idx1-ubyte").write_bytes(b"rubbish")
    (folder / "t10k-labels-idx1-ubyte").unlink()
    monkeypatch.setenv("HARNESS_DATA", str(folder))
    status = find_mnist()
    assert ["HARNESS_DATA", "cache"] == [place.origin for place in status.places]
    assert ["verified", "damaged", "verified", "missing"] == [file.state for file in status.places[0].files]
    assert "expected SHA-256" in status.places[0].files[1].detail
    assert status.places[1].verified
    assert not status.places[0].verified
    assert status.remedy


def test_status_of_a_verified_cache_has_no_remedy(mnist_cache: Path) -> None:
    """A verified cache needs no remedy; the remedy for a damaged one is to delete it."""
    folder = fill(mnist_cache / "MNIST" / "raw")
    assert (find_mnist().places[0].verified, find_mnist().remedy) == (True, "")
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    assert not find_mnist().places[0].verified
    assert find_mnist().remedy.startswith("Nothing was changed. Delete")


def test_status_without_mnist_has_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without MNIST the remedy says how to get it, depending on HARNESS_OFFLINE."""
    assert "connect to the network" in find_mnist().remedy
    monkeypatch.setenv("HARNESS_OFFLINE", "1")
    assert is_offline()
    assert "unset HARNESS_OFFLINE" in find_mnist().remedy
