"""The requirements: each looks at a captured model, and says what it found and on what evidence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from harness.contracts.contract import BatchRule, Contract, CostBound, FieldBound, ParameterBudget, Presence
from harness.findings import Finding, Status
from harness.graph import CapturedModel, computing_threads
from harness.structure import Experiments, Structure
from harness.structure.experiments import IMAGES, TRAINING_PASSES

_NAMES = {
    "gap": "global average pooling",
    "dropout": "dropout",
    "batch_norm": "batch normalisation",
    "linear": "a fully connected layer",
}
# Evidence is for reading: a model with 500 dropouts lists the first few.
_LISTED = 6


# A network up to this size is probed unless the caller says otherwise: it takes a second or two.
PROBED_PARAMETERS = 100_000
# Fewer drops than this in all passes together, and two passes may be equal by chance.
_ENOUGH_DROPS = 30


@dataclass(frozen=True, kw_only=True)
class _Model:
    """What a requirement looks at: the capture, the structure read off it, and the experiments that may be run."""

    captured: CapturedModel
    structure: Structure
    experiments: Experiments


def examine(captured: CapturedModel, contract: Contract, *, probe: bool | None = None) -> tuple[Finding, ...]:
    """Decide every structure requirement of a contract on a captured model.

    A defect of the examiner becomes an ``error`` finding of that requirement; the others are decided all the same.

    Args:
        captured: the model.
        contract: what is asked.
        probe: whether what the graph proves is confirmed by experiments; None for models up to 100,000 parameters. A
            disagreement is an ``error``.
    """
    structure = Structure(captured.graph)
    model = _Model(captured=captured, structure=structure, experiments=Experiments(captured, structure))
    if probe is None:
        probe = structure.parameters.total <= PROBED_PARAMETERS
    with computing_threads(1):
        return tuple(_guarded(name, model, contract, probe=probe) for name in requirement_names(contract))


def requirement_names(contract: Contract) -> tuple[str, ...]:
    """Names of the structure requirements that a contract asks, in the order in which they are decided."""
    asked = {
        "capture": True,
        "input": contract.input is not None,
        "output": contract.asks_output,
        "head": contract.bare_head,
        "parameters": contract.parameters is not None,
        "receptive_field": contract.receptive_field is not None,
        **{feature: feature in contract.features for feature in _NAMES},
        "any_of": bool(contract.any_of),
        "batch": contract.batch is not None,
        "gradients": contract.gradients,
        "cost": contract.cost is not None,
    }
    return tuple(name for name, is_asked in asked.items() if is_asked)


def _decide(name: str, model: _Model, contract: Contract) -> Finding:  # noqa: PLR0911 - one line a requirement
    structure = model.structure
    match name:
        case "capture":
            return _capture(model.captured)
        case "input":
            return _input(structure, contract.input or ())
        case "output":
            return _output(structure, contract.classes, contract.outputs)
        case "head":
            return _head(structure)
        case "parameters":
            return _parameters(structure, contract.parameters or ParameterBudget())
        case "receptive_field":
            return _receptive_field(structure, contract.receptive_field or FieldBound())
        case "any_of":
            return _any_of(structure, contract.any_of)
        case "batch":
            return _batch(model, contract.batch or BatchRule())
        case "gradients":
            return _gradients(model.experiments)
        case "cost":
            return _cost(structure, contract.cost or CostBound())
        case _:
            return _feature(structure, name, contract.features[name])


def _guarded(name: str, model: _Model, contract: Contract, *, probe: bool) -> Finding:
    try:
        finding = _decide(name, model, contract)
        return _confirmed(finding, model) if probe else finding
    except Exception as error:  # noqa: BLE001 - whatever breaks here is the examiner's fault, and must not hide the rest
        return Finding(
            requirement=name,
            status=Status.ERROR,
            expected="a decision",
            observed=f"the examiner failed: {type(error).__name__}: {error}",
            hint="this is a defect of the harness, not of the model; please report it with the model",
        )


def _confirmed(finding: Finding, model: _Model) -> Finding:
    """The finding with the experiment that agrees with it, or an ``error`` where it disagrees."""
    confirm = _CONFIRM.get(finding.requirement)
    outcome = confirm(model) if confirm is not None else None
    if outcome is None:
        return finding
    agrees, words = outcome
    if agrees:
        return replace(finding, evidence=(*finding.evidence, f"experiment: {words}"))
    return replace(
        finding,
        status=Status.ERROR,
        observed=f"proof and experiment disagree; proved: {finding.observed}; experiment: {words}",
        hint="this is a defect of the harness, not of the model; please report it with the model",
    )


# Whether the experiment agrees with the proof, and what it saw; None where it has nothing to say.
_Confirmation = tuple[bool, str] | None


def _confirm_field(model: _Model) -> _Confirmation:
    fields = model.experiments.fields
    if fields.disagreements:
        return (
            False,
            f"a NaN in single pixels shows elsewhere than proved at {', '.join(fields.disagreements[:_LISTED])}",
        )
    return True, f"a NaN in single pixels shows at just the positions proved, in {fields.checked} values"


def _confirm_gap(model: _Model) -> _Confirmation:
    ignores = model.experiments.pooling_ignores_positions
    if ignores is None:
        return None
    effect = "leaves the output as it is" if ignores else "changes the output"
    return ignores, f"shuffling the positions of the pooled map {effect}"


def _confirm_dropout(model: _Model) -> _Confirmation:
    structure, experiments = model.structure, model.experiments
    if not experiments.answers_vary:
        return None
    active = [site for site in structure.dropouts if site.active_in_training and site.p > 0]
    differ = experiments.training_passes_differ
    words = f"training passes over the same images {'differ' if differ else 'are equal'}"
    if differ:
        return bool(active or structure.random_operations), words
    drops = IMAGES * TRAINING_PASSES * sum(site.p * site.elements for site in active if site.p < 1)
    return drops < _ENOUGH_DROPS, words


def _confirm_capture(model: _Model) -> _Confirmation:
    left_on = any(site.active_in_evaluation and site.p > 0 for site in model.structure.dropouts)
    repeats = model.experiments.evaluation_repeats
    words = f"evaluation passes over the same images {'are equal to the bit' if repeats else 'differ'}"
    return repeats or left_on or bool(model.structure.random_operations), words


_CONFIRM: dict[str, Callable[[_Model], _Confirmation]] = {
    "capture": _confirm_capture,
    "receptive_field": _confirm_field,
    "gap": _confirm_gap,
    "dropout": _confirm_dropout,
}


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
        hint=""
        if found == expected
        else f"build the model for {expected[0]} channel(s) of {_shape(expected[1:])} pixels",
    )


def _output(structure: Structure, classes: int | None, outputs: tuple[str, ...]) -> Finding:
    head = structure.head
    counts = classes is None or head.classes == classes
    holds = counts and head.kind in outputs
    hint = ""
    if not counts:
        hint = f"the last layer must give {classes} numbers an image, one a class"
    elif not holds:
        hint = (
            "train on log-probabilities (log_softmax with NLL loss) or on logits (cross entropy); softmax fits neither"
        )
    return Finding(
        requirement="output",
        status=_status(holds=holds),
        expected=" or ".join(outputs) + ("" if classes is None else f" for {classes} classes"),
        observed=f"{head.kind} of shape ({', '.join(str(dim) for dim in head.shape)})",
        evidence=(
            f"last layer with weights: {head.last_weighted}",
            *((f"after it: {', '.join(head.after)}",) if head.after else ()),
        ),
        hint=hint,
    )


def _head(structure: Structure) -> Finding:
    after = structure.head.after
    return Finding(
        requirement="head",
        status=_status(holds=not after),
        expected="no activation, normalisation or dropout between the last layer with weights and the output",
        observed=f"{', '.join(after)} after {structure.head.last_weighted}"
        if after
        else f"nothing after {structure.head.last_weighted}",
        hint=f"remove {', '.join(after)}: it changes or clips the scores that the classes are told apart by"
        if after
        else "",
    )


def _batch(model: _Model, rule: BatchRule) -> Finding:
    experiments, expected, faults, evidence = model.experiments, [], [], []
    decided = True
    if rule.independent:
        expected.append("in evaluation each image's answer is its own")
    if rule.independent and not experiments.evaluation_repeats:
        decided = False
        evidence.append(
            "evaluation passes over the same images differ, so that nothing can be told from comparing others"
        )
    elif rule.independent:
        outcomes = {
            "alone it gets another answer than among others": experiments.alone_as_in_crowd,
            "it depends on the order of the images": experiments.order_immaterial,
            "it depends on the other images": experiments.neighbours_immaterial,
        }
        faults += [words for words, holds in outcomes.items() if not holds]
        evidence.append(
            f"{IMAGES} images answered alone, together, in another order, and among others, in double precision"
        )
    if rule.strict_size:
        expected.append("images of another size are an error or get one answer each")
        outcome = model.captured.fidelity.other_size
        evidence.append(f"images four pixels larger: {outcome}")
        if outcome == "other answers":
            faults.append("images of another size get more or fewer answers than there are images")
    return Finding(
        requirement="batch",
        status=_status(holds=not faults) if decided or faults else Status.UNKNOWN,
        expected="; ".join(expected),
        observed="; ".join(faults) or ("as asked" if decided else "answers in evaluation are drawn at random"),
        evidence=tuple(evidence),
        hint="flatten with x.flatten(1) or x.view(x.size(0), -1), and keep running statistics in batch norm"
        if faults
        else "",
    )


def _gradients(experiments: Experiments) -> Finding:
    gradients = experiments.gradients
    faults = []
    if gradients.failure:
        faults.append(f"the backward pass fails: {gradients.failure}")
    if gradients.missing:
        faults.append(f"no gradient for {', '.join(gradients.missing[:_LISTED])}")
    if gradients.not_finite:
        faults.append(f"a gradient that is not finite for {', '.join(gradients.not_finite[:_LISTED])}")
    hint = ""
    if gradients.failure:
        hint = "change nothing in place that another layer still needs: leave inplace=True out"
    elif gradients.missing:
        hint = "remove the modules that forward does not use, or let the output depend on them"
    return Finding(
        requirement="gradients",
        status=_status(holds=gradients.complete),
        expected="a finite gradient for every trainable parameter",
        observed="; ".join(faults) or "every trainable parameter has one",
        evidence=("one backward pass in training mode",),
        hint=hint,
    )


def _cost(structure: Structure, bound: CostBound) -> Finding:
    macs = sum(layer.macs for layer in structure.layers)
    memory = sum(layer.activation_bytes for layer in structure.layers)
    holds = (bound.max_macs is None or macs <= bound.max_macs) and (
        bound.max_activation_bytes is None or memory <= bound.max_activation_bytes
    )
    dearest = max(structure.layers, key=lambda layer: layer.macs, default=None)
    return Finding(
        requirement="cost",
        status=_status(holds=holds),
        expected=f"{bound.words} an image",
        observed=f"{macs:,} multiply-accumulates and {memory:,} bytes of activations an image",
        evidence=(f"most of it in {dearest.title} {dearest.module}: {dearest.macs:,}",) if dearest else (),
        hint="" if holds else "fewer channels in the early, large maps, or a pooling earlier",
    )


def _parameters(structure: Structure, budget: ParameterBudget) -> Finding:
    count = structure.parameters
    counted = count.total + (count.hidden_elements if budget.hidden_state else 0)
    holds, over = True, 0
    if budget.below is not None:
        holds &= counted < budget.below
        over = max(over, counted - budget.below + 1)
    if budget.max is not None:
        holds &= counted <= budget.max
        over = max(over, counted - budget.max)
    if budget.min is not None:
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
        expected=f"{budget.words} parameters",
        observed=f"{counted:,} parameters"
        + (f" ({count.total:,} and {count.hidden_elements:,} hidden)" if counted != count.total else ""),
        evidence=tuple(evidence),
        hint=hint,
    )


def _receptive_field(structure: Structure, bound: FieldBound) -> Finding:
    value, before = structure.field_before_head
    field = structure.field_with_head if bound.including_pool else before
    where = "including the head's pooling" if bound.including_pool else "before the head's pooling"
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
    evidence = [
        f"{size} pixels at {value if not bound.including_pool else 'the output'}, {field.clipped} of them inside the image"
    ]
    evidence += [field.note] if field.note else []
    hint = ""
    if too_small:
        hint = "add a convolution, or pool earlier: each 3x3 convolution adds 2 pixels, after a pooling by two 4"
    elif too_large:
        hint = "remove a convolution, or pool later"
    return Finding(
        requirement="receptive_field",
        status=status,
        expected=f"a receptive field of {bound.words} pixels {where}",
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
        f"{'active' if site.active_in_training else 'off'} in training, "
        f"{'ACTIVE' if site.active_in_evaluation else 'off'} in evaluation"
        for site in sites
    ]
    evidence += [
        f"{module.path} ({module.type}) is declared and never called"
        for module in structure.never_called
        if "Dropout" in module.type
    ]
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
    evidence += [
        f"{module.path} ({module.type}) is declared and never called"
        for module in structure.never_called
        if "BatchNorm" in module.type
    ]
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
