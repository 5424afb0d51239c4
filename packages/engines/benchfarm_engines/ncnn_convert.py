"""Writes ncnn's files from ONNX graphs: kernels of the catalogue, generated models, and uploads of the same operators.

ncnn has no batch axis in its shapes: blobs lack it, a batch is a number of blobs that every layer takes in turn. In
int8, convolutions and dense layers hold int8 weights; every other operator computes in fp32 there, as in ncnn's own
int8 models. An input is int8 where only such layers read it, and then outputs are int8 too; kernels that ncnn has in
fp32 alone, and products with rows of tokens, which find the scales of rows by themselves, keep fp32 edges.
"""

from collections.abc import Mapping
from typing import Final

from benchfarm_engines import ncnn_movement as movement
from benchfarm_engines import ncnn_tensors as tensors
from benchfarm_engines import ncnn_windows as windows
from benchfarm_engines.conversion import ConversionRequest, Converted, Converter
from benchfarm_engines.edges import Edge, Edges
from benchfarm_engines.launch_request import InputSpec
from benchfarm_engines.ncnn_file import FORMAT, Blob, NcnnModel, pack_artifact
from benchfarm_engines.ncnn_folding import fold
from benchfarm_engines.ncnn_fusions import fuse
from benchfarm_engines.ncnn_graph import Operator, SourceGraph, read_graph, unsupported
from benchfarm_engines.ncnn_options import OPTIONS
from benchfarm_engines.ncnn_site import Emitter, NcnnSite, takes_int8_input
from benchfarm_engines.ncnn_writer import NcnnWriter

_EMITTERS: Final[Mapping[str, Emitter]] = {
    "Conv": windows.conv,
    "ConvTranspose": windows.deconv,
    "Gemm": windows.gemm,
    "MaxPool": windows.pool,
    "AveragePool": windows.pool,
    "GlobalAveragePool": windows.global_pool,
    "GlobalMaxPool": windows.global_pool,
    "BatchNormalization": windows.batch_norm,
    "Relu": tensors.elementwise("ReLU"),
    "Sigmoid": tensors.elementwise("Sigmoid"),
    "Swish": tensors.elementwise("Swish"),
    "Erf": tensors.elementwise("Erf"),
    "Softplus": tensors.elementwise("Softplus"),
    "Mish": tensors.elementwise("Mish"),
    "Elu": tensors.elu,
    "PRelu": tensors.prelu,
    "LeakyRelu": tensors.leaky_relu,
    "Clip": tensors.clip,
    "HardSigmoid": tensors.hard_sigmoid,
    "HardSwish": tensors.hard_swish,
    "Gelu": tensors.gelu,
    **dict.fromkeys(("Identity", "Dropout"), movement.same),
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), movement.reshape),
    **dict.fromkeys(tensors.UNARY, tensors.unary),
    **dict.fromkeys(tensors.BINARY, tensors.binary),
    **dict.fromkeys(tensors.REDUCTIONS, tensors.reduction),
    "Transpose": movement.transpose,
    "Concat": movement.concat,
    "Split": movement.split,
    "Slice": movement.crop,
    "Pad": movement.pad,
    "DepthToSpace": movement.depth_to_space,
    "Gather": movement.gather,
    "ChannelShuffle": movement.channel_shuffle,
    "Resize": movement.resize,
    "Softmax": tensors.softmax,
    "LayerNormalization": tensors.layer_norm,
    "InstanceNormalization": tensors.instance_norm,
    "Linear": tensors.linear,
    "MatMul": tensors.product,
    "Attention": tensors.attention,
}


