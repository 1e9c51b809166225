"""Importing a user's file, notebook or package as the user would, and finding the model classes in it.

This runs the user's code, so it is called in worker processes only.
"""

from __future__ import annotations
import __future__

import ast
import importlib
import importlib.util
import inspect
import linecache
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from torch import nn

from harness.errors import ModelSourceError, first_line
from harness.sources.cells import NOTEBOOK_SUFFIX, Cell, read_cells
from harness.sources.definitions import Definition, hidden_models, import_depth, names_in_classes, read_definitions
from harness.sources.source import ModelSource

ModelClass = type[nn.Module]


@dataclass(frozen=True, kw_only=True)
class ImportedFile:
    """How each class of a file can be typed, why names are missing, notes for the user, and the names in each class's body."""

    classes: Mapping[ModelClass, str]
    missing: Mapping[str, str]
    notes: list[str]
    mentions: Mapping[str, frozenset[str]]


def import_models(source: ModelSource) -> ImportedFile:
    """Import a file, a notebook or a package and list its models; the file's folder is on the module path afterwards.

    Raises:
        ModelSourceError: it cannot be imported, or holds no such class.
    """
    text, class_name = source.text, source.class_name
    path = Path(source.path) if source.path else None
    # The command line looks as if the file were run. The file's own folder comes first on the path, its two parents last:
    # `from src.blocks import Block` is written for the project's root.
    sys.argv = [str(path or source.module)]
    cells = read_cells(path) if path else ()
    # Names are chosen before the path grows: whatever is found until then is a library.
    packages = _packages(path, import_depth(cells)) if path else {}
    module_name = ".".join((*list(packages)[-1:], _module_name(path, inner=bool(packages)))) if path else ""
    folder = source.working_folder
    sys.path.insert(0, str(folder))
    sys.path.extend(str(parent) for parent in folder.parents[:2])
    missing: dict[str, str] = {}
    notes: list[str] = []
    if path is None:
        with _import_errors(text, None):
            module = importlib.import_module(str(source.module))
    elif path.suffix == NOTEBOOK_SUFFIX:
        module = _run_definitions(module_name, path, cells, missing, notes)
    else:
        try:
            with _import_errors(text, path):
                module = _run_file(packages, module_name, path)
        except ModelSourceError as error:
            # Most models do not need a missing package for plots or summaries.
            if not isinstance(error.__cause__, ModuleNotFoundError):
                raise
            module = _run_definitions(module_name, path, cells, missing, notes)
            if not _models_of(module):
                raise
            notes.append(f"{error.__cause__}; {path.name} is read without it, and only its definitions are taken")
    classes = _models_of(module)
    if class_name is not None:
        cls = getattr(module, class_name, None)
        if not (inspect.isclass(cls) and issubclass(cls, nn.Module)):
            raise ModelSourceError(_class_not_found(class_name, module, text, cells, missing))
        classes = {class_name: cls}
    elif not classes:
        raise ModelSourceError(_no_class_found(text, cells, missing))
    return ImportedFile(
        classes={cls: text if path is None else f"{text}:{name}" for name, cls in classes.items()},
        missing=missing,
        notes=notes,
        mentions=names_in_classes(cells),
    )


def class_key(cls: type) -> str:
    """The file and the name of a class, the same whichever way the file was imported."""
    return f"{_file_of(cls)}:{cls.__qualname__}"


def _models_of(module: ModuleType) -> dict[str, ModelClass]:
    """The models that a module defines, each under one name; if it defines none, those that it imports from its own folder."""
    found: dict[ModelClass, str] = {}
    for name, value in vars(module).items():
        if inspect.isclass(value) and issubclass(value, nn.Module) and (value not in found or name == value.__name__):
            found[value] = name
    own = {name: cls for cls, name in found.items() if cls.__module__ == module.__name__}
    folder = Path(module.__file__).parent if module.__file__ else None
    near = {cls for cls in found if folder in _file_of(cls).parents and "site-packages" not in _file_of(cls).parts}
    return own or {name: cls for cls, name in found.items() if cls in near}


def _file_of(cls: type) -> Path:
    return Path(getattr(sys.modules.get(cls.__module__), "__file__", None) or "")


def _no_class_found(text: str, cells: tuple[Cell, ...], missing: Mapping[str, str]) -> str:
    hidden = "; ".join(f"{name} is defined {place}" for name, place in hidden_models(cells).items())
    if hidden:
        problem = "expected a model that importing the file defines, got none"
        return f"{text}: {problem}: {hidden}. Move the class to the top level of the file"
    failed = [name for definition in read_definitions(cells).taken for name in definition.names if name in missing]
    reasons = "".join(f". {name} is missing: {missing[name]}" for name in failed[:3])
    expected = "expected one, such as `class Net(nn.Module)`"
    return f"{text} defines no class derived from torch.nn.Module: {expected}{reasons}"


