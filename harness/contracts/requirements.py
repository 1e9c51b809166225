"""The requirements: each looks at a captured model, and says what it found and on what evidence."""

from __future__ import annotations

from collections.abc import Callable

from harness.contracts.contract import Contract, FieldBound, ParameterBudget, Presence
from harness.errors import HarnessError
from harness.findings import Finding, Status
from harness.graph import CapturedModel, Structure

_NAMES = {
    "gap": "global average pooling",
    "dropout": "dropout",
    "batch_norm": "batch normalisation",
    "linear": "a fully connected layer",
}
# Evidence is for reading: a model with 500 dropouts lists the first few.
_LISTED = 6


def examine(captured: CapturedModel, contract: Contract) -> tuple[Finding, ...]:
    """Decide every structure requirement of a contract on a captured model.

    A defect of the examiner becomes an ``error`` finding of that requirement; the others are decided all the same.
    """
    structure = Structure(captured.graph)
    return tuple(_guarded(name, decide, structure) for name, decide in _asked(captured, contract))


def requirement_names(contract: Contract) -> tuple[str, ...]:
    """Names of the structure requirements that a contract asks, in the order in which they are decided."""
    names = ["capture"]
    names += ["input"] if contract.input is not None else []
    names += ["output"] if contract.classes is not None else []
    names += ["parameters"] if contract.parameters is not None else []
    names += ["receptive_field"] if contract.receptive_field is not None else []
    names += [feature for feature in _NAMES if feature in contract.features]
    names += ["any_of"] if contract.any_of else []
    return tuple(names)


_Decision = Callable[[Structure], Finding]


def _asked(captured: CapturedModel, contract: Contract) -> list[tuple[str, _Decision]]:
    decisions: dict[str, _Decision] = {
        "capture": lambda _: _capture(captured),
        "input": lambda structure: _input(structure, contract.input or ()),
        "output": lambda structure: _output(structure, contract.classes or 0, contract.outputs),
        "parameters": lambda structure: _parameters(structure, contract.parameters or ParameterBudget()),
        "receptive_field": lambda structure: _receptive_field(structure, contract.receptive_field or FieldBound()),
        "any_of": lambda structure: _any_of(structure, contract.any_of),
    }
    for feature in _NAMES:
        presence = contract.features.get(feature, "required")
        decisions[feature] = lambda structure, f=feature, p=presence: _feature(structure, f, p)  # type: ignore[misc]
    return [(name, decisions[name]) for name in requirement_names(contract)]


def _guarded(name: str, decide: _Decision, structure: Structure) -> Finding:
    try:
        return decide(structure)
    except HarnessError as error:
        return Finding(requirement=name, status=Status.UNKNOWN, expected="a decision", observed=str(error))
    except Exception as error:  # noqa: BLE001 - whatever breaks here is the examiner's fault, and must not hide the rest
        return Finding(
            requirement=name,
            status=Status.ERROR,
            expected="a decision",
            observed=f"the examiner failed: {type(error).__name__}: {error}",
            hint="this is a defect of the harness, not of the model; please report it with the model",
        )


def _status(*, holds: bool) -> Status:
    return Status.PASS if holds else Status.FAIL


def _capture(captured: CapturedModel) -> Finding:
    fidelity = captured.fidelity
    return Finding(
        requirement="capture",
        status=_status(holds=fidelity.holds),
        expected="the captured graph computes what the model computes, bit for bit, in training and in evaluation",
        observed="equal" if fidelity.holds else "; ".join(fidelity.differences),
        evidence=(
            f"graph {captured.graph.exact_digest()[:16]}, {len(captured.graph.evaluate.operations)} operations in evaluation",
        ),
        hint=""
        if fidelity.holds
        else "make forward depend on nothing but the images, the weights and torch's random numbers; what follows holds for "
        "the captured graph only",
    )


def _input(structure: Structure, expected: tuple[int, ...]) -> Finding:
    found = structure.graph.input_shape
    return Finding(
        requirement="input",
        status=_status(holds=found == expected),
        expected=f"images of shape {_shape(expected)}",
        observed=f"the model runs on images of shape {_shape(found)}",
        hint="" if found == expected else f"build the model for {expected[0]} channel(s) of {_shape(expected[1:])} pixels",
    )


