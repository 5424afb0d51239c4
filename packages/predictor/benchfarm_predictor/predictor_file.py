"""Predictor files: safetensors with one JSON header. Never a pickle; every damage is a typed error."""

from dataclasses import dataclass
from typing import Final

from benchfarm_core.values import Value
from benchfarm_predictor.conformal import Intervals
from benchfarm_predictor.models import Model
from benchfarm_predictor.trained_range import TrainedRange

FORMAT_VERSION: Final = 1
MAX_FILE_BYTES: Final = 16 * 1024 * 1024
WHOLE_MODEL: Final = "model"
"""Instead of a kernel type: the predictor takes kernel lists."""


class Lineage(Value):
    """Where a predictor comes from: donors by platform key, a hash of its rows, the summary rule, the code's version."""

    donors: tuple[str, ...] = ()
    data_hash: str
    rule_version: int
    code_version: str


class Header(Value):
    """What a predictor is for. ``kernel_type``: one of the catalogue, a foreign one, or ``WHOLE_MODEL``."""

    kernel_type: str
    platform: str
    lineage: Lineage


@dataclass(frozen=True, eq=False)
class Predictor:
    """A model with what belongs to it; ``intervals`` and ``trained`` may be missing."""

    header: Header
    model: Model
    intervals: Intervals | None = None
    trained: TrainedRange | None = None


def write(predictor: Predictor) -> bytes:
    """The file; the same bytes for the same predictor. Raises InvalidRequest, ``too_large``."""
    raise NotImplementedError


def read(data: bytes, sha256: str | None = None) -> Predictor:
    """The predictor of a file.

    Raises:
        InvalidRequest: ``predictor_file_damaged`` when the hash differs or anything in it is malformed;
            ``predictor_file_foreign`` when the format's or the features' version is another.
    """
    raise NotImplementedError
