"""How near a predictor comes to rows that it did not learn from, and a second measurement to the first."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.measurements import Timing
from benchfarm_core.predictors import WHOLE_MODEL, HoldoutScore, KernelRow, ModelRow, TrainingRows
from benchfarm_core.summaries import Grade
from benchfarm_predictor.kernels import Floats
from benchfarm_predictor.metrics import score, share_within
from benchfarm_predictor.models import Batch
from benchfarm_predictor.predictions import answer
from benchfarm_predictor.predictor_file import Predictor
from benchfarm_predictor.training.platform_rows import measured_kernels, measured_models

Bools = npt.NDArray[np.bool_]
_R = TypeVar("_R", KernelRow, ModelRow)


def judge(predictor: Predictor, rows: TrainingRows) -> HoldoutScore:
    """The predictor's score on the rows that are of its subject, each workload once, by its first measurement.

    Grade D says too little to judge by. Where workloads were measured twice, the floor is what their second measurement
    scores against the first: nobody can beat it. Models with unknown operators count: they are asked for, too.

    Raises:
        InvalidRequest: ``training_rows_invalid``: no row to judge by.
    """
    first = _first_measured(predictor.header.kernel_type, rows)
    said = answer(predictor, first.batch)
    inside = (said.low_ms <= first.latency_ms) & (first.latency_ms <= said.high_ms)
    return score_of(said.latency_ms, first.latency_ms, inside, first.second_ms)


def errors(predictor: Predictor, rows: TrainingRows) -> Floats:
    """How far the predictor is off on each row that `judge` scores it by, absolute and relative: float64[n], in the
    order of workloads' ids. Raises as ``judge``."""
    first = _first_measured(predictor.header.kernel_type, rows)
    found: Floats = np.abs(answer(predictor, first.batch).latency_ms / first.latency_ms - 1)
    return found


class _FirstMeasured(NamedTuple):
    """Workloads in the order of their ids, and what was measured of them first and again: float64[n] each."""

    batch: Batch
    latency_ms: Floats
    second_ms: Floats


def _first_measured(subject: str, rows: TrainingRows) -> _FirstMeasured:
    """Of the rows of a subject. Raises as ``judge``."""
    if subject == WHOLE_MODEL:
        first, second_ms = _first_and_second(rows.models)
        measured = measured_models(first)
        found = _FirstMeasured(measured.lists, measured.latency_ms, second_ms)
    else:
        alone = [row for row in rows.kernels if row.kernel_type == subject and row.timing is Timing.ALONE]
        kernels, second_ms = _first_and_second(alone)
        of_kernels = measured_kernels(subject, kernels)
        found = _FirstMeasured(of_kernels.kernels, of_kernels.latency_ms, second_ms)
    if not len(found.latency_ms):
        detail = f"nothing was measured that a predictor of {subject} could be judged by: declare hold-outs and measure"
        raise InvalidRequest(f"{rows.platform}: {detail} them", code="training_rows_invalid", field="rows")
    return found


def score_of(predicted_ms: Floats, measured_ms: Floats, inside: Bools, second_ms: Floats | None = None) -> HoldoutScore:
    """The score of float64[n] against float64[n]; ``inside``: whether the interval holds the measured value.

    ``second_ms``: float64[n], what was measured again, NaN where nothing was.

    Raises:
        InvalidRequest: ``training_rows_invalid`` as ``metrics.score``.
    """
    found = score(predicted_ms, measured_ms)
    again = np.zeros(0)
    if second_ms is not None:
        has = ~np.isnan(second_ms)
        again = np.abs(second_ms[has] / measured_ms[has] - 1)
    floors = [share_within(again, bound) if len(again) else None for bound in (0.05, 0.10)]
    return HoldoutScore(
        count=found.count,
        within_5=found.within_5,
        within_10=found.within_10,
        mape=found.mape,
        coverage=float(np.mean(inside)),
        floor_within_5=floors[0],
        floor_within_10=floors[1],
    )


def _first_and_second(rows: Iterable[_R]) -> tuple[Sequence[_R], Floats]:
    """Each workload's first row, in the order of ids, and what the second one says in ms: float64[n], NaN without."""
    by_id: dict[str, list[_R]] = {}
    for row in sorted(rows, key=lambda row: (row.workload_id, row.measured_at, row.normalised_ms)):
        if row.grade is not Grade.D:
            by_id.setdefault(row.workload_id, []).append(row)
    second = [found[1].normalised_ms if len(found) > 1 else np.nan for found in by_id.values()]
    return [found[0] for found in by_id.values()], np.array(second, dtype=np.float64)
