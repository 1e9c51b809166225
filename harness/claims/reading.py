"""Reading a document: its lines, one after another, become claims, runs, layer tables and receptive-field tables.

The reader sees every line once and keeps only what it has found, so that time is proportional to the length of the document.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import Any

from harness.claims import grammar
from harness.claims.documents import Document, Line
from harness.claims.evidence import (
    Accuracy,
    Claim,
    DataPart,
    Epoch,
    FieldRow,
    FieldTable,
    Figure,
    LayerRow,
    LayerTable,
    PrintedCount,
    Quote,
    Reading,
    Run,
    Section,
    Unread,
)
from harness.claims.grammar import PATTERNS, figure, percentage

# More than in any document that a person wrote; bounds the memory for crafted ones.
_MAX_ITEMS = 50_000
_MAX_QUOTE = 160
_MAX_CODE_LINES = 2_000
# A line without an epoch's number belongs to the last heading if it follows within so many lines.
_NEAR = 12
_TRAIN_TOTAL = 45_000
_LEAST_ACCURACY = 50
_FENCE = re.compile(r"^\s{0,12}(?:```|~~~)\s{0,9}(?P<language>[\w+-]{0,20})")
_HEADING = re.compile(r"^ {0,3}(?P<marks>#{1,6})\s{0,9}(?P<title>\S.{0,300})$")
_UNDERLINE = re.compile(r"^(?:={4,200}|~{4,200}|\^{4,200})\s{0,9}$")
_CODE = re.compile(r"^(?:class \w{1,60}\b.{0,200}:|def \w{1,60}\(|import \w|from \w)")
_DAMAGED = re.compile(r"[\d.,]\ufffd|\ufffd[\d.,]")
_SENTENCE = re.compile(r"(?<=[.;!?])\s{1,9}(?=\S)")
_CLAIM_WORDS = ("acc", "param", "epoch", "batch", "recept", "efficien")
_RESULT_WORDS = ("acc", "correct")
_MODULE_END = re.compile(r"^\s{0,60}\)\s{0,9}$")
_INTEGER = re.compile(r"\d{1,9}")
_PART = re.compile(r"\b(train|test|valid)", re.IGNORECASE)
_CELLS = re.compile(r"\s{2,200}|\t")
_COLUMNS: dict[str, str] = {
    **dict.fromkeys(("layer", "layers", "layername", "operation", "block", "name", "layertype"), "name"),
    **dict.fromkeys(("rf", "receptivefield", "rfout", "outputrf", "effectiverf", "receptivefieldsize"), "field"),
    **dict.fromkeys(("rout", "outr"), "field out"),
    **dict.fromkeys(("k", "kernel", "kernelsize", "filter", "filtersize", "ks"), "kernel"),
    **dict.fromkeys(("s", "stride", "strides"), "stride"),
    **dict.fromkeys(("nin", "inputsize", "in", "input", "insize", "inputshape", "inputdim"), "in"),
    **dict.fromkeys(("nout", "outputsize", "out", "output", "outsize", "outputshape", "outputdim"), "out"),
    **dict.fromkeys(("epoch", "epochs", "epoch#", "epochno"), "epoch"),
    **dict.fromkeys(("trainacc", "trainaccuracy", "trainingaccuracy", "trainingacc"), "train"),
    **dict.fromkeys(
        ("testacc", "testaccuracy", "valacc", "valaccuracy", "validationaccuracy", "testingaccuracy"), "test"
    ),
}


@dataclass(kw_only=True)
class _Pending:
    """What the log has printed for an epoch before its test result."""

    label: int | None = None
    heading: Quote | None = None
    heading_line: int = -1_000
    train: Accuracy | None = None
    train_quote: Quote | None = None
    steps: int | None = None
    begun: datetime | None = None
    bar: bool = False


@dataclass(kw_only=True)
class _Table:
    """A table that is being read: a layer summary (`form`) or a grid with known columns."""

    quote: Quote
    form: Any = None
    rows: list[Any] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    complete: bool = True
    columns: list[str] = field(default_factory=list)
    piped: bool = False


def read(document: Document) -> Reading:
    """Read a document."""
    reader = _Reader(document.name)
    for line in document.lines():
        if isinstance(line, Unread):
            reader.unread.append(line)
        elif not reader.feed(line):
            break
    return reader.finish()


class _Reader:
    """The state of reading one document."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.unread: list[Unread] = []
        self.claims: list[Claim] = []
        self.runs: list[Run] = []
        self.tables: list[LayerTable] = []
        self.fields: list[FieldTable] = []
        self.counts: list[PrintedCount] = []
        self.sections: list[Section] = []
        self.section = Section(file=name, key=None, title="")
        self.level = 7
        self.wanted = False
        self.variant = ""
        self.listed = False
        self.fence: str | None = None
        self.loose_code = False
        self.code: list[tuple[Section, str]] = []
        self.block: list[str] = []
        self.pending = _Pending()
        self.epochs: list[Epoch] = []
        self.damaged = 0
        self.table: _Table | None = None
        self.previous = ""
        self.count = 0
        self.cell: int | None = None
        self.stops_early = False

    def feed(self, line: Line) -> bool:
        """Read a line; return whether the next one is wanted."""
        self.count += 1
        text = line.text
        if line.place.cell != self.cell:
            self.end_run()
            self.end_table()
            self.end_block()
            self.cell, self.fence, self.loose_code = line.place.cell, None, False
        if not self.stops_early and grammar.STOPS_EARLY.search(text):
            self.stops_early = True
        if line.kind == "code" or (line.kind == "prose" and self.is_structure(text)):
            if line.kind == "code" and len(self.block) < _MAX_CODE_LINES:
                self.block.append(text)
        elif text:
            text = grammar.plain(text)
            if len(text) < 80 and (grammar.TARGET_LINE.match(text) or text.endswith(":")):  # noqa: PLR2004 - no paragraph
                self.listed = bool(grammar.TARGET_LINE.match(text))
            self.read_line(line, text)
        else:
            self.listed = False
            if self.table and self.table.columns:
                self.end_table()
        self.previous = text
        items = len(self.claims) + len(self.counts) + len(self.epochs) + len(self.unread)
        if items + len(self.table.rows if self.table else ()) < _MAX_ITEMS:
            return True
        reason = f"more than {_MAX_ITEMS:,} results: the rest of the document is not read"
        self.unread.append(Unread(place=line.place, text=text[:_MAX_QUOTE], reason=reason))
        return False

    def finish(self) -> Reading:
        """Return what was read."""
        self.end_run()
        self.end_table()
        self.end_block()
        return Reading(
            file=self.name,
            claims=tuple(self.claims),
            runs=tuple(self.runs),
            tables=tuple(self.tables),
            fields=tuple(self.fields),
            counts=tuple(self.counts),
            sections=tuple(self.sections),
            unread=tuple(self.unread),
            code=tuple(self.code),
            stops_early=self.stops_early,
        )

    # Structure of Markdown

    def is_structure(self, text: str) -> bool:
        """Whether a line of prose is a heading, a fence or code; the state follows it."""
        if match := _FENCE.match(text):
            if self.fence is not None:
                if not match["language"]:
                    self.end_block()
                    self.fence = None
            elif self.loose_code and not match["language"]:
                # The end of code that nothing had opened.
                self.loose_code = False
            else:
                self.fence, self.loose_code = match["language"].lower(), False
            return True
        if self.fence is not None:
            if self.fence in ("python", "py", "python3", "ipython", "bash", "sh", "shell", "toml", "yaml", "json"):
                if self.fence.startswith("py") and len(self.block) < _MAX_CODE_LINES:
                    self.block.append(text)
                return True
            return False
        if match := _HEADING.match(text):
            if not (self.loose_code and len(match["marks"]) == 1):
                # "### Analysis: The model reaches 99.4 %." has its text in the heading.
                title, colon, rest = match["title"].partition(":")
                self.heading(len(match["marks"]), title)
                return not (colon and rest.strip())
        elif _UNDERLINE.match(text) and 0 < len(self.previous) < 100 and self.previous[0].isalpha():  # noqa: PLR2004
            self.heading(1, self.previous)
            return True
        if _CODE.match(text):
            self.loose_code = True
        return self.loose_code

    def heading(self, level: int, title: str) -> None:
        """Begin the part of the document below a heading."""
        self.end_run()
        self.end_table()
        self.loose_code = False
        title = grammar.plain(title).strip(" #:*")
        self.wanted = bool(grammar.TARGET_HEADING.search(title))
        key = grammar.model_key(title)
        self.variant = "" if key or grammar.PART_OF_SECTION.search(title) else title
        closes = level < self.level or (level == self.level and grammar.CLOSING.search(title))
        if key is not None and key != self.section.key:
            self.section, self.level = Section(file=self.name, key=key, title=title), level
            self.sections.append(self.section)
        elif key is None and self.section.key is not None and closes:
            self.section, self.level = Section(file=self.name, key=None, title=title), 7

    def end_block(self) -> None:
        """End a block of Python code."""
        if self.block:
            self.code.append((self.section, "\n".join(self.block) + "\n"))
            self.block = []

    # Lines

    def read_line(self, line: Line, text: str) -> None:
        """Read a line that is neither structure nor code: evidence first, and claims where there is none."""
        lowered = text.lower()
        if self.read_table(line, text, lowered):
            return
        if self.read_log(line, text, lowered):
            return
        if len(self.claims) < _MAX_ITEMS and any(word in lowered for word in _CLAIM_WORDS):
            self.claims += list(self.claims_of(line, text, lowered))

    def read_log(self, line: Line, text: str, lowered: str) -> bool:
        """Read a line of a training log; return whether it is one."""
        quote = quote_of(line)
        if (
            "epoch" in lowered
            and (heading := PATTERNS["epoch"].find(text, lowered))
            and self.is_epoch(heading, lowered)
        ):
            self.begin_epoch(int(heading["epoch"]), text, line)
            if not any(word in lowered for word in _RESULT_WORDS):
                return True
        if not any(word in lowered for word in _RESULT_WORDS) and "%|" not in text:
            return False
        if "\ufffd" in text and _DAMAGED.search(text):
            self.unread.append(Unread(place=line.place, text=quote.text, reason="a figure has damaged characters"))
            self.damaged += "loss" in lowered and "batch" not in lowered
            self.pending.bar = True
            return True
        return self.read_bar(quote, text, lowered) or self.read_result(line, quote, text, lowered)

    def is_epoch(self, heading: re.Match[str], lowered: str) -> bool:
        """Whether a line that begins with an epoch's number is a log's heading, and no sentence about an epoch."""
        rest = heading["rest"].lower()
        return not re.search("[a-z]", rest) or "loss" in lowered or "|" in rest

    def begin_epoch(self, label: int, text: str, line: Line) -> None:
        """Begin an epoch that the log numbers ``label``."""
        if self.pending.label == label and self.pending.heading_line > 0:
            self.pending.heading_line = self.count
            return
        last = self.epochs[-1].label if self.epochs else None
        if last is not None and label < last:
            self.end_run()
        time = PATTERNS["time"].find(text, text)
        self.pending = _Pending(
            label=label, heading=quote_of(line), heading_line=self.count, begun=time_of(time) if time else None
        )

    def read_bar(self, quote: Quote, text: str, lowered: str) -> bool:
        """Read the progress bar of a training epoch."""
        bar, steps = PATTERNS["bar"].last(text, lowered), PATTERNS["steps"].last(text, lowered)
        if bar:
            self.pending.train = Accuracy(percent=percentage(bar["percent"]))
            self.pending.train_quote, self.pending.bar = quote, True
        if steps and (bar or "loss" in lowered):
            self.pending.steps, self.pending.bar = int(steps["steps"]), True
        elif bar:
            self.pending.steps = int(bar["batch"]) + 1
        return bool(bar or steps)

    def read_result(self, line: Line, quote: Quote, text: str, lowered: str) -> bool:
        """Read the test result of an epoch, or the train result of the same form."""
        near = self.count - self.pending.heading_line <= _NEAR
        if keras := PATTERNS["keras test"].last(text, lowered):
            train, steps = PATTERNS["keras train"].last(text, lowered), PATTERNS["keras steps"].find(text, lowered)
            if train:
                self.pending.train, self.pending.train_quote = Accuracy(percent=percentage(train["percent"])), quote
            if steps and int(steps["steps"]) < _TRAIN_TOTAL:
                self.pending.steps = int(steps["steps"])
            loss = PATTERNS["keras loss"].last(text, lowered)
            self.add_epoch(Accuracy(percent=percentage(keras["percent"])), loss and loss["loss"], line, quote)
            return True
        counted = PATTERNS["count"].last(text, lowered) or PATTERNS["percent and count"].last(text, lowered)
        bare = None if counted else PATTERNS["bare count"].last(text, lowered)
        if counted or bare:
            return self.read_count(line, quote, text, lowered, counted or bare)  # type: ignore[arg-type]
        parts = list(PATTERNS["part accuracy"].regex.finditer(text)) if "acc" in lowered else []
        of = {"train" if part["part"].lower().startswith("train") else "test": part["percent"] for part in parts}
        if not of and near and (single := PATTERNS["percent"].find(text, lowered)):
            of = {"train" if single["part"].lower().startswith("train") else "test": single["percent"]}
        if not (of and near) or PATTERNS["best"].find(text, lowered) or "new best" in lowered:
            return False
        if "train" in of:
            self.pending.train, self.pending.train_quote = Accuracy(percent=percentage(of["train"])), quote
        if "test" in of:
            losses = {m["part"].lower()[:4]: m["loss"] for m in PATTERNS["part loss"].regex.finditer(text)}
            loss = PATTERNS["loss"].last(text, lowered)
            printed = next((losses[part] for part in ("test", "val", "vali", "eval") if part in losses), None)
            self.add_epoch(Accuracy(percent=percentage(of["test"])), printed or (loss and loss["loss"]), line, quote)
        return True

    def read_count(self, line: Line, quote: Quote, text: str, lowered: str, match: re.Match[str]) -> bool:
        """Read a result with a count of correct predictions."""
        correct, total = int(match["correct"]), int(match["total"])
        percent = percentage(match["percent"]) if "percent" in match.groupdict() else None
        accuracy = Accuracy(percent=percent, correct=correct, total=total)
        if percent is not None:
            self.counts.append(PrintedCount(accuracy=accuracy, section=self.section, quote=quote))
        label = re.search(r"\b(train|test|val|eval)", lowered[: match.start()])
        is_train = label[1] == "train" if label and total < _TRAIN_TOTAL else total >= _TRAIN_TOTAL
        if is_train:
            self.pending.train, self.pending.train_quote, self.pending.bar = accuracy, quote, True
            return True
        near = self.count - self.pending.heading_line <= _NEAR
        if "loss" not in lowered and not near and not self.pending.bar:
            return False
        loss = PATTERNS["loss"].last(text, lowered)
        self.add_epoch(accuracy, loss and loss["loss"], line, quote)
        return True

    def add_epoch(self, test: Accuracy, loss: str | None, line: Line, quote: Quote) -> None:
        """Add an epoch to the current run, unless its line repeats the last or is a closing evaluation."""
        pending = self.pending
        last = self.epochs[-1] if self.epochs else None
        if last is not None:
            fresh = pending.label is not None or pending.bar
            if not fresh and (last.label is not None or (last.test, last.test_loss) == (test, loss)):
                return
            if pending.label is not None and pending.label == last.label:
                if (last.test, last.test_loss) == (test, loss):
                    self.pending = _Pending()
                    return
                self.end_run()
        time = PATTERNS["time"].find(line.text, line.text)
        self.epochs.append(
            Epoch(
                label=pending.label,
                test=test,
                test_quote=quote,
                test_loss=loss,
                heading=pending.heading,
                train=pending.train,
                train_quote=pending.train_quote,
                steps=pending.steps,
                begun=pending.begun,
                ended=time_of(time) if time else None,
            )
        )
        self.pending = _Pending()

    def end_run(self) -> None:
        """End the current run."""
        if self.epochs:
            self.runs.append(Run(section=self.section, epochs=tuple(self.epochs), damaged=self.damaged))
        self.epochs, self.damaged, self.pending = [], 0, _Pending()

    # Tables

    def read_table(self, line: Line, text: str, lowered: str) -> bool:
        """Read a row of a layer summary or of a grid; return whether it is one."""
        if match := PATTERNS["total"].find(text, lowered):
            self.end_table(int(match["parameters"].replace(",", "")), quote_of(line))
            return True
        if PATTERNS["rest of summary"].find(text, lowered):
            return True
        if PATTERNS["summary head"].find(text, lowered):
            self.end_run()
            self.end_table()
            form = "torchinfo" if "depth-idx" in lowered else "torchsummary"
            self.table = _Table(quote=quote_of(line), form=form)
            return True
        if self.table is not None and self.table.form:
            return self.read_layer(self.table, line, text, lowered)
        if match := PATTERNS["module"].find(text, lowered):
            self.table = _Table(quote=quote_of(line), form="print")
            return self.read_layer(self.table, line, text, lowered)
        if self.table is not None:
            return self.read_grid(self.table, line, text)
        if "rf" in lowered or "recept" in lowered or "r_out" in lowered or "epoch" in lowered:
            return self.begin_grid(line, text)
        return False

    def read_layer(self, table: _Table, line: Line, text: str, lowered: str) -> bool:
        """Read a row of a layer summary."""
        quote = quote_of(line)
        if table.form == "print":
            match = PATTERNS["module"].find(text, lowered)
            if match is None:
                if not text.rstrip().endswith("(") and not _MODULE_END.match(text):
                    self.end_table()
                    return False
                return True
            parameters = module_parameters(match["operation"], match["arguments"])
            table.complete = table.complete and parameters is not None
            row = LayerRow(operation=match["operation"], shape=None, parameters=parameters or 0, quote=quote)
            table.rows.append(row)
            return True
        for form in ("torchsummary row", "torchinfo row", "keras row"):
            match = PATTERNS[form].find(text, lowered)
            if match is None:
                continue
            printed = match["parameters"].replace(",", "")
            if not printed.isdigit() and printed not in ("--", "(recursive)"):
                break
            shape = match["shape"] or (match["first"] if form == "torchinfo row" else None)
            dims = tuple(int(number) for number in re.findall(r"\d+", shape)) if shape else None
            if form != "keras row" and dims is not None:
                dims = tuple(int(number) for number in re.findall(r"-?\d+", shape or ""))[1:]
            table.rows.append(
                LayerRow(
                    operation=match["operation"],
                    shape=dims,
                    parameters=int(printed) if printed.isdigit() else 0,
                    quote=quote,
                )
            )
            table.depths.append(int(match["depth"]) if form == "torchinfo row" else 0)
            if form == "keras row":
                table.form = "keras"
            return True
        if re.search(r"[A-Za-z]", text) and re.search(r"[\d\ufffd]", text):
            table.complete = False
            if "\ufffd" in text:
                self.unread.append(Unread(place=line.place, text=quote.text, reason="a row has damaged characters"))
            elif any(word in lowered for word in _RESULT_WORDS) or "epoch" in lowered:
                self.end_table()
                return False
        return True

    def begin_grid(self, line: Line, text: str) -> bool:
        """Begin a receptive-field table or a table of epochs if the line has the column titles of one."""
        cells, piped = cells_of(text)
        titles = [_COLUMNS.get(re.sub(r"[\s_.()%/-]", "", cell.lower()), "") for cell in cells]
        if "field" not in titles:
            titles = ["field" if title == "field out" else title for title in titles]
        fields = {"field", "name"} <= set(titles) and len(set(titles) & {"kernel", "stride", "in", "out"}) > 0
        if len(cells) < 3 or not (fields or {"epoch", "test"} <= set(titles)):  # noqa: PLR2004 - less is no table
            return False
        self.end_run()
        self.table = _Table(quote=quote_of(line), columns=titles, piped=piped)
        return True

    def read_grid(self, table: _Table, line: Line, text: str) -> bool:
        """Read a row of a receptive-field table or of a table of epochs."""
        if not re.search(r"\w", text):
            return True
        cells = cells_of(text)[0] if table.piped else text.rsplit(None, len(table.columns) - 1)
        named = {title: cell for title, cell in zip(table.columns, cells, strict=False) if title}
        if len(cells) != len(table.columns) or (table.piped and "|" not in text):
            self.end_table()
            return False
        quote = quote_of(line)
        if "epoch" in table.columns:
            label, test = _INTEGER.fullmatch(named["epoch"].strip()), number_in(named["test"])
            if label is None or test is None:
                self.end_table()
                return False
            train = number_in(named.get("train", ""))
            self.begin_epoch(int(label[0]), text, line)
            self.pending.train = Accuracy(percent=percentage(train)) if train else None
            self.pending.train_quote = quote
            self.add_epoch(Accuracy(percent=percentage(test)), None, line, quote)
            return True
        row = field_row(named, quote)
        if row is not None:
            table.rows.append(row)
        return True

    def end_table(self, total: int | None = None, quote: Quote | None = None) -> None:
        """End the current table, with the total that a layer summary prints."""
        table, self.table = self.table, None
        if table is not None and table.columns and table.rows:
            self.fields.append(FieldTable(section=self.section, rows=tuple(table.rows)))
        is_summary = table is not None and table.form
        if is_summary and table is not None and (table.rows or total is not None):
            rows = table.rows
            if table.form == "torchinfo":
                # A container's own row, if it has a number, is the sum of the rows below it.
                deeper = zip(rows, table.depths, [*table.depths[1:], 0], strict=True)
                rows = [row for row, depth, following in deeper if following <= depth]
            self.tables.append(
                LayerTable(
                    form=table.form,
                    section=self.section,
                    rows=tuple(rows),
                    total=total,
                    quote=quote or table.quote,
                    complete=table.complete and bool(rows),
                )
            )
        elif total is not None and quote is not None:
            known = any(one.section == self.section and one.total == total for one in self.tables)
            if not known:
                table = _Table(quote=quote)
                self.tables.append(
                    LayerTable(form="total", section=self.section, rows=(), total=total, quote=quote, complete=False)
                )

    # Claims

    def claims_of(self, line: Line, text: str, lowered: str) -> Iterator[Claim]:
        """Yield the claims of a line; in the output of a program only whole lines such as ``Parameters: 13.8k`` are claims."""
        printed = line.kind in ("output", "log") or self.fence is not None
        if printed and (len(text) > 80 or "so far" in lowered or "new " in lowered):  # noqa: PLR2004 - a short line
            return
        quote, met = quote_of(line), bool(grammar.MET.search(text))
        for sentence in [text] if printed else _SENTENCE.split(text):
            wanted = self.wanted or self.listed or bool(grammar.TARGET.search(sentence))
            made = Claim(
                kind="accuracy",
                section=self.section,
                quote=quote,
                value=Figure(printed=Decimal(0)),
                variant=self.variant,
                target=wanted,
                met=met,
            )
            for claim in _claims_in(sentence, made):
                if printed and not re.match(r"^\W{0,12}(?:best|highest|max|total|param|no|number)", lowered):
                    continue
                if printed and claim.kind == "best":
                    self.replace_printed(claim)
                yield claim

    def replace_printed(self, claim: Claim) -> None:
        """Forget an earlier best accuracy that the same program printed: only the last one is final."""
        self.claims = [
            one
            for one in self.claims
            if not (
                (one.kind, one.part, one.section) == (claim.kind, claim.part, claim.section)
                and one.quote.place.cell == claim.quote.place.cell
                and claim.quote.place.cell is not None
            )
        ]


