"""Which data set is loaded from where, and what is refused; made-up files stand in for MNIST's."""

import functools
import gzip
import hashlib
import http.server
import runpy
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torchvision.datasets import MNIST
from torchvision.transforms import functional

from harness.data import download, find_mnist, load_dataset, loading, mnist
from harness.data.idx import IdxFile, encode_idx
from harness.errors import DataError, DataMissingError

ARRAYS = {
    "train-images-idx3-ubyte": torch.arange(3 * 784, dtype=torch.int64).to(torch.uint8).view(3, 28, 28),
    "train-labels-idx1-ubyte": torch.tensor((7, 8, 9), dtype=torch.uint8),
    "t10k-images-idx3-ubyte": torch.ones(2, 28, 28, dtype=torch.uint8),
    "t10k-labels-idx1-ubyte": torch.tensor((0, 1), dtype=torch.uint8),
}
CONTENTS = {name: encode_idx(array) for name, array in ARRAYS.items()}


def fill(folder: Path, *, gzipped: bool = True) -> Path:
    """Write the four made-up files into a folder."""
    folder.mkdir(parents=True)
    for name, content in CONTENTS.items():
        if gzipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content, mtime=0))
        else:
            (folder / name).write_bytes(content)
    return folder


def contents_of(folder: Path) -> dict[Path, bytes]:
    """Every file below a folder with its bytes."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def never(*_args: object, **_named: object) -> str:
    """Stands where nothing may be called."""
    pytest.fail("the network was asked")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Expect the made-up files, with an empty cache and a dead network."""
    files = tuple(
        IdxFile(name=name, shape=tuple(array.shape), sha256=hashlib.sha256(CONTENTS[name]).hexdigest())
        for name, array in ARRAYS.items()
    )
    monkeypatch.setattr(mnist, "MNIST_FILES", files)
    for variable in ("HARNESS_DATA", "HARNESS_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(loading, "why_unreachable", lambda _address: "no route to host")
    return tmp_path / "cache"


def test_expected_digests_are_mnists(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside of these tests, content that is not MNIST's is refused."""
    monkeypatch.undo()
    assert ["ba89", "65a5", "0fa7", "ff7b"] == [file.sha256[:4] for file in mnist.MNIST_FILES]
    assert {64} == {len(file.sha256) for file in mnist.MNIST_FILES}
    assert [47_040_016, 60_008, 7_840_016, 10_008] == [file.size for file in mnist.MNIST_FILES]


@pytest.mark.parametrize("gzipped", [True, False], ids=["gzipped", "plain"])
@pytest.mark.parametrize("layout", [".", "MNIST/raw", "raw"])
def test_named_folder_is_read(tmp_path: Path, layout: str, *, gzipped: bool) -> None:
    """A folder is read flat or in torchvision's layout, gzipped or not."""
    fill(tmp_path / "data" / layout, gzipped=gzipped)
    dataset = load_dataset(tmp_path / "data")
    assert (dataset.name, dataset.title, dataset.mean, dataset.std) == ("mnist", "MNIST", 0.1307, 0.3081)
    assert torch.equal(ARRAYS["train-images-idx3-ubyte"], dataset.train_images[:, 0])
    assert torch.equal(torch.tensor((7, 8, 9)), dataset.train_labels)
    assert torch.equal(ARRAYS["t10k-images-idx3-ubyte"], dataset.test_images[:, 0])
    assert torch.equal(torch.tensor((0, 1)), dataset.test_labels)
    assert dataset.digest == hashlib.sha256(b"".join(CONTENTS.values())).hexdigest()
    assert dataset.source == f"folder {(tmp_path / 'data').resolve()}"


@pytest.mark.parametrize("choice", ["auto", "mnist"])
def test_variable_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choice: str) -> None:
    """HARNESS_DATA comes before cache and network."""
    fill(mnist.cached_copy() / "raw")
    monkeypatch.setattr(loading, "why_unreachable", never)
    monkeypatch.setenv("HARNESS_DATA", str(fill(tmp_path / "data")))
    assert load_dataset(choice).source == f"folder {(tmp_path / 'data').resolve()}"


@pytest.mark.parametrize("choice", ["auto", "mnist"])
def test_named_folder_is_never_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choice: str) -> None:
    """A HARNESS_DATA without the files is an error, even where the cache has them."""
    fill(mnist.cached_copy() / "raw")
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataMissingError, match=r"nowhere, but it is not a folder.*--data"):
        load_dataset(choice)


