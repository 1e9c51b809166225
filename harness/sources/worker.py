"""The child process that imports a user's file, captures its models, and writes graphs and tensors as data.

Run as ``python -m harness.sources.worker FOLDER`` by `harness.sources.source`, which leaves ``request.json`` in the folder. What
comes back is ``result.json`` and, for the n-th candidate that was captured, ``n.json`` and ``n.safetensors``; ``progress.txt``
names the class that is being examined, and is empty during the import.
"""

from __future__ import annotations
import __future__

import ast
import contextlib
import dataclasses
import importlib
import importlib.util
import inspect
import json
import linecache
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.parameter import is_lazy

import mnist_models
from harness.errors import CaptureError, ModelSourceError
from harness.graph.capture import CapturedModel, capture
from harness.sources.definitions import (
    NOTEBOOK_SUFFIX,
    Definition,
    Definitions,
    Piece,
    hidden_models,
    parse,
    read_definitions,
    read_pieces,
)
from harness.sources.source import PROGRESS_FILE, REQUEST_FILE, RESULT_FILE, parse_arguments

_ModelClass = type[nn.Module]


def main(folder: Path) -> None:
    """Set this process up for strange files, and answer the request."""
    torch.set_num_threads(1)
    sys.dont_write_bytecode = True
    # What a capture needs is imported by the first one: from now on a file beside the model that has the name of a library is
    # the model's own affair.
    capture(nn.Flatten(), (1, 2, 2), name="nothing")
    answer(folder)


def answer(folder: Path) -> None:
    """Load what ``request.json`` in the folder names and write what came of it there."""
    request = json.loads((folder / REQUEST_FILE).read_text(encoding="utf-8"))
    result: dict[str, Any] = {"error": None, "candidates": [], "notes": []}
    try:
        (folder / PROGRESS_FILE).write_text("", encoding="utf-8")
        loaded = load(request)
        result["notes"] = loaded.notes
        for number, (cls, name) in enumerate(loaded.classes.items()):
            (folder / PROGRESS_FILE).write_text(name, encoding="utf-8")
            captured, facts = examine(cls, name, loaded, request)
            result["candidates"].append(facts)
            if captured is not None:
                write_model(captured, folder / str(number))
    except Exception as error:  # noqa: BLE001 - whatever it is, the examiner hears of it
        result["error"] = _refusal(error)
    (folder / RESULT_FILE).write_text(json.dumps(result), encoding="utf-8")


def write_model(captured: CapturedModel, stem: Path) -> None:
    """Write a captured model as JSON and safetensors; `harness.sources.source.read_model` reads it."""
    document = captured.graph.to_json() | {"fidelity": dataclasses.asdict(captured.fidelity)}
    state = {name: tensor.contiguous() for name, tensor in captured.state.items()}
    save_file(state, stem.with_suffix(".safetensors"))
    stem.with_suffix(".json").write_text(json.dumps(document), encoding="utf-8")


def _refusal(error: Exception) -> dict[str, str]:
    message = str(error)
    match error:
        case CaptureError():
            kind = "capture"
        case ModelSourceError():
            kind = "source"
        case _:
            kind, message = (
                "examiner",
                f"the process that loads models failed: {type(error).__name__}: {_first_line(error)}",
            )
    return {"kind": kind, "message": message, "traceback": "".join(traceback.format_exception(error))}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loaded:
    """An imported file.

    Args:
        classes: what may be the model: the classes, and how each can be typed.
        missing: why a name is not there, for names that were left out.
        notes: sentences for the user.
        mentions: names that stand in the body of each class.
    """

    classes: Mapping[_ModelClass, str]
    missing: Mapping[str, str]
    notes: list[str]
    mentions: Mapping[str, frozenset[str]]


