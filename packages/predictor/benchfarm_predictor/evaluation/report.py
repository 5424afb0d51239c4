"""What an evaluation of transfer says: every method's scores, per kernel type and number of samples."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Final, Literal

from benchfarm_core.values import Value
from benchfarm_predictor.metrics import Score

Method = Literal[
    "ridge", "scratch", "scale-only", "residual", "stacked", "fine-tune", "ours", "litepred", "random-forest"
]
METHODS: Final[dict[Method, str]] = {
    "ridge": "ridge on products of log features, from the samples alone: the simple thing to beat",
    "scratch": "our choice among what needs no donor",
    "scale-only": "the most alike donor's prediction times one factor",
    "residual": "our choice among corrections of one donor",
    "stacked": "our choice among powers of all donors, corrected or not",
    "fine-tune": "our choice among donors' small networks, trained on",
    "ours": "the automatic choice among all of these",
    "litepred": "LitePred's network as published: trained on the most alike donor, then on the samples",
    "random-forest": "nn-Meter's random forest, from the samples alone",
}
"""In the order of tables, with what each is."""
SINGLE: Final[tuple[Method, ...]] = tuple(name for name in METHODS if name != "ours")
"""What the automatic choice is held against."""


class Spread(Value):
    """Mean over repeats and their standard deviation; None where there is one repeat."""

    mean: float
    deviation: float | None


class MethodScores(Value):
    """One method with so many samples. ``runs``: a score for each repeat. Shares and errors are fractions of 1.

    ``members``: of which candidates its predictors were made, and in how many of the repeats. ``coverage``: the share
    of rows within their 90 % interval, which is calibrated on the samples; None for methods that have none.
    """

    method: Method
    samples: int
    runs: tuple[Score, ...]
    mape: Spread
    within_5: Spread
    within_10: Spread
    rmse_ms: Spread
    spearman: Spread | None
    coverage: Spread | None
    members: dict[str, int]


class KernelEvaluation(Value):
    """One kernel type: rows that samples were drawn from, rows that all methods are judged by, and who gave."""

    kernel: str
    rows: int
    test_rows: int
    donors: tuple[str, ...]
    methods: tuple[MethodScores, ...]


class LeftOut(Value):
    """What was not evaluated, and why. None: for all kernel types or methods."""

    kernel: str | None
    method: Method | None
    samples: int | None
    reason: str


class TransferEvaluation(Value):
    """The whole evaluation of one target."""

    target: str
    pool: tuple[str, ...]
    samples: tuple[int, ...]
    repeats: int
    seed: int
    kernels: tuple[KernelEvaluation, ...]
    left_out: tuple[LeftOut, ...]


@dataclass
class Runs:
    """What is known of one method with so many samples while repeats go on."""

    scores: list[Score] = field(default_factory=list)
    coverages: list[float] = field(default_factory=list)
    members: dict[str, int] = field(default_factory=dict)

    def add(self, score: Score, coverage: float | None, members: Sequence[str]) -> None:
        """One more repeat."""
        self.scores.append(score)
        self.coverages += [] if coverage is None else [coverage]
        for name in members:
            self.members[name] = self.members.get(name, 0) + 1


def method_scores(method: Method, samples: int, found: Runs) -> MethodScores:
    """The scores of all repeats, brought together."""
    runs = found.scores
    ranked = [run.spearman for run in runs if run.spearman is not None]
    return MethodScores(
        method=method,
        samples=samples,
        runs=tuple(runs),
        mape=spread([run.mape for run in runs]),
        within_5=spread([run.within_5 for run in runs]),
        within_10=spread([run.within_10 for run in runs]),
        rmse_ms=spread([run.rmse_ms for run in runs]),
        spearman=spread(ranked) if ranked else None,
        coverage=spread(found.coverages) if found.coverages else None,
        members=found.members,
    )


def spread(values: Sequence[float]) -> Spread:
    """Mean and standard deviation of at least one value."""
    return Spread(mean=fmean(values), deviation=stdev(values) if len(values) > 1 else None)
