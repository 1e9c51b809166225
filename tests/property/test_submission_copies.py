"""Whatever an archive is called, holds or is damaged by, its copy lies in the private folder, or it is refused."""

from __future__ import annotations

import contextlib
import io
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from harness.errors import SubmissionError
from harness.sandbox import open_submission
from tests.strategies import archive_names, damages

_TAR_FORMATS = {"pax": tarfile.PAX_FORMAT, "gnu": tarfile.GNU_FORMAT}
many = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)


@pytest.fixture(autouse=True)
def _temporary(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make copies in a folder for temporary files that nothing else uses."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("temporary")))


def archived(form: str, names: Sequence[str]) -> bytes:
    """The content of an archive with files of these names, each of which holds its number."""
    content = io.BytesIO()
    if form == "zip":
        with zipfile.ZipFile(content, "w") as archive:
            for number, name in enumerate(names):
                info = zipfile.ZipInfo()
                info.filename = name
                archive.writestr(info, str(number))
    else:
        with tarfile.open(fileobj=content, mode="w:gz", format=_TAR_FORMATS[form]) as archive:
            for number, name in enumerate(names):
                member = tarfile.TarInfo(name)
                member.size = len(str(number))
                archive.addfile(member, io.BytesIO(str(number).encode()))
    return content.getvalue()


def copied(path: Path) -> dict[str, str] | None:
    """The content of each file of the copy of a submission; None if it is refused."""
    with contextlib.suppress(SubmissionError), open_submission(path) as found:
        files = [file for file in found.folder.rglob("*") if not file.is_dir()]
        assert not any(file.is_symlink() for file in files)
        return {str(file.relative_to(found.folder)): file.read_text(encoding="latin-1") for file in files}
    return None


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("form", ["zip", "pax", "gnu"])
@many
@given(names=archive_names())
def test_no_name_leads_outside(form: str, names: list[str], tmp_path: Path) -> None:
    """Each copied file has the name and the content of one in the archive; nothing is written beside the copy."""
    path = tmp_path / ("a.zip" if form == "zip" else "a.tar.gz")
    path.write_bytes(archived(form, names))

    files = copied(path)

    assert [] == list(Path(tempfile.gettempdir()).iterdir())
    assert [path] == list(tmp_path.iterdir())
    for name, content in (files or {}).items():
        # In a header of a .tar, a name ends with the first NUL.
        written = names[int(content)] if form == "zip" else names[int(content)].partition("\0")[0]
        assert name == "/".join(part for part in written.removesuffix("/").split("/") if part != ".")


@pytest.mark.parametrize("form", ["zip", "pax", "gnu"])
@many
@given(damages=damages())
def test_a_damaged_archive_is_refused_or_read(form: str, damages: list[tuple[float, int]], tmp_path: Path) -> None:
    """Any damage is an error of the input, or leaves the files readable."""
    content = bytearray(archived(form, ["net.py", "src/blocks.py", "data/" + "x" * 150]))
    for place, value in damages:
        content[int(place * len(content))] = value
    path = tmp_path / ("a.zip" if form == "zip" else "a.tar.gz")
    path.write_bytes(content)

    copied(path)
