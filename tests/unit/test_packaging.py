from __future__ import annotations

import configparser
import email
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PACKAGES = ("harness", "mnist_models")
PLUGIN = "pytest_mnist_harness.py"
# A line of a requirement file that pins something, with all its hashes.
PIN = re.compile(
    r"^(?P<name>[a-z0-9-]+)==(?P<version>\S+)(?: ; [^\\]+)? \\\n(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+"
)
COMMENT = re.compile(r"^ *#.*\n")


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    """pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def build_wheel(root: Path, folder: Path) -> zipfile.ZipFile:
    """The wheel of the project at ``root``, built by its backend without network."""
    (path,) = WheelBuilder(str(root)).build(directory=str(folder))
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of this checkout."""
    return build_wheel(ROOT, tmp_path_factory.mktemp("wheel"))


def package_files(root: Path) -> set[str]:
    """What the packages hold in a checkout, as paths inside a wheel."""
    return {
        path.relative_to(root).as_posix()
        for package in PACKAGES
        for path in (root / package).rglob("*")
        if path.is_file() and not any(part.startswith((".", "__pycache__")) for part in path.relative_to(root).parts)
    }


def read_metadata(wheel: zipfile.ZipFile, name: str) -> str:
    """One file of the wheel's ``.dist-info`` folder."""
    (path,) = (path for path in wheel.namelist() if path.endswith(f".dist-info/{name}"))
    return wheel.read(path).decode("utf-8")


def test_wheel_holds_the_packages_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    """The plugin and every module, TOML file and typing marker of the packages are in the wheel, and no test or tool is."""
    contents = {path for path in wheel.namelist() if ".dist-info/" not in path}

    assert {PLUGIN, *package_files(ROOT)} == contents
    assert {f"{package}/py.typed" for package in PACKAGES} <= contents


def test_a_file_left_out_of_the_wheel_is_noticed(tmp_path: Path) -> None:
    """A wheel built with a data file excluded differs from the checkout by that file."""
    root = tmp_path / "checkout"
    for package in PACKAGES:
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns(".*", "__pycache__"))
    for name in ("README.md", "LICENSE", PLUGIN):
        shutil.copy(ROOT / name, root)
    settings = (ROOT / "pyproject.toml").read_text("utf-8")
    targets = "[tool.hatch.build.targets.wheel]\n"
    (root / "pyproject.toml").write_text(settings.replace(targets, f'{targets}exclude = ["py.typed"]\n'), "utf-8")

    contents = set(build_wheel(root, tmp_path / "wheel").namelist())

    assert {f"{package}/py.typed" for package in PACKAGES} == {PLUGIN, *package_files(root)} - contents


def test_wheel_states_what_the_project_declares(wheel: zipfile.ZipFile, project: dict[str, Any]) -> None:
    """Name, Python range and dependencies reach the wheel's metadata, with the licence."""
    metadata = email.message_from_string(read_metadata(wheel, "METADATA"))
    declared = project["project"]

    assert declared["name"] == metadata["Name"]
    assert declared["requires-python"] == metadata["Requires-Python"]
    extras = [
        f'{line}; extra == "{extra}"' for extra, lines in declared["optional-dependencies"].items() for line in lines
    ]
    assert {Requirement(line) for line in [*declared["dependencies"], *extras]} == {
        Requirement(line) for line in metadata.get_all("Requires-Dist", [])
    }
    assert "MIT License" in read_metadata(wheel, "licenses/LICENSE")


def test_wheel_installs_the_command_and_the_plugin(wheel: zipfile.ZipFile) -> None:
    """The command line and the pytest plugin are entry points of the wheel."""
    entry_points = configparser.ConfigParser()
    entry_points.read_string(read_metadata(wheel, "entry_points.txt"))

    assert {"harness": "harness.__main__:main"} == dict(entry_points["console_scripts"])
    assert {"mnist_harness": "pytest_mnist_harness"} == dict(entry_points["pytest11"])


def read_pins(text: str) -> dict[str, set[Version]]:
    """The versions that a requirement file pins, by name.

    Raises:
        ValueError: a line is neither a comment nor a pin with hashes, but an address, a path, an option or a range.
    """
    pins: dict[str, set[Version]] = {}
    while text:
        if comment := COMMENT.match(text):
            text = text[comment.end() :]
        elif pin := PIN.match(text):
            pins.setdefault(pin["name"], set()).add(Version(pin["version"]))
            text = text[pin.end() :]
        else:
            msg = f"neither a comment nor a pin with hashes: {text.splitlines()[0]!r}"
            raise ValueError(msg)
    return pins


