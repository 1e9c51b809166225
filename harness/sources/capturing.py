"""The request to import a user's file and capture its models, performed in a worker process."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from harness.errors import CaptureError, ModelSourceError
from harness.graph import CapturedModel, capture, write_captured
from harness.processes import Failure, Request, Workspace
from harness.sources.building import build_model
from harness.sources.importing import ImportedFile, ModelClass, class_key, import_models
from harness.sources.source import ModelSource


@dataclass(frozen=True, kw_only=True)
class ClassReport:
    """A class of the file that may be the model, and why it was not captured, or None.

    The name is how it can be typed, such as ``net.py:Net``; the key, see `class_key`, is the same whichever way the file was
    imported. The parts are keys of the classes that it is built from or derives from. ``runs``: it was built and accepts the
    images, captured or not.
    """

    name: str
    key: str
    parts: tuple[str, ...]
    runs: bool
    failure: Failure | None


@dataclass(frozen=True, kw_only=True)
class CapturedClasses:
    """The classes of a file, and sentences for the user on how it was read.

    The graph and tensors of the n-th class are in the workspace under the name ``n``, see `write_captured`.
    """

    classes: tuple[ClassReport, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class CaptureRequest(Request[CapturedClasses]):
    """Import a file, not a shipped model, and capture each model in it. The progress names the file, then each class.

    The arguments are those of the constructor; the input shape is that of one input, without the batch dimension.
    """

    source: ModelSource
    arguments: str
    seed: int
    input_shape: tuple[int, ...]

    result_type = CapturedClasses

    def prepare(self) -> None:
        """Capture a layer, on one thread."""
        torch.set_num_threads(1)
        capture(nn.Flatten(), (1, 2, 2), name="nothing")

    def perform(self, workspace: Workspace) -> CapturedClasses:
        """Import the file, then build and capture each model.

        Raises:
            ModelSourceError: the file cannot be imported, or holds no such class.
        """
        workspace.report(self.source.text)
        imported = import_models(self.source)
        reports = []
        for number, (cls, name) in enumerate(imported.classes.items()):
            workspace.report(name)
            captured, report = self._capture(cls, name, imported)
            reports.append(report)
            if captured is not None:
                write_captured(captured, workspace.folder / str(number))
        return CapturedClasses(classes=tuple(reports), notes=tuple(imported.notes))

    def _capture(self, cls: ModelClass, name: str, imported: ImportedFile) -> tuple[CapturedModel | None, ClassReport]:
        model = captured = failure = None
        try:
            model = build_model(cls, name, self.arguments, self.seed)
            captured = capture(model, self.input_shape, name=name)
        except (ModelSourceError, CaptureError) as error:
            explained = type(error)(f"{error}{_missing_name(error, imported)}").with_traceback(error.__traceback__)
            explained.__cause__ = error.__cause__
            failure = Failure.of(explained)
        if model is None:
            mentioned = imported.mentions.get(cls.__name__, frozenset())
            parts = {other for other in imported.classes if other is not cls and other.__name__ in mentioned}
        else:
            parts = {type(part) for part in model.modules()} | set(cls.__mro__[1:])
            parts = {part for part in parts - {cls} if not part.__module__.startswith("torch.")}
        runs = captured is not None or (model is not None and _accepts(model, self.input_shape))
        keys = tuple(map(class_key, parts))
        return captured, ClassReport(name=name, key=class_key(cls), parts=keys, runs=runs, failure=failure)


def _accepts(model: nn.Module, shape: tuple[int, ...]) -> bool:
    try:
        with torch.no_grad():
            model.eval()(torch.zeros((2, *shape)))
    except Exception:  # noqa: BLE001 - a user's own code may raise anything
        return False
    return True


def _missing_name(error: BaseException, imported: ImportedFile) -> str:
    """Why a name is missing, if a `NameError` caused the error."""
    cause = error.__cause__
    if not isinstance(cause, NameError) or cause.name is None:
        return ""
    reason = imported.missing.get(cause.name) or imported.missing.get("*")
    return f". {cause.name} is missing: {reason}" if reason else ""
