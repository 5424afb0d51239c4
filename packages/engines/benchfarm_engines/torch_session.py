"""One graph in PyTorch: traced, frozen and rewritten for inference, on the processor or on an NVIDIA GPU."""

import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any, Final

import numpy as np
import torch

from benchfarm_core.failures import FailureCode
from benchfarm_engines.engine import EngineFailure, OpenRequest, failure_without_paths
from benchfarm_engines.torch_file import OPERATORS, Graph, unpack
from benchfarm_engines.torch_operators import BUILDERS

_TYPES: Final = {"fp32": torch.float32, "fp16": torch.float16}
_NAMES: Final = {kind: name for name, kind in _TYPES.items()}
_ERRORS: Final = (RuntimeError, ValueError, TypeError, IndexError, AssertionError, MemoryError)
_MEMORY_SIGNS: Final = ("out of memory", "can't allocate memory", "bad_alloc")
_SETTLING_RUNS: Final = 3
"""The just-in-time compiler looks at the first two runs and rewrites the graph once more before the third."""


class TorchSession:
    """A graph that is ready to run on fixed inputs."""

    def __init__(self, request: OpenRequest, device: str) -> None:
        """device: ``cpu`` or ``cuda``. Raises EngineFailure."""
        graph = unpack(request.artifact.read_bytes())
        self._artifact = request.artifact
        self._inputs = _inputs(graph, request, device)
        try:
            self._call: Callable[..., Any] = _compiled(graph, self._inputs, request.precision, device)
            self._wait: Callable[[], None] | None = torch.cuda.synchronize if device == "cuda" else None
            self._latest: tuple[Any, ...] = ()
            for _ in range(_SETTLING_RUNS):
                self.run()
        except EngineFailure:
            raise
        except _ERRORS as error:
            raise failure_without_paths(_code(error), error, request.artifact) from error
        self.threads = torch.get_num_threads() if device == "cpu" else 1

    def run(self) -> None:
        """One inference, the device's part included: nothing is left to do there when it returns."""
        try:
            self._latest = self._call(*self._inputs)
            if self._wait is not None:
                self._wait()
        except _ERRORS as error:
            raise failure_without_paths(_code(error), error, self._artifact) from error

    def outputs(self) -> list[np.ndarray[Any, Any]]:
        return [np.array(each.cpu().numpy()) for each in self._latest]

    def computes_in(self) -> str:
        """The type of the outputs, which follows from that of weights and inputs, unless products may take less."""
        if torch.get_float32_matmul_precision() != "highest":
            return "less than fp32"
        floating = {each.dtype for each in self._latest if each.is_floating_point()}
        return "+".join(sorted(_NAMES.get(each, str(each)) for each in floating)) or "no floating-point type"

    def close(self) -> None:
        self._latest = ()
        del self._call, self._inputs


class _Network(torch.nn.Module):  # type: ignore[misc]  # PyTorch is not there when types are checked
    """The graph as a module. Weights are buffers, so that freezing makes constants of them."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self._graph = graph
        self._buffer_names = {name: f"weight{number}" for number, name in enumerate(graph.weights)}
        for name, buffer in self._buffer_names.items():
            self.register_buffer(buffer, torch.from_numpy(np.array(graph.weights[name])))

    def forward(self, *inputs: Any) -> tuple[Any, ...]:
        values = {name: getattr(self, buffer) for name, buffer in self._buffer_names.items()}
        values |= {spec.name: tensor for spec, tensor in zip(self._graph.inputs, inputs, strict=True)}
        for operator in self._graph.operators:
            made = BUILDERS[operator.kind](operator, [values[name] if name else None for name in operator.inputs])
            made = made if isinstance(made, list) else [made]
            values |= dict(zip(operator.outputs, made, strict=True))
        return tuple(values[name] for name in self._graph.outputs)


def _compiled(graph: Graph, inputs: list[Any], precision: str, device: str) -> Callable[..., Any]:
    unknown = sorted({operator.kind for operator in graph.operators} - OPERATORS.keys())
    if unknown:
        raise EngineFailure(FailureCode.UNSUPPORTED_OPERATOR, f"torch has no {unknown[0]}", subject=unknown[0])
    network = _Network(graph).eval().to(device)
    network = network.half() if precision == "fp16" else network
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that sizes become constants is what is wanted, and that jit will retire
        traced = torch.jit.trace(network, tuple(inputs), check_trace=False)
        frozen = torch.jit.freeze(traced.eval())
        ready: Callable[..., Any] = torch.jit.optimize_for_inference(frozen) if device == "cpu" else frozen
        return ready


def _inputs(graph: Graph, request: OpenRequest, device: str) -> list[Any]:
    if {each.name for each in graph.inputs} != set(request.inputs):
        raise _unfit(f"the model's inputs are {[each.name for each in graph.inputs]}, not {sorted(request.inputs)}")
    tensors = []
    for each in graph.inputs:
        array = request.inputs[each.name]
        wanted = "float16" if (request.precision, each.dtype) == ("fp16", "float32") else each.dtype
        if (array.dtype.name, array.shape) != (wanted, each.shape):
            raise _unfit(f"input {each.name} is {wanted} {list(each.shape)} in the model")
        tensors.append(torch.from_numpy(array).to(device))
    return tensors


def _unfit(detail: str) -> EngineFailure:
    return EngineFailure(FailureCode.INVALID_WORKLOAD, detail)


def _code(error: Exception) -> FailureCode:
    text = str(error)
    if isinstance(error, MemoryError) or any(sign in text for sign in _MEMORY_SIGNS):
        return FailureCode.OUT_OF_MEMORY
    return FailureCode.ENGINE_ERROR if "CUDA error" in text else FailureCode.CONVERSION_FAILED


def set_up(threads: int) -> None:
    """PyTorch's settings of the process: threads, no training, no products in less than the type of their factors."""
    _infer_for_good()
    torch.set_num_threads(threads)
    with suppress(RuntimeError):  # once set, or once used, it cannot be set again
        torch.set_num_interop_threads(1)
    torch.set_float32_matmul_precision("highest")


@cache
def _infer_for_good() -> Any:
    """Entering and leaving the mode in each run would be timed with it; no session trains."""
    mode = torch.inference_mode()
    mode.__enter__()
    return mode