def _claims_in(text: str, made: Claim) -> Iterator[Claim]:
    """Yield the claims of a sentence; ``made`` holds what they share."""
    lowered = text.lower()
    taken: set[int] = set()
    if "acc" in lowered or "efficien" in lowered:
        for match in PATTERNS["best"].regex.finditer(text):
            taken.add(match.start("value"))
            epoch = PATTERNS["named epoch"].find(match["tail"], match["tail"].lower())
            yield replace(
                made,
                kind="at least" if (match["bound"] or "")[:1] == ">" else "best",
                value=percentage(match["value"]),
                bound=grammar.bound_of(match["bound"]),
                part=part_at(text, match.start("value")),
                epoch=int(epoch["ordinal"] or epoch["number"]) if epoch else None,
            )
        consistent = PATTERNS["consistent"].find(text, lowered)
        for match in PATTERNS["accuracy"].regex.finditer(text):
            value = percentage(match["value"])
            if match.start("value") in taken or not _LEAST_ACCURACY <= value.printed <= 100:  # noqa: PLR2004 - percent
                continue
            bound = ">=" if match["plus"] else grammar.bound_of(match["bound"])
            digits = -int(value.printed.as_tuple().exponent)
            mentions = grammar.model_keys(text[: match.start("value")])
            claim = replace(made, value=value, bound=bound, part=part_at(text, match.start("value")), mentions=mentions)
            if consistent:
                yield replace(claim, kind="consistent", last=grammar.last_epochs(consistent["last"]))
            elif bound == "<=":
                yield replace(claim, kind="best")
            elif bound[:1] == ">" or (made.met and digits < 2):  # noqa: PLR2004 - results have two decimals, aims one
                yield replace(claim, kind="at least")
            elif not bound and digits >= 2:  # noqa: PLR2004 - as above
                yield claim
    if "param" in lowered:
        labelled = PATTERNS["parameters"].find(text, lowered)
        if found := labelled or PATTERNS["so many parameters"].find(text, lowered):
            value, bound = figure(found["value"], found["scale"]), grammar.bound_of(found["bound"])
            yield replace(
                made,
                kind="parameters",
                value=value,
                bound=bound,
                labelled=bool(labelled and labelled["label"]),
                mentions=grammar.model_keys(text[: found.start("value")]),
            )
    for kind in ("epochs", "batch size", "receptive field"):
        if found := PATTERNS[kind].find(text, lowered):
            tail = found["tail"] if kind == "batch size" else ""
            others = tuple(figure(number) for number in _INTEGER.findall(tail))
            yield replace(made, kind=kind, value=figure(found["value"]), others=others)


