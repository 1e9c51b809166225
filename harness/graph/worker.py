"""The child process that imports a user's model, captures it, and writes the graph and its tensors as data.

Run as ``python -m harness.graph.worker REQUEST`` by `harness.graph.source`; the request is a JSON object.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import json
import sys
import traceback
from pathlib import Path
from types import ModuleType

import torch
from safetensors.torch import save_file
from torch import nn

from harness.errors import CaptureError, ModelSourceError
from harness.graph.capture import CapturedModel, capture
from harness.graph.source import ERROR_FILE, GRAPH_FILE, STATE_FILE


def main(request_text: str) -> None:
    """Load what the request names and write ``graph.json`` and ``state.safetensors``, or ``error.json``."""
    request = json.loads(request_text)
    folder = Path(request["out"])
    try:
        captured = _load(request)
    except (ModelSourceError, CaptureError) as error:
        kind = "capture" if isinstance(error, CaptureError) else "source"
        details = {"kind": kind, "message": str(error), "traceback": traceback.format_exc()}
        (folder / ERROR_FILE).write_text(json.dumps(details), encoding="utf-8")
        return
    document = captured.graph.to_json() | {"fidelity": dataclasses.asdict(captured.fidelity)}
    save_file({name: tensor.contiguous() for name, tensor in captured.state.items()}, folder / STATE_FILE)
    (folder / GRAPH_FILE).write_text(json.dumps(document), encoding="utf-8")


def _load(request: dict[str, object]) -> CapturedModel:
    text = str(request["text"])
    seed = request["seed"]
    shape = request["input_shape"]
    if not isinstance(seed, int) or not isinstance(shape, list):
        msg = f"expected an integer seed and a list as input_shape, found {seed!r} and {shape!r}"
        raise ModelSourceError(msg)
    module = _import(request, text)
    class_name = request["class"]
    if isinstance(class_name, str):
        candidate = getattr(module, class_name, None)
        if not (inspect.isclass(candidate) and issubclass(candidate, nn.Module)):
            found = "nothing" if candidate is None else f"{type(candidate).__name__}"
            names = ", ".join(cls.__name__ for cls in _module_classes(module)) or "none"
            msg = f"{text}: expected a class {class_name!r} derived from torch.nn.Module, found {found}. Classes there: {names}"
            raise ModelSourceError(msg)
        return _capture_class(candidate, text, seed, tuple(shape))
    return _capture_only_candidate(module, text, seed, tuple(shape))


def _import(request: dict[str, object], text: str) -> ModuleType:
    # The model's own folder comes first from here on, so that the files beside it can be imported.
    place = Path(str(request["path"])).parent if request["path"] else Path.cwd()
    sys.path.insert(0, str(place))
    try:
        if request["module"]:
            return importlib.import_module(str(request["module"]))
        path = Path(str(request["path"]))
        spec = importlib.util.spec_from_file_location(path.stem, path)
        if spec is None or spec.loader is None:
            msg = f"{text} cannot be read as a Python file"
            raise ModelSourceError(msg)
        module = importlib.util.module_from_spec(spec)
        # Registered before it runs: dataclasses and pickling inside the file look themselves up here.
        sys.modules[path.stem] = module
        spec.loader.exec_module(module)
    except SyntaxError as error:
        where = f"line {error.lineno}" if error.lineno else "an unknown line"
        msg = f"{text} is not valid Python: {error.msg} in {where} of {Path(str(error.filename)).name}. Mend the syntax and try again"
        raise ModelSourceError(msg) from error
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        line = _last_line(error, str(request["path"] or ""))
        msg = (
            f"importing {text} failed{line}: {type(error).__name__}: {_first_line(error)}. Expected a file that only defines the "
            'model; put code that trains or loads data under `if __name__ == "__main__":`'
        )
        raise ModelSourceError(msg) from error
    return module


def _module_classes(module: ModuleType) -> list[type[nn.Module]]:
    return [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, nn.Module) and value.__module__ == module.__name__
    ]


def _capture_only_candidate(module: ModuleType, text: str, seed: int, shape: tuple[int, ...]) -> CapturedModel:
    """The one class of the file that can be built and takes such an input."""
    classes = _module_classes(module)
    if not classes:
        msg = f"{text} defines no class derived from torch.nn.Module: expected one, such as `class Net(nn.Module)`"
        raise ModelSourceError(msg)
    captured: dict[str, CapturedModel] = {}
    refusals: dict[str, ModelSourceError | CaptureError] = {}
    for candidate in classes:
        try:
            captured[candidate.__name__] = _capture_class(candidate, f"{text}:{candidate.__name__}", seed, shape)
        except (ModelSourceError, CaptureError) as error:
            refusals[candidate.__name__] = error
    if len(captured) == 1:
        return dataclasses.replace(next(iter(captured.values())), name=text)
    if captured:
        names = ", ".join(captured)
        msg = f"{text} defines {len(captured)} models ({names}): name the one you mean, such as {text}:{next(iter(captured))}"
        raise ModelSourceError(msg)
    if len(refusals) == 1:
        raise next(iter(refusals.values()))
    reasons = "; ".join(f"{name}: {error}" for name, error in refusals.items())
    msg = f"{text} defines {len(refusals)} classes, none of which can be examined: {reasons}"
    raise ModelSourceError(msg)


def _capture_class(candidate: type[nn.Module], text: str, seed: int, shape: tuple[int, ...]) -> CapturedModel:
    missing = [
        parameter.name
        for parameter in inspect.signature(candidate).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if missing:
        msg = (
            f"{text}: the constructor of {candidate.__name__} needs {', '.join(missing)}: expected a class that can be built "
            "without arguments. Give each a default value"
        )
        raise ModelSourceError(msg)
    torch.manual_seed(seed)
    try:
        model = candidate()
    except (Exception, SystemExit) as error:
        msg = f"{text}: building {candidate.__name__}() failed: {type(error).__name__}: {_first_line(error)}"
        raise ModelSourceError(msg) from error
    return capture(model, shape, name=text)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else "no message").rstrip(".")[:300]


def _last_line(error: BaseException, path: str) -> str:
    """Where in the user's own file it happened."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    return f" in line {lines[-1]}" if lines else ""


if __name__ == "__main__":
    main(sys.argv[1])
