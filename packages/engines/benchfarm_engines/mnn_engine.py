"""MNN on its CPU backend, fp32, by the C extension; the package's Python half and its tools are never imported."""

import struct
import time
from collections.abc import Callable
from importlib.metadata import version as installed_version
from typing import Any, Final

import _mnncengine as mnn
import numpy as np

from benchfarm_core.failures import FailureCode
from benchfarm_core.profilers import has_profiler
from benchfarm_engines.engine import (
    Engine,
    EngineFailure,
    NodeTime,
    OpenRequest,
    ProfilingSession,
    failure_without_paths,
    run_marked,
    unmarked,
)
from benchfarm_engines.engine_options import Option
from benchfarm_engines.mnn_keeper import is_keeper
from benchfarm_engines.sealed_file import unseal
from benchfarm_engines.task_threads import thread_ids

_RESIZE_STATUS: Final = 3
_THREAD_NUMBER: Final = 4
"""MNN's codes of what a session tells about itself."""
_NEEDS_MEMORY: Final = 1
"""Of its status behind sizing: shapes are known, and memory for them was not to be had."""
_NO_SESSION: Final = -1
"""Ours, in place of that status where no session was made."""
_FAILURES: Final = {
    1: (FailureCode.OUT_OF_MEMORY, "MNN had no memory left"),
    2: (FailureCode.UNSUPPORTED_OPERATOR, "MNN has no kernel for an operator of the model"),
    4: (FailureCode.UNSUPPORTED_OPERATOR, "MNN has no kernel for an operator of the model"),
}


class Mnn:
    """Reads sealed .mnn files. Inputs are copied in when a model is opened, and again only where a run spoils them."""

    name = "mnn"
    formats = ("mnn",)
    options: tuple[Option, ...] = ()
    profiles = has_profiler(name)

    def __init__(self) -> None:
        self._pool: set[int] = set()

    def version(self) -> str:
        """The version of the installed wheel."""
        return installed_version("MNN")

    def precisions(self) -> tuple[str, ...]:
        """fp32 only: MNN's lower precisions need processors with 16-bit arithmetic and are not offered."""
        return ("fp32",)

    def open(self, request: OpenRequest) -> ProfilingSession:
        """Builds a session and copies the inputs. Raises EngineFailure."""
        outputs = _outputs_of(request)
        before = thread_ids()
        try:
            session = _MnnSession(request, outputs)
        except EngineFailure:
            raise
        except MemoryError as error:
            raise failure_without_paths(FailureCode.OUT_OF_MEMORY, error, request.artifact) from error
        except Exception as error:  # boundary: the extension raises nothing more exact
            raise failure_without_paths(FailureCode.CONVERSION_FAILED, error, request.artifact) from error
        self._pool |= thread_ids() - before
        session.threads = min(session.threads, 1 + self._pool_size())
        return session

    def _pool_size(self) -> int:
        """Living threads of MNN's one pool, which all sessions share: it grows with the first that asks for more."""
        self._pool &= thread_ids()
        return len(self._pool)


def _outputs_of(request: OpenRequest) -> list[str]:
    """The outputs' names. The file, which is read to look for damage, is out of memory before MNN loads it."""
    document = unseal(request.artifact.read_bytes())[1]
    outputs: list[str] = document["outputs"]
    return outputs


_Fed = tuple[Any, Any, np.ndarray[Any, Any]]
"""An input tensor of a session, the tensor in ordinary memory that it is copied from, and what that was made of."""


