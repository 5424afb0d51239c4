"""ONNX graphs of catalogue kernels: one alone, or as a part of a larger graph."""

from collections.abc import Mapping, Sequence
from typing import Final

from benchfarm_core.values import digest
from benchfarm_core.workloads import InputSpec, NormalFill
from benchfarm_workloads.columns import Config, Scalar
from benchfarm_workloads.kernels import kernel_type
from benchfarm_workloads.onnx_graphs import OnnxGraph
from benchfarm_workloads.onnx_images import IMAGE_EMITTERS
from benchfarm_workloads.onnx_sequences import SEQUENCE_EMITTERS
from benchfarm_workloads.onnx_sites import Emitter, Site

_EMITTERS: Final[dict[str, Emitter]] = IMAGE_EMITTERS | SEQUENCE_EMITTERS


def build_kernel(type_name: str, config: Mapping[str, object]) -> tuple[bytes, tuple[InputSpec, ...]]:
    """The one-kernel ONNX file and its inputs; the same bytes for the same configuration.

    Raises:
        InvalidRequest: unknown type or configuration out of range.
    """
    kind = kernel_type(type_name)
    canonical = kind.validate(config)
    graph = OnnxGraph(kind.name, seed=int(digest([kind.name, canonical], length=16), 16))
    inputs = kernel_inputs(kind.name, canonical)
    sources = [graph.input(spec.name, spec.shape) for spec in inputs]
    outputs = emit_kernel(graph, "y", kind.name, canonical, sources)
    for name, dims in zip(outputs, kind.tensor_rule(canonical).outputs, strict=True):
        graph.output(name, dims)
    return graph.to_bytes(), inputs


def emit_kernel(
    graph: OnnxGraph, name: str, type_name: str, config: Mapping[str, Scalar], sources: Sequence[str]
) -> tuple[str, ...]:
    """Adds a kernel to a graph and returns the names of its outputs.

    A single output is called ``name``, several ``name/0``, ``name/1``, ...; inner values and weights ``name/...``.
    ``config`` is canonical.
    """
    kind = kernel_type(type_name)
    outputs = kind.output_names(name, config)
    _EMITTERS[type_name](Site(graph, name, config, kind.tensor_rule(config), sources, outputs))
    return outputs


def kernel_inputs(type_name: str, config: Config) -> tuple[InputSpec, ...]:
    """The inputs of a one-kernel graph, filled with seeded normal numbers."""
    return tuple(
        InputSpec(name=f"x{index}", dtype="float32", shape=dims, fill=NormalFill(seed=index))
        for index, dims in enumerate(kernel_type(type_name).tensor_rule(config).inputs)
    )
