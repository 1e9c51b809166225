"""A contract in words."""

from __future__ import annotations

from collections.abc import Iterator

from harness.contracts.contract import Contract

_FEATURES = {
    "gap": "global average pooling over a whole map, through which every way to the output leads, in any spelling",
    "dropout": "dropout with p above 0 that is active in training and off in evaluation",
    "batch_norm": "batch normalisation by the batch in training and by running statistics in evaluation",
    "linear": "a fully connected layer, a convolution over a whole map included",
}


def explain(contract: Contract) -> Iterator[str]:
    """What a contract asks of the structure, one sentence a requirement; accuracy is explained by its own room."""
    yield "The captured graph computes what the model computes, bit for bit, in training and in evaluation."
    if contract.input is not None:
        yield f"The model takes images of {_shape(contract.input)} (channels, rows, columns)."
    if contract.asks_output:
        classes = "" if contract.classes is None else f" for {contract.classes} classes"
        yield f"It answers with {' or '.join(contract.outputs)}{classes}."
    if contract.bare_head:
        yield "No activation, normalisation or dropout stands between the last layer with weights and the output."
    if contract.parameters is not None:
        budget = contract.parameters
        hidden = (
            "numbers in constants and in buffers that are no normalisation statistics count, too"
            if budget.hidden_state
            else "only declared parameters count"
        )
        yield f"It has {budget.words} parameters; shared ones count once, uncalled ones count, and {hidden}."
    if contract.receptive_field is not None:
        bound = contract.receptive_field
        where = "of the output" if bound.including_pool else "before the head's pooling"
        yield f"The receptive field {where} is {bound.words} pixels along rows and columns."
    for feature, words in _FEATURES.items():
        presence = contract.features.get(feature)
        if presence is not None:
            yield f"There is {words}." if presence == "required" else f"There is no {words.removeprefix('a ')}."
    if contract.any_of:
        yield f"There is at least one of: {'; '.join(_FEATURES[feature] for feature in contract.any_of)}."
    if contract.batch is not None and contract.batch.independent:
        yield "In evaluation an image's answer depends neither on the other images nor on their order or number."
    if contract.batch is not None and contract.batch.strict_size:
        yield "Images of another size are an error or get one answer each, never more or fewer answers than images."
    if contract.gradients:
        yield "A backward pass gives every trainable parameter a finite gradient that is not zero throughout."
    if contract.cost is not None:
        yield f"One image costs {contract.cost.words}."


def _shape(dims: tuple[int, ...]) -> str:
    return "x".join(str(dim) for dim in dims)
