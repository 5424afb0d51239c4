"""ONNX Runtime on its CPU provider: fp32, and int8 for graphs that are quantised."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as native

from benchfarm_core.failures import FailureCode
from benchfarm_core.profilers import has_profiler
from benchfarm_engines.engine import (
    Engine,
    EngineFailure,
    NodeTime,
    OpenRequest,
    Session,
    failure_without_paths,
    run_marked,
    unmarked,
)
from benchfarm_engines.engine_options import INT8_OPTIONS, Option
from benchfarm_engines.in_step import in_step
from benchfarm_engines.onnx_dimensions import with_sizes
from benchfarm_engines.onnx_nodes import computes_in_8_bits, nodes_of
from benchfarm_engines.profile_events import read_inferences
from benchfarm_engines.task_threads import thread_ids

_OPTIMISATION_LEVELS: Final = {
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
_TYPES: Final = {"float32": "float", "float64": "double"}
"""ONNX Runtime's names of element types where they are not numpy's."""
_ERRORS_ONLY: Final = 3
_UNSUPPORTED_SIGNS: Final = ("not a registered function/op", "No Op registered for", "opset", "NOT_IMPLEMENTED")
_LACKING: Final = (
    re.compile(r"No Op registered for (?P<op>\w+) "),
    re.compile(r"(?P<op>\w+)\(-?\d+\) is not a registered function/op"),
    re.compile(r"find an implementation for (?P<op>\w+)\("),
)
_MEMORY_SIGNS: Final = ("bad_alloc", "Failed to allocate memory", "bad allocation")

# The native errors share no base of their own.
_NATIVE_ERRORS: Final[tuple[type[Exception], ...]] = tuple(
    kind for kind in vars(native).values() if isinstance(kind, type) and issubclass(kind, Exception)
)
_ERRORS: Final[tuple[type[Exception], ...]] = (
    *_NATIVE_ERRORS,
    RuntimeError,
    ValueError,
    TypeError,
    OSError,
    MemoryError,
)


class OnnxRuntime:
    """Reads ONNX. Buffers are bound beforehand, so that a number is the engine's and not Python's."""

    name = "onnxruntime"
    formats = ("onnx",)
    profiles = has_profiler(name)
    options = (
        Option(
            "graph_optimization",
            "choice",
            "all",
            "how far the graph is rewritten",
            choices=tuple(_OPTIMISATION_LEVELS),
        ),
        *INT8_OPTIONS,
    )

    def version(self) -> str:
        """The version of the installed wheel."""
        return str(ort.__version__)

    def precisions(self) -> tuple[str, ...]:
        """fp32 and int8: this provider computes in the types of the graph."""
        return ("fp32", "int8")

    def open(self, request: OpenRequest) -> Session:
        """Builds a session and binds the inputs. Raises EngineFailure."""
        ort.set_default_logger_severity(_ERRORS_ONLY)
        before = thread_ids()
        try:
            if request.profiled:
                return _ProfiledSession.opened(request, before)
            return _OnnxRuntimeSession(_build(request), request, threads=1 + len(thread_ids() - before))
        except _ERRORS as error:
            raise _failure(error, request) from error


def _build(request: OpenRequest, *, profile: Path | None = None, rewritten: Path | None = None) -> Any:
    """The one session of an opening: a second one would be told as the model's memory and loading time.

    profile: how the profile's name begins; rewritten: where to leave the graph that is executed.
    """
    shapes = {name: array.shape for name, array in request.inputs.items()}
    model = with_sizes(request.artifact.read_bytes(), shapes)  # bound: fixed shapes are optimised differently
    options = _session_options(request)
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    if rewritten is not None:
        options.optimized_model_filepath = str(rewritten)
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    _refuse_other_inputs(session, request)
    return session


def _session_options(request: OpenRequest) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = request.threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = _OPTIMISATION_LEVELS[str(request.options["graph_optimization"])]
    options.log_severity_level = _ERRORS_ONLY
    # On ARM this switch would trade fp32 for bf16 inside matrix products; off is the default, said aloud.
    options.add_session_config_entry("mlas.enable_gemm_fastmath_arm64_bfloat16", "0")
    if request.beside_another:
        # Pool threads spin after a run in hope of the next one, on the cores of the session that runs now.
        options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def _refuse_other_inputs(session: Any, request: OpenRequest) -> None:
    wanted = {each.name for each in session.get_inputs()}
    if wanted != set(request.inputs):
        raise EngineFailure(
            FailureCode.INVALID_WORKLOAD,
            f"the model's inputs are {sorted(wanted)}, the workload names {sorted(request.inputs)}",
        )
    for each in session.get_inputs():
        array = request.inputs[each.name]
        wanted_shape = [size if isinstance(size, int) else given for size, given in _dimensions(each, array)]
        wanted_type = _TYPES.get(array.dtype.name, array.dtype.name)
        if each.type != f"tensor({wanted_type})" or wanted_shape != list(array.shape):
            raise EngineFailure(
                FailureCode.INVALID_WORKLOAD, f"input {each.name} is {each.type} {each.shape} in the model"
            )


def _dimensions(each: Any, array: np.ndarray[Any, Any]) -> list[tuple[int | str | None, int]]:
    if len(each.shape) != array.ndim:
        return [(-1, 0)]  # equal to no shape
    return list(in_step(each.shape, array.shape))


class _OnnxRuntimeSession:
    def __init__(self, session: Any, request: OpenRequest, *, threads: int) -> None:
        self.threads = threads
        self._request = request
        self._session = session
        self._binding = session.io_binding()
        for name, array in request.inputs.items():
            self._binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
        for each in session.get_outputs():
            self._binding.bind_output(each.name, "cpu")
        self._call = session.run_with_iobinding
        self._outputs_bound = False

    def run(self) -> None:
        try:
            self._call(self._binding)
            if not self._outputs_bound:
                self._bind_outputs()
        except _ERRORS as error:
            raise _failure(error, self._request) from error

    def _bind_outputs(self) -> None:
        """Later runs write where the first one did; before it, shapes that depend on data are not known."""
        values = self._binding.get_outputs()
        for each, value in in_step(self._session.get_outputs(), values):
            if not value.is_tensor():
                raise EngineFailure(FailureCode.INVALID_WORKLOAD, f"output {each.name} is not a tensor")
            self._binding.bind_ortvalue_output(each.name, value)
        self._outputs_bound = True

    def outputs(self) -> list[np.ndarray[Any, Any]]:
        return [np.array(value.numpy()) for value in self._binding.get_outputs()]

    def computes_in(self) -> str:
        """By the graph that is executed. What nobody quantised computes in fp32."""
        return "int8" if self._request.precision == "int8" and _computes_in_8_bits(self._request) else "fp32"

    def close(self) -> None:
        del self._call, self._binding, self._session


class _ProfiledSession(_OnnxRuntimeSession):
    """Writes its profile into a folder of its own until it is asked for."""

    tells_means = False
    _folder: Path

    @classmethod
    def opened(cls, request: OpenRequest, threads_before: set[int]) -> _ProfiledSession:
        folder = Path(tempfile.mkdtemp(prefix="profile-"))
        try:
            built = _build(request, profile=folder / "events")
            session = cls(built, request, threads=1 + len(thread_ids() - threads_before))
        except BaseException:  # boundary: whatever ends the opening, the folder goes
            shutil.rmtree(folder, ignore_errors=True)
            raise
        session._folder = folder
        return session

    def profile(self, runs: int, mark: Callable[[], bool] = unmarked) -> list[list[NodeTime]]:
        """Once in a session's life: ONNX Runtime writes one profile, and stops."""
        if not self._folder.exists():
            raise EngineFailure(FailureCode.ENGINE_ERROR, "the session has been profiled already")
        done = run_marked(self.run, runs, mark)
        try:
            written = Path(self._session.end_profiling())
            return read_inferences(written.read_bytes(), done)
        except _ERRORS as error:
            raise _failure(error, self._request) from error
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def close(self) -> None:
        if self._folder.exists():
            self._session.end_profiling()
        shutil.rmtree(self._folder, ignore_errors=True)
        super().close()


def _computes_in_8_bits(request: OpenRequest) -> bool:
    with tempfile.TemporaryDirectory(prefix="rewritten-") as folder:
        rewritten = Path(folder) / "model.onnx"
        _build(request, rewritten=rewritten)
        return computes_in_8_bits(nodes_of(rewritten.read_bytes()))


def _failure(error: Exception, request: OpenRequest) -> EngineFailure:
    return failure_without_paths(_code(error), error, request.artifact, _LACKING)


def _code(error: Exception) -> FailureCode:
    text = str(error)
    if isinstance(error, MemoryError) or any(sign in text for sign in _MEMORY_SIGNS):
        return FailureCode.OUT_OF_MEMORY
    if isinstance(error, native.NotImplemented) or any(sign in text for sign in _UNSUPPORTED_SIGNS):
        return FailureCode.UNSUPPORTED_OPERATOR
    if isinstance(error, (native.InvalidProtobuf, native.InvalidGraph, native.InvalidArgument, native.NoModel)):
        return FailureCode.INVALID_WORKLOAD
    return FailureCode.ENGINE_ERROR


ENGINE: Final[Engine] = OnnxRuntime()
