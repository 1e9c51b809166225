"""Which data set is loaded from where, and what is refused; made-up files stand in for MNIST's."""

import functools
import gzip
import hashlib
import http.server
import runpy
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torchvision import datasets
from torchvision.transforms import functional

from harness.data import download, find_mnist, load_dataset, loading, mnist
from harness.data.idx import IdxFile, encode_idx
from harness.errors import DataError, DataMissingError

MNIST = mnist.PUBLISHED["mnist"]
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
    monkeypatch.setitem(mnist.PUBLISHED, "mnist", replace(MNIST, files=files))
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
    fill(mnist.cached_copy(MNIST) / "raw")
    monkeypatch.setattr(loading, "why_unreachable", never)
    monkeypatch.setenv("HARNESS_DATA", str(fill(tmp_path / "data")))
    assert load_dataset(choice).source == f"folder {(tmp_path / 'data').resolve()}"


@pytest.mark.parametrize("choice", ["auto", "mnist"])
def test_named_folder_is_never_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choice: str) -> None:
    """A HARNESS_DATA without the files is an error, even where the cache has them."""
    fill(mnist.cached_copy(MNIST) / "raw")
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
    monkeypatch.setattr(loading, "download_into", pretend_download)
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
    monkeypatch.setattr(loading, "download_into", download_while_another_finishes)
    assert load_dataset("mnist").name == "mnist"
    assert set(CONTENTS) == {path.name for path in (cache / "MNIST" / "raw").iterdir()}


def test_wrong_download_is_not_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A download with other content is refused by mnist, replaced by auto, and leaves nothing behind."""

    def download_rubbish(folder: Path, **_named: object) -> None:
        pretend_download(folder)
        (folder / "MNIST" / "raw" / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"rubbish"))

    monkeypatch.setattr(loading, "why_unreachable", lambda _address: "")
    monkeypatch.setattr(loading, "download_into", download_rubbish)
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


# The labels' first column is the class, the others are something else.
QMNIST_ARRAYS = {
    "qmnist-test-images-idx3-ubyte": torch.zeros(10_002, 28, 28, dtype=torch.uint8),
    "qmnist-test-labels-idx2-int": torch.full((10_002, 8), 77, dtype=torch.int32),
}
QMNIST_ARRAYS["qmnist-test-images-idx3-ubyte"][10_000:] = torch.tensor((5, 6), dtype=torch.uint8)[:, None, None]
QMNIST_ARRAYS["qmnist-test-labels-idx2-int"][:, 0] = 1
QMNIST_ARRAYS["qmnist-test-labels-idx2-int"][10_000:, 0] = torch.tensor((3, 4), dtype=torch.int32)


@functools.cache
def packed(name: str) -> dict[str, bytes]:
    """The gzipped made-up files of a data set other than MNIST."""
    arrays = QMNIST_ARRAYS if name == "qmnist-holdout" else ARRAYS
    return {f"{file}.gz": gzip.compress(encode_idx(array), 1, mtime=0) for file, array in arrays.items()}


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect the made-up files of the other data sets, too."""
    for name in ("fashion-mnist", "kmnist", "qmnist-holdout"):
        arrays = QMNIST_ARRAYS if name == "qmnist-holdout" else ARRAYS
        files = tuple(
            IdxFile(
                name=file,
                shape=tuple(array.shape),
                dtype=array.dtype,
                gzip_md5=hashlib.md5(packed(name)[f"{file}.gz"]).hexdigest(),  # noqa: S324
            )
            for file, array in arrays.items()
        )
        monkeypatch.setitem(mnist.PUBLISHED, name, replace(mnist.PUBLISHED[name], files=files))


def fill_packed(folder: Path, name: str) -> Path:
    """Write a data set's gzipped files where torchvision has them below a folder; returns their place."""
    place = folder / mnist.PUBLISHED[name].torchvision / "raw"
    place.mkdir(parents=True)
    for file, content in packed(name).items():
        (place / file).write_bytes(content)
    return place


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A local server of the made-up files, which torchvision takes for its own."""

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


@pytest.mark.usefixtures("capsys", "others")  # torchvision shows its progress
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "kmnist", "qmnist-holdout"])
def test_torchvisions_layout_is_what_we_read(
    tmp_path: Path, mirror: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """What torchvision's own downloader leaves in a folder is found and verified there."""
    published = mnist.PUBLISHED[name]
    assert download.why_unreachable(f"{mirror}train-labels-idx1-ubyte.gz") == ""
    assert "404" in download.why_unreachable(f"{mirror}nothing.gz")
    script, *arguments = download.torchvision_command(published.torchvision)[2:]
    monkeypatch.setattr("sys.argv", [script, *arguments, str(tmp_path / "fetched")])
    try:
        runpy.run_path(script, run_name="__main__")
    finally:
        socket.setdefaulttimeout(None)
    arrays = mnist.read_folder(tmp_path / "fetched", published, remedy="")
    assert [file.shape for file in published.files] == [tuple(array.shape) for array in arrays]


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "kmnist", "qmnist-holdout"])
def test_files_and_sums_are_torchvisions(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Names, MD5 sums and first address are those that torchvision's class for the data set has."""
    monkeypatch.undo()
    published = mnist.PUBLISHED[name]
    kind = getattr(datasets, published.torchvision)
    listed = kind.resources["test"] if name == "qmnist-holdout" else kind.resources
    assert [address.rpartition("/")[2] for address, _ in listed] == [f"{file.name}.gz" for file in published.files]
    if name != "mnist":
        assert [md5 for _, md5 in listed] == [file.gzip_md5 for file in published.files]
    assert published.address in [address if "/" in address else kind.mirrors[0] + address for address, _ in listed]
    assert published.name == name


@pytest.mark.usefixtures("others")
@pytest.mark.parametrize(
    ("name", "title", "place"),
    [("fashion-mnist", "Fashion-MNIST", "FashionMNIST"), ("kmnist", "KMNIST", "KMNIST")],
)
def test_other_data_lie_beside_mnist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, title: str, place: str
) -> None:
    """Another data set is read from its own subfolder, whose files bear MNIST's names, with its own mean and spread."""
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


