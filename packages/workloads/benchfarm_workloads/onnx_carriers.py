"""ONNX files of carriers."""

from typing import Final

from benchfarm_core.values import digest
from benchfarm_core.workloads import InputSpec, NormalFill
from benchfarm_workloads.carriers import Carrier
from benchfarm_workloads.onnx_graphs import OnnxGraph
from benchfarm_workloads.onnx_kernels import emit_kernel

_NAME: Final = "carrier"


def build_carrier(carrier: Carrier) -> tuple[bytes, tuple[InputSpec, ...]]:
    """The ONNX file of a carrier and its inputs; the same bytes for the same carrier. Its nodes are named by layer."""
    layers = [[layer.name, layer.type, layer.config, layer.sources] for layer in carrier.layers]
    graph = OnnxGraph(_NAME, seed=int(digest([_NAME, layers], length=16), 16))
    for name, dims in carrier.inputs:
        graph.input(name, dims)
    for layer in carrier.layers:
        emit_kernel(graph, layer.name, layer.type, layer.config, layer.sources)
    for name, dims in carrier.outputs:
        graph.output(name, dims)
    return graph.to_bytes(), carrier_inputs(carrier)


def carrier_inputs(carrier: Carrier) -> tuple[InputSpec, ...]:
    """The carrier's inputs, filled with seeded normal numbers."""
    return tuple(
        InputSpec(name=name, dtype="float32", shape=dims, fill=NormalFill(seed=seed))
        for seed, (name, dims) in enumerate(carrier.inputs)
    )
