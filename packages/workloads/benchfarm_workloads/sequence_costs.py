"""Exact arithmetic of each kernel type on sequences, by the conventions of ``costs``."""

from collections.abc import Mapping
from math import prod

from benchfarm_workloads.columns import Scalar, integer
from benchfarm_workloads.costs import ACTIVATION_FLOPS, Work
from benchfarm_workloads.tensors import Tensors


def matmul(config: Mapping[str, Scalar], tensors: Tensors) -> Work:
    """A dot product of k terms for each of the batch x m x n outputs; a weight is k x n for the whole batch."""
    k, n = integer(config, "k"), integer(config, "n")
    return Work(2 * k * tensors.output_elements, k * n if config["form"] == "weight" else 0)


def attention(config: Mapping[str, Scalar], _: Tensors) -> Work:
    """Per head: seq x seq scores of head_dim terms, their scale and softmax, seq x head_dim sums of seq terms."""
    seq, size = integer(config, "seq"), integer(config, "head_dim")
    scores = seq * seq * (2 * size + 1) + seq * _softmax_flops(seq)
    return Work(integer(config, "batch") * integer(config, "heads") * (scores + 2 * seq * seq * size))


def layernorm(config: Mapping[str, Scalar], _: Tensors) -> Work:
    """Per token of n: mean, deviation, square, mean square, quotient, scale and shift n each, epsilon and root."""
    dim = integer(config, "dim")
    return Work(integer(config, "batch") * integer(config, "seq") * (7 * dim + 2), 2 * dim)


def gelu(_: Mapping[str, Scalar], tensors: Tensors) -> Work:
    """The exact form, with the error function."""
    return Work(tensors.output_elements * ACTIVATION_FLOPS["gelu"])


def softmax(config: Mapping[str, Scalar], _: Tensors) -> Work:
    """Over the last axis."""
    rows = integer(config, "batch") * integer(config, "seq")
    return Work(rows * _softmax_flops(integer(config, "dim")))


def pos_embed(config: Mapping[str, Scalar], tensors: Tensors) -> Work:
    """One sum per element; the positions are shared by the batch."""
    return Work(tensors.output_elements, integer(config, "seq") * integer(config, "dim"))


def patch_embed(config: Mapping[str, Scalar], tensors: Tensors) -> Work:
    """A dot product over one patch, with its bias, for each element of each token."""
    dim, terms = integer(config, "dim"), integer(config, "cin") * integer(config, "k") ** 2
    return Work(prod(tensors.outputs[0]) * 2 * terms, dim * terms + dim)


def _softmax_flops(n: int) -> int:
    """n - 1 comparisons for the largest, n differences, n exponentials, n - 1 sums, n divisions."""
    return 5 * n - 2
