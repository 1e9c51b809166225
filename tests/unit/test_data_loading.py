"""Where a data set is loaded from: named folder, cache, network; made-up files replace MNIST's."""

import functools
import gzip
import hashlib
import http.server
import runpy
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torchvision import datasets

from harness.data import download, folders, load_dataset, loading
from harness.data.idx import encode_idx
from harness.datasets import PUBLISHED
from harness.errors import DataError, DataMissingError
from tests.mnist_files import ARRAYS, CONTENTS, MNIST, contents_of, fill, fill_packed, no_network, packed

pytestmark = pytest.mark.usefixtures("mnist_cache")


@pytest.mark.parametrize("choice", ["auto", "mnist"])
def test_variable_takes_precedence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choice: str) -> None:
    """HARNESS_DATA takes precedence over cache and network."""
    fill(folders.cached_copy(MNIST) / "raw")
    monkeypatch.setattr(loading, "unreachable_reason", no_network)
    monkeypatch.setenv("HARNESS_DATA", str(fill(tmp_path / "data")))
    assert load_dataset(choice).source == f"folder {(tmp_path / 'data').resolve()}"


@pytest.mark.parametrize("choice", ["auto", "mnist"])
def test_unusable_named_folder_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choice: str) -> None:
    """A HARNESS_DATA without the files is an error, even if the cache has them."""
    fill(folders.cached_copy(MNIST) / "raw")
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataMissingError, match=r"nowhere, but there is no such folder.*--data"):
        load_dataset(choice)


def test_cache_takes_precedence_over_the_network(mnist_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cached copy is used without a network request."""
    monkeypatch.setattr(loading, "unreachable_reason", no_network)
    fill(mnist_cache / "MNIST" / "raw")
    assert load_dataset("auto").source == f"cache {mnist_cache / 'MNIST'}"


@pytest.mark.parametrize("choice", ["auto", "mnist"])
def test_damaged_cache_is_named_and_kept(mnist_cache: Path, choice: str) -> None:
    """A damaged cache is an error that names the folder to delete; it is not overwritten."""
    damaged = fill(mnist_cache / "MNIST" / "raw") / "train-labels-idx1-ubyte.gz"
    damaged.write_bytes(damaged.read_bytes()[:-9])
    before = contents_of(mnist_cache)
    with pytest.raises(DataError, match=r"Delete the folder .*MNIST and try again"):
        load_dataset(choice)
    assert before == contents_of(mnist_cache)


def test_auto_falls_back_to_the_digits() -> None:
    """Without MNIST and network, auto loads the digits and announces it, with the reason."""
    heard: list[str] = []
    assert load_dataset("auto", announce=heard.append).name == "digits"
    assert len(heard) == 1
    assert "no route to host" in heard[0]
    assert "NOT MNIST" in heard[0]


def test_mnist_is_never_replaced_by_digits() -> None:
    """Without MNIST and network, mnist is an error that says what to do."""
    with pytest.raises(DataMissingError, match=r"no route to host.*HARNESS_DATA or --data.*--data digits"):
        load_dataset("mnist")


def test_offline_makes_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """With HARNESS_OFFLINE no request is made, and the error says so."""
    monkeypatch.setattr(loading, "unreachable_reason", no_network)
    monkeypatch.setenv("HARNESS_OFFLINE", "1")
    with pytest.raises(DataMissingError, match="unset HARNESS_OFFLINE"):
        load_dataset("mnist")


def test_digits_ignore_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The digits are loaded whatever HARNESS_DATA names."""
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "nowhere"))
    assert load_dataset("digits").name == "digits"


def pretend_download(folder: Path, **_named: object) -> None:
    """Replaces `download_into`; writes what torchvision's downloader would."""
    fill(folder / "MNIST" / "raw")


