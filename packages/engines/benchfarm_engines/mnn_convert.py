"""ONNX to MNN by the package's C extension, in this process.

Its command-line tools are never used: they install packages and send facts about the machine and the model as soon
as they are imported (``MNN.tools``). The extension alone starts nothing and opens no connection. It works on files
and leaves one in the current folder, so a conversion has a folder of its own for a moment, and it prints; both make a
conversion the only one of its process at a time.
"""

import ctypes
import os
import re
import uuid
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import _mnncengine
import _tools
import onnx

from benchfarm_core.failures import FailureCode
from benchfarm_engines.conversion import ConversionRequest, Converted, Converter
from benchfarm_engines.edges import Edge, Edges
from benchfarm_engines.engine import EngineFailure, one_line
from benchfarm_engines.launch_request import InputSpec
from benchfarm_engines.mnn_keeper import keeper_name
from benchfarm_engines.onnx_source import read_source, unsupported
from benchfarm_engines.sealed_file import seal

_DTYPES: Final = {
    "float32": "float32",
    "int32": "int32",
    "int64": "int32",
    "bool": "int32",
    "uint8": "uint8",
}
"""What MNN makes of an input's type; it has no 64-bit numbers, and its binding hands over no 8-bit ones with a sign."""
_SLICE_TAKES_TENSORS: Final = 10
"""The opset from which on a Slice is told its range by inputs."""
_LACKING: Final = re.compile(r"Op Not Support:(.*)")
_OPERATOR: Final = re.compile(r"ONNX::(\w+)")
_COMPLAINT: Final = re.compile(r"(?im)^.*(?:error|failed|invalid).*$")


class MnnConverter:
    """Writes a sealed .mnn: the file as the extension makes it, and the order of its outputs."""

    def convert(self, request: ConversionRequest) -> Converted:
        """fp32, channels first at both ends; see ``conversion.Converter``."""
        model = read_source(request)
        outputs = [each.name for each in model.graph.output]
        edges = Edges(tuple(map(_input_edge, request.inputs)), tuple(Edge(name) for name in outputs))
        _keep_inputs(model, request.inputs)
        body = _converted(bytes(model.SerializeToString(deterministic=True)))
        return Converted(seal(body, {"outputs": outputs}), "mnn", edges)


def _input_edge(spec: InputSpec) -> Edge:
    if spec.dtype not in _DTYPES:
        raise EngineFailure(FailureCode.CONVERSION_FAILED, f"input {spec.name}: MNN takes no {spec.dtype}")
    return Edge(spec.name, _DTYPES[spec.dtype])


def _keep_inputs(model: onnx.ModelProto, specs: Sequence[InputSpec]) -> None:
    """Reads one element of each input behind all else, as an output of its own.

    MNN gives an input's memory to other tensors once its last reader has run, so that a second run without a new copy
    computes on garbage. Copying in every run would cost as much as an activation; this costs some 50 ns.
    """
    graph = model.graph
    types = {info.name: info.type.tensor_type.elem_type for info in graph.input}
    elements: dict[int, list[str]] = {}
    for number, spec in enumerate(specs):
        if spec.shape:
            sliced = _slice_of_one(model, spec, f"{keeper_name(number)}/element")
            one = _weight(graph, f"{sliced}/shape", [1])
            graph.node.append(onnx.helper.make_node("Reshape", [sliced, one], [keeper_name(number)]))
            elements.setdefault(types[spec.name], []).append(keeper_name(number))
    for dtype, names in elements.items():  # one operator for all: behind the first of two, an input would be free
        keeper = f"{names[0]}/all"
        graph.node.append(onnx.helper.make_node("Concat", names, [keeper], name=keeper, axis=0))
        graph.output.append(onnx.helper.make_tensor_value_info(keeper, dtype, [len(names)]))


def _slice_of_one(model: onnx.ModelProto, spec: InputSpec, name: str) -> str:
    rank = len(spec.shape)
    node = onnx.helper.make_node("Slice", [spec.name], [name], name=name)
    for key, value in {"starts": [0] * rank, "ends": [1] * rank, "axes": list(range(rank))}.items():
        if model.opset_import[0].version < _SLICE_TAKES_TENSORS:
            node.attribute.append(onnx.helper.make_attribute(key, value))
        else:
            node.input.append(_weight(model.graph, f"{name}/{key}", value))
    model.graph.node.append(node)
    return name


def _weight(graph: onnx.GraphProto, name: str, values: list[int]) -> str:
    graph.initializer.append(onnx.helper.make_tensor(name, onnx.TensorProto.INT64, [len(values)], values))
    return name


def _converted(onnx_bytes: bytes) -> bytes:
    with TemporaryDirectory() as folder, chdir(folder):
        Path("model.onnx").write_bytes(onnx_bytes)
        log = Path("log")
        with _output_to(log):
            _tools.mnnconvert(_arguments("model.onnx", "model.mnn"))
        made = Path("model.mnn")
        if not made.is_file():
            raise _failure(log.read_text(errors="replace"))
        return _with_own_id(made.read_bytes(), _mnncengine.get_model_uuid(str(made)))


def _arguments(source: str, target: str) -> list[str]:
    """A list: the extension ends the process over any other sequence."""
    return ["convert", "-f", "ONNX", "--modelFile", source, "--MNNModel", target, "--bizCode", "benchfarm"]


def _with_own_id(content: bytes, given: str) -> bytes:
    """The same file for the same model: the random id in it becomes one that follows from the rest."""
    old = given.encode()
    if content.count(old) != 1:
        raise EngineFailure(FailureCode.CONVERSION_FAILED, "the converted file does not hold its own id once")
    rest = content.replace(old, bytes(len(old)))
    return content.replace(old, str(uuid.UUID(bytes=sha256(rest).digest()[:16])).encode())


def _failure(log: str) -> EngineFailure:
    """The typed failure that the extension's words stand for; it returns the same value either way."""
    lacking = _LACKING.search(log)
    operators = _OPERATOR.findall(lacking.group(1)) if lacking else []
    if operators:
        return unsupported(operators[0], f"MNN has no {', '.join(operators)}")
    complaints = _COMPLAINT.findall(log) or ["the converter wrote no file and gave no reason"]
    return EngineFailure(FailureCode.CONVERSION_FAILED, one_line(complaints[0].partition("] ")[2] or complaints[0]))


@contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Sends what native code prints on both standard descriptors to a file."""
    stdio = ctypes.CDLL(None)
    stdio.fflush(None)
    kept = os.dup(1), os.dup(2)
    with path.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        stdio.fflush(None)
        for descriptor, original in zip(kept, (1, 2), strict=True):
            os.dup2(descriptor, original)
            os.close(descriptor)


CONVERTER: Final[Converter] = MnnConverter()
