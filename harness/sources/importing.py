"""Importing a user's file, notebook or package as the user would, and finding the model classes in it.

An import runs the user's code, so this module is used in worker processes only.
"""

from __future__ import annotations
import __future__

import ast
import functools
import importlib
import importlib.util
import linecache
import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from torch import nn

from harness.errors import ModelSourceError, first_line
from harness.sources.cells import NOTEBOOK_SUFFIX, Cell, is_exported_notebook, read_cells
from harness.sources.definitions import (
    Definition,
    base_names,
    hidden_models,
    import_depth,
    models_among,
    read_definitions,
)
from harness.sources.source import ModelSource

ModelClass = type[nn.Module]
_LIBRARY_FOLDERS = {"site-packages", "dist-packages"}
_HARNESS_FOLDER = Path(__file__).parents[1]
_STANDARD_LIBRARY_FOLDER = Path(os.__file__).parent
# A longer list or table of a user's file is data, not a choice of building blocks.
_MAX_TABLE = 1_000


@dataclass(frozen=True, kw_only=True)
class ImportedFile:
    """The model classes of an imported file, and the names that could not be defined.

    ``classes`` maps each model class to the name that the user types for it; ``failed`` maps model classes that were
    not defined, and ``missing`` all undefined names, to the reason; ``notes`` are messages for the user.
    """

    classes: Mapping[ModelClass, str]
    failed: Mapping[str, str]
    missing: Mapping[str, str]
    notes: tuple[str, ...]


def import_models(source: ModelSource) -> ImportedFile:
    """Import a file, a notebook or a package and list its model classes.

    Afterwards, ``sys.path`` includes the folder of the file.

    Raises:
        ModelSourceError: the file cannot be imported, or does not define a model class or not the class named in ``source``.
    """
    text, class_name = source.text, source.class_name
    path = Path(source.path) if source.path else None
    # The command line looks as if the file were run. The file's own folder comes first on the path, its two parents last:
    # `from src.blocks import Block` is written for the project's root.
    sys.argv = [str(path or source.module)]
    cells = read_cells(path) if path else ()
    # Module names are chosen before sys.path is extended: a module that is found until then is a library.
    packages = _packages(path, import_depth(cells)) if path else {}
    module_name = ".".join((*list(packages)[-1:], _module_name(path, inner=bool(packages)))) if path else ""
    folder = source.working_folder
    sys.path.insert(0, str(folder))
    sys.path.extend(str(parent) for parent in folder.parents[:2])
    reader = _DefinitionReader(root=(folder, *folder.parents[:2])[-1])
    if path is None:
        with _import_errors(text, None):
            module = importlib.import_module(str(source.module))
    elif path.suffix == NOTEBOOK_SUFFIX or is_exported_notebook(*cells):
        if path.suffix != NOTEBOOK_SUFFIX:
            reader.notes.append(
                f"{path.name} has commands of a notebook and is read like a notebook: only its definitions are executed"
            )
        module = _new_module(module_name, path)
        with reader.beside():
            reader.run(module, path, cells)
    else:
        module = _new_module(module_name, path)
        try:
            with _import_errors(text, path):
                _run_file(packages, module, path)
        except ModelSourceError as error:
            with reader.beside():
                for package, package_folder in packages.items():
                    _make_package(package, package_folder, reader)
                reader.run_rest(module, path, cells, error.__cause__ or error)
            if not _models_of(module):
                reasons = _reasons(sorted(models_among(base_names(cells))), reader.missing)
                raise ModelSourceError(f"{error}{reasons}") from error.__cause__
    classes = _models_of(module)
    defined = models_among(base_names(cells))
    failed = {name: reader.missing[name] for name in defined - classes.keys() if name in reader.missing}
    if class_name is not None:
        cls: Any = getattr(module, class_name, None)
        if not (issubclass(type(cls), type) and issubclass(cls, nn.Module)):
            raise ModelSourceError(_class_not_found(class_name, module, text, cells, reader.missing))
        classes, failed = {class_name: cls}, {}
    elif not classes:
        raise ModelSourceError(_no_class_found(text, cells, reader.missing))
    else:
        hidden = {name: place for name, place in hidden_models(cells).items() if name not in {*classes, *failed}}
        reader.notes.extend(f"left out: {name}, which is defined {place}" for name, place in hidden.items())
    return ImportedFile(
        classes={cls: text if path is None else f"{text}:{name}" for name, cls in classes.items()},
        failed=failed,
        missing=reader.missing,
        notes=tuple(reader.notes),
    )


