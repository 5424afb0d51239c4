"""The one file of an ncnn artifact: a sealed file whose body is ncnn's weights and whose document holds the layers.

ncnn itself keeps a network in two files. Weights are read in order from the first byte on, so ncnn takes them straight
from the artifact; the text of the layers (`param`) is handed over in memory.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from benchfarm_core.failures import FailureCode
from benchfarm_engines.engine import EngineFailure
from benchfarm_engines.sealed_file import seal, unseal

FORMAT: Final = "ncnn"


@dataclass(frozen=True)
class Blob:
    """An input or output. dtype: numpy's name. shape: without the batch axis; empty for outputs, ncnn finds them."""

    name: str
    dtype: str
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class NcnnModel:
    """What ncnn needs beside the weights. batch: inputs in one run, each of the blobs' shapes."""

    param: str
    inputs: tuple[Blob, ...]
    outputs: tuple[Blob, ...]
    batch: int = 1


def pack_artifact(model: NcnnModel, weights: bytes) -> bytes:
    """The file; the same bytes for the same model."""
    return seal(weights, asdict(model))


def read_artifact(path: Path) -> NcnnModel:
    """What a file says beside its weights. Raises EngineFailure (invalid_workload), OSError."""
    _, document = unseal(path.read_bytes())
    try:
        inputs, outputs = (tuple(_blob(each) for each in document[side]) for side in ("inputs", "outputs"))
        return NcnnModel(str(document["param"]), inputs, outputs, int(document["batch"]))
    except (ValueError, KeyError, TypeError) as error:
        raise EngineFailure(FailureCode.INVALID_WORKLOAD, "the file is no ncnn artifact") from error


def _blob(document: dict[str, Any]) -> Blob:
    return Blob(str(document["name"]), str(document["dtype"]), tuple(int(size) for size in document["shape"]))
