"""ncnn on its CPU kernels: fp32, and int8 in the layers that it has in int8 (convolutions and dense layers)."""

import os
from typing import Any, Final

# Between two layers the pool's threads wait spinning; without a bound they go on for milliseconds after a run, on the
# cores of whoever is measured next. This is about 0.3 ms, far longer than any gap between layers.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # environment: libgomp reads it as it is loaded, below

import ncnn
import numpy as np

from benchfarm_core.failures import FailureCode
from benchfarm_core.profilers import has_profiler
from benchfarm_engines.engine import (
    Engine,
    EngineFailure,
    OpenRequest,
    Session,
    failure_without_paths,
)
from benchfarm_engines.in_step import in_step
from benchfarm_engines.ncnn_file import FORMAT, Blob, NcnnModel, read_artifact
from benchfarm_engines.ncnn_options import OPTIONS
from benchfarm_engines.task_threads import thread_ids

_ERRORS: Final = (RuntimeError, ValueError, TypeError, OSError)
_NO_MEMORY: Final = -100
"""What ncnn answers when a buffer cannot be had."""
_AS_IT_IS: Final = 1
"""Extracting in this way keeps int8; otherwise it is widened to float."""
_INT8_KEYS: Final = {
    **dict.fromkeys(("Convolution", "ConvolutionDepthWise", "InnerProduct"), "8="),
    **dict.fromkeys(("Gemm", "SDPA"), "18="),
}
"""Where a layer's line says that it computes in int8."""
_PROBE: Final = "7767517\n2 2\nInput in0 0 1 in0\nReLU relu 1 1 in0 out0\n"


class Ncnn:
    """Reads the files of ``ncnn_convert``. No GPU, no half precision; input and output as plain arrays."""

    name = "ncnn"
    formats = (FORMAT,)
    profiles = has_profiler(name)
    options = OPTIONS

    def __init__(self) -> None:
        self._pool: set[int] = set()

    def version(self) -> str:
        """The version of the installed wheel."""
        return str(ncnn.__version__)

    def precisions(self) -> tuple[str, ...]:
        """Both on every processor."""
        return ("fp32", "int8")

    def open(self, request: OpenRequest) -> Session:
        """Loads the layers and weights and copies the inputs. Raises EngineFailure."""
        before = thread_ids()
        try:
            model = read_artifact(request.artifact)
            _refuse_other_inputs(model, request)
            net = _loaded(model, request)
            return _NcnnSession(net, model, request, threads=self._threads(request.threads, before))
        except MemoryError as error:
            raise EngineFailure(FailureCode.OUT_OF_MEMORY, "ncnn cannot have the memory that it needs") from error
        except _ERRORS as error:
            raise failure_without_paths(FailureCode.ENGINE_ERROR, error, request.artifact) from error

    def _threads(self, wanted: int, before: set[int]) -> int:
        """Counted: all nets of a process share one pool, which loading or this small run starts or shrinks."""
        net = ncnn.Net()
        net.opt.num_threads = wanted
        net.load_param_mem(_PROBE)
        extractor = net.create_extractor()
        extractor.input("in0", ncnn.Mat(np.zeros((wanted, 4, 4), np.float32)).clone())
        extractor.extract("out0", ncnn.Mat())
        alive = thread_ids()
        self._pool = (self._pool & alive) | (alive - before)
        return 1 + (len(self._pool) if wanted > 1 else len(alive - before))


def _loaded(model: NcnnModel, request: OpenRequest) -> Any:
    net = ncnn.Net()
    _set_options(net.opt, request)
    if net.load_param_mem(model.param) != 0:
        raise _refused(model)
    code = net.load_model(str(request.artifact))
    if code == _NO_MEMORY:
        raise MemoryError
    if code != 0:
        raise EngineFailure(FailureCode.CONVERSION_FAILED, f"ncnn does not take the weights: {code}")
    return net


def _set_options(options: Any, request: OpenRequest) -> None:
    options.num_threads = request.threads
    options.openmp_blocktime = 0 if request.beside_another else 20
    options.use_vulkan_compute = False
    for name in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_packed", "bf16_storage"):
        setattr(options, f"use_{name}", False)
    options.use_packing_layout = bool(request.options["packing"])
    options.use_winograd_convolution = bool(request.options["winograd"])
    options.use_int8_inference = request.precision == "int8"


