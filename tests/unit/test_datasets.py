"""The table of published data sets agrees with torchvision, and the command line lists it."""

from collections.abc import Callable

import pytest
from torchvision import datasets

from harness.datasets import PUBLISHED, data_choices


def test_mnist_is_identified_by_sha256() -> None:
    """MNIST's files are identified by the SHA-256 of their decompressed content."""
    files = PUBLISHED["mnist"].files
    assert ["ba89", "65a5", "0fa7", "ff7b"] == [file.sha256[:4] for file in files]
    assert {64} == {len(file.sha256) for file in files}
    assert [47_040_016, 60_008, 7_840_016, 10_008] == [file.size for file in files]


@pytest.mark.parametrize("name", PUBLISHED)
def test_files_and_digests_are_torchvisions(name: str) -> None:
    """File names, MD5 digests and address are those of torchvision's class for the data set."""
    published = PUBLISHED[name]
    kind = getattr(datasets, published.torchvision)
    listed = kind.resources["test"] if name == "qmnist-holdout" else kind.resources
    assert [address.rpartition("/")[2] for address, _ in listed] == [f"{file.name}.gz" for file in published.files]
    if name != "mnist":
        assert [md5 for _, md5 in listed] == [file.gzip_md5 for file in published.files]
    assert published.address in [address if "/" in address else kind.mirrors[0] + address for address, _ in listed]


@pytest.mark.parametrize("name", data_choices())
def test_help_and_doctor_list_every_data_set(name: str, command: Callable[..., tuple[int, str, str]]) -> None:
    """The help text of --data and `harness doctor` name every data set."""
    # Lines are folded at hyphens, too.
    assert name in "".join(command("train", "--help")[1].split())
    assert name in "".join(command("doctor")[1].split())
