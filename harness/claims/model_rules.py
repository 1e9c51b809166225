"""Rules on parameters, layer summaries and receptive fields, and on the code that they describe."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from fractions import Fraction

from harness.claims.dossier import Dossier, Found
from harness.claims.evidence import Claim, FieldRow, Figure
from harness.claims.rule import report, rule


@rule("contradiction", "Show the summary as it was printed.")
def summary_total(dossier: Dossier) -> Iterator[Found]:
    """The rows of a layer summary do not add up to the total that it prints."""
    for table in dossier.tables:
        total, found = table.total or 0, sum(row.parameters for row in table.rows)
        if table.complete and found != total:
            way = "more" if found > total else "fewer"
            shown = f"the {len(table.rows)} rows add up to {found:,}, {abs(found - total):,} {way}"
            yield report(
                table.quote, f"{total:,} parameters in total", shown, table.rows[0].quote, table.rows[-1].quote
            )


@rule("contradiction", "State the total of the layer summary.")
def parameters_claimed(dossier: Dossier) -> Iterator[Found]:
    """A stated number of parameters is not that of the layer summary; one in a comparison is not that of any model."""
    for claim in _parameters(dossier):
        paired = dossier.tables_for(claim)
        known = {table.total or 0: table.quote for table in paired.items}
        if paired.confidence != "same section":
            stated = (one for one in _parameters(dossier) if one.section.key and one.section.file == claim.section.file)
            known |= {int(one.value.exact): one.quote for one in stated}
        # What the folder holds may be of an earlier model; the code of the folder decides, see `total_against_code`.
        sure = paired.confidence != "same folder" and (paired.sure or claim.section.key is None)
        named = [claim, *dossier.variants_of(claim)]
        if known and sure and not any(_is_rounded(one.value, total) for one in named for total in known):
            total, quote = min(known.items(), key=lambda item: abs(item[0] - claim.value.exact))
            none = f"none of the {len(known)} models has them; the nearest" if len(known) > 1 else "the layer summary"
            said, shown = f"{claim.value} parameters", f"{none} has {total:,}"
            yield report(claim.quote, said, shown, quote, confidence=paired.confidence)


def _parameters(dossier: Dossier) -> list[Claim]:
    """The claims of an exact or rounded number of parameters behind a label."""
    claims = (claim for claim in dossier.claims if claim.kind == "parameters" and claim.labelled)
    return [claim for claim in claims if not claim.bound and not claim.target]


def _is_rounded(value: Figure, total: int) -> bool:
    """Whether a number such as 13.8k is a total, rounded up or down."""
    return value.exact == total if value.scale == 1 and value.unit == 1 else abs(value.exact - total) < value.unit


@rule("overstatement", "State the number of parameters, or at most that many if the bound is included.")
def over_budget(dossier: Dossier) -> Iterator[Found]:
    """A model is said to have fewer parameters than a number, and has as many or more."""
    for claim in dossier.claims:
        if claim.kind != "parameters" or not claim.bound or (claim.target and not claim.met):
            continue
        paired = dossier.tables_for(claim)
        if paired.sure and not any(claim.allows(Fraction(table.total or 0)) for table in paired.items):
            table = paired.items[-1]
            equal = ", exactly as many" if table.total == claim.value.exact else ""
            shown = f"the layer summary has {table.total:,}{equal}"
            said = f"{claim.bound} {claim.value} parameters"
            yield report(claim.quote, said, shown, table.quote, confidence=paired.confidence)


@rule("contradiction", "State the total of the code that is submitted, or submit the code of the summary.")
def total_against_code(dossier: Dossier) -> Iterator[Found]:
    """The total of a layer summary, or a stated number of parameters, is not that of the code."""
    stated = [(table.section, table.quote, Figure(printed=Decimal(table.total or 0))) for table in dossier.tables]
    claims = (
        one for one in _parameters(dossier) if not one.mentions and dossier.tables_for(one).confidence == "same folder"
    )
    stated += [(claim.section, claim.quote, claim.value) for claim in claims]
    for section, quote, value in stated:
        paired = dossier.models_for(section)
        known = [total for model in paired.items for total in (model.total, model.total - model.unreached)]
        if paired.sure and not any(_is_rounded(value, total) for total in known):
            model = paired.items[-1]
            unreached = f", {model.unreached:,} of them in modules that are never called" if model.unreached else ""
            shown = f"the code in {model.section.file} has {model.total:,}{unreached}"
            yield report(quote, f"{value} parameters", shown, confidence=paired.confidence)


@rule("note", "Remove the modules that forward does not call; a budget may count them.")
def never_called(dossier: Dossier) -> Iterator[Found]:
    """The total of a layer summary leaves out the parameters of modules that forward never calls."""
    for table in dossier.tables:
        paired = dossier.models_for(table.section)
        model = next((one for one in paired.items if one.unreached and one.total - one.unreached == table.total), None)
        if model is not None:
            shown = (
                f"the code in {model.section.file} has {model.total:,}; {model.unreached:,} of them are of modules that "
                f"are never called and not in the summary: {', '.join(model.never_called)}"
            )
            yield report(table.quote, f"{table.total:,} parameters", shown, confidence=paired.confidence)


@rule("contradiction", "Show the summary of the code that is submitted.")
def shapes_against_code(dossier: Dossier) -> Iterator[Found]:
    """An output shape in a layer summary is not that of the code, whose layers are the same."""
    for table in dossier.tables:
        rows = [row for row in table.rows if row.shape is not None and row.operation in _WITH_SHAPE]
        paired = dossier.models_for(table.section)
        if not paired.sure or len(paired.items) > 1 or not rows or table.form == "keras":
            continue
        layers = [layer for layer in paired.items[0].layers if layer[0] in _WITH_SHAPE]
        if [row.operation for row in rows] != [name for name, _ in layers]:
            continue
        pairs = ((row, shape) for row, (_, shape) in zip(rows, layers, strict=True) if row.shape != shape)
        if different := next(pairs, None):
            row, shape = different
            shown = f"the code in {paired.items[0].section.file} gives {list(shape)}"
            yield report(row.quote, f"output shape {list(row.shape or ())}", shown, confidence=paired.confidence)


_WITH_SHAPE = ("Conv2d", "MaxPool2d", "AvgPool2d", "Linear")


@rule("contradiction", "State the receptive field that `harness show` computes.")
def field_against_code(dossier: Dossier) -> Iterator[Found]:
    """The receptive field that is stated for the network is not that of the code, with or without the head's pooling."""
    for claim in dossier.claims:
        paired = dossier.models_for(claim.section, claim.mentions)
        known = {field for model in paired.items for field in model.fields}
        if claim.kind == "receptive field" and not claim.target and paired.sure and claim.value.exact not in known:
            fields = ", ".join(map(str, sorted(known)))
            shown = f"by the code it is one of {fields}: before or behind the head, within the image or beyond"
            yield report(claim.quote, f"receptive field {claim.value}", shown, confidence=paired.confidence)


