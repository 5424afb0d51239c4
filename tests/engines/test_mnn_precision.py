"""MNN says nothing of the precision that a session computes in: what it computes tells it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("_mnncengine", reason="MNN is not installed")

from onnx import NodeProto, helper

from benchfarm_engines.gate import relative_l2
from benchfarm_engines.inputs import make_inputs
from benchfarm_engines.mnn_engine import ENGINE
from tests.engines.catalogue import Graph, normal, opened
from tests.engines.conftest import graph

Array = np.ndarray[Any, Any]
Rounding = Callable[[Array], Array]
NEARER = 0.1
"""Sums in fp32, also by Winograd's windows, lie a hundred times nearer to exact ones than with numbers in 16 bits."""


def as_they_are(values: Array) -> Array:
    return values.astype(np.float64)


def fp16(values: Array) -> Array:
    return values.astype(np.float16).astype(np.float64)


def bf16(values: Array) -> Array:
    """To the nearest, ties to even."""
    bits = values.astype(np.float32).view(np.uint32)
    kept = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return kept.view(np.float32).astype(np.float64)


def weights(*shape: int) -> Array:
    return np.random.default_rng(7).standard_normal(shape).astype(np.float32) * np.float32(0.1)


def convolved(x: Array, w: Array) -> Array:
    """The same size, 3 x 3 or 1 x 1, in groups of one channel where a filter has one."""
    rim = w.shape[2] // 2
    wide = np.pad(x, ((0, 0), (0, 0), (rim, rim), (rim, rim)))
    sums = "nchw,oc->nohw" if w.shape[1] == x.shape[1] else "nchw,c->nchw"
    total = np.zeros((x.shape[0], w.shape[0], *x.shape[2:]))
    for row, column in np.ndindex(*w.shape[2:]):
        part = wide[:, :, row : row + x.shape[2], column : column + x.shape[3]]
        total += np.einsum(sums, part, w[:, :, row, column] if w.shape[1] > 1 else w[:, 0, row, column])
    return total


def conv(x: str, w: str, y: str, k: int, group: int = 1) -> NodeProto:
    return helper.make_node("Conv", [x, w], [y], kernel_shape=[k, k], pads=[k // 2] * 4, group=group)


IMAGE = [1, 32, 28, 28]


def case(kind: str) -> tuple[Graph, Callable[[Array, Rounding], Array]]:
    """A graph, and what it computes with numbers that are rounded so wherever an engine would keep them."""
    if kind == "matmul":
        w = weights(256, 64)
        made = graph([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": [48, 256]}, ["y"], {"w": w})
        return (made, (normal([48, 256]),)), lambda x, kept: kept(x) @ kept(w)
    if kind == "two":
        w = weights(32, 32, 3, 3)
        made = graph([conv("x", "w", "c", 3), conv("c", "w", "y", 3)], {"x": IMAGE}, ["y"], {"w": w})
        return (made, (normal(IMAGE),)), lambda x, kept: convolved(kept(convolved(kept(x), kept(w))), kept(w))
    k, group = {"3x3": (3, 1), "1x1": (1, 1), "depthwise": (3, 32)}[kind]
    w = weights(32, 32 // group, k, k)
    made = graph([conv("x", "w", "y", k, group)], {"x": IMAGE}, ["y"], {"w": w})
    return (made, (normal(IMAGE),)), lambda x, kept: convolved(kept(x), kept(w))


@pytest.mark.parametrize("kind", ["matmul", "3x3", "1x1", "depthwise", "two"])
def test_what_it_computes_is_nearer_to_exact_than_16_bits_could_be(kind: str, tmp_path: Path) -> None:
    work, computed = case(kind)
    [x] = make_inputs(work[1]).values()
    exact = computed(x, as_they_are)
    with opened(ENGINE, work, tmp_path) as session:
        session.run()
        assert session.computes_in() == "fp32"
        found = relative_l2(session.outputs(), [exact])
    in_16_bits = [relative_l2([computed(x, kept)], [exact]) for kept in (fp16, bf16)]
    assert found < NEARER * min(in_16_bits)
    assert min(in_16_bits) > 1e-4
