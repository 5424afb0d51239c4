"""ONNX Runtime on an NVIDIA GPU, fp32 and fp16. Importable only where there is one."""

from typing import Any, Final

import numpy as np

from benchfarm_core.failures import FailureCode
from benchfarm_core.profilers import has_profiler
from benchfarm_engines.cuda_driver import require_gpu
from benchfarm_engines.engine import (
    Engine,
    EngineFailure,
    EngineUnavailable,
    OpenRequest,
    Session,
    failure_without_paths,
)
from benchfarm_engines.engine_options import Option

require_gpu()  # before the import below: its own reason would be that it has no such provider

import onnxruntime as ort  # noqa: E402

_PROVIDER: Final = "CUDAExecutionProvider"
_PROVIDER_OPTIONS: Final = {"device_id": "0", "use_tf32": "0", "cudnn_conv_algo_search": "EXHAUSTIVE"}
"""TF32 is not what fp32 means; the convolutions' algorithms are looked for before anything is timed."""
_TYPES: Final = {"fp32": "tensor(float)", "fp16": "tensor(float16)"}
_ERRORS_ONLY: Final = 3
_MEMORY_SIGNS: Final = ("Failed to allocate memory", "out of memory", "CUDA failure 2")

if _PROVIDER not in ort.get_available_providers():
    raise EngineUnavailable(
        "the installed onnxruntime is built without CUDA; benchfarm-engines[onnxruntime_cuda] has it"
    )


class OnnxRuntimeCuda:
    """Reads ONNX. Inputs and outputs stay in the GPU's memory; a run ends when the GPU has ended it."""

    name = "onnxruntime_cuda"
    formats = ("onnx",)
    options: tuple[Option, ...] = ()
    profiles = has_profiler(name)

    def version(self) -> str:
        """The version of the installed wheel."""
        return str(ort.__version__)

    def precisions(self) -> tuple[str, ...]:
        """This provider computes in the types of the graph, which the converter makes 16-bit for fp16."""
        return ("fp32", "fp16")

    def open(self, request: OpenRequest) -> Session:
        """Builds a session on the first GPU and copies the inputs there. Raises EngineFailure."""
        ort.set_default_logger_severity(_ERRORS_ONLY)
        try:
            return _CudaSession(request)
        except EngineFailure:
            raise
        except Exception as error:  # boundary: the native errors share no base of their own
            raise failure_without_paths(_code(error), error, request.artifact) from error


class _CudaSession:
    threads = 1  # the calling one; what runs on the GPU is no thread of this process

    def __init__(self, request: OpenRequest) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS_ONLY
        # A graph of which some part would run on the processor is refused: it would be another platform's number.
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        model = request.artifact.read_bytes()
        self._session = ort.InferenceSession(model, options, providers=[(_PROVIDER, _PROVIDER_OPTIONS)])
        self._artifact = request.artifact
        self._refuse_other_inputs(request)
        self._binding = self._session.io_binding()
        for name, array in request.inputs.items():
            self._binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array, "cuda", 0))
        for each in self._session.get_outputs():
            self._binding.bind_output(each.name, "cuda", 0)
        self._call: Any = self._session.run_with_iobinding

    def _refuse_other_inputs(self, request: OpenRequest) -> None:
        wanted = {each.name: list(each.shape) for each in self._session.get_inputs()}
        given = {name: list(array.shape) for name, array in request.inputs.items()}
        if wanted != given:
            raise EngineFailure(
                FailureCode.INVALID_WORKLOAD, f"the model's inputs are {wanted}, the workload names {given}"
            )

    def run(self) -> None:
        try:
            self._call(self._binding)
            self._binding.synchronize_outputs()
        except Exception as error:  # boundary: the native errors share no base of their own
            raise failure_without_paths(_code(error), error, self._artifact) from error

    def outputs(self) -> list[np.ndarray[Any, Any]]:
        return [np.array(each) for each in self._binding.copy_outputs_to_cpu()]

    def computes_in(self) -> str:
        """The type of the outputs: the provider has no other notion of a precision."""
        types = {each.type for each in self._session.get_outputs()}
        return next((name for name, kind in _TYPES.items() if types == {kind}), "another precision")

    def close(self) -> None:
        del self._call, self._binding, self._session


def _code(error: Exception) -> FailureCode:
    text = str(error)
    if isinstance(error, MemoryError) or any(sign in text for sign in _MEMORY_SIGNS):
        return FailureCode.OUT_OF_MEMORY
    if "INVALID_PROTOBUF" in text or "INVALID_GRAPH" in text:
        return FailureCode.INVALID_WORKLOAD
    if "NOT_IMPLEMENTED" in text or "fallback" in text:
        return FailureCode.UNSUPPORTED_OPERATOR
    return FailureCode.ENGINE_ERROR


ENGINE: Final[Engine] = OnnxRuntimeCuda()
