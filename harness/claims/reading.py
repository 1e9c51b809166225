"""Reading a document: its lines, one after another, become claims, runs, layer tables and receptive-field tables.

Every line is seen once, and only what was found is kept, so that time is proportional to the length of the document.
"""

from __future__ import annotations

import re
from itertools import islice

from harness.claims import grammar
from harness.claims.documents import Document, Line
from harness.claims.evidence import Claim, DataPart, Place, Reading, Section, Unread
from harness.claims.logs import LogReader
from harness.claims.statements import claims_of
from harness.claims.tables import TableReader

# More than in any document that a person wrote; they bound time and memory for crafted ones.
MAX_CHARACTERS = 8 * 2**20
_MAX_ITEMS = 10_000
_MAX_CODE_LINES = 5_000
# On one line
_MOST_CLAIMS = 20
_FENCE = re.compile(r"^\s{0,12}(?:```|~~~)\s{0,9}(?P<language>[\w+-]{0,20})")
# A heading such as "### Epoch 1" is part of a log.
_HEADING = re.compile(
    r"^(?! {0,3}#{1,6}\W{0,9}(?i:epoch)\W{0,3}\d{1,5}(?:\W{1,3}\d{1,5})?\W{0,9}$)"
    r" {0,3}(?P<marks>#{1,6})\s{0,9}(?P<title>\S.{0,300})$"
)
_UNDERLINE = re.compile(r"^(?:={4,200}|~{4,200}|\^{4,200})$")
_CODE = re.compile(r"^(?:class \w{1,60}\b.{0,200}:|def \w{1,60}\(|import \w|from \w.{0,80} import )")
_PYTHON = ("python", "py", "python3", "ipython", "ipython3")
_NO_OUTPUT = (*_PYTHON, "bash", "sh", "shell", "toml", "yaml", "json")
_LONGEST_HEADING = 100
_NO_LEVEL = 7


def read(document: Document) -> Reading:
    """Read a document, up to a size that no document has that a person wrote."""
    reader = _Reader(document.name)
    for line in document.lines():
        reader.feed(line)
        if reader.is_full(line.place):
            break
    return reader.finish()