def _output(structure: Structure, classes: int, outputs: tuple[str, ...]) -> Finding:
    head = structure.head
    holds = head.classes == classes and head.kind in outputs
    hint = ""
    if head.classes != classes:
        hint = f"the last layer must give {classes} numbers an image, one a class"
    elif not holds:
        hint = "train on log-probabilities (log_softmax with NLL loss) or on logits (cross entropy); softmax fits neither"
    return Finding(
        requirement="output",
        status=_status(holds=holds),
        expected=f"{' or '.join(outputs)} for {classes} classes",
        observed=f"{head.kind} of shape ({', '.join(str(dim) for dim in head.shape)})",
        evidence=(
            f"last layer with weights: {head.last_weighted}",
            *((f"after it: {', '.join(head.after)}",) if head.after else ()),
        ),
        hint=hint,
    )


def _parameters(structure: Structure, budget: ParameterBudget) -> Finding:
    count = structure.parameters
    counted = count.total + (count.hidden_elements if budget.hidden_state else 0)
    bounds, holds, over = [], True, 0
    if budget.below is not None:
        bounds.append(f"fewer than {budget.below:,}")
        holds &= counted < budget.below
        over = max(over, counted - budget.below + 1)
    if budget.max is not None:
        bounds.append(f"at most {budget.max:,}")
        holds &= counted <= budget.max
        over = max(over, counted - budget.max)
    if budget.min is not None:
        bounds.append(f"at least {budget.min:,}")
        holds &= counted >= budget.min
    evidence = [f"{count.total:,} parameters, {count.trainable:,} of them trainable, shared ones counted once"]
    if count.unreached:
        names = ", ".join(spec.name for spec in count.unreached[:_LISTED])
        evidence.append(f"{count.unreached_elements:,} of them are never read by forward: {names}")
    if count.hidden:
        names = ", ".join(f"{spec.name} ({spec.elements:,})" for spec in count.hidden[:_LISTED])
        words = "counted" if budget.hidden_state else "not counted, as the contract says"
        evidence.append(f"{count.hidden_elements:,} numbers in constants and buffers, {words}: {names}")
    hint = ""
    if not holds:
        hint = f"remove at least {over:,}" if over > 0 else "the contract asks for a larger model"
        if over > 0 and count.unreached_elements >= over:
            hint += "; removing the modules that forward never calls is enough"
    return Finding(
        requirement="parameters",
        status=_status(holds=holds),
        expected=f"{' and '.join(bounds)} parameters",
        observed=f"{counted:,} parameters"
        + (f" ({count.total:,} and {count.hidden_elements:,} hidden)" if counted != count.total else ""),
        evidence=tuple(evidence),
        hint=hint,
    )


def _receptive_field(structure: Structure, bound: FieldBound) -> Finding:
    value, before = structure.field_before_head
    field = structure.field_with_head if bound.including_pool else before
    where = "including the head's pooling" if bound.including_pool else "before the head's pooling"
    bounds = [f"at least {bound.min}"] if bound.min is not None else []
    bounds += [f"at most {bound.max}"] if bound.max is not None else []
    too_small = bound.min is not None and field.size < bound.min
    too_large = bound.max is not None and max(field.rows.size, field.columns.size) > bound.max
    match field.certainty:
        case "exact":
            status = _status(holds=not too_small and not too_large)
        case "bound" if too_small:
            # The figure is an upper bound: what it excludes is excluded.
            status = Status.FAIL
        case "bound" if bound.min is None and not too_large:
            status = Status.PASS
        case _:
            status = Status.UNKNOWN
    size = f"{field.rows.size}" if field.rows.size == field.columns.size else f"{field.rows.size}x{field.columns.size}"
    evidence = [f"{size} pixels at {value if not bound.including_pool else 'the output'}, {field.clipped} of them inside the image"]
    evidence += [field.note] if field.note else []
    hint = ""
    if too_small:
        hint = "add a convolution, or pool earlier: each 3x3 convolution adds 2 pixels, after a pooling by two 4"
    elif too_large:
        hint = "remove a convolution, or pool later"
    return Finding(
        requirement="receptive_field",
        status=status,
        expected=f"a receptive field of {' and '.join(bounds)} pixels {where}",
        observed=f"{size} ({field.certainty})",
        evidence=tuple(evidence),
        hint=hint,
    )


