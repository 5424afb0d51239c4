"""OpenVINO on its CPU plug-in: fp32, int8 for quantised graphs, and bf16 where the processor has it."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np

# With the telemetry package present, importing OpenVINO writes a client id and looks up a host name.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

import openvino as ov  # noqa: E402

from benchfarm_core.failures import FailureCode  # noqa: E402
from benchfarm_core.profilers import has_profiler  # noqa: E402
from benchfarm_engines.engine import (  # noqa: E402
    Engine,
    EngineFailure,
    NodeTime,
    OpenRequest,
    Session,
    failure_without_paths,
    run_marked,
    unmarked,
)
from benchfarm_engines.engine_options import INT8_OPTIONS, Option  # noqa: E402
from benchfarm_engines.profile_means import MeanTime, between  # noqa: E402

_DEVICE: Final = "CPU"
_HINTS: Final = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
"""What is computed in where the graph does not say 8 bits."""

_PRODUCTS: Final = frozenset({"Convolution", "GroupConvolution", "Deconvolution", "FullyConnected", "MatMul"})
_MOVERS: Final = frozenset({"Const", "Convert", "FakeQuantize", "Input", "Output", "Reorder", "Reshape"})
"""What stands between others and computes nothing of the model."""
_EIGHT_BITS: Final = frozenset({"i8", "u8"})
_NS_PER_US: Final = 1000
_LAYERS: Final = "originalLayersNames"
_NAMES: Final = {ov.Type.f32: "fp32", ov.Type.bf16: "bf16", ov.Type.f16: "fp16"}
_UNSUPPORTED_SIGNS: Final = ("No conversion rule found", "does not support", "Unsupported operation", "not implemented")
_LACKING: Final = (re.compile(r"No conversion rule found for operations: (?:\w+\.)*(?P<op>\w+)"),)
_MEMORY_SIGNS: Final = ("bad_alloc", "Failed to allocate", "out of memory", "Cannot allocate")
_ERRORS: Final = (RuntimeError, ValueError, TypeError, OSError, MemoryError)


class OpenVino:
    """Reads ONNX. One stream, the latency hint, and the precision always said: its default here is bf16."""

    name = "openvino"
    formats = ("onnx",)
    profiles = has_profiler(name)
    options = (Option("denormals_as_zero", "switch", False, "treat denormal numbers as zero"), *INT8_OPTIONS)

    def __init__(self) -> None:
        self._core: Any = None

    def version(self) -> str:
        """The version of the installed wheel, without the build number."""
        return str(ov.__version__).split("-")[0]

    def precisions(self) -> tuple[str, ...]:
        """fp32 and int8, and bf16 where the processor multiplies in it."""
        capabilities = self._opened_core().get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES")
        return ("fp32", "int8", "bf16") if "BF16" in capabilities else ("fp32", "int8")

    def open(self, request: OpenRequest) -> Session:
        """Reads, binds dimensions, compiles and binds the inputs. Raises EngineFailure."""
        try:
            kind = _ProfiledSession if request.profiled else _OpenVinoSession
            return kind(_compiled(self._opened_core(), request), request)
        except _ERRORS as error:  # of a graph that others run: two dense layers in a row of which one is 1 by 1, say
            code = _code(error, otherwise=FailureCode.CONVERSION_FAILED)
            raise failure_without_paths(code, error, request.artifact, _LACKING) from error

    def _opened_core(self) -> Any:
        if self._core is None:
            self._core = ov.Core()
        return self._core


def _compiled(core: Any, request: OpenRequest) -> Any:
    """Compiled from the model, or taken over from a launch that compiled the same, at a quarter of the time."""
    cached = _cache_file(request)
    if cached is not None and cached.is_file():
        try:
            return core.import_model(cached.read_bytes(), _DEVICE, _properties(request))
        except _ERRORS:  # cut short by a full disk, say: compiling says what is really wrong
            cached.unlink()
    model = core.read_model(request.artifact)
    _bind_shapes(model, request)
    compiled = core.compile_model(model, _DEVICE, _properties(request))
    if cached is not None:
        _keep(compiled, cached)
    return compiled


def _keep(compiled: Any, cached: Path) -> None:
    part = cached.with_suffix(".part")
    try:
        cached.parent.mkdir(exist_ok=True)
        part.write_bytes(compiled.export_model().getvalue())
        part.replace(cached)
    except OSError:  # no room or no right: the next launch compiles again, nothing else is lost
        with suppress(OSError):
            part.unlink()


def _cache_file(request: OpenRequest) -> Path | None:
    if request.cache is None:
        return None
    shapes = {name: (str(array.dtype), array.shape) for name, array in request.inputs.items()}
    parts = (
        ov.__version__,
        request.precision,
        request.threads,
        request.profiled,
        sorted(request.options.items()),
        sorted(shapes.items()),
    )
    name = hashlib.sha256(repr(parts).encode() + request.artifact.read_bytes()).hexdigest()
    return request.cache / f"{name}.openvino"


def _properties(request: OpenRequest) -> dict[str, Any]:
    return {
        "INFERENCE_PRECISION_HINT": _HINTS[request.precision],
        "EXECUTION_MODE_HINT": "PERFORMANCE",
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": request.threads,
        "PERF_COUNT": request.profiled,
        # The process is bound to its cores already; the engine's own idea of cores must not lower the number.
        "ENABLE_CPU_PINNING": False,
        "ENABLE_HYPER_THREADING": True,
        "SCHEDULING_CORE_TYPE": "ANY_CORE",
        "CPU_DENORMALS_OPTIMIZATION": bool(request.options["denormals_as_zero"]),
    }


def _bind_shapes(model: Any, request: OpenRequest) -> None:
    names = {each.any_name for each in model.inputs}
    if names != set(request.inputs):
        raise EngineFailure(
            FailureCode.INVALID_WORKLOAD,
            f"the model's inputs are {sorted(names)}, the workload names {sorted(request.inputs)}",
        )
    if any(each.partial_shape.is_dynamic for each in model.inputs):
        model.reshape({name: list(array.shape) for name, array in request.inputs.items()})


class _OpenVinoSession:
    def __init__(self, compiled: Any, request: OpenRequest) -> None:
        self.threads = int(compiled.get_property("INFERENCE_NUM_THREADS"))
        self._precision = _NAMES.get(compiled.get_property("INFERENCE_PRECISION_HINT"), "another precision")
        if self._precision != ("fp32" if request.precision == "int8" else request.precision):
            raise EngineFailure(FailureCode.PRECISION_NOT_OBEYED, f"compiled for {self._precision}")
        self._asked = request.precision
        self._artifact = request.artifact
        self._inputs = request.inputs  # the tensors below only borrow these buffers
        self._compiled = compiled
        self._request = compiled.create_infer_request()
        for name, array in request.inputs.items():
            port = compiled.input(name)
            if port.get_element_type() != ov.Type(array.dtype) or list(port.shape) != list(array.shape):
                raise EngineFailure(
                    FailureCode.INVALID_WORKLOAD,
                    f"input {name} is {port.get_element_type()} {list(port.shape)} in the model",
                )
            self._request.set_tensor(port, ov.Tensor(array, shared_memory=True))

    def run(self) -> None:
        try:
            self._request.infer(share_outputs=True)
        except _ERRORS as error:
            raise failure_without_paths(_code(error), error, self._artifact) from error

    def outputs(self) -> list[np.ndarray[Any, Any]]:
        count = len(self._compiled.outputs)
        return [np.array(self._request.get_output_tensor(number).data) for number in range(count)]

    def computes_in(self) -> str:
        """The compiled model's property, unless the nodes that it executes say otherwise."""
        infos = [node.get_rt_info() for node in self._compiled.get_runtime_model().get_ops()]
        nodes = [_computed(info) for info in infos if "runtimePrecision" in info]
        if self._asked == "int8":
            return "int8" if _computes_in_8_bits(nodes) else self._precision
        in_bf16 = any(precision == "bf16" for _, precision in nodes)
        return "bf16" if in_bf16 else "fp32" if self._precision == "bf16" else self._precision

    def close(self) -> None:
        del self._request, self._compiled, self._inputs


