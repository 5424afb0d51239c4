"""The knowledge pool: which platforms' rows and predictors can be donors, and how alike two platforms are.

Members are platforms of this farm that were probed or have a predictor, and *entries*: platforms of others, imported
from a pool file. A *likeness* is of a donor and a target, in a subject and a timing, over the probe set. What may lend
to what, `predictors.may_lend` says.
"""

import re
from datetime import datetime
from typing import Annotated, Final

from pydantic import Field

from benchfarm_core.measurements import Timing
from benchfarm_core.predictor_headers import Lineage
from benchfarm_core.predictors import Subject
from benchfarm_core.values import Answer, Value

MAX_NAMED: Final = 100
"""Platforms and entries that one export names."""

_ENTRY_ID: Final = re.compile(r"e_[0-9a-f]{32}")
LicenceText = Annotated[str, Field(min_length=1, max_length=300, pattern=r"^[^\x00-\x1f\x7f]+$")]
"""A licence by its short name, or where it stands."""
SourceText = Annotated[str, Field(max_length=300, pattern=r"^[^\x00-\x1f\x7f]*$")]
"""Who measured, for people."""


class Likeness(Value):
    """How alike a donor is to a target in one subject and timing, over the `count` probes that both have.

    `donor` and `target` are ids. `divergence`: of the donor's normalised times from the target's, blind to a constant
    factor; 0 is alike. `low`, `high`: its 90 % bootstrap interval. `log_ratio_variance`: of the logarithm of target
    over donor. `is_near`: below the bound from which on a donor does not help.
    """

    donor: str
    target: str
    subject: Subject
    timing: Timing
    divergence: float = Field(ge=0)
    low: float = Field(ge=0)
    high: float = Field(ge=0)
    spearman: float | None
    log_ratio_variance: float = Field(ge=0)
    count: int = Field(ge=1)
    is_near: bool


class LikenessView(Answer):
    """A likeness as the API shows it: `donor` and `target` are keys of platforms, `donor_id` names a pool member."""

    donor_id: str
    donor: str
    is_own: bool
    target_id: str
    target: str
    subject: str
    timing: Timing
    divergence: float
    low: float
    high: float
    spearman: float | None
    log_ratio_variance: float
    count: int
    is_near: bool
    probes_version: int
    compared_at: datetime


class MatrixWanted(Value):
    """Which likenesses are shown: every given field must match. `target` is an id, key or alias."""

    target: str | None = Field(default=None, max_length=300)
    subject: Subject | None = None
    timing: Timing | None = None


class PooledPredictor(Answer):
    """A predictor that a member brings; `version` is None of an entry's: versions are counted by each farm."""

    subject: str
    version: int | None
    sha256: str
    size_bytes: int


class PoolMember(Answer):
    """One platform of the pool. `id` is that of the platform, or of the entry where `is_own` is false.

    `probes` of `probes_of` measurements of the present probe set are there. `rows`: counts by kind (`alone`, `in_situ`,
    `models`), null of own platforms, whose rows change by the hour. `origin`: the farm that measured.
    """

    id: str
    key: str
    is_own: bool
    origin: str
    probes: int
    probes_of: int
    rows: dict[str, int] | None
    predictors: list[PooledPredictor]
    licence: str | None
    source: str | None
    measured_at: datetime | None
    imported_at: datetime | None
    author: str | None


class TaughtPredictor(Answer):
    """What a predictor that an entry came with was taught by: its donors, a hash of its rows, the rule of its
    summaries, the code. `is_kept`: its file is here; else this farm could not read it when it came."""

    subject: str
    sha256: str
    is_kept: bool
    lineage: Lineage


class PoolEntryView(PoolMember):
    """One entry with what its predictors were taught, as whoever packed them says: nobody here can look that up."""

    taught: list[TaughtPredictor]


class PoolExport(Value):
    """What a pool file is made of: platforms and entries by name, or without any every platform of this farm."""

    names: tuple[Annotated[str, Field(max_length=300)], ...] = Field(
        default=(), max_length=MAX_NAMED, description="platforms by id, key or alias; entries by id"
    )
    licence: LicenceText = Field(description="of this farm's rows and predictors; entries keep theirs")
    source: SourceText = Field(default="", description="who measured, for people")


class PoolImported(Answer):
    """What an import did. `repeated`: entries that were there before. `own`: platforms that this farm itself measured.

    `left_out`: predictors of another version of this code, by entry and reason; their rows are there.
    """

    entries: list[str]
    repeated: list[str]
    own: list[str]
    left_out: list[str]
    rows: int


def is_entry_id(name: str) -> bool:
    """Whether a name means an entry; an alias of that form is never looked at where entries may be named."""
    return _ENTRY_ID.fullmatch(name) is not None