def class_key(cls: type) -> str:
    """Return the file and the qualified name of a class as a text that does not depend on how the file was imported."""
    return f"{_file_of(cls)}:{cls.__qualname__}"


def is_user_file(file: str | None) -> bool:
    """Return whether a file is the user's Python code, not that of a library or of the harness."""
    if not file or not file.endswith((".py", NOTEBOOK_SUFFIX)):
        return False
    path = Path(file)
    own = any(path.is_relative_to(folder) for folder in (_HARNESS_FOLDER, _STANDARD_LIBRARY_FOLDER))
    return not own and not _LIBRARY_FOLDERS & set(path.parts)


def named_models(cls: ModelClass) -> set[ModelClass]:
    """Return the user's model classes that the code of a class refers to, directly or through functions and collections."""
    found: set[ModelClass] = set()
    seen: dict[int, object] = {}
    waiting: list[object] = [cls]
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen:
            continue
        seen[id(thing)] = thing
        match thing:
            case type() if is_user_file(str(_file_of(thing))):
                if issubclass(thing, nn.Module):
                    found.add(thing)
                waiting += [*thing.__bases__, *vars(thing).values()]
            case FunctionType() if is_user_file(thing.__code__.co_filename.partition(", cell")[0]):
                names = _names(thing.__code__)
                named = [thing.__globals__[name] for name in names if name in thing.__globals__]
                modules = [vars(module) for module in named if isinstance(module, ModuleType)]
                waiting += named
                waiting += [variables[name] for variables in modules for name in names if name in variables]
                waiting += [*(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).values()]
            case staticmethod() | classmethod():
                waiting.append(thing.__func__)
            case functools.partial():
                waiting += [thing.func, *thing.args, *thing.keywords.values()]
            case dict() if len(thing) <= _MAX_TABLE:
                waiting += thing.values()
            case list() | tuple() | set() if len(thing) <= _MAX_TABLE:
                waiting += thing
    return found - {cls}


def _names(code: CodeType) -> set[str]:
    return set(code.co_names).union(*(_names(inner) for inner in code.co_consts if isinstance(inner, CodeType)))


def _models_of(module: ModuleType) -> dict[str, ModelClass]:
    """Return the model classes that a module defines, by name; if there are none, those that it imports from its own folder."""
    found: dict[ModelClass, str] = {}
    # By type(), since reading __class__ of a user's object may raise an exception.
    for name, value in vars(module).items():
        if (
            issubclass(type(value), type)
            and issubclass(value, nn.Module)
            and (value not in found or name == value.__name__)
        ):
            found[value] = name
    own = {name: cls for cls, name in found.items() if cls.__module__ == module.__name__}
    folder = Path(module.__file__).parent if module.__file__ else None
    near = {cls for cls in found if folder in _file_of(cls).parents and not _LIBRARY_FOLDERS & set(_file_of(cls).parts)}
    return own or {name: cls for cls, name in found.items() if cls in near}


def _file_of(cls: type) -> Path:
    return Path(getattr(sys.modules.get(cls.__module__), "__file__", None) or "")


