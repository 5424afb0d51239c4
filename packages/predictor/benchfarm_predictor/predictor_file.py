"""Predictor files: safetensors with one JSON header. Never a pickle; every damage is a typed error.

The JSON stands as one text in the metadata of the safetensors header, so that the same predictor gives the same bytes.
Arrays are named by their part: ``model/...``, ``shared/...``, ``intervals/...``, ``trained/...``. A model that the
predictor holds in several places is shared: written once, and one again when it is read. Files of format version 1 are
read as well; who knows that version alone calls those of version 2 foreign.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from benchfarm_core.errors import InvalidRequest, TooLarge
from benchfarm_core.predictor_headers import (
    FORMAT_VERSION,
    LENGTH_BYTES,
    MAX_FILE_BYTES,
    MAX_JSON_BYTES,
    METADATA_KEY,
    Header,
    Lineage,
    header_json,
)
from benchfarm_core.predictors import WHOLE_MODEL
from benchfarm_core.values import Value, canonical_json
from benchfarm_predictor.conformal import MAX_WIDTH, Intervals, IntervalsMeta
from benchfarm_predictor.models import Array, Arrays, Model, array, checked, damaged, under, within
from benchfarm_predictor.registry import Registry
from benchfarm_predictor.shared_parts import MAX_SHARED, taken_apart
from benchfarm_predictor.trained_range import TrainedRange


@dataclass(frozen=True, eq=False)
class Predictor:
    """A model with what belongs to it; ``intervals`` and ``trained`` may be missing."""

    header: Header
    model: Model
    intervals: Intervals | None = None
    trained: TrainedRange | None = None


class _RangeMeta(Value):
    type: str = Field(max_length=300)
    columns: tuple[str, ...]


class _Content(Value):
    """The JSON of a file."""

    format: int
    header: Header
    model: dict[str, Any]
    shared: tuple[dict[str, Any], ...] = Field(default=(), max_length=MAX_SHARED)
    intervals: IntervalsMeta | None
    trained: tuple[_RangeMeta, ...] | None


def write(predictor: Predictor) -> bytes:
    """The file; the same bytes for the same predictor.

    Raises:
        TooLarge: above ``MAX_FILE_BYTES``, or of more or larger parts than a file may have.
    """
    try:
        arrays, content = _taken_down(predictor)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise TooLarge(f"the predictor is more than a file may hold: {where}: {first['msg']}") from error
    whole = {name: np.ascontiguousarray(found) for name, found in arrays.items()}
    data = bytes(save(whole, {METADATA_KEY: canonical_json(content)}))
    if len(data) > MAX_FILE_BYTES or int.from_bytes(data[:LENGTH_BYTES], "little") > MAX_JSON_BYTES:
        raise TooLarge(f"the predictor takes {len(data)} bytes; at most {MAX_FILE_BYTES}")
    return data


def _taken_down(predictor: Predictor) -> tuple[dict[str, Array], _Content]:
    """All arrays, and the JSON."""
    arrays, model, shared = _model_arrays(predictor.model)
    intervals, trained = None, None
    if predictor.intervals is not None:
        found = predictor.intervals
        intervals = IntervalsMeta(level=found.level, coverage=found.coverage)
        arrays |= under({"edges_ms": found.edges_ms, "widths": found.widths}, "intervals")
    if predictor.trained is not None:
        trained = tuple(_RangeMeta(type=name, columns=columns) for name, columns in predictor.trained.columns.items())
        arrays |= under(_range_arrays(predictor.trained), "trained")
    content = _Content(
        format=FORMAT_VERSION,
        header=predictor.header,
        model=model,
        shared=shared,
        intervals=intervals,
        trained=trained,
    )
    return arrays, content


def read(data: bytes, sha256: str | None = None) -> Predictor:
    """The predictor of a file; ``sha256``: what its bytes must hash to.

    Raises:
        InvalidRequest: ``predictor_file_damaged`` when the hash differs or anything in it is malformed;
            ``predictor_file_foreign`` when it is no predictor file, or its format's or features' version is another.
    """
    if len(data) > MAX_FILE_BYTES:
        raise damaged(f"it has more than {MAX_FILE_BYTES} bytes")
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise damaged("its hash is not the one that was announced")
    content = _content(data)
    arrays = _arrays(data)
    model = _model(arrays, content)
    intervals = None if content.intervals is None else _intervals(within(arrays, "intervals"), content.intervals)
    trained = None if content.trained is None else _trained(within(arrays, "trained"), content.trained)
    return Predictor(content.header, model, intervals, trained)


def _model_arrays(model: Model) -> tuple[dict[str, Array], dict[str, Any], tuple[dict[str, Any], ...]]:
    """All arrays, the model's JSON, and that of the shared ones."""
    root, parts = taken_apart(model)
    own, meta = root.to_arrays()
    arrays = under(own, "model")
    metas = []
    for number, part in enumerate(parts):
        own, said = part.to_arrays()
        arrays |= under(own, f"shared/{number}")
        metas.append(said)
    return arrays, meta, tuple(metas)


def _model(arrays: Arrays, content: _Content) -> Model:
    """The inverse of ``_model_arrays``."""
    by_part: dict[str, dict[str, Array]] = {}
    for name, found in within(arrays, "shared").items():
        number, _, own = name.partition("/")
        by_part.setdefault(number, {})[own] = found
    registry = Registry()
    for place, meta in enumerate(content.shared):
        registry.parts.append(registry.whole(by_part.get(str(place), {}), meta))
    return registry.whole(within(arrays, "model"), content.model)


def _content(data: bytes) -> _Content:
    return checked(_Content, header_json(data))


def _arrays(data: bytes) -> dict[str, Array]:
    try:
        return dict(load(data))
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise damaged(f"its arrays cannot be read: {error!r:.100}") from error


def _intervals(arrays: Arrays, said: IntervalsMeta) -> Intervals:
    widths = array(arrays, "widths", np.float64, None)
    edges = array(arrays, "edges_ms", np.float64, len(widths) - 1) if len(widths) else np.zeros(0)
    if not len(widths) or (np.diff(edges) < 0).any() or (widths < 1).any() or (widths > MAX_WIDTH).any():
        raise damaged("its intervals are not in order")
    return Intervals(edges, widths, said.level, said.coverage)


def _range_arrays(trained: TrainedRange) -> dict[str, Array]:
    ends = (("low", trained.low), ("high", trained.high))
    return {f"{number}/{end}": found[name] for end, found in ends for number, name in enumerate(trained.columns)}


def _trained(arrays: Arrays, said: tuple[_RangeMeta, ...]) -> TrainedRange:
    columns = {each.type: each.columns for each in said}
    if len(columns) != len(said):
        raise damaged("a kernel type has two trained ranges")
    low, high = (
        {each.type: array(arrays, f"{number}/{end}", np.int64, len(each.columns)) for number, each in enumerate(said)}
        for end in ("low", "high")
    )
    return TrainedRange(columns, low, high)


__all__ = [
    "FORMAT_VERSION",
    "MAX_FILE_BYTES",
    "WHOLE_MODEL",
    "Header",
    "InvalidRequest",
    "Lineage",
    "Predictor",
    "read",
    "write",
]