# Layers to which the formula of a chain does not apply
_HEAD_OR_BRANCH = re.compile(r"gap|global|avg|average|adaptive|transpos|deconv|upsampl|unpool|shortcut|skip|branch")


def _computed_fields(table: Sequence[FieldRow]) -> list[tuple[FieldRow, int]]:
    """The receptive field of each row before the head, by the rows' own kernels and strides, as far as these are known.

    size' = size + (kernel - 1) * dilation * jump; jump' = jump * stride (Araujo, Norris and Sim, Distill, 2019).
    """
    size, jump = 1, 1
    computed = []
    for row in table:
        name = row.name.lower()
        if name.startswith(("input", "image")):
            continue
        pools = "pool" in name
        kernel = row.kernel or (2 if pools and "max" in name else None)
        stride = row.stride or _stride(row, pools=pools)
        if _HEAD_OR_BRANCH.search(name) or kernel is None or stride is None or row.dilation is None:
            break
        if kernel > 1 and kernel == row.size_in:
            break
        size, jump = size + (kernel - 1) * row.dilation * jump, jump * stride
        computed.append((row, size))
    return computed


def _stride(row: FieldRow, *, pools: bool) -> int | None:
    if row.size_in is None or row.size_out is None or row.size_out == 0:
        return 2 if pools else None
    ratio = row.size_in // row.size_out
    # A convolution without padding loses the width of its kernel; only a stride halves the map.
    return ratio if pools or (ratio > 1 and row.size_out > 1) else 1


@rule("contradiction", "Compute each row: size + (kernel - 1) * jump; the stride enters the jump of the next row.")
def receptive_field_table(dossier: Dossier) -> Iterator[Found]:
    """Rows of a receptive-field table before the head are not what their kernels and strides give."""
    for reading in dossier.readings:
        for table in reading.fields:
            rows = _computed_fields(table)
            wrong = [(row, size) for row, size in rows if row.field not in {size, None}]
            if wrong:
                first = wrong[0][0]
                said = f"receptive field {', '.join(str(row.field) for row, _ in wrong)} from {first.name!r} on"
                right = ", ".join(str(size) for _, size in wrong)
                shown = f"by the rows' kernels and strides it is {right}; {len(wrong)} of {len(rows)} rows are wrong"
                yield report(first.quote, said, shown, *(row.quote for row, _ in wrong))