@pytest.mark.usefixtures("others")
def test_holdout_is_what_mnist_left_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The holdout trains as MNIST does and tests on QMNIST's digits from position 10,000 on; the digest covers just these."""
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


@pytest.mark.usefixtures("others")
@pytest.mark.parametrize("flat", [True, False], ids=["flat", "unpacked"])
def test_other_data_are_never_mnists_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, flat: bool) -> None:
    """MNIST's flat files of the same names, or files without their gzip, do not pass for another data set's."""
    folder = fill(tmp_path / "data") if flat else fill(tmp_path / "data" / "KMNIST" / "raw", gzipped=False).parents[1]
    monkeypatch.setenv("HARNESS_DATA", str(folder))
    with pytest.raises(
        DataMissingError,
        match=r"KMNIST's four files in .*missing=train-images-idx3-ubyte.gz, .*gzipped, under KMNIST/raw",
    ):
        load_dataset("kmnist")


@pytest.mark.usefixtures("others")
def test_altered_file_of_other_data_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A truncated file is refused with its place, both sums and the remedy, and left as it is."""
    path = fill_packed(tmp_path, "fashion-mnist") / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-3])
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
    before = contents_of(tmp_path)
    with pytest.raises(
        DataError, match=r"FashionMNIST/raw/t10k-labels-idx1-ubyte.gz is not .*expected MD5 .*found .*Put "
    ):
        load_dataset("fashion-mnist")
    assert before == contents_of(tmp_path)


@pytest.mark.usefixtures("others")
def test_other_data_are_never_replaced(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without data and network there is an error that names the part that is missing; offline nobody is asked."""
    fill(cache / "MNIST" / "raw")
    with pytest.raises(
        DataMissingError, match=r"^QMNIST was expected in .*no route to host.*two files, gzipped, under QMN"
    ):
        load_dataset("qmnist-holdout")
    monkeypatch.setattr(loading, "why_unreachable", never)
    monkeypatch.setenv("HARNESS_OFFLINE", "1")
    with pytest.raises(DataMissingError, match="unset HARNESS_OFFLINE"):
        load_dataset("kmnist")


def test_missing_data_end_a_command(
    monkeypatch: pytest.MonkeyPatch, command: Callable[..., tuple[int, str, str]]
) -> None:
    """A command that asks for data that are not there ends with exit code 2 and the remedy."""
    monkeypatch.setenv("HARNESS_OFFLINE", "1")
    code, _, err = command("verify", "cloud_2", "--data", "kmnist")
    assert code == 2
    assert "KMNIST/raw with HARNESS_DATA, or unset HARNESS_OFFLINE and try again" in " ".join(err.split())


@pytest.mark.usefixtures("others")
def test_holdout_is_downloaded_beside_the_cached_mnist(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what the cache lacks is downloaded, by torchvision's class for it, and is there the next time."""
    heard: list[str] = []
    sizes: list[tuple[int, int]] = []

    def pretend(folder: Path, *, command: tuple[str, ...], progress: Callable[[int], None]) -> None:
        fill_packed(folder, "qmnist-holdout")
        heard.append(command[-1])
        progress(9)

    fill(cache / "MNIST" / "raw")
    monkeypatch.setattr(loading, "why_unreachable", lambda _address: "")
    monkeypatch.setattr(loading, "download_into", pretend)
    first = load_dataset("qmnist-holdout", announce=heard.append, progress=lambda *both: sizes.append(both))
    assert heard == [f"Downloading QMNIST (10.3 MB) into {cache}.", "QMNIST"]
    assert sizes == [(9, 10_269_079)]
    assert first.source == f"cache {cache / 'MNIST'} and downloaded into {cache}"
    monkeypatch.setattr(loading, "why_unreachable", never)
    again = load_dataset("qmnist-holdout")
    assert again.source == f"cache {cache / 'MNIST'} and cache {cache / 'QMNIST'}"
    assert first.digest == again.digest


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