def requirements_of(project: dict[str, Any], *groups: str) -> list[Requirement]:
    """The requirements that the project declares directly; the group ``run`` means its dependencies."""
    lists = {"run": project["project"]["dependencies"], **project["dependency-groups"]}
    return [Requirement(line) for group in groups for line in lists[group]]


LOCKS = {
    "run": ("run",),
    "test": ("test",),
    "type": ("type",),
    "lint": ("lint",),
    "docs": ("docs",),
    "lowest": ("run", "test"),
}


@pytest.mark.parametrize("lock", LOCKS)
def test_pins_fit_the_declared_ranges(lock: str, project: dict[str, Any]) -> None:
    """Each direct dependency is pinned, with hashes and no address, to a released version inside its range."""
    pins = read_pins((ROOT / "requirements" / f"{lock}.txt").read_text("utf-8"))

    unfit = [
        requirement
        for requirement in requirements_of(project, *LOCKS[lock])
        for version in pins.get(canonicalize_name(requirement.name), {None})
        if version is None or version not in requirement.specifier
    ]
    assert [] == unfit
    assert set() == {name for name, versions in pins.items() if any(version.local for version in versions)}


@pytest.mark.parametrize(
    "line",
    [
        "torch==2.15.0",
        "torch>=2.15 \\",
        "-i https://example.invalid/packages",
        "--find-links /tmp/wheels",
        "torch @ file:///tmp/torch.whl",
    ],
)
def test_a_loose_or_local_line_in_a_lock_is_noticed(line: str) -> None:
    """A version without hashes, an open range, an option and a path are all refused in a requirement file."""
    with pytest.raises(ValueError, match=re.escape(repr(line)[1:-1])):
        read_pins(f"# header\n{line}\n")


def test_lowest_pins_are_the_lower_bounds(project: dict[str, Any]) -> None:
    """The oldest versions that `tox -e lowest` tests are those that the ranges begin with."""
    pins = read_pins((ROOT / "requirements" / "lowest.txt").read_text("utf-8"))

    begins = {
        canonicalize_name(requirement.name): Version(clause.version)
        for requirement in requirements_of(project, "run", "test")
        for clause in requirement.specifier
        if clause.operator == ">="
    }
    assert {name: {version} for name, version in begins.items()} == {name: pins[name] for name in begins}


MARKED = """
import pytest

def test_unit():
    pass

@pytest.mark.smoke
def test_smoke():
    pass

@pytest.mark.bench
def test_bench():
    pass

@pytest.mark.full
def test_full():
    pass
"""


@pytest.mark.smoke  # a whole process: slow
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [([], ["test_unit"]), (["-m", "full"], ["test_full"]), (["-m", "smoke or bench"], ["test_smoke", "test_bench"])],
)
def test_markers_are_opt_in(arguments: list[str], expected: list[str], tmp_path: Path) -> None:
    """Plain pytest runs none of the marked tests, and a -m of the user's runs the ones it names."""
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text("utf-8"), "utf-8")
    (tmp_path / "test_marked.py").write_text(MARKED, "utf-8")

    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "--collect-only",
            "-q",
            "-p",
            "no:cacheprovider",
            "test_marked.py",
            *arguments,
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )

    assert expected == re.findall(r"::(\w+)$", result.stdout, flags=re.MULTILINE)


def undeclared_environments(text: str) -> set[str]:
    """The environments that a text says to run with tox, and that ``tox.ini`` does not declare."""
    settings = configparser.ConfigParser(interpolation=None)
    settings.read(ROOT / "tox.ini", encoding="utf-8")
    return set(re.findall(r"\btox -e (\w+)", text)) - {name.partition(":")[2] for name in settings.sections()}


DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("tests/*.md"), *ROOT.glob(".github/workflows/*")]


@pytest.mark.parametrize("path", [*DOCUMENTS, ROOT / ".ci" / "run"], ids=lambda path: path.name)
def test_documented_tox_environments_exist(path: Path) -> None:
    """Documents, workflows and the check script name only tox environments that exist."""
    assert set() == undeclared_environments(path.read_text("utf-8"))


def test_a_misspelt_environment_is_found() -> None:
    """An environment that a text says to run and that is not declared is reported."""
    assert {"unti"} == undeclared_environments("Run `tox -e unti`, then `tox -e lint`.")