def test_download_is_cached(mnist_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A download is announced, verified, moved into the cache as a whole, and read from there the next time."""
    heard: list[str] = []
    monkeypatch.setattr(loading, "unreachable_reason", lambda _address: "")
    monkeypatch.setattr(loading, "download_into", pretend_download)
    first = load_dataset("mnist", announce=heard.append)
    assert heard == [f"Downloading MNIST (11.6 MB) into {mnist_cache}."]
    assert [mnist_cache / "MNIST"] == list(mnist_cache.iterdir())
    monkeypatch.setattr(loading, "unreachable_reason", no_network)
    assert first.digest == load_dataset("mnist").digest


def test_copy_of_a_faster_process_is_kept(mnist_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy that another process moved into the cache meanwhile is not replaced."""

    def download_while_another_finishes(folder: Path, **_named: object) -> None:
        pretend_download(folder)
        fill(mnist_cache / "MNIST" / "raw", gzipped=False)

    monkeypatch.setattr(loading, "unreachable_reason", lambda _address: "")
    monkeypatch.setattr(loading, "download_into", download_while_another_finishes)
    assert load_dataset("mnist").name == "mnist"
    assert set(CONTENTS) == {path.name for path in (mnist_cache / "MNIST" / "raw").iterdir()}


def test_damaged_download_is_discarded(mnist_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A download with other content is an error for mnist, means the digits for auto, and leaves nothing in the cache."""

    def download_rubbish(folder: Path, **_named: object) -> None:
        pretend_download(folder)
        (folder / "MNIST" / "raw" / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"rubbish"))

    monkeypatch.setattr(loading, "unreachable_reason", lambda _address: "")
    monkeypatch.setattr(loading, "download_into", download_rubbish)
    with pytest.raises(DataMissingError, match=r"not the published t10k-labels-idx1-ubyte.*The download was discarded"):
        load_dataset("mnist")
    assert load_dataset("auto").name == "digits"
    assert list(mnist_cache.iterdir()) == []


def test_unwritable_cache_is_reported(mnist_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache folder that cannot be created is reported as the reason."""
    monkeypatch.setattr(loading, "unreachable_reason", lambda _address: "")
    mnist_cache.write_text("a file in its place")
    with pytest.raises(DataMissingError, match="the download failed"):
        load_dataset("mnist")


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A local server of the made-up files, set as torchvision's mirror."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_args: object) -> None:
            pass

    served = tmp_path / "served"
    served.mkdir()
    for name, content in {**packed("kmnist"), **packed("qmnist-holdout")}.items():
        (served / name).write_bytes(content)
    handler = functools.partial(Quiet, directory=str(served))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        address = f"http://127.0.0.1:{server.server_address[1]}/"
        sums = [(path.name, hashlib.md5(path.read_bytes()).hexdigest()) for path in served.iterdir()]  # noqa: S324
        monkeypatch.setenv("no_proxy", "*")
        for kind in (datasets.MNIST, datasets.FashionMNIST, datasets.KMNIST):
            monkeypatch.setattr(kind, "mirrors", [address])
            monkeypatch.setattr(kind, "resources", [(name, md5) for name, md5 in sums if "qmnist" not in name])
        tests = [(address + name, md5) for name, md5 in sorted(sums) if "qmnist" in name]
        monkeypatch.setattr(datasets.QMNIST, "resources", {"test": tests})
        yield address
        server.shutdown()
        thread.join()


@pytest.mark.usefixtures("capsys")  # torchvision shows its progress
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "kmnist", "qmnist-holdout"])
def test_torchvisions_layout_is_read(tmp_path: Path, mirror: str, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """What torchvision's own downloader writes into a folder is found and verified there."""
    published = PUBLISHED[name]
    assert download.unreachable_reason(f"{mirror}train-labels-idx1-ubyte.gz") == ""
    assert "404" in download.unreachable_reason(f"{mirror}nothing.gz")
    script, *arguments = download.torchvision_command(published.torchvision)[2:]
    monkeypatch.setattr("sys.argv", [script, *arguments, str(tmp_path / "fetched")])
    try:
        runpy.run_path(script, run_name="__main__")
    finally:
        socket.setdefaulttimeout(None)
    arrays = folders.read_folder(tmp_path / "fetched", published, remedy="")
    assert [file.shape for file in published.files] == [tuple(array.shape) for array in arrays]


@pytest.mark.parametrize(
    ("name", "title", "place"),
    [("fashion-mnist", "Fashion-MNIST", "FashionMNIST"), ("kmnist", "KMNIST", "KMNIST")],
)
def test_other_data_sets_lie_beside_mnist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, title: str, place: str
) -> None:
    """Another data set is read from its own subfolder, although its files have MNIST's names; mean and std are its own."""
    monkeypatch.setenv("HARNESS_DATA", str(fill(tmp_path / "data")))
    assert fill_packed(tmp_path / "data", name) == tmp_path / "data" / place / "raw"
    dataset = load_dataset(name)
    pixels = ARRAYS["train-images-idx3-ubyte"].double() / 255
    assert (dataset.name, dataset.title) == (name, title)
    assert dataset.source == f"folder {(tmp_path / 'data').resolve()}"
    assert dataset.mean == pytest.approx(float(pixels.mean()), abs=0.00005)
    assert dataset.std == pytest.approx(float(pixels.std(correction=0)), abs=0.00005)
    assert torch.equal(torch.tensor((7, 8, 9)), dataset.train_labels)
    assert torch.equal(torch.tensor((0, 1)), dataset.test_labels)
    assert dataset.digest == hashlib.sha256(b"".join(CONTENTS.values())).hexdigest()


