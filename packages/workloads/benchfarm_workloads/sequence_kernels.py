"""The kernel types on sequences of tokens, batch x seq x dim: what transformers are made of.

Softmax and normalisation run over the last axis. ``patch-embed`` is the door from images to tokens.
"""

from typing import Final

from benchfarm_workloads import costs, sequence_costs, tensors
from benchfarm_workloads.columns import Column, Rule, Shape, integer
from benchfarm_workloads.kernel_types import KernelType

LAYERNORM_EPSILON: Final = 1e-5

_SEQ = Column("seq", "tokens", "tokens of one input", low=1, high=8192)
_DIM = Column("dim", "features", "size of a token", low=1, high=16384)
_BATCH = Column("batch", "inputs", "inputs in one run", low=1, high=64, default=1)
_HEADS = Column("heads", "heads", "heads that attend side by side", low=1, high=64)
_HEAD_DIM = Column("head_dim", "features", "size of a token in one head", low=1, high=512)
_LINEAR_ACT = Column("act", "", "activation", choices=("none", "relu", "gelu"), default="none")
_FORM = Column(
    "form", "", "whether the right factor is a weight or an input", choices=("weight", "input"), default="weight"
)
_WHOLE_PATCHES = Rule("k", lambda c: integer(c, "hw") % integer(c, "k") == 0, "k must divide hw: patches are whole")


def _features(name: str, meaning: str) -> Column:
    return Column(name, "features", meaning, low=1, high=16384)


def _type(
    name: str,
    summary: str,
    tensor_rule: tensors.TensorRule,
    work_rule: costs.WorkRule,
    columns: tuple[Column, ...],
    *rules: Rule,
) -> KernelType:
    shape = Shape(f"kernel {name}", (*columns, _BATCH), rules, "kernel_out_of_range")
    return KernelType(name, summary, shape, tensor_rule, work_rule)


SEQUENCE_KERNELS: Final = (
    _type(
        "linear",
        "one fully connected layer with bias for every token, then an activation",
        tensors.linear,
        costs.fc,
        (_SEQ, _features("cin", "size of a token"), _features("cout", "size of a token afterwards"), _LINEAR_ACT),
    ),
    _type(
        "matmul",
        "matrix product batch x m x k by k x n (a weight) or by batch x k x n (an input)",
        tensors.matmul,
        sequence_costs.matmul,
        (
            Column("m", "rows", "rows of the left factor", low=1, high=8192),
            _features("k", "columns of the left factor, rows of the right one"),
            _features("n", "columns of the right factor"),
            _FORM,
        ),
    ),
    _type(
        "attention",
        "scaled dot product of queries, keys and values in several heads; the projections are `linear`",
        tensors.attention,
        sequence_costs.attention,
        (_SEQ, _HEADS, _HEAD_DIM),
    ),
    _type(
        "layernorm",
        "each token to mean 0 and variance 1, then scale and shift",
        tensors.tokens,
        sequence_costs.layernorm,
        (_SEQ, _DIM),
    ),
    _type("gelu", "Gaussian error linear unit, exact form", tensors.tokens, sequence_costs.gelu, (_SEQ, _DIM)),
    _type("softmax", "softmax of each token", tensors.tokens, sequence_costs.softmax, (_SEQ, _DIM)),
    _type("token-add", "sum of two equal sequences", tensors.two_tokens, costs.elementwise, (_SEQ, _DIM)),
    _type(
        "pos-embed", "a learned vector added to each position", tensors.tokens, sequence_costs.pos_embed, (_SEQ, _DIM)
    ),
    _type("reduce-mean", "mean of all tokens", tensors.token_mean, costs.mean, (_SEQ, _DIM)),
    _type(
        "patch-embed",
        "image cut into patches of k x k pixels, each projected to a token",
        tensors.patch_embed,
        sequence_costs.patch_embed,
        (
            Column("hw", "pixels", "height and width of the input", low=1, high=512),
            Column("cin", "channels", "input channels", low=1, high=8192),
            _DIM,
            Column("k", "pixels", "height and width of a patch", choices=(2, 4, 7, 8, 14, 16, 32)),
        ),
        _WHOLE_PATCHES,
    ),
)
