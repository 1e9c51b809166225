"""Layer summaries, receptive-field tables and tables of epochs: rows of text become rows of typed data."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import pairwise

from harness.claims.documents import Line
from harness.claims.evidence import FieldRow, LayerRow, LayerTable, Quote, Section, TableForm, Unread
from harness.claims.grammar import COLUMNS, FRAGMENTS, PATTERNS, quote_of
from harness.claims.logs import LogReader

_INTEGER = re.compile(r"\d{1,9}")
_NUMBER = re.compile(FRAGMENTS["percent"])
_GAP = re.compile(r"\s{2,200}|\t")
_KERNEL = re.compile(r"(\d{1,2})\s?[x\u00d7*]\s?\1\b")
_DILATION = re.compile(r"\b(?:dilat|atrous)[a-z]{0,8}\W{0,3}(?:rate\W{0,3})?(?:of )?(\d{1,2})?", re.IGNORECASE)
_GRID_WORDS = ("rf", "recept", "r_out", "epoch")
_WITHOUT_PARAMETERS = re.compile(r"\w*(?:ReLU6?|GELU|SiLU|Dropout\w?\w?|Pool2d|Softmax|Flatten|Identity|Sigmoid|Tanh)")
_FEWEST_COLUMNS = 3
_FLAGS = {"True": 1, "False": 0}


@dataclass(kw_only=True)
class _Summary:
    """A layer summary that is being read."""

    form: TableForm
    head: Quote
    rows: list[LayerRow] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    complete: bool = True


@dataclass(kw_only=True)
class _Grid:
    """A table with known columns that is being read."""

    columns: list[str]
    piped: bool
    rows: list[FieldRow] = field(default_factory=list)


class TableReader:
    """Reads the rows of tables, one after another; the rows of a table of epochs go to the reader of logs."""

    def __init__(self, logs: LogReader) -> None:
        self.layers: list[LayerTable] = []
        self.fields: list[tuple[FieldRow, ...]] = []
        self.unread: list[Unread] = []
        self._logs = logs
        self._section = Section(file="", key=None, title="")
        self._open: _Summary | _Grid | None = None

    def read(self, line: Line, text: str, lowered: str, section: Section) -> bool:
        """Read a line, whose plain text and section are given; return whether it is part of a table."""
        self._section = section
        if "param" in lowered or "layer (type" in lowered:
            if total := PATTERNS["total"].find(text, lowered):
                self._total(int(total["parameters"].replace(",", "")), quote_of(line))
                return True
            if PATTERNS["rest of summary"].find(text, lowered):
                return True
            if PATTERNS["summary head"].find(text, lowered):
                self._logs.end()
                self.end()
                self._open = _Summary(
                    form="torchinfo" if "depth-idx" in lowered else "torchsummary", head=quote_of(line)
                )
                return True
        if isinstance(self._open, _Grid):
            return self._grid_row(self._open, line, text)
        if self._open is None and PATTERNS["module"].find(text, lowered):
            self._open = _Summary(form="print", head=quote_of(line))
        if self._open is not None:
            return self._layer(self._open, line, text, lowered)
        return any(word in lowered for word in _GRID_WORDS) and self._grid(text)

    def blank(self) -> None:
        """Take notice of an empty line, which ends a grid."""
        if isinstance(self._open, _Grid):
            self.end()

    def end(self) -> None:
        """End the current table."""
        if isinstance(self._open, _Summary):
            self._close(self._open, None, self._open.head)
        elif self._open is not None and self._open.rows:
            self.fields.append(tuple(self._open.rows))
        self._open = None

    def _total(self, total: int, quote: Quote) -> None:
        """End a summary with its printed total; a total without a summary is a table without rows."""
        summary, self._open = self._open, None
        if isinstance(summary, _Summary):
            self._close(summary, total, quote)
        elif not any(one.section == self._section and one.total == total for one in self.layers):
            self._close(_Summary(form="total", head=quote, complete=False), total, quote)

    def _close(self, summary: _Summary, total: int | None, quote: Quote) -> None:
        rows = summary.rows
        if summary.form == "torchinfo" and rows:
            # A container's own row, if it has a number, is the sum of the rows below it.
            deeper = zip(rows, summary.depths, [*summary.depths[1:], 0], strict=True)
            rows = [row for row, depth, following in deeper if following <= depth]
        if rows or total is not None:
            complete = summary.complete and bool(rows)
            table = LayerTable(
                form=summary.form, section=self._section, rows=tuple(rows), total=total, quote=quote, complete=complete
            )
            self.layers.append(table)

    def _layer(self, summary: _Summary, line: Line, text: str, lowered: str) -> bool:
        """Read a row of a layer summary; a line that is no row, but has figures, leaves the summary incomplete."""
        if summary.form == "print":
            found = PATTERNS["module"].find(text, lowered)
            if found:
                parameters = module_parameters(found["operation"], found["arguments"])
                summary.complete = summary.complete and parameters is not None
                row = LayerRow(
                    operation=found["operation"], shape=None, parameters=parameters or 0, quote=quote_of(line)
                )
                summary.rows.append(row)
            elif not text.endswith("(") and text.strip() != ")":
                self.end()
                return False
            return True
        for form in ("torchsummary row", "torchinfo row", "keras row"):
            found = PATTERNS[form].find(text, lowered)
            if found and (parameters := _parameters(found["parameters"])) is not None:
                shape = _shape(found["shape"] or (found["first"] if form == "torchinfo row" else None), form)
                row = LayerRow(operation=found["operation"], shape=shape, parameters=parameters, quote=quote_of(line))
                if form == "torchsummary row" and int(found["row"]) != len(summary.rows) + 1:
                    summary.complete = False
                summary.rows.append(row)
                summary.depths.append(int(found["depth"]) if form == "torchinfo row" else 0)
                summary.form = "keras" if form == "keras row" else summary.form
                return True
        if "acc" in lowered or "epoch" in lowered:
            self.end()
            return False
        if re.search(r"[A-Za-z].*[\d\ufffd]", text) or PATTERNS["left out"].find(text, lowered):
            summary.complete = False
            if "\ufffd" in text:
                self.unread.append(Unread(place=line.place, reason="a row of a layer summary has damaged characters"))
        return True

    def _grid(self, text: str) -> bool:
        """Begin a receptive-field table or a table of epochs, if the line has the column titles of one."""
        cells, piped = _cells(text)
        columns = [COLUMNS.get(re.sub(r"[\s_.()%/#-]", "", cell.lower()), "") for cell in cells]
        if "field" not in columns:
            columns = ["field" if title == "field out" else title for title in columns]
        of_fields = {"field", "name"} <= set(columns) and bool(set(columns) & {"kernel", "stride", "in", "out"})
        if len(cells) < _FEWEST_COLUMNS or not (of_fields or {"epoch", "test"} <= set(columns)):
            return False
        self._logs.end()
        self._open = _Grid(columns=columns, piped=piped)
        return True

    def _grid_row(self, grid: _Grid, line: Line, text: str) -> bool:
        if not re.search(r"\w", text):
            return True
        cells = _cells(text)[0] if grid.piped else text.rsplit(None, len(grid.columns) - 1)
        if len(cells) != len(grid.columns) or (grid.piped and "|" not in text):
            self.end()
            return False
        row = {title: cell.strip() for title, cell in zip(grid.columns, cells, strict=True) if title}
        if "epoch" not in row:
            found = _field_row(row, quote_of(line))
            if found.field or found.kernel:
                grid.rows.append(found)
            return True
        label, test, train = (_NUMBER.search(row.get(title, "")) for title in ("epoch", "test", "train"))
        if label is None or test is None or "." in label[0]:
            self.end()
            return False
        loss = _NUMBER.search(row.get("loss", ""))
        self._logs.add_row(int(label[0]), train and train[0], test[0], loss and loss[0], line, self._section)
        return True


def _cells(text: str) -> tuple[list[str], bool]:
    """Split a line of a table into cells; the second value says whether they are separated by ``|``."""
    if text.count("|") > 1:
        return text.strip().strip("|").split("|"), True
    return [cell for cell in _GAP.split(text.strip()) if cell], False


def _parameters(printed: str) -> int | None:
    """The parameters of a row; 0 for a row without or with shared ones, None if the number cannot be read."""
    digits = printed.replace(",", "")
    return int(digits) if digits.isdecimal() else 0 if digits in {"--", "(recursive)"} else None


def _shape(printed: str | None, form: str) -> tuple[int, ...] | None:
    """The shape of an output without the batch, which Keras does not print."""
    sizes = tuple(int(size) for size in re.findall(r"-?\d{1,9}", printed or ""))
    return (sizes if form == "keras row" else sizes[1:]) if printed else None


def _size(cell: str) -> int | None:
    """The side of a square such as ``26``, ``26x26`` or, with channels first or last, ``16x26x26``."""
    sizes = [int(size) for size in _INTEGER.findall(cell)]
    sides = [one for one, other in pairwise(sizes) if one == other] if len(sizes) > 1 else sizes
    return sides[-1] if sides else None


def _field_row(row: dict[str, str], quote: Quote) -> FieldRow:
    sizes = {title: _size(cell) for title, cell in row.items()}
    name = row["name"]
    kernel, dilation = _KERNEL.search(name), _DILATION.search(name)
    return FieldRow(
        name=name,
        field=sizes["field"],
        kernel=sizes.get("kernel") or (int(kernel[1]) if kernel else None),
        stride=sizes.get("stride"),
        size_in=sizes.get("in"),
        size_out=sizes.get("out"),
        quote=quote,
        dilation=sizes.get("dilation") or (int(dilation[1] or 0) or None if dilation else 1),
    )


def module_parameters(operation: str, arguments: str) -> int | None:
    """Return the number of parameters of a module as ``print(model)`` shows it.

    None for an operation that is not known, and for arguments that are no numbers, as those of source code.
    """
    positional = re.findall(r"(?:^|, )(\w{1,40})(?=,|$)", arguments)
    named: dict[str, str] = dict(re.findall(r"(\w{1,40})=(\([^()]{0,40}\)|[^,()]{1,40})", arguments))
    try:
        return _counted(operation, positional, named)
    except (ValueError, KeyError, ZeroDivisionError):
        return None


def _counted(operation: str, positional: list[str], named: dict[str, str]) -> int | None:
    bias = _FLAGS[named.get("bias", "True")]
    match operation, positional:
        case "Conv2d", [inputs, outputs, *_] if "kernel_size" in named:
            kernel = [int(size) for size in named["kernel_size"].strip("()").split(",")]
            channels = int(inputs) // int(named.get("groups", "1"))
            return (channels * kernel[0] * kernel[-1] + bias) * int(outputs)
        case "Linear", _:
            return (int(named["in_features"]) + bias) * int(named["out_features"])
        case "BatchNorm2d", [channels]:
            return 2 * int(channels) * _FLAGS[named.get("affine", "True")]
    return 0 if _WITHOUT_PARAMETERS.fullmatch(operation) and operation != "PReLU" else None