def load(request: Mapping[str, Any]) -> Loaded:
    """Import what a request names and list its models.

    Raises:
        ModelSourceError: it cannot be imported, or holds no such class.
    """
    text, class_name = str(request["text"]), request["class"]
    path = Path(request["path"]) if request["path"] else None
    place = path.parent if path else Path.cwd()
    # The program is called as if the file were run. The model's own folder comes first from here on, the two around it last:
    # `from src.blocks import Block` is meant from the project's root.
    sys.argv = [str(path or request["module"])]
    pieces = read_pieces(path) if path else ()
    # Names are chosen before the path grows: what is found until then is a library.
    packages = _packages(path, _import_depth(pieces)) if path else {}
    own_name = ".".join((*list(packages)[-1:], _module_name(path, inner=bool(packages)))) if path else ""
    sys.path.insert(0, str(place))
    sys.path.extend(str(folder) for folder in place.parents[:2])
    missing: dict[str, str] = {}
    notes: list[str] = []
    if path is None:
        module = _told(lambda: importlib.import_module(str(request["module"])), text, None)
    elif path.suffix == NOTEBOOK_SUFFIX:
        module = _run_definitions(own_name, path, pieces, missing, notes)
    else:
        try:
            module = _told(lambda: _run_file(packages, own_name, path), text, path)
        except ModelSourceError as error:
            # A package for plots or summaries is no part of most models.
            if not isinstance(error.__cause__, ModuleNotFoundError):
                raise
            module = _run_definitions(own_name, path, pieces, missing, notes)
            if not _models_of(module):
                raise
            notes.append(f"{error.__cause__}; {path.name} is read without it, and only its definitions are taken")
    classes = _models_of(module)
    if isinstance(class_name, str):
        cls = getattr(module, class_name, None)
        if not (inspect.isclass(cls) and issubclass(cls, nn.Module)):
            raise ModelSourceError(_no_such_class(class_name, module, text, pieces, missing))
        classes = {class_name: cls}
    elif not classes:
        raise ModelSourceError(_no_class(text, pieces, missing))
    typed = text if path is None else text.removesuffix(f":{class_name}")
    return Loaded(
        classes={cls: typed if path is None else f"{typed}:{name}" for name, cls in classes.items()},
        missing=missing,
        notes=notes,
        mentions=_mentions(pieces),
    )


def eager_builder(request: Mapping[str, Any]) -> tuple[str, Callable[[int], nn.Module]]:
    """Import the class that a request of `harness.sources.source.eager_source` names.

    Returns:
        How the class can be typed, and what builds it under ``torch.manual_seed`` of the number it is given.

    Raises:
        ModelSourceError: it cannot be imported, or more than one may be meant; from the builder: it cannot be built.
    """
    if request["shipped"] is not None:

        def build_shipped(seed: int) -> nn.Module:
            torch.manual_seed(seed)
            return mnist_models.create_model(request["shipped"])

        return str(request["shipped"]), build_shipped
    loaded = load(request)
    if len(loaded.classes) > 1:
        listed = ", ".join(loaded.classes.values())
        msg = f"{request['text']} holds several models: name the one that you mean, out of {listed}"
        raise ModelSourceError(msg)
    ((cls, name),) = loaded.classes.items()

    def build(seed: int) -> nn.Module:
        module = _build(cls, name, {**request, "seed": seed})
        if any(is_lazy(tensor) for tensor in (*module.parameters(), *module.buffers())):
            with torch.no_grad():
                module.eval()(torch.zeros((2, *request["input_shape"])))
        return module.train()

    return name, build


def _models_of(module: ModuleType) -> dict[str, _ModelClass]:
    """The models that a module defines, each under one name; where it defines none, those it took from its own folder."""
    found: dict[_ModelClass, str] = {}
    for name, value in vars(module).items():
        if inspect.isclass(value) and issubclass(value, nn.Module) and (value not in found or name == value.__name__):
            found[value] = name
    own = {name: cls for cls, name in found.items() if cls.__module__ == module.__name__}
    place = Path(module.__file__).parent if module.__file__ else None
    near = {cls for cls in found if place in _file_of(cls).parents and "site-packages" not in _file_of(cls).parts}
    return own or {name: cls for cls, name in found.items() if cls in near}


def _file_of(cls: type) -> Path:
    return Path(getattr(sys.modules.get(cls.__module__), "__file__", None) or "")


def _key(cls: type) -> str:
    return f"{_file_of(cls)}:{cls.__qualname__}"