def _refused(model: NcnnModel) -> EngineFailure:
    kinds = [line.split()[0] for line in model.param.splitlines()[2:] if line.strip()]
    unknown = [kind for kind in kinds if ncnn.layer_to_index(kind) < 0]
    if unknown:
        return EngineFailure(FailureCode.UNSUPPORTED_OPERATOR, f"ncnn has no layer {unknown[0]}", subject=unknown[0])
    return EngineFailure(FailureCode.CONVERSION_FAILED, "ncnn does not take the layers")


def _refuse_other_inputs(model: NcnnModel, request: OpenRequest) -> None:
    wanted = {blob.name: blob for blob in model.inputs}
    if set(wanted) != set(request.inputs):
        raise EngineFailure(
            FailureCode.INVALID_WORKLOAD,
            f"the model's inputs are {sorted(wanted)}, the workload names {sorted(request.inputs)}",
        )
    for name, array in request.inputs.items():
        shape = _full_shape(wanted[name], model)
        if array.dtype.name != wanted[name].dtype or array.shape != shape:
            raise EngineFailure(
                FailureCode.INVALID_WORKLOAD, f"input {name} is {wanted[name].dtype} {list(shape)} in the model"
            )


def _full_shape(blob: Blob, model: NcnnModel) -> tuple[int, ...]:
    return blob.shape if model.batch == 1 else (model.batch, *blob.shape)


class _NcnnSession:
    def __init__(self, net: Any, model: NcnnModel, request: OpenRequest, *, threads: int) -> None:
        self.threads = threads
        self._net, self._model = net, model
        inputs = dict(in_step(net.input_names(), net.input_indexes()))
        outputs = dict(in_step(net.output_names(), net.output_indexes()))
        self._inputs = [(inputs[name], _as_mat(array, model)) for name, array in request.inputs.items()]
        self._outputs = [
            (outputs[blob.name], ncnn.Mat(), _AS_IT_IS if blob.dtype == "int8" else 0) for blob in model.outputs
        ]
        self._unpacked: dict[int, Any] = {}
        self._settled = False

    def run(self) -> None:
        extractor = None
        try:
            extractor = self._net.create_extractor()
            for index, mat in self._inputs:
                extractor.input(index, mat)
            for index, mat, kind in self._outputs:
                code = extractor.extract(index, mat, kind)
                if code != 0:
                    raise _run_failure(code)
        except BaseException:  # boundary: a traceback would keep it alive beyond the net, whose end it does not survive
            extractor = None
            raise
        if not self._settled:
            self._settle()
        for number, plain in self._unpacked.items():
            ncnn.convert_packing(self._outputs[number][1], plain, 1, self._net.opt)

    def _settle(self) -> None:
        """Kept as they are, int8 outputs may come with interleaved channels; a plain array is part of every run."""
        self._unpacked = {number: ncnn.Mat() for number, (_, mat, _) in enumerate(self._outputs) if mat.elempack != 1}
        self._settled = True

    def outputs(self) -> list[np.ndarray[Any, Any]]:
        return [_as_array(self._unpacked.get(number, mat)) for number, (_, mat, _) in enumerate(self._outputs)]

    def computes_in(self) -> str:
        """int8 where at least one layer does; ncnn has no half precision that these options leave on."""
        options = self._net.opt
        if options.use_fp16_storage or options.use_fp16_arithmetic:
            return "fp16"
        if options.use_bf16_storage:
            return "bf16"
        in_int8 = options.use_int8_inference and any(map(_is_int8, self._model.param.splitlines()))
        return "int8" if in_int8 else "fp32"

    def close(self) -> None:
        self._inputs.clear()
        self._outputs.clear()
        self._unpacked.clear()
        self._net.clear()


def _is_int8(line: str) -> bool:
    words = line.split()
    key = _INT8_KEYS.get(words[0]) if words else None
    return key is not None and any(word.startswith(key) and word != f"{key}0" for word in words)


def _as_mat(array: np.ndarray[Any, Any], model: NcnnModel) -> Any:
    """A copy in ncnn's own memory: a Mat over a numpy array has another step between channels and no owner."""
    return ncnn.Mat(array).clone() if model.batch == 1 else ncnn.Mat(array, 0)


def _as_array(mat: Any) -> np.ndarray[Any, Any]:
    if mat.n == 1:
        return np.array(mat)
    return np.stack([np.array(mat.batch(number)) for number in range(mat.n)])


def _run_failure(code: int) -> EngineFailure:
    if code == _NO_MEMORY:
        return EngineFailure(FailureCode.OUT_OF_MEMORY, "ncnn cannot have the memory that it needs")
    return EngineFailure(FailureCode.ENGINE_ERROR, f"ncnn stopped with {code}")


ENGINE: Final[Engine] = Ncnn()
