r"""The forms of lines that carry claims or evidence: one table of named patterns, as data.

Every pattern is searched in a line without emphasis and HTML tags, see `plain`. Repetitions are bounded and not nested, so
that the time to match is proportional to the length of a line. A pattern is tried only if one of its ``words`` occurs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal

from harness.claims.documents import Line
from harness.claims.evidence import Bound, Figure, Quote

_NUMBER = r"\d{1,9}(?:\.\d{1,18})?"
_FLOAT = r"-?\d{1,9}(?:\.\d{1,20})?(?:e[-+]?\d{1,3})?"
_PART = r"train(?:ing)?|test(?:ing)?|valid(?:ation)?|val|eval(?:uation)?"


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """A form of line: ``words`` are lower-case texts, one of which each such line has; ``example`` is one such line."""

    words: tuple[str, ...]
    regex: re.Pattern[str]
    example: str

    def find(self, text: str, lowered: str) -> re.Match[str] | None:
        """Return the first match in a line; ``lowered`` is the line in lower case."""
        return self.regex.search(text) if any(word in lowered for word in self.words) else None

    def last(self, text: str, lowered: str) -> re.Match[str] | None:
        """Return the last match in a line, such as the last of several progress bars printed without a line break."""
        match = None
        if any(word in lowered for word in self.words):
            for match in self.regex.finditer(text):  # noqa: B007 - the last one is wanted
                pass
        return match


def _pattern(words: str, regex: str, example: str) -> Pattern:
    return Pattern(words=tuple(words.split("|")), regex=re.compile(regex, re.IGNORECASE), example=example)


PATTERNS = {
    # Training logs
    "time": _pattern(
        ":", r"^\W{0,2}(?P<time>\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)\b", "2025-01-08 13:00:10 | INFO | EPOCH: 0"
    ),
    "epoch": _pattern(
        "epoch",
        r"^[^a-z]{0,60}(?:INFO\b[^a-z]{0,9})?(?:(?:currently |now )?(?:executing|running|training|starting) )?"
        r"epoch(?:_no| no\.?| number)?\s{0,3}[:=#-]{0,2}\s{0,3}\[?(?P<epoch>\d{1,5})\b\]?"
        r"(?:\s?(?:/|of)\s?(?P<of>\d{1,5})\]?)?(?P<rest>.{0,3000})$",
        "Currently Executing Epoch: 1",
    ),
    "count": _pattern(
        "acc|correct",
        rf"(?P<correct>\d{{1,9}})(?:\.0{{1,6}})?\s?/\s?(?P<total>\d{{1,9}})\s{{0,4}}"
        rf"[(\[]\s?(?P<percent>{_NUMBER})\s?%\s?[)\]]",
        "Test set: Average loss: 0.0572, Accuracy: 9821/10000 (98.21%)",
    ),
    "bare count": _pattern(
        "acc|correct",
        r"(?:acc(?:uracy)?|correct)\s?[:=]\s?(?P<correct>\d{1,9})(?:\.0{1,6})?\s?/\s?(?P<total>\d{1,9})(?!\S)",
        "Test: average loss 0.05, correct: 9821/10000",
    ),
    "percent and count": _pattern(
        "acc|correct",
        rf"(?P<percent>{_NUMBER})\s?%\s?[(\[]\s?(?P<correct>\d{{1,9}})\s?/\s?(?P<total>\d{{1,9}})\s?[)\]]",
        "Validation accuracy: 99.34% (9934/10000)",
    ),
    "percent": _pattern(
        "acc|correct",
        rf"\b(?P<part>{_PART})(?:[ _-]set)?\b[^|]{{0,60}}?\b(?:acc(?:uracy)?|(?:total_)?correct)\s{{0,3}}[:=]\s{{0,3}}"
        rf"(?P<percent>{_NUMBER})(?![\d./])\s?%?",
        "Test set: Average loss: 0.0572, Accuracy: 98.21%",
    ),
    "loss": _pattern(
        "loss",
        rf"\bloss(?:\s{{0,3}}[:=]\s{{0,3}}|\s)(?P<loss>{_FLOAT})",
        "Test set: Average loss: 0.0572, Accuracy: 98.21%",
    ),
    "bar": _pattern(
        "batch",
        rf"\bbatch(?:_id)?\s?=\s?(?P<batch>\d{{1,7}})\s{{1,3}}acc(?:uracy)?\s?=\s?(?P<percent>{_NUMBER})(?![\d./])",
        "Loss=0.0194 Batch_id=937 Accuracy=91.28: 100%|#####| 938/938 [01:24<00:00, 11.13it/s]",
    ),
    "steps": _pattern(
        "%|",
        r"(?P<done>\d{1,3})%\|[^|]{0,400}\|\s{0,3}(?P<step>\d{1,7})/(?P<steps>\d{1,7})\b",
        "100%|#####| 938/938 [01:24<00:00, 11.13it/s]",
    ),
    "part accuracy": _pattern(
        "acc",
        rf"\b(?P<part>{_PART})(?:[ _-](?:set|data))?[ _-]acc(?:uracy)?\s{{0,3}}[:=]\s{{0,3}}"
        rf"(?P<percent>{_NUMBER})\s?%?",
        "Train Loss: 0.0411 | Train Acc: 98.72% || Test Loss:  0.0176 | Test Acc:  99.40%",
    ),
    "part loss": _pattern(
        "loss",
        rf"\b(?P<part>{_PART})(?:[ _-]set)?[ _-]loss\s{{0,3}}[:=]\s{{0,3}}(?P<loss>{_FLOAT})",
        "Test Loss: 0.0176",
    ),
    "keras steps": _pattern(
        "===|━|step", r"^\s{0,9}(?P<step>\d{1,7})/(?P<steps>\d{1,7}) ", "60000/60000 [=====] - 5s - acc: 0.9934"
    ),
    "keras train": _pattern(
        "val_acc", rf"(?<!_)\bacc(?:uracy)?: (?P<percent>{_NUMBER})\b", "loss: 0.02 - acc: 0.9934 - val_acc: 0.9912"
    ),
    "keras test": _pattern(
        "val_acc", rf"\bval_acc(?:uracy)?: (?P<percent>{_NUMBER})\b", "loss: 0.02 - val_acc: 0.9912"
    ),
    "keras loss": _pattern("val_loss", rf"\bval_loss: (?P<loss>{_FLOAT})", "val_loss: 0.0310 - val_acc: 0.9912"),
    # Layer summaries
    "summary head": _pattern(
        "layer (type", r"^\W{0,9}layer \(type(?::depth-idx)?\).{1,200}\bparam", "Layer (type)   Output Shape   Param #"
    ),
    "torchsummary row": _pattern(
        "[",
        r"^\s{0,60}(?P<operation>[A-Za-z]\w{0,60})-\d{1,4}\s{1,60}\[(?P<shape>[-\d, ]{1,60})\]\s{1,60}"
        r"(?P<parameters>\S{1,20})\s{0,9}$",
        "            Conv2d-1           [-1, 16, 26, 26]             144",
    ),
    "torchinfo row": _pattern(
        ": ",
        r"^(?P<tree>[^A-Za-z]{0,80})(?P<operation>[A-Za-z]\w{0,60})(?: \(\w{1,60}\))?: (?P<depth>\d{1,2})-\d{1,4}"
        r"(?:\s{1,80}\[(?P<first>[-\d, ]{1,60})\])?(?:\s{1,80}\[(?P<shape>[-\d, ]{1,60})\])?\s{1,80}"
        r"(?P<parameters>--|\(recursive\)|\S{1,20})(?:\s.{0,200})?$",
        "|    └─Conv2d: 2-1                       144",
    ),
    "keras row": _pattern(
        "(",
        r"^\W{0,9}[\w.]{1,60} \((?P<operation>\w{1,40})\)[\s│┃|]{1,60}\(None,?(?P<shape>[\d, ]{0,60})\)"
        r"[\s│┃|]{1,60}(?P<parameters>[\d,]{1,20})(?:\W.{0,120})?$",
        "conv2d_1 (Conv2D)            (None, 26, 26, 32)        320",
    ),
    "module": _pattern(
        "): ",
        r"^\s{0,60}\(\w{1,60}\): (?P<operation>\w{1,60})\((?P<arguments>.{0,300})\)$",
        "    (conv1): Conv2d(1, 32, kernel_size=(3, 3), stride=(1, 1))",
    ),
    "total": _pattern(
        "total param", r"^\W{0,9}total params: {0,9}(?P<parameters>[\d,]{1,20})\b", "Total params: 13,808"
    ),
    "rest of summary": _pattern("trainable param", r"^\W{0,9}(?:non-)?trainable params:", "Non-trainable params: 0"),
    # Claims
    "best": _pattern(
        "best|highest|max|peak",
        rf"\b(?:best|highest|max(?:imum)?|peak)\s{{1,3}}(?:(?P<part>{_PART})\s{{1,3}})?(?:set\s)?acc(?:uracy|uracies)?\b"
        rf"(?:\s(?:achieved|reached|obtained|so far))?\s{{0,3}}(?:[:=]|is|was|of|-)?\s{{0,3}}(?P<bound>[<>]=?)?\s{{0,2}}"
        rf"(?P<value>{_NUMBER})\s?%?(?P<tail>.{{0,80}})",
        "Best Test Accuracy: 99.41 (15th Epoch)",
    ),
    "named epoch": _pattern(
        "epoch",
        r"\b(?:(?P<ordinal>\d{1,4})(?:st|nd|rd|th)\s{1,3}epoch|epoch\s{0,2}[#:]?\s{0,2}(?P<number>\d{1,4}))\b",
        "Best Test Accuracy: 99.41 (15th Epoch)",
    ),
    "parameters": _pattern(
        "param",
        r"\bparam(?:eter)?s?(?:\scount)?\b[^\w<>=:]{0,4}(?P<label>[:=]|is|are)?[^\w<>=]{0,3}(?:reduced to|of)?[^\w<>=]{0,3}"
        r"(?P<bound>[<>]=?|less than|under|below|at most|more than)?\s{0,3}"
        rf"(?<![\d.])(?P<value>\d{{1,3}}(?:,\d\d\d){{1,3}}|{_NUMBER})\s?(?P<scale>k|m|million|thousand)?\b(?!\s?%)",
        "Parameters: 13.8k",
    ),
    "so many parameters": _pattern(
        "param",
        r"(?P<bound>[<>]=?|less than|fewer than|under|below|at most|more than|within)?\s{0,3}(?<![\w.,])"
        rf"(?P<value>\d{{1,3}}(?:,\d\d\d){{1,3}}|{_NUMBER})\s?(?P<scale>k|m|million)?\s{{1,3}}"
        r"(?:total |trainable )?param(?:eter)?s?\b",
        "We have reached an accuracy of 99.55% with less than 10K parameters.",
    ),
    "accuracy": _pattern(
        "acc|efficien",
        r"(?P<bound>[<>]=?|over|above|not? more than|more than|at least|beyond|up ?to)?\s{0,2}"
        r"(?<![\w.])(?P<value>\d\d\.\d{1,6}|\d\d(?=\s?%))\s?%?"
        r"(?P<plus>\+)?",
        "The model is able to achieve 99.08% accuracy on the test set with 5.0k parameters.",
    ),
    "consistent": _pattern(
        "consisten|each of the last|in the last|in all of the last",
        r"(?:consisten\w{1,5}|last\s{1,2}(?P<last>\d{1,2}|few|two|three|four|five)\s{1,2}epochs)",
        "Consistently accuracy is at 99.4+",
    ),
    "epochs": _pattern(
        "epochs",
        r"(?:^\W{0,9}(?:number of |no\.? of |total |training |num_?)?epochs?\W{0,5}[:=|]\W{0,6}|"
        r"\btrained (?:it |the model )?(?:for|over|with) (?:exactly )?)(?P<value>\d{1,4})(?:\s{1,2}epochs)?\W{0,6}$",
        "- Epochs: 15",
    ),
    "batch size": _pattern(
        "batch",
        r"\bbatch[ _-]?size\b(?!=)\W{0,6}(?:of|is|was|:|=|\|)?\W{0,6}(?P<value>\d{1,5})\b(?P<tail>.{0,60})",
        "Batch Size: 128",
    ),
    "receptive field": _pattern(
        "receptive",
        r"\b(?:(?:effective|final|total|overall) receptive field(?: (?:of|for) the (?:network|model))?|"
        r"receptive field (?:of|for) the (?:network|model))\s{0,2}(?:is|of|:|=)\s{0,3}"
        r"(?P<value>\d{1,3})(?:\s?[x\u00d7]\s?\d{1,3})?(?!\s?[\d+*(-])",
        "Effective receptive field for the network is 38x38",
    ),
}

# Sentences with such words say what is wanted, not what was found; or that something was not reached.
TARGET = re.compile(
    r"\b(?:targets?|goals?|aim(?:ed|s)?|objective|should|must|needs?|needed|wants?|requirements?|required?|expected|constraints?|"
    r"try|trying|next|not able|unable|could ?n[o']t|can ?n[o']t|did ?n[o']t|still not|falls? short|fail(?:s|ed)?|asked|hope|"
    r"would|if|without|stuck)\b",
    re.IGNORECASE,
)
TARGET_HEADING = re.compile(
    r"\b(?:targets?|aims?|goals?|objectives?|constraints?|requirements?|problem|task)\b", re.IGNORECASE
)
# "Aim:" or "Aim of the assignment" above a list
TARGET_LINE = re.compile(
    r"^\W{0,6}(?:\d\.\s)?(?:targets?|aims?|goals?|objectives?|constraints?|requirements?)\b[^\d]{0,50}$", re.IGNORECASE
)
MET = re.compile(
    r"\|\s{0,3}(?:yes|met|done|achieved)\b|[✓✔✅]|\btarget (?:is |was )?(?:achieved|met|reached)\b", re.IGNORECASE
)
STOPS_EARLY = re.compile(r"early[ _-]?stop", re.IGNORECASE)
# A heading that names a model, and headings that end its section.
MODEL = re.compile(
    r"\b(?:(?:model|step|code|experiment|version|iteration|attempt)[ _-]{0,2}(?:no\.?|#|v)?[ _-]?(?P<number>\d{1,2})\b"
    r"|(?P<ordinal>first|second|third|fourth|fifth|sixth)[ _-](?:model|step|version|attempt)\b)",
    re.IGNORECASE,
)
# Headings within the section of a model that do not name a variant of it
PART_OF_SECTION = re.compile(
    r"\b(?:results?|resuts|analysis|summary|conclusions?|targets?|logs?|metrics|performance)\b", re.IGNORECASE
)
CLOSING = re.compile(r"\b(?:compar|conclu|overall|license|contribut|takeaway|final)", re.IGNORECASE)
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")
# The titles of columns, without spaces and signs
COLUMNS: dict[str, str] = {
    **dict.fromkeys(("layer", "layers", "layername", "operation", "block", "name", "layertype"), "name"),
    **dict.fromkeys(("rf", "receptivefield", "rfout", "outputrf", "effectiverf", "receptivefieldsize"), "field"),
    **dict.fromkeys(("rout", "outr"), "field out"),
    **dict.fromkeys(("k", "kernel", "kernelsize", "filter", "filtersize", "ks"), "kernel"),
    **dict.fromkeys(("s", "stride", "strides"), "stride"),
    **dict.fromkeys(("nin", "inputsize", "in", "input", "insize", "inputshape", "inputdim"), "in"),
    **dict.fromkeys(("nout", "outputsize", "out", "output", "outsize", "outputshape", "outputdim"), "out"),
    **dict.fromkeys(("epoch", "epochs", "epochno"), "epoch"),
    **dict.fromkeys(("trainacc", "trainaccuracy", "trainingaccuracy", "trainingacc"), "train"),
    **dict.fromkeys(("testacc", "testaccuracy", "valacc", "valaccuracy", "validationaccuracy"), "test"),
    **dict.fromkeys(("testloss", "valloss", "validationloss"), "loss"),
}
_NUMBER_WORDS = {"two": 2, "three": 3, "few": None, "four": 4, "five": 5}
_BOUNDS: dict[str, Bound] = {
    **dict.fromkeys(("<", "less than", "fewer than", "under", "below", "within"), "<"),
    **dict.fromkeys(("<=", "at most", "upto", "up to"), "<="),
    **dict.fromkeys((">", "over", "above", "more than", "beyond"), ">"),
    **dict.fromkeys((">=", "at least"), ">="),
}
_SCALES = {"k": 1000, "thousand": 1000, "m": 1_000_000, "million": 1_000_000}
_MAX_QUOTE = 160
_BAR = re.compile(r"%\|[^|\w]{4,400}\|")
_EMPHASIS = re.compile(r"\*{1,3}|`|<[/a-zA-Z][^<>]{0,200}>")


def plain(text: str) -> str:
    """Return a line without emphasis, code marks and HTML tags, and with ASCII signs of comparison."""
    if "*" in text or "`" in text or "<" in text:
        text = _EMPHASIS.sub("", text)
    return text.replace("≥", ">=").replace("≤", "<=") if "≥" in text or "≤" in text else text


def quote_of(line: Line) -> Quote:
    """Return a line as a quotation of readable length, without the bar of its progress."""
    text = line.text.strip()
    if "%|" in text:
        text = _BAR.sub("%|...|", text)
    return Quote(place=line.place, text=text if len(text) <= _MAX_QUOTE else f"{text[:_MAX_QUOTE]}...")


def figure(text: str, scale: str | None = None) -> Figure:
    """Return the number that a text prints, such as ``13,808``, or ``13.8`` with the scale ``k``."""
    return Figure(printed=Decimal(text.replace(",", "")), scale=_SCALES.get((scale or "").lower(), 1))


def percentage(text: str) -> Figure:
    """Return an accuracy in percent; a number up to 1 with at least two decimals is a fraction of one."""
    printed = Decimal(text)
    if printed <= 1 and int(printed.as_tuple().exponent) <= -2:  # noqa: PLR2004 - 1.0 may be one percent
        printed = printed.scaleb(2)
    return Figure(printed=printed)


def bound_of(text: str | None) -> Bound:
    """Return the sign of comparison for words such as ``less than``; empty for None."""
    return _BOUNDS.get(text.lower(), "") if text else ""


def last_epochs(text: str | None) -> int | None:
    """Return the number of last epochs of a text such as ``three`` or ``5``; None for ``few``."""
    return int(text) if text and text.isdigit() else _NUMBER_WORDS.get((text or "").lower())


def model_key(text: str) -> str | None:
    """Return the number of the model that a heading or a sentence names, or None."""
    match = MODEL.search(text)
    return _key(match) if match else None


def model_keys(text: str) -> tuple[str, ...]:
    """Return the numbers of all models that a sentence names."""
    return tuple(dict.fromkeys(_key(match) for match in MODEL.finditer(text)))


def _key(match: re.Match[str]) -> str:
    if match["number"]:
        return str(int(match["number"]))
    return str(1 + ORDINALS.index(match["ordinal"].lower()))