def _no_class_found(text: str, cells: tuple[Cell, ...], missing: Mapping[str, str]) -> str:
    hidden = "; ".join(f"{name} is defined {place}" for name, place in hidden_models(cells).items())
    if hidden:
        problem = "expected a model that importing the file defines, got none"
        return f"{text}: {problem}: {hidden}. Move the class to the top level of the file"
    taken = [name for definition in read_definitions(cells).taken for name in definition.names]
    expected = "expected one, such as `class Net(nn.Module)`"
    return f"{text} defines no class derived from torch.nn.Module: {expected}{_reasons(taken, missing)}"


def _reasons(names: Sequence[str], missing: Mapping[str, str]) -> str:
    lacking = [name for name in names if name in missing]
    return "".join(f". {name} is missing: {missing[name]}" for name in lacking[:3])


def _class_not_found(
    class_name: str, module: ModuleType, text: str, cells: tuple[Cell, ...], missing: Mapping[str, str]
) -> str:
    value = getattr(module, class_name, None)
    kind = "a class that is not" if issubclass(type(value), type) else type(value).__name__
    found = "nothing" if value is None else kind
    names = ", ".join(_models_of(module)) or "none"
    hidden = hidden_models(cells).get(class_name)
    reason = missing.get(class_name) or (f"it is defined {hidden}" if hidden else "")
    found += f" ({reason})" if reason else ""
    expected = f"expected a class {class_name!r} derived from torch.nn.Module"
    return f"{text}: {expected}, found {found}. Models that the file defines: {names}"


def _module_name(path: Path, *, inner: bool = False) -> str:
    """Return the module name of a file or folder; outside a package, with the prefix ``model_`` if a library has this name."""
    name = path.name.removesuffix(".py").removesuffix(NOTEBOOK_SUFFIX).replace(".", "_")
    taken = not inner and (name in sys.modules or importlib.util.find_spec(name) is not None)
    return f"model_{name}" if taken else name


def _new_module(name: str, path: Path, folder: Path | None = None) -> ModuleType:
    """Create an empty module for a file, or a package if ``folder`` is given, and add it to ``sys.modules``."""
    spec = ModuleSpec(name, SourceFileLoader(name, str(path)), origin=str(path))
    spec.has_location = True
    spec.submodule_search_locations = [str(folder)] if folder else None
    # Registered before the file runs, since dataclasses and pickle look up the module in sys.modules.
    sys.modules[name] = importlib.util.module_from_spec(spec)
    return sys.modules[name]


def _run_file(packages: Mapping[str, Path], module: ModuleType, path: Path) -> None:
    for package, folder in packages.items():
        _make_package(package, folder)
    SourceFileLoader(module.__name__, str(path)).exec_module(module)


def _packages(path: Path, depth: int) -> dict[str, Path]:
    """Map dotted package names to folders, outermost package first, for the packages that a file's relative imports need."""
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


def _make_package(name: str, folder: Path, reader: _DefinitionReader | None = None) -> None:
    init = folder / "__init__.py"
    if init.is_file():
        module = _new_module(name, init, folder)
        loader = _LoaderBeside(name, str(init), reader) if reader else SourceFileLoader(name, str(init))
        loader.exec_module(module)
    else:
        sys.modules[name] = ModuleType(name)
        sys.modules[name].__path__ = [str(folder)]


@contextmanager
def _import_errors(text: str, path: Path | None) -> Iterator[None]:
    """Convert any exception that an import raises into a `ModelSourceError` with advice for the user."""
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
            case PermissionError():
                msg = (
                    f"{failed}: {first_line(error)}. Models are imported without network and other programs, and can only "
                    f"read files of their own project; put code that needs more under {guard}"
                )
            case _:
                msg = (
                    f"{failed}: {type(error).__name__}: {first_line(error)}. Expected a file that only defines the model; "
                    f"put code that trains or loads data under {guard}"
                )
        raise ModelSourceError(msg) from error