def _feature(structure: Structure, feature: str, presence: Presence) -> Finding:
    found, evidence, hint = _LOOK[feature](structure)
    holds = found if presence == "required" else not found
    return Finding(
        requirement=feature,
        status=_status(holds=holds),
        expected=f"{_NAMES[feature]}{' present' if presence == 'required' else ' absent'}",
        observed=f"present: {evidence[0]}" if found else "absent",
        evidence=evidence[:_LISTED],
        hint="" if holds else hint if presence == "required" else f"remove it: {', '.join(evidence[:_LISTED])}",
    )


def _any_of(structure: Structure, features: tuple[str, ...]) -> Finding:
    looks = {feature: _LOOK[feature](structure) for feature in features}
    found = [feature for feature, (present, _, _) in looks.items() if present]
    return Finding(
        requirement="any_of",
        status=_status(holds=bool(found)),
        expected=f"at least one of {', '.join(_NAMES[feature] for feature in features)}",
        observed=", ".join(_NAMES[feature] for feature in found) or "none of them",
        evidence=tuple(line for _, evidence, _ in looks.values() for line in evidence)[:_LISTED],
        hint="" if found else "; or ".join(hint for _, _, hint in looks.values()),
    )


# Whether the feature is there, the evidence, and what to do to have it.
_Look = tuple[bool, tuple[str, ...], str]


def _look_gap(structure: Structure) -> _Look:
    evidence = []
    for pool in structure.global_pools:
        size = _shape(pool.map_size)
        place = f" in {pool.module}" if pool.module else ""
        role = "feeds the head" if pool.feeds_head else "on a side branch, not the head"
        evidence.append(f"{pool.value}{place} averages the whole {size} map; {role}")
    hint = "average the last map over all its positions before the output, such as with nn.AdaptiveAvgPool2d(1)"
    if structure.global_pools and structure.head_pool is None:
        hint = "the images also reach the output around the pooling; " + hint
    if structure.head_pool is None:
        evidence += [
            f"{layer.title} {layer.module} gives {_shape(layer.shape[1:])}, not one value a channel"
            for layer in structure.layers
            if "Avg" in layer.title and layer.shape[-2:] != (1, 1)
        ]
    return structure.head_pool is not None, tuple(evidence), hint


def _look_dropout(structure: Structure) -> _Look:
    sites = structure.dropouts
    left_on = [site for site in sites if site.active_in_evaluation]
    evidence = [
        f"{site.module or 'forward'}: p = {site.p:g}, "
        f"{'active' if site.active_in_training else 'off'} in training, {'ACTIVE' if site.active_in_evaluation else 'off'} in evaluation"
        for site in sites
    ]
    evidence += [f"{module.path} ({module.type}) is declared and never called" for module in structure.never_called if "Dropout" in module.type]
    hint = "call nn.Dropout(p) with p above 0 in forward"
    if left_on:
        hint = "dropout stays on in evaluation: use nn.Dropout, or F.dropout(x, p, training=self.training)"
    elif sites:
        hint = "the dropout that is there drops nothing: " + hint
    return any(site.live for site in sites) and not left_on, tuple(evidence), hint


def _look_batch_norm(structure: Structure) -> _Look:
    sites = structure.batch_norms
    odd = [site for site in sites if site.batch_statistics_in_evaluation]
    evidence = [
        f"{site.module or 'forward'}: {'batch' if site.batch_statistics_in_training else 'fixed'} statistics in training, "
        f"{'BATCH' if site.batch_statistics_in_evaluation else 'running'} statistics in evaluation"
        for site in sites
    ]
    evidence += [f"{module.path} ({module.type}) is declared and never called" for module in structure.never_called if "BatchNorm" in module.type]
    hint = "call nn.BatchNorm2d(channels) after a convolution in forward"
    if odd:
        hint = "evaluation uses the batch's own statistics, so one image's answer depends on the others: keep track_running_stats"
    return any(site.ordinary for site in sites) and not odd, tuple(evidence), hint


def _look_linear(structure: Structure) -> _Look:
    sites = structure.fully_connected
    evidence = tuple(f"{site.module or 'forward'}: {site.kind} ({site.detail})" for site in sites)
    return bool(sites), evidence, "add an nn.Linear layer"


_LOOK: dict[str, Callable[[Structure], _Look]] = {
    "gap": _look_gap,
    "dropout": _look_dropout,
    "batch_norm": _look_batch_norm,
    "linear": _look_linear,
}


def _shape(dims: tuple[object, ...]) -> str:
    return "x".join(str(dim) for dim in dims)