class NcnnConverter:
    """Writes artifacts that ``ncnn_engine`` and the native runner open, in a few milliseconds per kernel."""

    options = OPTIONS

    def convert(self, request: ConversionRequest) -> Converted:
        """The artifact with its edges. Raises EngineFailure (unsupported_operator, invalid_workload, ...)."""
        graph = read_graph(request)
        fold(graph)
        fuse(graph)
        site = NcnnSite(graph, NcnnWriter(), _batch(graph), _int8_outputs(graph, request))
        wanted = _int8_inputs(site, request)
        dtypes = {spec.name: _dtype(graph, spec) for spec in request.inputs} | dict.fromkeys(wanted, "int8")
        for name in graph.inputs:
            site.put(name, site.writer.input())
        for operator in graph.operators:
            if id(operator) not in site.fused:
                _emit(site, operator)
        return _artifact(site, dtypes)


def _batch(graph: SourceGraph) -> int:
    sizes = {graph.shapes[name][0] if graph.shapes[name] else 0 for name in graph.inputs}
    if len(sizes) != 1:
        raise unsupported("batch", "the inputs do not share a batch axis")
    return sizes.pop()


def _int8_outputs(graph: SourceGraph, request: ConversionRequest) -> frozenset[str]:
    if request.edges is None:
        return frozenset()
    pairs = zip(graph.outputs, request.edges.outputs, strict=True)
    return frozenset(name for name, edge in pairs if edge.scale)


def _int8_inputs(site: NcnnSite, request: ConversionRequest) -> frozenset[str]:
    if request.edges is None:
        return frozenset()
    pairs = zip(site.graph.inputs, request.edges.inputs, strict=True)
    return frozenset(name for name, edge in pairs if edge.scale and takes_int8_input(site, name))


def _dtype(graph: SourceGraph, spec: InputSpec) -> str:
    """What an input becomes: fp32, or whole numbers where they only name rows of a table."""
    readers = graph.consumers(spec.name)
    if spec.dtype in ("int32", "int64") and readers and all(reader.kind == "Gather" for reader in readers):
        return "int32"
    if spec.dtype != "float32":
        raise unsupported(spec.dtype, "as an input that is computed with")
    return spec.dtype


def _emit(site: NcnnSite, operator: Operator) -> None:
    emitter = _EMITTERS.get(operator.kind)
    if emitter is None:
        raise unsupported(operator, "ncnn's writer does not know it")
    emitter(site, operator)


def _artifact(site: NcnnSite, dtypes: Mapping[str, str]) -> Converted:
    graph = site.graph
    outputs = [_output(site, name, in_int8="int8" in dtypes.values()) for name in graph.outputs]
    param, weights, input_names, output_names = site.writer.finish(outputs)
    front = () if site.batch == 1 else (site.batch,)
    inputs = [
        _edge(graph, blob, name, dtypes[name], front + site.shape(name))
        for blob, name in zip(input_names, graph.inputs, strict=True)
    ]
    ends = [
        _edge(graph, blob, name, "int8" if name in site.int8_made else "float32")
        for blob, name in zip(output_names, graph.outputs, strict=True)
    ]
    model = NcnnModel(
        param,
        tuple(Blob(edge.name, edge.dtype, site.shape(name)) for edge, name in zip(inputs, graph.inputs, strict=True)),
        tuple(Blob(edge.name, edge.dtype) for edge in ends),
        site.batch,
    )
    return Converted(pack_artifact(model, weights), FORMAT, Edges(tuple(inputs), tuple(ends)))


def _output(site: NcnnSite, tensor: str, *, in_int8: bool) -> int:
    """An output's blob. Behind int8 layers it is quantised at the end, as ncnn's next int8 layer would do first."""
    blob = site.full(tensor)
    wanted = in_int8 and tensor in site.int8_outputs - site.int8_made and tensor in site.graph.scales
    return windows.quantised(site, tensor, blob) if wanted else blob


def _edge(graph: SourceGraph, blob: str, tensor: str, dtype: str, shape: tuple[int, ...] = ()) -> Edge:
    return Edge(blob, dtype, shape=shape, scale=(graph.scales[tensor] or 1.0) if dtype == "int8" else 0.0)


CONVERTER: Final[Converter] = NcnnConverter()