def test_missing_files_are_named(tmp_path: Path) -> None:
    """A folder with three of the files is an error that names the fourth only."""
    folder = fill(tmp_path / "data")
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataMissingError, match=r"missing=t10k-labels-idx1-ubyte\. Nothing was changed"):
        load_dataset(folder)


def test_flipped_byte_is_an_error_and_nothing_is_written(tmp_path: Path) -> None:
    """One wrong byte in a user's folder is refused and left as it is."""
    folder = fill(tmp_path / "data", gzipped=False)
    path = folder / "train-images-idx3-ubyte"
    path.write_bytes(CONTENTS[path.name][:-1] + b"\x77")
    before = contents_of(tmp_path)
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.*expected SHA-256.*found.*Nothing was changed"):
        load_dataset(str(folder))
    assert before == contents_of(tmp_path)


def test_cache_comes_before_the_network(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cached copy is used without asking the network."""
    monkeypatch.setattr(loading, "why_unreachable", never)
    fill(cache / "MNIST" / "raw")
    assert load_dataset("auto").source == f"cache {cache / 'MNIST'}"


@pytest.mark.parametrize("choice", ["auto", "mnist"])
def test_damaged_cache_is_named_and_kept(cache: Path, choice: str) -> None:
    """A damaged cache is an error that says what to delete; it is not overwritten."""
    damaged = fill(cache / "MNIST" / "raw") / "train-labels-idx1-ubyte.gz"
    damaged.write_bytes(damaged.read_bytes()[:-9])
    before = contents_of(cache)
    with pytest.raises(DataError, match=r"Delete the folder .*MNIST and try again"):
        load_dataset(choice)
    assert before == contents_of(cache)


def test_auto_announces_the_digits() -> None:
    """Without MNIST and network, auto gives the digits and says so, with the reason."""
    heard: list[str] = []
    assert load_dataset("auto", announce=heard.append).name == "digits"
    assert len(heard) == 1
    assert "no route to host" in heard[0]
    assert "NOT MNIST" in heard[0]


def test_mnist_is_never_replaced_by_digits() -> None:
    """Without MNIST and network, mnist is an error with the remedy."""
    with pytest.raises(DataMissingError, match=r"no route to host.*HARNESS_DATA or --data.*--data digits"):
        load_dataset("mnist")


def test_offline_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """HARNESS_OFFLINE keeps the network untouched, and the error says so."""
    monkeypatch.setattr(loading, "why_unreachable", never)
    monkeypatch.setenv("HARNESS_OFFLINE", "1")
    with pytest.raises(DataMissingError, match="unset HARNESS_OFFLINE"):
        load_dataset("mnist")


def test_digits_ignore_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The digits are had whatever HARNESS_DATA names."""
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "nowhere"))
    assert load_dataset("digits").name == "digits"


def pretend_download(folder: Path, **_named: object) -> None:
    """Do what torchvision's downloader does to the folder."""
    fill(folder / "MNIST" / "raw")


