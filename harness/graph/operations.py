"""Properties of operations by name: the family, whether an operation works in place, and others.

The table below is also the allow-list: a rebuilt module runs only operations that the table contains. All are tensor
arithmetic, shape changes, or in-place forms of the two: none reads files, runs code, or accesses other memory than that of
its operands.

Packages use `Operation.kind` (or `kind_of`) instead of lists of their own. Names of operations that an engine replaces by
other functions are listed next to these functions: in `harness.training.fusion` (ReLU, dropout, batch norm, convolution),
`harness.training.dropout` (the dropouts) and `harness.training.engines` (softmax, log-softmax).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

Family = Literal[
    "activation",
    "arithmetic",
    "attention",
    "comparison",
    "conversion",
    "convolution",
    "copy",
    "creation",
    "dropout",
    "expansion",
    "fill",
    "gating",
    "joining",
    "log-softmax",
    "loss",
    "matrix product",
    "normalisation",
    "padding",
    "permutation",
    "pooling",
    "random creation",
    "random draw",
    "reduction",
    "reordering",
    "resampling",
    "reshape",
    "scan",
    "selection",
    "size",
    "slicing",
    "softmax",
    "transposed convolution",
    "vector product",
    "windows",
    "unknown",
]

# ATen operations by name, in-place forms with their underscore; every overload of a listed name is allowed, except
# those with an ``out=`` argument.
_ATEN: dict[Family, str] = {
    # Nonlinear functions of single numbers and their relatives: a clamp at zero, for example, is a ReLU.
    "activation": """
        abs abs_ celu celu_ clamp clamp_ clamp_max clamp_max_ clamp_min clamp_min_ elu elu_ gelu gelu_ hardshrink hardsigmoid
        hardsigmoid_ hardswish hardswish_ hardtanh hardtanh_ leaky_relu leaky_relu_ log_sigmoid maximum minimum mish mish_ pow
        pow_ prelu relu relu6 relu6_ relu_ round rrelu rrelu_ selu selu_ sigmoid sigmoid_ sign silu silu_ softplus softshrink
        sqrt square tanh tanh_ threshold threshold_ where
    """,
    "arithmetic": """
        add add_ addcdiv addcmul ceil cos div div_ erf exp exp_ expm1 floor floor_divide fmod lerp log log10 log1p log2 mul mul_
        multiply neg neg_ reciprocal remainder rsqrt rsub sin sub sub_ tan true_divide xlogy
    """,
    "attention": "scaled_dot_product_attention",
    "comparison": "eq ge gt isfinite isinf isnan le logical_and logical_not logical_or lt ne",
    "conversion": "_to_copy to type_as",
    "convolution": "conv1d conv2d conv3d convolution",
    # The result has the numbers and the shape of the operand.
    "copy": "alias clone contiguous detach detach_ lift_fresh lift_fresh_copy",
    "creation": "arange empty empty_like eye full full_like linspace ones ones_like scalar_tensor zeros zeros_like",
    "dropout": """
        alpha_dropout alpha_dropout_ dropout dropout_ feature_alpha_dropout feature_alpha_dropout_ feature_dropout
        feature_dropout_
    """,
    "expansion": "broadcast_tensors broadcast_to expand expand_as meshgrid repeat repeat_interleave tile",
    "fill": "fill fill_ zero_",
    "gating": "glu",
    "joining": "cat concat concatenate stack",
    "log-softmax": "_log_softmax log_softmax",
    "loss": "smooth_l1_loss",
    "matrix product": "addmm baddbmm bilinear bmm einsum inner linear matmul mm mv",
    "normalisation": "batch_norm group_norm instance_norm layer_norm rms_norm",
    "padding": "constant_pad_nd pad reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d",
    "permutation": "movedim permute t transpose transpose_",
    "pooling": """
        _adaptive_avg_pool2d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool1d adaptive_max_pool2d avg_pool1d
        avg_pool2d max_pool1d max_pool2d max_pool2d_with_indices
    """,
    # Creates a tensor of random numbers; of an operand only the shape is read.
    "random creation": "rand rand_like randint randint_like randn randn_like",
    "random draw": "bernoulli bernoulli_ normal normal_ uniform uniform_",
    "reduction": "all amax amin any argmax argmin linalg_vector_norm logsumexp max mean min norm prod std sum var var_mean",
    "reordering": "channel_shuffle flip pixel_shuffle pixel_unshuffle roll topk tril triu",
    "resampling": """
        _upsample_nearest_exact2d upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d
    """,
    # The result has the numbers of the operand in the same order, in another shape.
    "reshape": "_unsafe_view flatten reshape squeeze squeeze_ unflatten unsqueeze unsqueeze_ view view_as",
    "scan": "cumsum",
    "selection": "copy copy_ masked_fill masked_fill_",
    "size": "item numel sym_numel sym_size",
    # The result is a part of the operand, or a list of parts.
    "slicing": "chunk diagonal gather index index_select narrow select slice split split_with_sizes tensor_split unbind",
    "softmax": "_softmax softmax",
    "transposed convolution": "conv_transpose1d conv_transpose2d",
    "vector product": "dot outer",
    "windows": "as_strided im2col unfold",
}
# Operations on sizes, and the choice of one result out of several, by their full names.
_SCALAR: dict[Family, str] = {
    "size": """
        math.ceil math.floor math.trunc operator.add operator.floordiv operator.mod operator.mul operator.neg operator.sub
        operator.truediv torch.sym_float torch.sym_int torch.sym_max torch.sym_min
    """,
    "slicing": "operator.getitem",
}
# The family of each ATen operation by its name without library and overload.
ATEN_FAMILIES = {name: family for family, names in _ATEN.items() for name in names.split()}
_SCALAR_FAMILIES = {name: family for family, names in _SCALAR.items() for name in names.split()}
# Other names of the same computation; the arguments of `constant_pad_nd` and of `pad` differ all the same.
_SYNONYMS = {
    "_adaptive_avg_pool2d": "adaptive_avg_pool2d",
    "_log_softmax": "log_softmax",
    "_softmax": "softmax",
    "_unsafe_view": "view",
    "concat": "cat",
    "concatenate": "cat",
    "constant_pad_nd": "pad",
    "max_pool2d_with_indices": "max_pool2d",
    "multiply": "mul",
    "true_divide": "div",
}
_ELEMENTWISE = frozenset({"activation", "arithmetic", "comparison", "conversion", "copy", "dropout", "selection"})
# Families whose operations draw random numbers, and operations of other families that do.
_RANDOM_FAMILIES = frozenset({"dropout", "random creation", "random draw"})
_RANDOM_NAMES = frozenset({"rrelu", "scaled_dot_product_attention"})
_SHARING_FAMILIES = frozenset({"dropout", "permutation", "reshape"})
_SHARING_NAMES = frozenset(
    """
    alias as_strided broadcast_tensors broadcast_to chunk contiguous detach diagonal expand expand_as getitem lift_fresh
    meshgrid narrow select slice split split_with_sizes tensor_split to type_as unbind unfold
    """.split()  # noqa: SIM905 - rows of names read better
)


@dataclass(frozen=True, kw_only=True, slots=True)
class OperationKind:
    """The properties of an operation, derived from its name.

    ``name`` omits library, overload and the underscore of an in-place form, and unifies synonyms: ``relu`` for
    ``aten.relu_.default``, ``softmax`` for ``aten._softmax.default``. ``family`` is ``unknown`` for operations that no rebuilt
    module may run. An operation ``in_place`` writes its result into its first argument.
    """

    name: str
    family: Family
    in_place: bool

    @property
    def elementwise(self) -> bool:
        """Whether each element of the result depends only on the operands' elements at its position, after broadcasting."""
        return self.family in _ELEMENTWISE

    @property
    def draws(self) -> bool:
        """Whether the operation may draw random numbers."""
        return self.family in _RANDOM_FAMILIES or self.name in _RANDOM_NAMES

    @property
    def shares_memory(self) -> bool:
        """Whether the result may share memory with the first argument, by being a view of that argument or the same tensor."""
        return self.in_place or self.family in _SHARING_FAMILIES or self.name in _SHARING_NAMES


@cache
def kind_of(op: str) -> OperationKind:
    """The properties of the operation ``op``, which is given as in `Operation.op`, such as ``aten.relu_.default``."""
    name = base_name(op)
    is_aten = op.startswith("aten.") and op.count(".") == 2  # noqa: PLR2004 - library.name.overload
    family = ATEN_FAMILIES.get(name, "unknown") if is_aten else _SCALAR_FAMILIES.get(op, "unknown")
    plain = name.rstrip("_") or name
    return OperationKind(name=_SYNONYMS.get(plain, plain), family=family, in_place=name.endswith("_"))


def base_name(op: str) -> str:
    """The name of an operation without library and overload: ``relu_`` for ``aten.relu_.default``."""
    parts = op.split(".")
    return parts[1] if len(parts) > 1 else op