def _class_not_found(
    class_name: str, module: ModuleType, text: str, cells: tuple[Cell, ...], missing: Mapping[str, str]
) -> str:
    value = getattr(module, class_name, None)
    kind = "a class that is not" if isinstance(value, type) else type(value).__name__
    found = "nothing" if value is None else kind
    names = ", ".join(_models_of(module)) or "none"
    hidden = hidden_models(cells).get(class_name)
    reason = missing.get(class_name) or (f"it is defined {hidden}" if hidden else "")
    found += f" ({reason})" if reason else ""
    expected = f"expected a class {class_name!r} derived from torch.nn.Module"
    return f"{text}: {expected}, found {found}. Models that it defines: {names}"


def _module_name(path: Path, *, inner: bool = False) -> str:
    """The name by which neighbouring files import a file or folder, unless a library has it; within a package none does."""
    name = path.name.removesuffix(".py").removesuffix(NOTEBOOK_SUFFIX).replace(".", "_")
    taken = not inner and (name in sys.modules or importlib.util.find_spec(name) is not None)
    return f"model_{name}" if taken else name


def _run_file(packages: Mapping[str, Path], name: str, path: Path) -> ModuleType:
    for package, folder in packages.items():
        _make_package(package, folder)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path.name} cannot be read as a Python file", path=str(path))
    module = importlib.util.module_from_spec(spec)
    # Registered before it runs: dataclasses and pickling inside the file look themselves up here.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _packages(path: Path, depth: int) -> dict[str, Path]:
    """The folders that a file's relative imports need as packages, outermost first, by their dotted names."""
    if not depth:
        return {}
    top = path.parents[min(depth, len(path.parents)) - 1]
    while (top.parent / "__init__.py").is_file():
        top = top.parent
    packages = {_module_name(top): top}
    for part in path.parent.relative_to(top).parts:
        name, folder = next(reversed(packages.items()))
        packages[f"{name}.{part.replace('.', '_')}"] = folder / part
    return packages


def _make_package(name: str, folder: Path) -> None:
    init = folder / "__init__.py"
    spec = importlib.util.spec_from_file_location(name, init, submodule_search_locations=[str(folder)])
    if init.is_file() and spec is not None and spec.loader is not None:
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    else:
        sys.modules[name] = ModuleType(name)
        sys.modules[name].__path__ = [str(folder)]


@contextmanager
def _import_errors(text: str, path: Path | None) -> Iterator[None]:
    """Turn whatever an import raises into a `ModelSourceError` that says what to do."""
    try:
        yield
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        failed, guard = f"importing {text} failed{line_of(error, path)}", '`if __name__ == "__main__":`'
        match error:
            case SyntaxError():
                where = f"line {error.lineno}" if error.lineno else "an unknown line"
                name = Path(str(error.filename)).name
                msg = f"{text} is not valid Python: {error.msg} in {where} of {name}. Correct the syntax and try again"
            case ModuleNotFoundError():
                msg = (
                    f"{failed}: the module {error.name!r} is neither installed nor in the folder of the file. Install it, put "
                    "its file there, or remove the import if the model does not need it"
                )
            case SystemExit():
                msg = (
                    f"{failed}: SystemExit: {error.code}. Expected a file that only defines the model; put code that reads "
                    f"a command line or ends the program under {guard}"
                )
            case _:
                msg = (
                    f"{failed}: {type(error).__name__}: {first_line(error)}. Expected a file that only defines the model; "
                    f"put code that trains or loads data under {guard}"
                )
        raise ModelSourceError(msg) from error


def line_of(error: BaseException, path: Path | None) -> str:
    """The line of the user's file that raised an error, such as `` in line 3``; empty if it is none of this file."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f" in line {lines[-1]}" if lines else ""


def _run_definitions(
    name: str, path: Path, cells: tuple[Cell, ...], missing: dict[str, str], notes: list[str]
) -> ModuleType:
    """Run only the definitions of the cells; one that fails is recorded in ``missing``, and the others still run."""
    definitions = read_definitions(cells)
    notes.extend(f"{path.name}: {note}" for note in definitions.notes)
    missing.update(definitions.skipped)
    module = ModuleType(name)
    module.__file__ = str(path)
    module.__package__ = name.rpartition(".")[0]
    sys.modules[name] = module
    files = {cell.place: f"{path.name}, {cell.place}" for cell in cells}
    for cell in cells:
        # Tracebacks and inspect.getsource find a cell's lines here.
        lines = cell.source.splitlines(keepends=True)
        linecache.cache[files[cell.place]] = (len(cell.source), None, lines, files[cell.place])
    flags = 0
    for definition in definitions.taken:
        flags |= _future_flags(definition)
        tree = ast.Module(body=[definition.node], type_ignores=[])
        try:
            exec(compile(tree, files[definition.place], "exec", flags, dont_inherit=True), vars(module))  # noqa: S102 - a user's own code, in a process for it
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a user's own code may raise anything
            where = f"line {definition.node.lineno} of {definition.place}"
            reason = f"{where} failed with {type(error).__name__}: {first_line(error)}"
            missing.update(dict.fromkeys(definition.names, reason))
        else:
            for bound in definition.names:
                missing.pop(bound, None)
    return module


def _future_flags(definition: Definition) -> int:
    node = definition.node
    if not isinstance(node, ast.ImportFrom) or node.module != "__future__":
        return 0
    features = (getattr(__future__, name, None) for name in definition.names)
    return sum(feature.compiler_flag for feature in features if feature is not None)
