"""The engines that the farm knows, by name; an engine's module is imported only in a child that uses it."""

from importlib import import_module
from typing import Final

from benchfarm_engines.engine import Engine, EngineUnavailable, one_line

_MODULES: Final = {
    "onnxruntime": "benchfarm_engines.onnxruntime_engine",
    "openvino": "benchfarm_engines.openvino_engine",
    "litert": "benchfarm_engines.litert_engine",
    "ncnn": "benchfarm_engines.ncnn_engine",
    "mnn": "benchfarm_engines.mnn_engine",
    "torch": "benchfarm_engines.torch_engine",
    "onnxruntime_cuda": "benchfarm_engines.onnxruntime_cuda_engine",
    "torch_cuda": "benchfarm_engines.torch_cuda_engine",
}


def engine_names() -> tuple[str, ...]:
    """Every engine of the registry, installed or not."""
    return tuple(_MODULES)


def load_engine(name: str) -> Engine:
    """The engine, ready to open models. Raises EngineUnavailable where it is unknown or not installed."""
    if name not in _MODULES:
        raise EngineUnavailable(f"there is no engine {name[:60]!r}; there are {', '.join(_MODULES)}")
    try:
        engine: Engine = import_module(_MODULES[name]).ENGINE
    except (ImportError, OSError) as error:  # OSError: a shared library that this host cannot load
        raise EngineUnavailable(one_line(f"{name} cannot be imported: {error}")) from error
    return engine