def part_at(text: str, position: int) -> DataPart | None:
    """Return the part of the data that an accuracy at a position of a sentence is of; None if the sentence leaves it open."""
    words: list[tuple[int, DataPart]] = [
        (match.start(), "train" if match[1].lower() == "train" else "test") for match in _PART.finditer(text)
    ]
    parts = {part for _, part in words}
    before = [part for start, part in words if position - 40 <= start < position]
    return parts.pop() if len(parts) == 1 else before[-1] if before else None


def quote_of(line: Line) -> Quote:
    """Return a line as a quotation, cut to a readable length; a progress bar is left out."""
    text = (
        re.sub(r"\|[█▏▎▍▌▋▊▉#\ufffd ]{4,400}\|", "|...|", line.text.strip()) if "%|" in line.text else line.text.strip()
    )
    return Quote(place=line.place, text=text if len(text) <= _MAX_QUOTE else f"{text[:_MAX_QUOTE]}...")


def time_of(match: re.Match[str]) -> datetime | None:
    """Return the time that a line of a log begins with; None if there is no such time."""
    try:
        return datetime.fromisoformat(match["time"])
    except ValueError:
        return None


def cells_of(text: str) -> tuple[list[str], bool]:
    """Split a line of a table into cells; the second value says whether they are separated by ``|``."""
    if text.count("|") > 1:
        return [cell.strip() for cell in text.strip().strip("|").split("|")], True
    return [cell for cell in _CELLS.split(text.strip()) if cell], False