def test_holdout_is_the_unused_part_of_qmnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The holdout has MNIST's training images and QMNIST's test digits from position 10,000 on; its digest covers these."""
    monkeypatch.setenv("HARNESS_DATA", str(fill(tmp_path / "data" / "MNIST" / "raw").parents[1]))
    fill_packed(tmp_path / "data", "qmnist-holdout")
    dataset, trained = load_dataset("qmnist-holdout"), load_dataset("mnist")
    assert (dataset.name, dataset.title) == ("qmnist-holdout", "QMNIST holdout (50,000 unused test digits)")
    assert torch.equal(trained.train_images, dataset.train_images)
    assert torch.equal(trained.train_labels, dataset.train_labels)
    assert (trained.mean, trained.std) == (dataset.mean, dataset.std)
    assert dataset.test_images[:, 0, 0, 0].tolist() == [5, 6]
    assert dataset.test_images.shape == (2, 1, 28, 28)
    assert torch.equal(torch.tensor((3, 4)), dataset.test_labels)
    tested = encode_idx(dataset.test_images[:, 0]), encode_idx(torch.tensor((3, 4), dtype=torch.uint8))
    used = (*tuple(CONTENTS.values())[:2], *tested)
    assert dataset.digest == hashlib.sha256(b"".join(used)).hexdigest()


def test_other_data_sets_are_never_replaced(mnist_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without data and network the error names the missing part; offline no request is made."""
    fill(mnist_cache / "MNIST" / "raw")
    with pytest.raises(
        DataMissingError, match=r"^QMNIST was not found: .*no route to host.*two QMNIST files, gzipped, under QMN"
    ):
        load_dataset("qmnist-holdout")
    monkeypatch.setattr(loading, "unreachable_reason", no_network)
    monkeypatch.setenv("HARNESS_OFFLINE", "1")
    with pytest.raises(DataMissingError, match="unset HARNESS_OFFLINE"):
        load_dataset("kmnist")


def test_missing_data_set_ends_a_command(
    monkeypatch: pytest.MonkeyPatch, command: Callable[..., tuple[int, str, str]]
) -> None:
    """A command whose data set is missing ends with exit code 2 and the remedy."""
    monkeypatch.setenv("HARNESS_OFFLINE", "1")
    code, _, err = command("verify", "cloud_2", "--data", "kmnist")
    assert code == 2
    assert "name the folder by HARNESS_DATA, or unset HARNESS_OFFLINE and try again" in " ".join(err.split())


def test_only_the_missing_part_is_downloaded(mnist_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the part that the cache lacks is downloaded, and it is cached for the next time."""
    heard: list[str] = []
    sizes: list[tuple[int, int]] = []

    def pretend(folder: Path, *, command: tuple[str, ...], progress: Callable[[int], None]) -> None:
        fill_packed(folder, "qmnist-holdout")
        heard.append(command[-1])
        progress(9)

    fill(mnist_cache / "MNIST" / "raw")
    monkeypatch.setattr(loading, "unreachable_reason", lambda _address: "")
    monkeypatch.setattr(loading, "download_into", pretend)
    first = load_dataset("qmnist-holdout", announce=heard.append, progress=lambda *both: sizes.append(both))
    assert heard == [f"Downloading QMNIST (10.3 MB) into {mnist_cache}.", "QMNIST"]
    assert sizes == [(9, 10_269_079)]
    assert first.source == f"cache {mnist_cache / 'MNIST'} and downloaded into {mnist_cache}"
    monkeypatch.setattr(loading, "unreachable_reason", no_network)
    again = load_dataset("qmnist-holdout")
    assert again.source == f"cache {mnist_cache / 'MNIST'} and cache {mnist_cache / 'QMNIST'}"
    assert first.digest == again.digest