def test_download_is_kept_for_the_next_time(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was downloaded is verified, announced, moved into the cache as a whole, and used from there."""
    heard: list[str] = []
    monkeypatch.setattr(loading, "why_unreachable", lambda _address: "")
    monkeypatch.setattr(loading, "download_mnist", pretend_download)
    first = load_dataset("mnist", announce=heard.append)
    assert heard == [f"Downloading MNIST (11.6 MB) into {cache}."]
    assert [cache / "MNIST"] == list(cache.iterdir())
    monkeypatch.setattr(loading, "why_unreachable", never)
    assert first.digest == load_dataset("mnist").digest


def test_faster_process_wins(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy that another process moved in meanwhile stays as it is."""

    def download_while_another_finishes(folder: Path, **_named: object) -> None:
        pretend_download(folder)
        fill(cache / "MNIST" / "raw", gzipped=False)

    monkeypatch.setattr(loading, "why_unreachable", lambda _address: "")
    monkeypatch.setattr(loading, "download_mnist", download_while_another_finishes)
    assert load_dataset("mnist").name == "mnist"
    assert set(CONTENTS) == {path.name for path in (cache / "MNIST" / "raw").iterdir()}


def test_wrong_download_is_not_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A download with other content is refused by mnist, replaced by auto, and leaves nothing behind."""

    def download_rubbish(folder: Path, **_named: object) -> None:
        pretend_download(folder)
        (folder / "MNIST" / "raw" / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"rubbish"))

    monkeypatch.setattr(loading, "why_unreachable", lambda _address: "")
    monkeypatch.setattr(loading, "download_mnist", download_rubbish)
    with pytest.raises(DataMissingError, match=r"t10k-labels-idx1-ubyte it should be.*It was not kept"):
        load_dataset("mnist")
    assert load_dataset("auto").name == "digits"
    assert list(cache.iterdir()) == []


def test_unwritable_cache_is_a_reason(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache folder that cannot be made is told as the reason, not as a crash."""
    monkeypatch.setattr(loading, "why_unreachable", lambda _address: "")
    cache.write_text("a file in its place")
    with pytest.raises(DataMissingError, match="it could not be fetched"):
        load_dataset("mnist")


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A local server of the made-up files, which torchvision takes for its own."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_args: object) -> None:
            pass

    served = fill(tmp_path / "served")
    handler = functools.partial(Quiet, directory=str(served))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        address = f"http://127.0.0.1:{server.server_address[1]}/"
        sums = [(path.name, hashlib.md5(path.read_bytes()).hexdigest()) for path in served.iterdir()]  # noqa: S324
        monkeypatch.setenv("no_proxy", "*")
        monkeypatch.setattr(MNIST, "mirrors", [address])
        monkeypatch.setattr(MNIST, "resources", sums)
        yield address
        server.shutdown()
        thread.join()


@pytest.mark.usefixtures("capsys")  # torchvision shows its progress
def test_torchvisions_layout_is_what_we_read(tmp_path: Path, mirror: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What torchvision's own downloader leaves in a folder is found and verified there."""
    assert download.why_unreachable(f"{mirror}train-labels-idx1-ubyte.gz") == ""
    assert "404" in download.why_unreachable(f"{mirror}nothing.gz")
    monkeypatch.setattr("sys.argv", ["torchvision_download.py", str(tmp_path / "fetched")])
    try:
        runpy.run_path(str(Path(download.__file__).with_name("torchvision_download.py")), run_name="__main__")
    finally:
        socket.setdefaulttimeout(None)
    assert load_dataset(tmp_path / "fetched").name == "mnist"


def test_status_tells_found_damaged_and_missing(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The status lists every place and file, without network, and what to do."""
    monkeypatch.setattr(loading, "why_unreachable", never)
    fill(cache / "MNIST" / "raw")
    folder = fill(tmp_path / "data", gzipped=False)
    (folder / "train-labels-idx1-ubyte").write_bytes(b"rubbish")
    (folder / "t10k-labels-idx1-ubyte").unlink()
    monkeypatch.setenv("HARNESS_DATA", str(folder))
    status = find_mnist()
    assert ["HARNESS_DATA", "cache"] == [place.origin for place in status.places]
    assert ["verified", "damaged", "verified", "missing"] == [file.state for file in status.places[0].files]
    assert "expected SHA-256" in status.places[0].files[1].detail
    assert status.places[1].verified
    assert not status.verified
    assert status.remedy


def test_status_of_a_good_cache_needs_no_remedy(cache: Path) -> None:
    """With a verified cache there is nothing to do; with a damaged one, to delete it."""
    folder = fill(cache / "MNIST" / "raw")
    assert (find_mnist().verified, find_mnist().remedy) == (True, "")
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    assert not find_mnist().verified
    assert find_mnist().remedy.startswith("Nothing was changed. Delete")


def test_status_without_anything_tells_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """With nothing there the remedy names the ways to MNIST, and being offline."""
    assert "connect to the network" in find_mnist().remedy
    monkeypatch.setenv("HARNESS_OFFLINE", "1")
    assert find_mnist().offline
    assert "unset HARNESS_OFFLINE" in find_mnist().remedy


def test_moving_takes_all_tensors_along() -> None:
    """A data set moves to a device as a whole and stays what it is."""
    digits = load_dataset("digits")
    moved = digits.to("meta")
    tensors = (moved.train_images, moved.train_labels, moved.test_images, moved.test_labels)
    assert {"meta"} == {tensor.device.type for tensor in tensors}
    assert (digits.digest, digits.mean) == (moved.digest, moved.mean)


def test_normalising_is_torchvisions() -> None:
    """Normalised images are torchvision's ToTensor and Normalize, bit for bit; the batch is not touched."""
    digits = load_dataset("digits")
    batch = digits.train_images[:20]
    before = batch.clone()
    expected = functional.normalize(functional.convert_image_dtype(batch), [digits.mean], [digits.std])
    assert torch.equal(expected, digits.normalise(batch))
    assert torch.equal(before, batch)
