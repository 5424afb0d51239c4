"""How a window is laid over an image: the rim that an operator adds, and the one of the catalogue's kernels."""

from collections.abc import Mapping
from typing import Final

from benchfarm_workloads.columns import Scalar, integer
from benchfarm_workloads.tensors import padding
from benchfarm_workloads.verdicts import GraphNode

_PADDED: Final = frozenset({"conv-bn-act", "dwconv-bn-act", "group-conv", "maxpool", "avgpool"})
_NO_RIM: Final = frozenset({"patch-embed"})
_SIDES: Final = 4


def why_other_window(type_name: str, config: Mapping[str, Scalar], node: GraphNode) -> str | None:
    """Why a node's window is not the one of a kernel type, whose sizes it has; None where it is.

    Sizes do not say where the window begins: a rim of two pixels on one side gives the same as one on both.
    """
    wanted = _rim(type_name, config)
    if wanted is None:
        return None
    k = integer(config, "k")
    found = _pads(node, integer(config, "hw"), k, integer(config, "s") if "s" in config else k)
    if found != (wanted,) * _SIDES:
        return f"its rim is {found}, that of the catalogue's kernel {wanted} on every side"
    if type_name == "deconv-bn-act" and any(_listed(node.attributes.get("output_padding", 0))):
        return "it adds pixels to its output"
    if type_name == "avgpool" and wanted and node.attributes.get("count_include_pad", 0) != 0:
        return "it counts the rim into its means"
    return None


def _rim(type_name: str, config: Mapping[str, Scalar]) -> int | None:
    """Zeros on every side; of a transposed convolution pixels that are cut off. None for what has no window."""
    if type_name in _PADDED:
        return padding(integer(config, "k"))
    if type_name == "deconv-bn-act":
        return (integer(config, "k") - integer(config, "s")) // 2
    return 0 if type_name in _NO_RIM else None


def _pads(node: GraphNode, hw: int, k: int, s: int) -> object:
    """Top, left, bottom, right."""
    mode = str(node.attributes.get("auto_pad", "NOTSET"))
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        return (0,) * _SIDES if mode == "VALID" else node.attributes.get("pads", (0,) * _SIDES)
    if node.op == "ConvTranspose":
        return mode  # what it means was changed between the standard's versions
    rim = max((-(-hw // s) - 1) * s + k - hw, 0)
    less, more = rim // 2, rim - rim // 2
    return (less, less, more, more) if mode == "SAME_UPPER" else (more, more, less, less)


def _listed(value: object) -> tuple[object, ...]:
    return value if isinstance(value, tuple) else (value,)