def _mentions(pieces: tuple[Piece, ...]) -> dict[str, frozenset[str]]:
    classes = (node for tree in _trees(pieces) for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    return {cls.name: frozenset(node.id for node in ast.walk(cls) if isinstance(node, ast.Name)) for cls in classes}


def _trees(pieces: tuple[Piece, ...]) -> Iterator[ast.Module]:
    for piece in pieces:
        with contextlib.suppress(SyntaxError):
            yield parse(piece.source)


def _no_class(text: str, pieces: tuple[Piece, ...], missing: Mapping[str, str]) -> str:
    hidden = hidden_models(pieces)
    if hidden:
        where = "; ".join(f"{name} stands {place}" for name, place in hidden.items())
        return f"{text}: no model is there when it is imported: {where}. Move the class to the file's outermost level"
    failed = [name for definition in read_definitions(pieces).taken for name in definition.names if name in missing]
    reasons = "".join(f". {name} is not there: {missing[name]}" for name in failed[:3])
    return (
        f"{text} defines no class derived from torch.nn.Module: expected one, such as `class Net(nn.Module)`{reasons}"
    )


def _no_such_class(
    class_name: str, module: ModuleType, text: str, pieces: tuple[Piece, ...], missing: Mapping[str, str]
) -> str:
    value = getattr(module, class_name, None)
    found = "nothing" if value is None else type(value).__name__
    names = ", ".join(_models_of(module)) or "none"
    hidden = hidden_models(pieces).get(class_name)
    reason = missing.get(class_name) or (f"it stands {hidden}" if hidden else "")
    return (
        f"{text}: expected a class {class_name!r} derived from torch.nn.Module, found {found}"
        f"{f' ({reason})' if reason else ''}. Classes there: {names}"
    )


def _module_name(path: Path, *, inner: bool = False) -> str:
    """The name by which the files beside import a file or a folder, unless a library has it; inside a package none has."""
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


def _import_depth(pieces: tuple[Piece, ...]) -> int:
    """The most dots that a relative import has."""
    trees = _trees(pieces)
    return max((node.level for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)), default=0)


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
    begin = folder / "__init__.py"
    spec = None
    if begin.is_file():
        spec = importlib.util.spec_from_file_location(name, begin, submodule_search_locations=[str(folder)])
    if spec is None or spec.loader is None:
        sys.modules[name] = ModuleType(name)
        sys.modules[name].__path__ = [str(folder)]
    else:
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])


def _told(run: Callable[[], ModuleType], text: str, path: Path | None) -> ModuleType:
    """Import something, and say in a paragraph what went wrong."""
    try:
        return run()
    except SyntaxError as error:
        where = f"line {error.lineno}" if error.lineno else "an unknown line"
        name = Path(str(error.filename)).name
        msg = f"{text} is not valid Python: {error.msg} in {where} of {name}. Mend the syntax and try again"
        raise ModelSourceError(msg) from error
    except ModuleNotFoundError as error:
        msg = (
            f"importing {text} failed{_line(error, path)}: the module {error.name!r} is neither installed here nor beside "
            "the file. Install it, put its file there, or leave the import out if the model does not need it"
        )
        raise ModelSourceError(msg) from error
    except SystemExit as error:
        msg = (
            f"importing {text} failed{_line(error, path)}: SystemExit: {error.code}. Expected a file that only defines the "
            'model; put code that reads a command line or ends the program under `if __name__ == "__main__":`'
        )
        raise ModelSourceError(msg) from error
    except (Exception, KeyboardInterrupt) as error:
        msg = (
            f"importing {text} failed{_line(error, path)}: {type(error).__name__}: {_first_line(error)}. Expected a file that "
            'only defines the model; put code that trains or loads data under `if __name__ == "__main__":`'
        )
        raise ModelSourceError(msg) from error


def _run_definitions(
    name: str, path: Path, pieces: tuple[Piece, ...], missing: dict[str, str], notes: list[str]
) -> ModuleType:
    """A module of what the pieces define; what fails is missing, and the rest goes on."""
    definitions: Definitions = read_definitions(pieces)
    notes.extend(f"{path.name}: {note}" for note in definitions.notes)
    missing.update(definitions.skipped)
    module = ModuleType(name)
    module.__file__ = str(path)
    module.__package__ = name.rpartition(".")[0]
    sys.modules[name] = module
    files = {piece.place: f"{path.name}, {piece.place}" for piece in pieces}
    for piece in pieces:
        # Tracebacks and inspect.getsource find a cell's lines here.
        linecache.cache[files[piece.place]] = (
            len(piece.source),
            None,
            piece.source.splitlines(keepends=True),
            files[piece.place],
        )
    flags = 0
    for definition in definitions.taken:
        flags |= _future_flags(definition)
        tree = ast.Module(body=[definition.node], type_ignores=[])
        try:
            exec(compile(tree, files[definition.place], "exec", flags, dont_inherit=True), vars(module))  # noqa: S102 - a user's own code, in a process for it
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a user's own code may raise anything
            where = f"line {definition.node.lineno} of {definition.place}"
            reason = f"{where} failed with {type(error).__name__}: {_first_line(error)}"
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


