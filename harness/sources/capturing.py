"""The request to import a user's file and capture its models, performed in a worker process."""

from __future__ import annotations

import contextlib
import inspect
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from harness.errors import CaptureError, HarnessError, ModelSourceError, first_line
from harness.graph import CapturedModel, capture, write_captured
from harness.sandbox import Failure, Request, Workspace
from harness.sources.building import build_model, restore_defaults
from harness.sources.copying import PrivateCopy, private_copy
from harness.sources.importing import ImportedFile, ModelClass, class_key, import_models, named_models
from harness.sources.source import ModelSource


@dataclass(frozen=True, kw_only=True)
class ClassReport:
    """A model class of the user's file and, if its graph could not be captured, the error.

    ``name`` is what the user types, such as ``net.py:Net``; ``key``, see `class_key`, identifies the class however the
    file is imported. ``parts`` holds the keys of its base classes and of the classes of its submodules; ``optional``,
    those of other classes that its code refers to. ``excuse`` is the reason for which a failure is ignored, if the
    class cannot take the images; else empty.
    """

    name: str
    key: str
    parts: tuple[str, ...]
    optional: tuple[str, ...]
    failure: Failure | None
    excuse: str

    def with_texts(self, change: Callable[[str], str]) -> ClassReport:
        """Return a copy with ``change`` applied to each key, the error message and the traceback."""
        failure = self.failure
        if failure is not None:
            failure = replace(failure, message=change(failure.message), traceback=change(failure.traceback))
        parts, optional = tuple(map(change, self.parts)), tuple(map(change, self.optional))
        return replace(self, key=change(self.key), parts=parts, optional=optional, failure=failure)


@dataclass(frozen=True, kw_only=True)
class CapturedClasses:
    """The model classes of a file, and messages for the user about how the file was imported.

    The graph and tensors of ``classes[n]`` are in the workspace, with the file stem ``n``, see `write_captured`.
    """

    classes: tuple[ClassReport, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class CaptureRequest(Request[CapturedClasses]):
    """A request to import a private copy of a user's file and to capture the graph of each model class in it.

    Python and NumPy begin with ``seed`` before the import, PyTorch before each class is built.

    The first progress line is the file's name; one line for each class follows.

    ``arguments`` are those of the constructor; ``input_shape`` is the shape of one input, without the batch dimension;
    ``twice`` is that of `harness.graph.capture`.
    """

    source: ModelSource
    arguments: str
    seed: int
    input_shape: tuple[int, ...]
    twice: bool = True

    result_type = CapturedClasses
    is_confined = True

    def prepare(self) -> None:
        """Limit torch to one thread and capture a trivial ``nn.Module`` once.

        Afterwards, the Python modules that are needed for capturing are imported.
        """
        torch.set_num_threads(1)
        capture(nn.Flatten(), (1, 2, 2), name="nothing", twice=False)

    def perform(self, workspace: Workspace) -> CapturedClasses:
        """Import the file, then build and capture each model.

        Raises:
            ModelSourceError: the file cannot be imported, or does not define a model class or not the class named in ``source``.
        """
        workspace.report(self.source.text)
        with private_copy(self.source, workspace.folder) as (source, copy):
            workspace.confine([copy.outside])
            # All forks of a worker begin with the same random state, whatever the seed.
            random.seed(self.seed)
            np.random.seed(self.seed % 2**32)  # noqa: NPY002 - the old global generator is the one that code draws from
            try:
                return self._import(source, copy, workspace)
            except HarnessError:
                raise
            except Exception as error:
                # Any object of the user's code can raise anything when it is looked at.
                raise ModelSourceError(
                    f"{source.text} cannot be examined: {type(error).__name__}: {first_line(error)}. Does the file replace "
                    "functions of Python or PyTorch, or define objects that raise when they are looked at? If not, report the "
                    "traceback that --debug shows."
                ) from error

    def _import(self, source: ModelSource, copy: PrivateCopy, workspace: Workspace) -> CapturedClasses:
        imported = import_models(source)
        defaults = restore_defaults()
        reports = []
        for number, (cls, name) in enumerate(imported.classes.items()):
            workspace.report(name)
            captured, report = self._capture(cls, name, imported)
            reports.append(report)
            if captured is not None:
                write_captured(captured, workspace.folder / str(number))
        for name, reason in imported.failed.items():
            text = f"{source.text}:{name}"
            failure = Failure.of(ModelSourceError(f"{text}: the class is not defined: {reason}"))
            key = f"{source.path}:{name}"
            reports.append(ClassReport(name=text, key=key, parts=(), optional=(), failure=failure, excuse=""))
        classes = tuple(report.with_texts(copy.original) for report in reports)
        notes = (*copy.notes(), *map(copy.original, imported.notes), *([defaults] if defaults else []))
        return CapturedClasses(classes=classes, notes=notes)

    def _capture(self, cls: ModelClass, name: str, imported: ImportedFile) -> tuple[CapturedModel | None, ClassReport]:
        model = captured = failure = None
        try:
            model = build_model(cls, name, self.arguments, self.seed)
            captured = capture(model, self.input_shape, name=name, twice=self.twice)
        except (ModelSourceError, CaptureError) as error:
            explained = type(error)(f"{error}{_missing_name(error, imported)}").with_traceback(error.__traceback__)
            explained.__cause__ = error.__cause__
            failure = Failure.of(explained)
        named = named_models(cls)
        # A built model shows its submodules; if a class cannot be built, the classes that its code refers to are used.
        parts = named if model is None else {type(part) for part in model.modules()} | set(cls.__mro__)
        return captured, ClassReport(
            name=name,
            key=class_key(cls),
            parts=tuple(class_key(part) for part in parts - {cls} if not part.__module__.startswith("torch.")),
            optional=tuple(map(class_key, named - parts)),
            failure=failure,
            excuse=_excuse(model, self.input_shape) if model is not None and failure is not None else "",
        )


def _excuse(model: nn.Module, shape: tuple[int, ...]) -> str:
    """Return why a module that was not captured cannot take inputs of ``shape``; empty if no reason is found by calling it."""
    needed: list[inspect.Parameter] = []
    with contextlib.suppress(TypeError, ValueError):
        parameters = inspect.signature(model.forward).parameters.values()
        needed = [one for one in parameters if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD]
    if len(needed) > 1 and not any(True for _ in nn.Module.parameters(model)):
        return f"its forward needs {len(needed)} arguments, and the model has no parameters"
    if shape[0] == 1 and not _accepts(model, shape):
        for colour in ((3, *shape[1:]), (3, 32, 32)):
            if _accepts(model, colour):
                return f"it takes images of shape {colour}"
    return ""


def _accepts(model: nn.Module, shape: tuple[int, ...]) -> bool:
    try:
        model.eval()
        with torch.no_grad():
            model(torch.zeros((2, *shape)))
    except Exception:  # noqa: BLE001 - a user's own code may raise anything
        return False
    return True


def _missing_name(error: BaseException, imported: ImportedFile) -> str:
    """Return a sentence on why a name is undefined, if a `NameError` for this name caused the error; else empty."""
    cause = error.__cause__
    if not isinstance(cause, NameError) or cause.name is None:
        return ""
    reason = imported.missing.get(cause.name) or imported.missing.get("*")
    return f". {cause.name} is missing: {reason}" if reason else ""
