"""A platform's measured rows as predictors are fitted on them: kernels by type and timing, and whole models."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, TypeVar

import numpy as np

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.measurements import Purpose, Timing
from benchfarm_core.predictors import KernelRow, ModelRow, TrainingRows
from benchfarm_core.summaries import Grade
from benchfarm_predictor.answers import foreign_kernels
from benchfarm_predictor.kernel_lists import KernelLists
from benchfarm_predictor.kernels import Floats, Ints, Kernels, Rows
from benchfarm_predictor.sums import SumFeatures
from benchfarm_predictor.training.measured import MIN_ROWS, Measured

TOO_ROUGH: Final = "grade D"
HELD_OUT: Final = "held out"
NOT_ALL_KNOWN: Final = "operators without a kernel type"
_R = TypeVar("_R", KernelRow, ModelRow)


@dataclass(frozen=True, eq=False)
class MeasuredModels:
    """n whole models with what they took.

    Attributes:
        ids: of their workloads. ``spaces``: the search space of each, None of a model that is no architecture.
        latency_ms: float64[n].
    """

    ids: tuple[str, ...]
    spaces: tuple[str | None, ...]
    lists: KernelLists
    latency_ms: Floats

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def log_ms(self) -> Floats:
        """Natural logarithms of the latencies: float64[n]."""
        logs: Floats = np.log(self.latency_ms)
        return logs

    def take(self, rows: Rows) -> "MeasuredModels":
        """Some of the rows, in that order. Features are not computed anew."""
        chosen = np.arange(len(self))[rows]
        lists = self.lists.take(chosen)
        for view in (SumFeatures(), SumFeatures("shares")):
            lists.matrices[view] = view.matrix(self.lists)[chosen]
        ids, spaces = tuple(self.ids[at] for at in chosen), tuple(self.spaces[at] for at in chosen)
        return MeasuredModels(ids, spaces, lists, self.latency_ms[chosen])

    def of_space(self, space: str | None) -> Ints:
        """Numbers of the rows of one search space, or of None."""
        return np.flatnonzero(np.array([each == space for each in self.spaces], dtype=bool))


@dataclass(frozen=True, eq=False)
class PlatformRows:
    """What a platform's predictors learn from. Make it by ``of``.

    Attributes:
        alone, in_situ: by kernel type, in the order of their names; each configuration once.
        models: each once, in the order of their ids.
        left_out: why rows are not here, and how many.
    """

    platform: str
    alone: Mapping[str, Measured]
    in_situ: Mapping[str, Measured]
    models: MeasuredModels
    rule_version: int
    data_hash: str
    left_out: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: TrainingRows, held: Collection[str] = ()) -> "PlatformRows":
        """From the store's rows. What was measured several times is one row: the geometric mean of its times.

        Grade D says too little. Hold-outs never train: neither rows of that purpose, nor any other row of the same
        workload or of one in ``held`` (workload ids). Models are left out when operators of them have no kernel type.

        Raises:
            InvalidRequest: ``kernel_out_of_range`` for a configuration that this code's catalogue does not have.
        """
        every: tuple[KernelRow | ModelRow, ...] = (*rows.kernels, *rows.models)
        refused = {*held, *(row.workload_id for row in every if row.purpose is Purpose.HOLDOUT)}
        left_out: Counter[str] = Counter()
        kernels = _usable(rows.kernels, refused, left_out)
        models = _usable(rows.models, refused, left_out)
        whole = [row for row in models if not row.unknown]
        left_out[NOT_ALL_KNOWN] += len(models) - len(whole)
        return cls(
            platform=rows.platform,
            alone=_by_type(row for row in kernels if row.timing is Timing.ALONE),
            in_situ=_by_type(row for row in kernels if row.timing is Timing.IN_SITU),
            models=_measured_models(_merged(whole)),
            rule_version=rows.rule_version,
            data_hash=rows.data_hash,
            left_out={why: count for why, count in left_out.items() if count},
        )

    @property
    def counts(self) -> dict[str, int]:
        """Rows by kind: `alone`, `in_situ`, `models`."""
        alone, in_situ = (sum(map(len, kind.values())) for kind in (self.alone, self.in_situ))
        return {"alone": alone, "in_situ": in_situ, "models": len(self.models)}

    def kernel(self, kernel_type: str) -> Measured:
        """The rows of one kernel type timed alone.

        Raises:
            InvalidRequest: ``training_rows_invalid``: too few of them, or all the same; the text says what to do.
        """
        found = self.alone.get(kernel_type)
        if found is None and self.alone:
            others = ", ".join(self.alone)
            raise self._refusal(f"no kernel {kernel_type} was measured alone; there are {others}", kernel_type)
        if found is None or len(found) < MIN_ROWS:
            count = 0 if found is None else len(found)
            raise self._refusal(
                f"{count} rows of kernel {kernel_type} are too few, at least {MIN_ROWS} are needed", kernel_type
            )
        if found.latency_ms.min() == found.latency_ms.max():
            detail = f"all {len(found)} rows of kernel {kernel_type} take {found.latency_ms[0]:g} ms"
            raise self._refusal(f"{detail}: nothing can be learnt from them", f"different {kernel_type}")
        return found

    def whole_models(self) -> MeasuredModels:
        """The whole models.

        Raises:
            InvalidRequest: ``training_rows_invalid``: too few of them, no kernel of theirs is of the catalogue, or all
                take the same time; the text says what to do.
        """
        count = len(self.models)
        if count < MIN_ROWS:
            raise self._refusal(f"{count} whole models are too few, at least {MIN_ROWS} are needed", "architectures")
        if not any(entries.kernels.is_known for entries in self.models.lists.by_type.values()):
            raise self._refusal("the models have no kernel in common with the catalogue", "architectures")
        if self.models.latency_ms.min() == self.models.latency_ms.max():
            same_ms = self.models.latency_ms[0]
            raise self._refusal(
                f"all {count} whole models take {same_ms:g} ms: nothing can be learnt from them", "different models"
            )
        return self.models

    def _refusal(self, detail: str, what: str) -> InvalidRequest:
        lost = ", ".join(f"{count} with {why}" if why == TOO_ROUGH else f"{count} {why}" for why, count in self._lost())
        said = f" ({lost} were left out)" if lost else ""
        hint = "on a quiet board" if self.left_out.get(TOO_ROUGH) else "with purpose train, or adapt with more budget"
        return InvalidRequest(
            f"{self.platform}: {detail}{said}; measure more {what} {hint}", code="training_rows_invalid", field="rows"
        )

    def _lost(self) -> Iterable[tuple[str, int]]:
        return self.left_out.items()


def measured_models(rows: Sequence[ModelRow]) -> MeasuredModels:
    """Whole models as they are given, unknown operators among them.

    Raises:
        InvalidRequest: ``kernel_out_of_range`` as ``KernelLists.of``.
    """
    return _measured_models([(row, row.normalised_ms) for row in rows])


def measured_kernels(kernel_type: str, rows: Sequence[KernelRow]) -> Measured:
    """Kernels of one type as they are given.

    Raises:
        InvalidRequest: ``kernel_out_of_range`` as ``Kernels.of_configs``.
    """
    latency_ms = np.array([row.normalised_ms for row in rows], dtype=np.float64)
    return Measured(Kernels.of_configs(kernel_type, [row.config for row in rows]), latency_ms)


def _usable(rows: Sequence[_R], refused: Collection[str], left_out: Counter[str]) -> list[_R]:
    """The rows that may train; counts the others by why."""
    kept = []
    for row in rows:
        if row.workload_id in refused:
            left_out[HELD_OUT] += 1
        elif row.grade is Grade.D:
            left_out[TOO_ROUGH] += 1
        else:
            kept.append(row)
    return kept


def _merged(rows: Iterable[_R]) -> list[tuple[_R, float]]:
    """One row for each workload with the geometric mean of its times in ms, in the order of ids."""
    times: defaultdict[str, list[float]] = defaultdict(list)
    first: dict[str, _R] = {}
    for row in sorted(rows, key=lambda row: (row.workload_id, row.measured_at, row.normalised_ms)):
        times[row.workload_id].append(row.normalised_ms)
        first.setdefault(row.workload_id, row)
    return [(row, float(np.exp(np.log(times[name]).mean()))) for name, row in first.items()]


def _by_type(rows: Iterable[KernelRow]) -> dict[str, Measured]:
    by_type: defaultdict[str, list[KernelRow]] = defaultdict(list)
    for row in rows:
        by_type[row.kernel_type].append(row)
    found = {}
    for name in sorted(by_type):
        merged = _merged(by_type[name])
        kernels = Kernels.of_configs(name, [row.config for row, _ in merged])
        found[name] = Measured(kernels, np.array([each_ms for _, each_ms in merged], dtype=np.float64))
    return found


def _measured_models(rows: Sequence[tuple[ModelRow, float]]) -> MeasuredModels:
    return MeasuredModels(
        ids=tuple(row.workload_id for row, _ in rows),
        spaces=tuple(row.space for row, _ in rows),
        lists=KernelLists.of([*row.kernels, *foreign_kernels(row.unknown)] for row, _ in rows),
        latency_ms=np.array([each_ms for _, each_ms in rows], dtype=np.float64),
    )