def line_of(error: BaseException, path: Path | None) -> str:
    """Return the line of the file ``path`` that raised an error, such as `` in line 3``; empty if another file raised it."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f" in line {lines[-1]}" if lines else ""


@dataclass(frozen=True, kw_only=True)
class _DefinitionReader:
    """Executes only the definitions of notebooks and of files that failed, and records why names are undefined.

    The user's files are those under ``root``. ``missing`` maps each undefined name to the reason.
    """

    root: Path
    missing: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Within the block, if importing a user's file fails, execute the definitions of that file instead."""
        finder = _FinderBeside(self)
        sys.meta_path.insert(sys.meta_path.index(PathFinder), finder)
        try:
            yield
        finally:
            sys.meta_path.remove(finder)

    def run_rest(self, module: ModuleType, path: Path, cells: Sequence[Cell], error: BaseException) -> None:
        """Execute the definitions of a file from the statement that raised ``error`` onwards."""
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno or 0 for frame in frames if (frame.filename, frame.name) == (str(path), "<module>")]
        reason = f"{type(error).__name__}: {first_line(error)}"
        if lines:
            self.notes.append(
                f"line {lines[0]} of {path.name} failed with {reason}; from there on, only definitions are executed"
            )
        else:
            self.notes.append(f"{path.name} failed with {reason}; only its definitions are executed")
        self.run(module, path, cells, start=lines[0] if lines else 0)

    def run(self, module: ModuleType, path: Path, cells: Sequence[Cell], *, start: int = 0) -> None:
        """Execute the definitions of the cells from line ``start`` on; record definitions that fail and continue."""
        definitions = read_definitions(cells, start=start)
        self.notes.extend(f"{path.name}: {note}" for note in definitions.notes)
        self.missing.update(definitions.skipped)
        is_notebook = path.suffix == NOTEBOOK_SUFFIX
        files = {cell.place: f"{path.name}, {cell.place}" if is_notebook else str(path) for cell in cells}
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
                self._miss(module, definition, f"{where} failed with {type(error).__name__}: {first_line(error)}")
            else:
                for bound in definition.names:
                    self.missing.pop(bound, None)
        models = _models_of(module).keys() | models_among(base_names(cells))
        for name in models & definitions.altered.keys():
            vars(module).pop(name, None)
            self.missing[name] = definitions.altered[name]

    def _miss(self, module: ModuleType, definition: Definition, reason: str) -> None:
        is_import = isinstance(definition.node, ast.Import | ast.ImportFrom)
        for name in definition.names:
            if is_import and name in self.missing:
                # The reason recorded for the imported file is more specific.
                continue
            self.missing[name] = reason
            if not is_import:
                # An earlier definition of the name must not be used instead.
                vars(module).pop(name, None)


class _LoaderBeside(SourceFileLoader):
    """Executes a user's file; if a statement fails, executes only the definitions from that statement on."""

    def __init__(self, name: str, path: str, reader: _DefinitionReader) -> None:
        super().__init__(name, path)
        self._reader = reader

    def exec_module(self, module: ModuleType) -> None:
        """Execute the file in the module's namespace."""
        path = Path(self.path)
        try:
            super().exec_module(module)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a user's own code may raise anything
            self._reader.run_rest(module, path, read_cells(path), error)


class _FinderBeside(MetaPathFinder):
    """Finds modules as `PathFinder` does, and loads the user's files with `_LoaderBeside`."""

    def __init__(self, reader: _DefinitionReader) -> None:
        self._reader = reader

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None, /
    ) -> ModuleSpec | None:
        """Return the specification of a module; None if it is not on ``sys.path``."""
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            file = Path(spec.loader.path)
            if file.is_relative_to(self._reader.root) and is_user_file(str(file)):
                spec.loader = _LoaderBeside(fullname, spec.loader.path, self._reader)
        return spec


def _future_flags(definition: Definition) -> int:
    node = definition.node
    if not isinstance(node, ast.ImportFrom) or node.module != "__future__":
        return 0
    features = (getattr(__future__, name, None) for name in definition.names)
    return sum(feature.compiler_flag for feature in features if feature is not None)
