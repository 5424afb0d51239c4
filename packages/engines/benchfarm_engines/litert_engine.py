"""LiteRT on the CPU: with its XNNPACK delegate, or with its built-in kernels alone."""

import re
from importlib.metadata import version
from typing import Any, Final

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from benchfarm_core.failures import FailureCode
from benchfarm_core.profilers import has_profiler
from benchfarm_engines.engine import Engine, EngineFailure, OpenRequest, Session, failure_without_paths
from benchfarm_engines.engine_options import INT8_OPTIONS, Option
from benchfarm_engines.task_threads import thread_ids

Array = np.ndarray[Any, Any]

_RESOLVERS: Final = {
    "xnnpack": OpResolverType.BUILTIN,
    "none": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
}
_ERRORS: Final = (RuntimeError, ValueError, TypeError, OSError, MemoryError)
_INVALID_SIGNS: Final = ("Flatbuffer", "Could not open", "mmap")
_MEMORY_SIGNS: Final = (
    "failed with error '12'",
    "failed to create XNNPACK runtime",
    "ailed to allocate",
    "out of memory",
)
"""The first is the kernel's ENOMEM for the file; the second comes where weights cannot be packed."""
_MISSING: Final = (
    re.compile(r"Didn't find op for builtin opcode '(?P<op>\w+)'"),
    re.compile(r"unresolved custom op: (?P<op>\w+)"),
    re.compile(r"Node number \d+ \((?P<op>\w+)\) failed to prepare"),
    re.compile(r"Op builtin_code out of range: (?P<op>\d+)"),
    re.compile(r"with (?P<op>CUSTOM) builtin_code"),
)
_NOTICE: Final = re.compile(r"^(INFO|VERBOSE|WARNING): .*$", re.MULTILINE)
_EIGHT_BITS: Final = (np.int8, np.uint8)
_PRODUCTS: Final = frozenset({"BATCH_MATMUL", "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"})
_EDGES: Final = frozenset({"DELEGATE", "DEQUANTIZE", "QUANTIZE"})
"""What stands around operators, and the delegate that takes some of them over, beside which they are still listed."""


class LiteRt:
    """Reads .tflite. Inputs are copied in when a model is opened and stay there: LiteRT never writes over them."""

    name = "litert"
    formats = ("tflite",)
    profiles = has_profiler(name)
    options = (
        Option(
            "delegate",
            "choice",
            "xnnpack",
            "who computes: XNNPACK where it has the operator, or the built-in kernels alone",
            choices=tuple(_RESOLVERS),
        ),
        *INT8_OPTIONS,
    )

    def version(self) -> str:
        """The version of the installed wheel."""
        return version("ai-edge-litert")

    def precisions(self) -> tuple[str, ...]:
        """The types of the file, which this engine never changes; as_given for files that others made."""
        return ("fp32", "int8", "as_given")

    def open(self, request: OpenRequest) -> Session:
        """Maps the file, plans its memory and copies the inputs in. Raises EngineFailure."""
        if request.threads > 1 and request.options["delegate"] == "none":
            # Ruy's and Eigen's, beside the caller: which of them computes is each kernel's own choice
            raise EngineFailure(FailureCode.THREADS_NOT_OBEYED, "the built-in kernels keep two pools of that size")
        before = thread_ids()
        try:
            interpreter = _built(request)
            return _LiteRtSession(interpreter, request, threads=1 + len(thread_ids() - before))
        except _ERRORS as error:
            raise _failure(error, request) from error


def _built(request: OpenRequest) -> Any:
    interpreter = Interpreter(
        model_path=str(request.artifact),
        num_threads=request.threads,
        experimental_op_resolver_type=_RESOLVERS[str(request.options["delegate"])],
    )
    _refuse_other_inputs(interpreter, request)
    interpreter.allocate_tensors()
    for each in interpreter.get_input_details():
        interpreter.set_tensor(each["index"], request.inputs[each["name"]])
    return interpreter


def _refuse_other_inputs(interpreter: Any, request: OpenRequest) -> None:
    """Also binds open dimensions to the sizes of the inputs."""
    details = interpreter.get_input_details()
    names = {each["name"] for each in details}
    if names != set(request.inputs):
        raise _invalid(f"the model's inputs are {sorted(names)}, the workload names {sorted(request.inputs)}")
    for each in details:
        array, wanted = request.inputs[each["name"]], list(each["shape_signature"])
        bound = [given if size == -1 else size for size, given in zip(wanted, array.shape)]  # noqa: B905
        if array.dtype != each["dtype"] or len(wanted) != array.ndim or bound != list(array.shape):
            raise _invalid(f"input {each['name']} is {np.dtype(each['dtype']).name} {wanted} in the model")
        if -1 in wanted:
            interpreter.resize_tensor_input(each["index"], list(array.shape))


class _LiteRtSession:
    def __init__(self, interpreter: Any, request: OpenRequest, *, threads: int) -> None:
        self.threads = threads
        self._request = request
        self._interpreter = interpreter
        # The public invoke looks for views of its memory first, 0.6 us in Python; this session hands out copies.
        self._invoke = interpreter._interpreter.Invoke  # noqa: SLF001

    def run(self) -> None:
        try:
            self._invoke()
        except _ERRORS as error:
            raise _failure(error, self._request) from error

    def outputs(self) -> list[Array]:
        details = self._interpreter.get_output_details()
        return [np.array(self._interpreter.get_tensor(each["index"])) for each in details]

    def output_steps(self) -> list[tuple[float, int]]:
        steps = (each["quantization"] for each in self._interpreter.get_output_details())
        return [(float(scale), int(zero_point)) for scale, zero_point in steps]

    def computes_in(self) -> str:
        """By what operators give: 8-bit weights alone make no int8, for LiteRT multiplies them in fp32.

        A file that runs as it is runs in its own types.
        """
        if self._request.precision == "as_given":
            return "as_given"
        types = {each["index"]: each["dtype"] for each in self._interpreter.get_tensor_details()}
        operators = self._interpreter._get_ops_details()  # noqa: SLF001
        given = [(each["op_name"], types.get(int(each["outputs"][0]))) for each in operators if len(each["outputs"])]
        products = [kind for name, kind in given if name in _PRODUCTS]
        others = {kind for name, kind in given if name not in _EDGES}
        in_8_bits = set(_EIGHT_BITS).intersection(products or others)
        return "int8" if in_8_bits and (products or np.float32 not in others) else "fp32"

    def close(self) -> None:
        del self._invoke, self._interpreter


def _failure(error: Exception, request: OpenRequest) -> EngineFailure:
    said = _NOTICE.sub("", str(error)).strip()
    silent = isinstance(error, RuntimeError) and not said  # so it fails where its arena cannot be had
    if isinstance(error, MemoryError) or silent or any(sign in said for sign in _MEMORY_SIGNS):
        return EngineFailure(FailureCode.OUT_OF_MEMORY, said or "no memory for the model's tensors")
    for sign in _MISSING:
        found = sign.search(said)
        if found is not None:
            return EngineFailure(FailureCode.UNSUPPORTED_OPERATOR, said, subject=found["op"])
    if any(sign in said for sign in _INVALID_SIGNS):
        return failure_without_paths(FailureCode.INVALID_WORKLOAD, error, request.artifact)
    return failure_without_paths(FailureCode.ENGINE_ERROR, error, request.artifact)


def _invalid(detail: str) -> EngineFailure:
    return EngineFailure(FailureCode.INVALID_WORKLOAD, detail)


ENGINE: Final[Engine] = LiteRt()
