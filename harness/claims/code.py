"""The models that the code of a submission defines, captured to be compared with what the documents say of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.claims.documents import NOTEBOOK
from harness.claims.dossier import file_number, is_below
from harness.claims.evidence import CodeModel, Place, Reading, Section, Unread
from harness.errors import HarnessError, InputError, first_line
from harness.files import temporary_folder

if TYPE_CHECKING:
    from harness.graph import CapturedModel

# Importing PyTorch takes seconds, and each file a second more.
_MOST_FILES = 6
# Code in a document often leaves out its imports.
_IMPORTS = "import torch\nimport torch.nn as nn\nimport torch.nn.functional as F\n"


def capture_code(
    path: Path, readings: Sequence[Reading], announce: Callable[[str], None]
) -> tuple[tuple[CodeModel, ...], list[Unread]]:
    """Capture the models of a submission that a document speaks of; code that cannot be captured is left out, with the reason.

    The code runs in the confined process of `harness.sources`.
    """
    stated = {section for reading in readings for section in _stated(reading)}
    if not stated:
        return (), []
    with temporary_folder("claims") as folder:
        files = _files(path, folder, readings)
        sections = {file: section for file, section in files.items() if any(_concerns(section, one) for one in stated)}
        if not sections:
            return (), []
        from harness.sources import load_each  # noqa: PLC0415 - imports PyTorch

        reason = "more models than an audit captures"
        unread = [Unread(place=Place(file=one.file), reason=reason) for one in list(sections.values())[_MOST_FILES:]]
        chosen = list(sections.items())[:_MOST_FILES]
        # A code block stands in a temporary file.
        captured = load_each(
            [str(file) for file, _ in chosen], lambda line: announce(line.replace(f"{folder}/", "code "))
        )
        models = []
        for (file, section), result in zip(chosen, captured, strict=True):
            if isinstance(result, HarnessError):
                reason = f"its model cannot be captured: {first_line(result)}".replace(str(file), section.file)
                unread.append(Unread(place=Place(file=section.file), reason=reason))
            else:
                models.append(_described(section, result))
    return tuple(models), unread


def _stated(reading: Reading) -> set[Section]:
    """The sections that say something of a model which its code can show."""
    claims = (claim for claim in reading.claims if claim.kind in {"parameters", "receptive field"})
    stating = (one for one in claims if not one.target and (one.labelled or one.kind != "parameters"))
    return {claim.section for claim in stating} | {table.section for table in reading.tables}


def _concerns(code: Section, stated: Section) -> bool:
    """Whether code may be paired with what a section states, see `Dossier.models_for`."""
    return code == stated or (is_below(code, stated.file) and (stated.key is None or code.key == stated.key))


def _files(path: Path, folder: Path, readings: Sequence[Reading]) -> dict[Path, Section]:
    """The files to capture, each with its section: code blocks of documents first, then Python files and notebooks."""
    written = {}
    blocks: dict[Section, str] = {}
    for reading in readings:
        for section, code in reading.code if not reading.file.endswith(NOTEBOOK) else ():
            if "nn.Module" in code:
                blocks[section] = blocks.get(section, _IMPORTS) + code
    for number, (section, code) in enumerate(blocks.items(), start=1):
        file = folder / f"block_{number}.py"
        file.write_text(code, "utf-8")
        written[file] = section
    root = path if path.is_dir() else path.parent
    for file in sorted(_code_files(path), key=lambda file: file.suffix == NOTEBOOK):
        name = file.relative_to(root).as_posix()
        written[file] = Section(file=name, key=file_number(name), title=file.name)
    return written


def _code_files(path: Path) -> tuple[Path, ...]:
    if not path.is_dir():
        return (path,) if path.suffix == NOTEBOOK else ()
    if not any(file.suffix in {".py", NOTEBOOK} for file in path.rglob("*")):
        return ()
    # Only here, since it imports PyTorch.
    from harness.sources import find_model_files  # noqa: PLC0415

    try:
        return find_model_files(path)
    except InputError:
        return ()


def _described(section: Section, captured: CapturedModel) -> CodeModel:
    from harness.structure import Structure  # noqa: PLC0415 - imports PyTorch

    structure = Structure(captured.graph, captured.state)
    parameters = structure.parameters
    fields = (structure.field_before_head[1], structure.field_with_head)
    return CodeModel(
        section=section,
        total=parameters.total,
        unreached=parameters.unreached_elements,
        never_called=tuple(module.path for module in structure.never_called),
        layers=tuple(
            (one.title, tuple(dim for dim in one.shape[1:] if isinstance(dim, int))) for one in structure.layers
        ),
        fields=frozenset(size for field in fields for size in (field.size, field.clipped)),
    )