class _ProfiledSession(_OpenVinoSession):
    tells_means = True

    def __init__(self, compiled: Any, request: OpenRequest) -> None:
        super().__init__(compiled, request)
        self._runs = 0
        self._origins = _origins(compiled)

    def run(self) -> None:
        super().run()
        self._runs += 1

    def profile(self, runs: int, mark: Callable[[], bool] = unmarked) -> list[list[NodeTime]]:
        """The same mean inference `runs` times: all that OpenVINO tells is each operator's mean so far."""
        before_runs = self._runs
        before = {each.name: each.mean_ns for each in self._means()} if before_runs else {}
        done = run_marked(self.run, runs, mark)
        return [between(before, before_runs, self._means(), done)] * done

    def _means(self) -> list[MeanTime]:
        """In the order of execution; what was folded into others is not executed."""
        return [
            MeanTime(
                each.node_name,
                each.node_type,
                each.real_time / timedelta(microseconds=1) * _NS_PER_US,
                self._origins.get(each.node_name, ()),
            )
            for each in self._request.get_profiling_info()
            if each.status == ov.ProfilingInfo.Status.EXECUTED
        ]


def _origins(compiled: Any) -> dict[str, tuple[str, ...]]:
    """The nodes of the model that each executed one stands for."""
    infos = {node.get_friendly_name(): node.get_rt_info() for node in compiled.get_runtime_model().get_ops()}
    named = {name: info[_LAYERS].astype(str) for name, info in infos.items() if _LAYERS in info}
    return {name: tuple(layers.split(",")) for name, layers in named.items() if layers}


def _computed(info: Any) -> tuple[str, str]:
    """An executed node's type and precision, as OpenVINO names them."""
    return info["layerType"].astype(str) if "layerType" in info else "", info["runtimePrecision"].astype(str)


def _computes_in_8_bits(nodes: Sequence[tuple[str, str]]) -> bool:
    """See ``Session.computes_in``."""
    products = [precision in _EIGHT_BITS for kind, precision in nodes if kind in _PRODUCTS]
    others = [precision in _EIGHT_BITS for kind, precision in nodes if kind not in _MOVERS]
    return any(products) if products else bool(others) and all(others)


def _code(error: Exception, *, otherwise: FailureCode = FailureCode.ENGINE_ERROR) -> FailureCode:
    """otherwise: of what OpenVINO says nothing about that is known here."""
    text = str(error)
    if isinstance(error, MemoryError) or any(sign in text for sign in _MEMORY_SIGNS):
        return FailureCode.OUT_OF_MEMORY
    if "Unable to read the model" in text:
        return FailureCode.INVALID_WORKLOAD
    if any(sign in text for sign in _UNSUPPORTED_SIGNS):
        return FailureCode.UNSUPPORTED_OPERATOR
    return FailureCode.CONVERSION_FAILED if "FrontEnd API" in text else otherwise


ENGINE: Final[Engine] = OpenVino()