class _Reader:
    """The state of reading one document: its section, and whether the line is in code."""

    def __init__(self, name: str) -> None:
        self.characters = 0
        self._unread: list[Unread] = []
        self._logs = LogReader()
        self._tables = TableReader(self._logs)
        self._claims: list[Claim] = []
        # The last best accuracy of each part of the data with the run and epoch before it, and those that others follow
        self._bests: dict[DataPart | None, tuple[Claim, tuple[int, int]]] = {}
        self._interim: set[int] = set()
        self._section = Section(file=name, key=None, title="")
        self._sections: list[Section] = []
        self._level = _NO_LEVEL
        # Below a heading such as "Targets", or a line such as "Aim:" before a list
        self._wanted = self._listed = False
        self._variant = ""
        self._fence: str | None = None
        # Code in Markdown without a fence
        self._loose_code = False
        self._code: list[tuple[Section, str]] = []
        self._block: list[str] = []
        # The claims of the current fence or cell begin here.
        self._block_start = 0
        self._previous = ""
        # Whether the previous line is part of a log or a table
        self._is_evidence = False
        self._cell: int | None = None
        self._stops_early = False

    def feed(self, line: Line | Unread) -> None:
        """Read a line, or note what could not be read."""
        if isinstance(line, Unread):
            self._unread.append(line)
            return
        text = line.text
        self.characters += len(text)
        if line.place.cell != self._cell:
            self._end_parts()
            self._cell, self._fence, self._loose_code = line.place.cell, None, False
            self._block_start = len(self._claims)
        self._stops_early = self._stops_early or bool(grammar.STOPS_EARLY.search(text))
        if line.kind == "code":
            self._add_code(text)
        elif line.kind == "prose" and self._is_structure(text):
            self._listed = False
        elif text:
            self._read(line, grammar.plain(text))
        else:
            self._listed = False
            self._tables.blank()
        self._previous = text

    def is_full(self, place: Place) -> bool:
        """Whether the document is read up to this place only, which is noted."""
        results = len(self._claims) + len(self._unread) + self._logs.items
        if self.characters <= MAX_CHARACTERS and results <= _MAX_ITEMS:
            return False
        reason = f"a document of more than {MAX_CHARACTERS // 2**20} Mi characters or {_MAX_ITEMS:,} results is read up to here"
        self._unread.append(Unread(place=place, reason=reason))
        self._logs.cut()
        return True

    def finish(self) -> Reading:
        """Return what was read."""
        self._end_parts()
        return Reading(
            file=self._section.file,
            claims=tuple(one for one in self._claims if id(one) not in self._interim),
            runs=tuple(self._logs.runs),
            tables=tuple(self._tables.layers),
            fields=tuple(self._tables.fields),
            counts=tuple(self._logs.counts),
            sections=tuple(self._sections),
            unread=(*self._unread, *self._logs.unread, *self._tables.unread),
            code=tuple(self._code),
            stops_early=self._stops_early,
            characters=self.characters,
        )

    def _read(self, line: Line, text: str) -> None:
        """Read a line that is neither structure nor code: evidence first, and claims where there is none."""
        lowered = text.lower()
        self._is_evidence = self._tables.read(line, text, lowered, self._section) or self._logs.read(
            line, text, lowered, self._section
        )
        if self._is_evidence:
            return
        printed = line.kind in ("output", "log") or self._fence is not None
        if not printed and len(text) < _LONGEST_HEADING:
            if grammar.TARGET_LINE.match(text) or text.endswith(":"):
                self._listed = bool(grammar.TARGET_LINE.match(text))
            if not self._previous and re.match(r"\s{0,3}[A-Za-z][^\d|]{2,60}$", text):
                # A line of its own above a list, such as "With batch norm"
                self._variant = "" if grammar.PART_OF_SECTION.search(text) else text.strip()
        found = claims_of(
            line, text, self._section, printed=printed, wanted=self._wanted or self._listed, variant=self._variant
        )
        for claim in islice(found, _MOST_CLAIMS):
            if claim.kind == "best":
                self._supersede(claim)
            self._claims.append(claim)

    def _supersede(self, claim: Claim) -> None:
        """Drop the best accuracies that a program printed earlier: of those after every epoch only the last is final."""
        if claim.printed:
            mine, start = (claim.kind, claim.part), self._block_start
            self._claims[start:] = [one for one in self._claims[start:] if (one.kind, one.part) != mine]
        moment = self._logs.moment
        last, then = self._bests.get(claim.part, (claim, moment))
        if last.section == claim.section and then[0] == moment[0] and 0 < then[1] < moment[1]:
            self._interim.add(id(last))
        self._bests[claim.part] = claim, moment

    def _is_structure(self, text: str) -> bool:
        """Whether a line of prose is a heading, a fence or code; the state follows it."""
        if fence := _FENCE.match(text):
            self._tables.end()
            if self._fence is not None:
                # A closing fence has no language.
                if not fence["language"]:
                    self._fence = None
                    self._end_block()
            elif self._loose_code and not fence["language"]:
                self._loose_code = False
            else:
                self._fence, self._loose_code = fence["language"].lower(), False
                self._block_start = len(self._claims)
            return True
        if self._fence is not None:
            if self._fence in _PYTHON:
                self._add_code(text)
            return self._fence in _NO_OUTPUT
        if heading := _HEADING.match(text):
            if not (self._loose_code and len(heading["marks"]) == 1):
                # "### Analysis: The model reaches 99.4 %." has its text in the heading.
                title, _, rest = heading["title"].partition(":")
                self._begin_part(len(heading["marks"]), title)
                return not rest.strip()
        elif _UNDERLINE.match(text) and self._may_be_title:
            self._begin_part(1, self._previous)
            return True
        self._loose_code = self._loose_code or bool(_CODE.match(text))
        if self._loose_code:
            self._add_code(text)
        return self._loose_code

    @property
    def _may_be_title(self) -> bool:
        """Whether the previous line may be a heading, as a line of a log or a table is not."""
        return len(self._previous) < _LONGEST_HEADING and self._previous[:1].isalpha() and not self._is_evidence

    def _begin_part(self, level: int, title: str) -> None:
        """Begin the part of the document below a heading; it may begin or end the section of a model."""
        self._end_parts()
        self._loose_code = False
        title = grammar.plain(title).strip(" #:*")
        key = grammar.model_key(title)
        self._wanted, self._listed = bool(grammar.TARGET_HEADING.search(title)), False
        self._variant = "" if key or grammar.PART_OF_SECTION.search(title) else title
        closes = level < self._level or (level == self._level and grammar.CLOSING.search(title))
        if key is not None and key != self._section.key:
            self._section, self._level = Section(file=self._section.file, key=key, title=title), level
            self._sections.append(self._section)
        elif key is None and self._section.key is not None and closes:
            self._section, self._level = Section(file=self._section.file, key=None, title=title), _NO_LEVEL

    def _end_parts(self) -> None:
        self._logs.end()
        self._tables.end()
        self._end_block()

    def _add_code(self, text: str) -> None:
        if len(self._block) < _MAX_CODE_LINES:
            self._block.append(text)

    def _end_block(self) -> None:
        if self._block:
            self._code.append((self._section, "\n".join(self._block) + "\n"))
            self._block = []
