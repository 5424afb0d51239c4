"""Predictors in the farm: what they learn from, what is known of how good they are, and how versions follow.

A predictor belongs to a platform and a *subject*: a kernel type of the catalogue, or `WHOLE_MODEL`, which takes kernel
lists. Its versions count up from 1 for each such pair; at most one of them is active, and that one answers. Predictors
learn and promise `normalised_ms`: the time without neighbours at the reference clock.
"""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final

from pydantic import Field

from benchfarm_core.boards import is_single_use, marks_of
from benchfarm_core.measurements import Purpose, Timing
from benchfarm_core.predictor_headers import Lineage
from benchfarm_core.summaries import Grade
from benchfarm_core.values import Answer, Value
from benchfarm_core.workloads import Config

WHOLE_MODEL: Final = "model"
"""The subject of predictors that take kernel lists: generated and uploaded models, and architectures."""
KEPT_FILES: Final = 4
"""Of a subject's versions on a platform: so many of the newest in each state keep their files, and the active one. A
version without its file can be looked at and not returned to."""

Subject = Annotated[str, Field(min_length=1, max_length=60)]


class PredictorState(StrEnum):
    """One version of a predictor: it may answer, answers, did answer, or must not."""

    CANDIDATE = "candidate"
    ACTIVE = "active"
    SUPERSEDED = "superseded"
    REJECTED = "rejected"


_S = PredictorState
PREDICTOR_TRANSITIONS: Final[dict[PredictorState, frozenset[PredictorState]]] = {
    _S.CANDIDATE: frozenset({_S.ACTIVE, _S.REJECTED}),
    _S.ACTIVE: frozenset({_S.SUPERSEDED}),
    # by a rollback alone
    _S.SUPERSEDED: frozenset({_S.ACTIVE}),
    _S.REJECTED: frozenset(),
}


CountedKernel = tuple[str, Config, Annotated[int, Field(ge=1)]]
"""Kernel type, configuration, how often."""
_Ms = Annotated[float, Field(gt=0)]


class KernelRow(Value):
    """One kernel as it was measured. Alone and in situ are different targets, never mixed.

    `first_at`: when the board first measured it, where that was before `measured_at`: from then on somebody may have
    learnt it.
    """

    workload_id: str
    kernel_type: str
    config: Config
    timing: Timing
    normalised_ms: _Ms
    grade: Grade
    measured_at: datetime
    purpose: Purpose
    first_at: datetime | None = None


class ModelRow(Value):
    """One whole model as it was measured, with its kernels as the platform's engine fuses them.

    `space`: the search space of an architecture; None for a generated model. `unknown`: operators that no kernel type
    of the catalogue stands for, each as often as the model has it; the kernels do not hold them. `first_at`: as of a
    kernel.
    """

    workload_id: str
    space: str | None
    kernels: tuple[CountedKernel, ...]
    unknown: tuple[str, ...]
    normalised_ms: _Ms
    grade: Grade
    measured_at: datetime
    purpose: Purpose
    first_at: datetime | None = None


class TrainingRows(Value):
    """What a platform's predictors learn from, or are judged by. Rows are in the order of their workloads' ids.

    `platform` is its key. `rule_version`: of the summary rule that derived every row. `data_hash` names the rows: their
    workloads, times and what the platform's engine was seen to fuse.
    """

    platform: str
    kernels: tuple[KernelRow, ...]
    models: tuple[ModelRow, ...]
    rule_version: int
    data_hash: str

    @property
    def every(self) -> tuple[KernelRow | ModelRow, ...]:
        """Kernels, then models."""
        return (*self.kernels, *self.models)


_Share = Annotated[float, Field(ge=0, le=1)]


class HoldoutScore(Value):
    """How near predictions came to rows that they did not learn from. Shares and errors of 1, not percents.

    `coverage`: the share of rows inside their intervals. `floor_within_5`, `floor_within_10`: the same shares of a
    second measurement of these rows, which nobody can beat; None where none was made.
    """

    count: int = Field(ge=0)
    within_5: _Share
    within_10: _Share
    mape: float = Field(ge=0)
    coverage: _Share
    floor_within_5: _Share | None = None
    floor_within_10: _Share | None = None


class PredictorEvidence(Value):
    """How a predictor came about and how good it is.

    `chosen`: the candidates that it is made of. `rows`: counts by kind (`alone`, `in_situ`, `models`). `donors`: keys
    of platforms. `board_s`: of the leases that measured what its adaptation wanted, before it too. `holdout`: on rows
    that were declared before. `unseen`: by cross-validation, each row without its fold.
    `rules`: a hash of what its engine was seen to fuse, which kernel lists of whole models were made by, and are when
    it answers; null where nobody kept it.
    """

    chosen: tuple[Annotated[str, Field(max_length=200)], ...] = Field(default=(), max_length=100)
    rows: dict[str, int] = {}
    donors: tuple[str, ...] = Field(default=(), max_length=100)
    board_s: float = Field(default=0.0, ge=0)
    holdout: HoldoutScore | None = None
    unseen: HoldoutScore | None = None
    adaptation_id: str | None = None
    rules: str | None = Field(default=None, max_length=64)


class PredictorView(Answer):
    """A version of a predictor as the API shows it; its file is fetched apart.

    `platform` is a key, `reason` that of the latest change of `state`. `has_file`: only the newest versions keep it.
    """

    id: str
    platform_id: str
    platform: str
    subject: str
    version: int
    state: PredictorState
    reason: str
    created_at: datetime
    activated_at: datetime | None
    size_bytes: int
    sha256: str
    has_file: bool
    lineage: Lineage
    evidence: PredictorEvidence


class PredictorsWanted(Value):
    """Which predictors are listed: every given field must match. `platform` is an id, key or alias."""

    platform: str | None = Field(default=None, max_length=300)
    subject: Subject | None = None
    state: PredictorState | None = None


class RollbackRequest(Value):
    """Why the version before is to answer again.

    `version`: the one that is to answer no more. With it a request that is sent twice rolls back once.
    """

    reason: str = Field(min_length=1, max_length=300)
    version: int | None = Field(default=None, ge=1, lt=2**31)


def is_marked(board_model: str) -> bool:
    """Whether boards of that model are not what they look like: a shared host, emulated or simulated."""
    return bool(marks_of(board_model))


def may_lend(donor_model: str, board_model: str) -> bool:
    """Whether what was measured on boards of one model may teach predictors of another: what is of single use teaches
    nobody, and simulated boards those alone that are simulated too."""
    return not is_single_use(donor_model) and marks_of(donor_model) <= marks_of(board_model)