def examine(
    cls: _ModelClass, name: str, loaded: Loaded, request: Mapping[str, Any]
) -> tuple[CapturedModel | None, dict[str, Any]]:
    """Build and capture a class; returns what was captured, if it was, and the candidate as `harness.sources.source` reads it."""
    facts: dict[str, Any] = {"name": name, "key": _key(cls), "parts": [], "runs": False, "error": None}
    model = None
    try:
        model = _build(cls, name, request)
        captured = capture(model, tuple(request["input_shape"]), name=name)
    except (ModelSourceError, CaptureError) as error:
        captured = None
        reason = _missing_name(error, loaded)
        mended = type(error)(f"{error}{reason}").with_traceback(error.__traceback__)
        mended.__cause__ = error.__cause__
        facts["error"] = _refusal(mended)
    if model is None:
        mentioned = loaded.mentions.get(cls.__name__, frozenset())
        facts["parts"] = [_key(other) for other in loaded.classes if other is not cls and other.__name__ in mentioned]
    else:
        facts["runs"] = captured is not None or _takes_images(model, tuple(request["input_shape"]))
        kinds = {type(part) for part in model.modules()} | set(cls.__mro__[1:])
        facts["parts"] = [_key(kind) for kind in kinds - {cls} if not kind.__module__.startswith("torch.")]
    return captured, facts


def _takes_images(model: nn.Module, shape: tuple[int, ...]) -> bool:
    try:
        with torch.no_grad():
            model.eval()(torch.zeros((2, *shape)))
    except Exception:  # noqa: BLE001 - a user's own code may raise anything
        return False
    return True


def _missing_name(error: BaseException, loaded: Loaded) -> str:
    """Why a name is missing, if that is what went wrong."""
    cause = error.__cause__
    if not isinstance(cause, NameError) or cause.name is None:
        return ""
    reason = loaded.missing.get(cause.name) or loaded.missing.get("*")
    return f". {cause.name} is not there: {reason}" if reason else ""


def _build(cls: _ModelClass, name: str, request: Mapping[str, Any]) -> nn.Module:
    arguments = parse_arguments(str(request["args"]))
    parameters = inspect.signature(cls).parameters.values()
    fixed = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    named = [parameter.name for parameter in parameters if parameter.kind not in fixed]
    needed = [p.name for p in parameters if p.name in named and p.default is p.empty and p.name not in arguments]
    unknown = [key for key in arguments if key not in named]
    if unknown and not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        msg = (
            f"{name}: the constructor of {cls.__name__} takes no argument {', '.join(unknown)}: "
            f"expected {', '.join(named) or 'none'}. Mend --args"
        )
        raise ModelSourceError(msg)
    if needed:
        example = ", ".join(f"{parameter}=..." for parameter in needed)
        msg = (
            f"{name}: the constructor of {cls.__name__} needs {', '.join(needed)}: expected a class that can be built without "
            f'arguments. Give each a default value, or say what to build it with: --args "{example}"'
        )
        raise ModelSourceError(msg)
    torch.manual_seed(request["seed"])
    try:
        return cls(**arguments)
    except (Exception, SystemExit) as error:
        given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        msg = f"{name}: building {cls.__name__}({given}) failed: {type(error).__name__}: {_first_line(error)}"
        raise ModelSourceError(msg) from error


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else "no message").rstrip(".")[:300]


def _line(error: BaseException, path: Path | None) -> str:
    """Where in the user's file it happened."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f" in line {lines[-1]}" if lines else ""


if __name__ == "__main__":
    main(Path(sys.argv[1]))