def number_in(cell: str) -> str | None:
    """Return the first number of a cell."""
    match = re.search(r"\d{1,9}(?:\.\d{1,18})?", cell)
    return match[0] if match else None


def field_row(named: dict[str, str], quote: Quote) -> FieldRow | None:
    """Return a row of a receptive-field table; None for a row without a receptive field."""
    size = number_in(named["field"])
    if size is None or "." in size:
        return None
    integers = {title: _INTEGER.search(cell) for title, cell in named.items() if title != "name"}
    of = {title: int(match[0]) for title, match in integers.items() if match}
    named_kernel = re.search(r"(\d{1,2})\s?[x\u00d7*]\s?\1\b", named["name"])
    kernel = of.get("kernel") or (int(named_kernel[1]) if named_kernel else None)
    return FieldRow(
        name=named["name"].strip(),
        field=int(size),
        kernel=kernel,
        stride=of.get("stride"),
        size_in=of.get("in"),
        size_out=of.get("out"),
        quote=quote,
    )


def module_parameters(operation: str, arguments: str) -> int | None:
    """Return the number of parameters of a module as ``print(model)`` shows it; None if the operation is unknown."""
    positional: list[int] = [int(number) for number in re.findall(r"(?:^|, )(\d{1,9})(?=,|$)", arguments)]
    named: dict[str, str] = dict(re.findall(r"(\w{1,40})=(\([^()]{0,40}\)|[^,()]{1,40})", arguments))
    bias = named.get("bias", "True") == "True"
    if operation == "Conv2d" and len(positional) >= 2 and "kernel_size" in named:  # noqa: PLR2004 - channels in and out
        sizes = [int(number) for number in re.findall(r"\d{1,4}", named["kernel_size"])]
        inputs, outputs = positional[:2]
        return inputs // int(named.get("groups", 1)) * outputs * sizes[0] * sizes[-1] + bias * outputs
    if operation == "Linear" and {"in_features", "out_features"} <= named.keys():
        outputs = int(named["out_features"])
        return int(named["in_features"]) * outputs + bias * outputs
    if operation.startswith("BatchNorm") and positional:
        return 2 * positional[0] if named.get("affine", "True") == "True" else 0
    plain = re.match(
        r"(?:\w*ReLU6?|GELU|SiLU|Dropout\w*|\w*Pool2d|LogSoftmax|Softmax|Flatten|Identity|Sigmoid|Tanh)$", operation
    )
    return 0 if plain and operation != "PReLU" else None