class _MnnSession:
    tells_means = False

    def __init__(self, request: OpenRequest, outputs: list[str]) -> None:
        self._spoilt: list[_Fed] = []
        self._artifact = request.artifact
        self._net = _interpreter(request)
        how = {"backend": "CPU", "numThread": request.threads, "precision": "high"}
        self._session = self._net.createSession(how)
        if self._session is None:
            raise _unready(_NO_SESSION)
        if status := _whole(self._net, self._session, _RESIZE_STATUS):
            raise _unready(status)
        self.threads = _whole(self._net, self._session, _THREAD_NUMBER)
        self._fed = self._fed_inputs(request)
        found = self._net.getSessionOutputAll(self._session)
        if not set(outputs) <= set(found):
            raise EngineFailure(FailureCode.CONVERSION_FAILED, f"MNN's outputs are {sorted(found)}, not {outputs}")
        self._outputs = [found[name] for name in outputs]
        self._call = self._net.runSession
        self._looked = False

    def _fed_inputs(self, request: OpenRequest) -> list[_Fed]:
        tensors = self._net.getSessionInputAll(self._session)
        if set(tensors) != set(request.inputs):
            raise EngineFailure(
                FailureCode.INVALID_WORKLOAD,
                f"the model's inputs are {sorted(tensors)}, the workload names {sorted(request.inputs)}",
            )
        fed: list[_Fed] = []
        for name, array in request.inputs.items():
            shape, dtype = tensors[name].getShape(), tensors[name].getNumpyData().dtype
            if shape != array.shape or dtype != array.dtype:
                raise EngineFailure(FailureCode.INVALID_WORKLOAD, f"input {name} is {dtype} {list(shape)} in the model")
            fed.append((tensors[name], _host_tensor(tensors[name], array), array))
            tensors[name].copyFrom(fed[-1][1])
        return fed

    def run(self) -> None:
        self._refill()
        if code := self._call(self._session):
            raise _failure(code)
        if not self._looked:
            self._look_for_spoilt()

    def _look_for_spoilt(self) -> None:
        """Behind the first run: those inputs whose memory MNN gave to another tensor are copied again before each run.

        Files of our converter have none: each input has a keeper behind all else. Where MNN orders it elsewhere, a
        slower run is better than one that computes on garbage.
        """
        self._spoilt = [each for each in self._fed if not np.array_equal(_copy(each[0]), each[2])]
        self._looked = True

    def _refill(self) -> None:
        for tensor, host, _ in self._spoilt:
            tensor.copyFrom(host)

    def outputs(self) -> list[np.ndarray[Any, Any]]:
        return [_copy(tensor) for tensor in self._outputs]

    def computes_in(self) -> str:
        """What the session was made for: on processors MNN takes ``precision: high`` as fp32 throughout. It tells
        nothing itself; tests hold its sums nearer to exact ones than numbers in 16 bits could bring them."""
        return "fp32"

    def profile(self, runs: int, mark: Callable[[], bool] = unmarked) -> list[list[NodeTime]]:
        inferences: list[list[NodeTime]] = []
        run_marked(lambda: inferences.append(self._profiled_run()), runs, mark)
        return inferences

    def _profiled_run(self) -> list[NodeTime]:
        times: list[NodeTime] = []
        begun_ns = 0

        def before(_tensors: object, _operator: object) -> bool:
            nonlocal begun_ns
            begun_ns = time.perf_counter_ns()
            return True

        def after(_tensors: object, operator: Any) -> bool:
            ended_ns = time.perf_counter_ns()
            if not is_keeper(operator.getName()):
                times.append(NodeTime(operator.getName(), operator.getType(), ended_ns - begun_ns))
            return True

        self._refill()
        if code := self._net.runSessionWithCallBackInfo(self._session, before, after):
            raise _failure(code)
        if not self._looked:
            self._look_for_spoilt()
        return times

    def close(self) -> None:
        # tensors first: they point into the session, which the interpreter owns
        self._outputs.clear()
        self._fed.clear()
        self._spoilt.clear()
        del self._call, self._session, self._net


def _interpreter(request: OpenRequest) -> Any:
    try:
        return mnn.Interpreter(str(request.artifact))
    except MemoryError:
        raise
    except Exception as error:  # boundary: the extension raises nothing more exact
        raise failure_without_paths(FailureCode.INVALID_WORKLOAD, error, request.artifact) from error


def _host_tensor(like: Any, values: np.ndarray[Any, Any]) -> Any:
    """A copy of the values as a tensor in ordinary memory, channels first, whatever layout the session's has."""
    return mnn.Tensor(like.getShape(), like.getDataType(), values, mnn.Tensor_DimensionType_Caffe)


def _copy(tensor: Any) -> np.ndarray[Any, Any]:
    host = _host_tensor(tensor, np.zeros(tensor.getShape(), dtype=tensor.getNumpyData().dtype))
    tensor.copyToHostTensor(host)
    return np.array(host.getNumpyData())  # the host tensor's memory goes with it


def _whole(net: Any, session: Any, code: int) -> int:
    """A number that MNN writes as an int and its binding reads as a float of the same four bytes."""
    number: int = struct.unpack("i", struct.pack("f", net.getSessionInfo(session, code)))[0]
    return number


def _unready(status: int) -> EngineFailure:
    """Why a session cannot run. status: what MNN says of it once it has worked out the shapes."""
    if status == _NEEDS_MEMORY:
        return EngineFailure(FailureCode.OUT_OF_MEMORY, "MNN had no memory left for the model's tensors")
    return EngineFailure(FailureCode.CONVERSION_FAILED, "MNN cannot work out the shapes of the model")


def _failure(code: int) -> EngineFailure:
    failure, detail = _FAILURES.get(code, (FailureCode.ENGINE_ERROR, f"MNN ended a run with code {code}"))
    return EngineFailure(failure, detail)


ENGINE: Final[Engine] = Mnn()
