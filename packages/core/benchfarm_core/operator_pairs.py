"""Two operators in a row: which pairs are measured to find out what engines fuse, and what a profile says of one."""

import re
from collections.abc import Iterable, Sequence
from typing import Final, Literal, get_args

from benchfarm_core.measurements import NodeSample
from benchfarm_core.workloads import GeneratedModelRequest

Pair = tuple[str, str]
PairPart = Literal["first", "second", "both"]

PAIR_MODEL: Final = "operator_pair"
"""The generated model that lays a pair out, or one part of it alone on what it is given in the pair."""
PAIR_PARTS: Final[tuple[PairPart, ...]] = get_args(PairPart)
FIRST_LAYER, SECOND_LAYER = "l0", "l1"
"""What the pair's layers are called; so are the last nodes of each."""

_ACTIVATIONS: Final = ("Relu", "Clip", "HardSwish", "Sigmoid", "Swish")


def _crossed(firsts: Iterable[str], seconds: Iterable[str]) -> set[Pair]:
    named = tuple(seconds)
    return {(first, second) for first in firsts for second in named}


OPERATOR_PAIRS: Final[tuple[Pair, ...]] = tuple(
    sorted(
        _crossed(("Conv", "DepthwiseConv", "GroupConv", "ConvTranspose", "Gemm", "Add"), _ACTIVATIONS)
        | _crossed(("Conv",), ("Add", "Mul", "Concat", "MaxPool", "AveragePool", "Conv", "DepthwiseConv"))
        | _crossed(("Conv",), ("GlobalAveragePool", "SqueezeExcite", "ChannelShuffle", "Resize"))
        | _crossed(("DepthwiseConv",), ("Add", "Concat", "Conv", "SqueezeExcite"))
        | _crossed(("Add", "AveragePool", "Concat", "MaxPool", "Mul", "Resize", "SqueezeExcite"), ("Conv",))
        | _crossed(("ChannelShuffle", "GlobalAveragePool", "HardSwish", "Relu", "Swish"), ("Conv",))
        | _crossed(("Relu",), ("Add", "Concat", "DepthwiseConv", "MaxPool"))
        | _crossed(("Concat", "MaxPool"), ("Relu",))
        | {("Add", "Add"), ("Concat", "ChannelShuffle"), ("GlobalAveragePool", "Gemm"), ("Gemm", "Gemm")}
        | _crossed(("Linear",), ("Add", "Gelu", "Linear", "Relu", "Softmax"))
        | _crossed(("MatMul",), ("Add", "Gelu", "Softmax"))
        | _crossed(("Gelu", "LayerNormalization", "Softmax"), ("Linear", "MatMul"))
        | {("Add", "LayerNormalization"), ("LayerNormalization", "ReduceMean"), ("ReduceMean", "Gemm")}
    )
)
"""Pairs that occur in networks, by the families of ``fusion``."""


def pair_request(pair: Pair, part: PairPart) -> GeneratedModelRequest:
    """A part of a pair at the sizes that the recipe has by default."""
    first, second = pair
    return GeneratedModelRequest(name=PAIR_MODEL, config={"first": first, "second": second, "part": part})


def fused_by_profile(pair: Pair, nodes: Sequence[NodeSample]) -> bool | None:
    """Whether the engine computed the pair as one, by a profile of both parts: then one of the two has no node of its
    own. None: not to be told from the names.

    Nodes that convert layouts or 8 bits, or only view a tensor, are no operator. A name that the engine made up is the
    first one's before all of the second, the second one's behind all of the first.
    """
    if pair[0] in _MOVERS and any(node.kind == _MOVE_KIND for node in nodes):
        return None
    operators = [node for place, node in enumerate(nodes) if _computes(pair, node) or _rescales(nodes, place)]
    if len(operators) == 1:
        return True
    owners = [_layer_of(node) for node in operators]
    found = set(owners) - {None}
    if not found:
        return None
    [*missing] = {FIRST_LAYER, SECOND_LAYER} - found
    if not missing:
        return False
    unnamed = owners if missing == [FIRST_LAYER] else owners[::-1]
    return unnamed[0] is not None


_MOVE_KIND: Final = "Raster"
"""Whatever moves numbers in MNN, be it an operator or a change of layout; named after what takes them in."""
_LAYOUT_KINDS: Final = frozenset({_MOVE_KIND, "Reorder", "ReorderInput", "ReorderOutput"})
_STEP_KINDS: Final = frozenset({"QuantizeLinear", "DequantizeLinear"})
_VIEW_KINDS: Final = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})
_MOVERS: Final = frozenset({"Concat", "ChannelShuffle"})


def _computes(pair: Pair, node: NodeSample) -> bool:
    layer = _layer_of(node)
    if node.kind == _MOVE_KIND:
        return layer == SECOND_LAYER and pair[1] in _MOVERS
    if node.kind == "Transpose":
        return layer is not None
    return node.kind not in _LAYOUT_KINDS | _STEP_KINDS | _VIEW_KINDS


def _rescales(nodes: Sequence[NodeSample], place: int) -> bool:
    """Whether an activation on 8 bits has become this: from one scale to another, which cuts off what is below."""
    kinds = [node.kind for node in nodes[max(0, place - 1) : place + 1]]
    return kinds == ["DequantizeLinear", "QuantizeLinear"]


def _layer_of(node: NodeSample) -> str | None:
    """The layer that a node is named after: ``l1``, ``l1/relu``, ``l1_nchwc`` and ``fused l1`` are l1's."""
    head = re.split(r"[/_]", node.name.removeprefix("fused "), maxsplit=1)[0]
    return head if head in (FIRST_LAYER, SECOND_LAYER) else None
