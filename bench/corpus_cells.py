"""Cells of the evaluation corpus: one search space on one platform, what a predictor learns from, and how it is judged.

Predictors are fitted as the process that trains fits them, from the first rows of each list whose share of leases is
within so many board seconds; what failed is paid for too.
"""

from collections.abc import Collection, Iterable, Sequence
from functools import cache
from typing import Final, NamedTuple

from bench.corpus_plan import WANTED_PLATFORMS, family, holdout_count, holdouts, thread_twin
from bench.corpus_rows import PlatformCorpus, Row, workload_of
from bench.platforms import REFUSALS
from benchfarm_core.adapting import mix_of
from benchfarm_core.errors import InvalidRequest
from benchfarm_core.platforms import parse_platform_key
from benchfarm_core.predictors import WHOLE_MODEL, HoldoutScore, TrainingRows, may_lend
from benchfarm_core.profilers import in_situ_by
from benchfarm_core.shares import inclusive
from benchfarm_core.workloads import ArchitectureWorkload, workload_id
from benchfarm_predictor import predictor_file
from benchfarm_predictor.composition import fit_whole_model
from benchfarm_predictor.predictor_file import Header, Lineage, Predictor
from benchfarm_predictor.training.judging import judge
from benchfarm_predictor.training.platform_rows import PlatformRows
from benchfarm_worker.fitting import Known, fit_or_why
from benchfarm_workloads.spaces import spaces

LEAST_HELD_OUT: Final = 5
LEAST_POOLED: Final = 430
"""Hold-outs of one setting: fewer cannot prove 99.3 %."""
SHOWN: Final = 2
"""Of the candidates that a predictor is the mean of."""
RIDGE_MODELS_MIN: Final = 5
UNSEEN_MIX: Final = (("train", 0.5), ("in_situ", 0.3), ("alone", 0.2))
"""Of the seconds: architectures of other spaces, kernels in situ, kernels alone."""
Line = dict[str, object]


class Counted(NamedTuple):
    """How many of some hold-outs are near, and what they are off in sum; `inside`: in the interval."""

    held_out: int
    within_5: int
    within_10: int
    errors: float
    inside: int

    @classmethod
    def of(cls, score: HoldoutScore) -> "Counted":
        """From shares back to counts."""
        within_5, within_10, inside = (
            round(share * score.count) for share in (score.within_5, score.within_10, score.coverage)
        )
        return cls(score.count, within_5, within_10, score.mape * score.count, inside)

    def plus(self, other: "Counted") -> "Counted":
        """Both together."""
        return Counted(
            self.held_out + other.held_out,
            self.within_5 + other.within_5,
            self.within_10 + other.within_10,
            self.errors + other.errors,
            self.inside + other.inside,
        )

    @property
    def mape(self) -> float:
        """The mean absolute relative error."""
        return self.errors / max(1, self.held_out)


class Cell(NamedTuple):
    """One space on one platform. `why` is empty where there is a predictor. `tried`: hold-outs that were measured,
    those that failed or are graded D among them."""

    platform: str
    space: str
    models: int
    kernels: int
    board_s: float
    ours: Counted | None = None
    ridge: Counted | None = None
    again: Counted | None = None
    made_of: str = ""
    why: str = ""
    tried: int = 0

    @property
    def planned(self) -> int:
        """Hold-outs of which the cell is to tell."""
        return holdout_count(self.space)

    @property
    def is_whole(self) -> bool:
        """Whether all of them were measured; before that it says nothing of a goal."""
        return self.tried >= self.planned


class Goal(NamedTuple):
    """Shares of all hold-outs together."""

    within_5: float
    within_10: float

    def judged(self, cells: Sequence[Cell], planned: int) -> Line:
        """The goal, and whether it is met; spaces without a predictor meet nothing. Of cells that are not whole, of
        fewer hold-outs than `planned` and of too few that judge it is said how many there are, and nothing more."""
        shares = ((self.within_5, "5 %"), (self.within_10, "10 %"))
        said = ", ".join(f">= {share:.1%} within {bound}" for share, bound in shares if share)
        tried, ours = sum(each.tried for each in cells), together(each.ours for each in cells)
        if tried < planned or not all(each.is_whole for each in cells):
            return {"goal": said, "met": f"partial: {tried} of {planned}"}
        if ours is not None and ours.held_out < LEAST_POOLED:
            return {"goal": said, "met": f"partial: {ours.held_out} of {LEAST_POOLED} that judge"}
        if ours is None or any(each.ours is None for each in cells):
            return {"goal": said, "met": False}
        least = (share * ours.held_out for share, _ in shares)
        return {"goal": said, "met": all(hits >= wanted for hits, wanted in zip(ours[1:3], least, strict=True))}


KNOWN_GOAL: Final = Goal(0.95, 0.993)
UNSEEN_GOAL: Final = Goal(0.0, 0.95)


def planned_holdouts(every: Sequence[PlatformCorpus]) -> int:
    """Hold-outs of the whole corpus: of the platforms that are wanted, and of all spaces but those that a platform was
    seen to refuse."""
    by_pair = {_pair(corpus.key): corpus for corpus in every}
    wanted = dict.fromkeys([*WANTED_PLATFORMS, *by_pair])
    return sum(
        holdout_count(one.name)
        for pair in wanted
        for one in spaces()
        if pair not in by_pair or not is_refused(by_pair[pair], one.name)
    )


def is_refused(corpus: PlatformCorpus, name: str) -> bool:
    """Whether a platform was seen to refuse a space: all of its hold-outs that were measured. Wrong results miss."""
    rows = corpus.listed("holdout", name)
    return bool(rows) and all(row.failure in REFUSALS for row in rows)


def _pair(key: str) -> tuple[str, str]:
    platform = parse_platform_key(key)
    return platform.engine.name, platform.precision


# --- what is learnt from


def first_within(rows: Sequence[Row], limit_s: float) -> list[Row]:
    """The first rows whose board seconds together are within the limit."""
    found, spent_s = [], 0.0
    for row in rows:
        spent_s += row.board_s
        if spent_s > limit_s:
            break
        found.append(row)
    return found


def picked(corpus: PlatformCorpus, name: str, limit_s: float) -> list[Row]:
    """What an adaptation to one space would measure: architectures, and with few of them kernels in situ too."""
    every, in_situ = corpus.listed("train", name), corpus.listed("in_situ", name)
    models = first_within(every, limit_s)
    platform = parse_platform_key(corpus.key)
    way = in_situ_by(platform.engine.name, platform.precision) if in_situ else None
    mix = mix_of(round_no=1, has_spaces=True, in_situ_by=way, whole_models=len(models))
    return [*first_within(every, mix.architectures * limit_s), *first_within(in_situ, mix.in_situ * limit_s)]


def picked_elsewhere(corpus: PlatformCorpus, name: str, limit_s: float) -> list[Row]:
    """Architectures of other spaces than this one, and kernels."""
    lists = {"in_situ": corpus.listed("in_situ"), "alone": corpus.listed("alone")}
    lists["train"] = elsewhere(corpus, name)
    return [row for kind, share in UNSEEN_MIX for row in first_within(lists[kind], share * limit_s)]


def elsewhere(corpus: PlatformCorpus, name: str) -> list[Row]:
    """Architectures that teach, of other spaces than this one."""
    return [row for row in corpus.listed("train") if row.drawn_for != name]


def lent(corpus: PlatformCorpus, without: str | None = None) -> TrainingRows:
    """All that a platform may lend, without the architectures of one space."""
    return _lent(corpus, without)


@cache
def _lent(corpus: PlatformCorpus, without: str | None) -> TrainingRows:
    every = [row for row in corpus.rows if row.split == "train"]
    return corpus.training_rows([row for row in every if without is None or not _is_of(row, without)])


def _is_of(row: Row, name: str) -> bool:
    workload = workload_of(row)
    return isinstance(workload, ArchitectureWorkload) and workload.space == name


def others(corpus: PlatformCorpus, every: Sequence[PlatformCorpus]) -> list[PlatformCorpus]:
    """All platforms that may lend to it but itself and its thread twins."""
    return [each for each in every if _may_lend(each, corpus) and thread_twin(each.key) != thread_twin(corpus.key)]


def lenders(corpus: PlatformCorpus, every: Sequence[PlatformCorpus]) -> list[PlatformCorpus]:
    """Platforms that may lend to it of other families: another board model, or another engine."""
    return [each for each in every if _may_lend(each, corpus) and family(each.key) != family(corpus.key)]


def _may_lend(donor: PlatformCorpus, corpus: PlatformCorpus) -> bool:
    """As the product has it: what a marked machine measured teaches nobody else."""
    return may_lend(parse_platform_key(donor.key).board_model, parse_platform_key(corpus.key).board_model)


@cache
def held_out() -> frozenset[str]:
    """All that judges, whatever platform it was measured on."""
    return frozenset(workload_id(one) for each in spaces() for one in holdouts(each.name))


# --- how it is judged


def cell(corpus: PlatformCorpus, name: str, rows: Sequence[Row], donors: Sequence[TrainingRows] = ()) -> Cell | None:
    """Fit, and judge on the space's hold-outs; None where too few of them were measured."""
    judging = corpus.training_rows([*corpus.listed("holdout", name), *corpus.listed("again", name)])
    if len({row.workload_id for row in judging.models}) < LEAST_HELD_OUT:
        return None
    own = corpus.training_rows(rows)
    found = fitted(own, donors, held_out(), judging)
    models, kernels = len(own.models), len(own.kernels)
    board_s, tried = sum(row.board_s for row in rows), len(corpus.listed("holdout", name))
    if isinstance(found, str):
        return Cell(corpus.key, name, models, kernels, board_s, why=found, tried=tried)
    ours, chosen = found
    return Cell(corpus.key, name, models, kernels, board_s, ours, None, second(corpus, name), chosen, tried=tried)


def fitted(
    own: TrainingRows, donors: Sequence[TrainingRows], held: Collection[str], judging: TrainingRows
) -> tuple[Counted, str] | str:
    """The product's predictor of whole models on hold-outs, with what it is made of; or why there is none."""
    fit = fit_or_why(Known.of(own, held, donors), WHOLE_MODEL)
    if isinstance(fit, str):
        return fit
    # as it answers: from its file
    score = judge(predictor_file.read(fit.file()), judging)
    return Counted.of(score), made_of(fit.chosen)


def made_of(chosen: Sequence[str]) -> str:
    """The first candidates of the space's own choice; donors by engine and precision alone."""
    names = [name.partition(": ")[2] or name for name in chosen if not name.startswith("elsewhere: ")]
    told = [" ".join(_donor_word(word) for word in name.split(" ")) for name in dict.fromkeys(names)]
    more = len(told) - SHOWN
    return ", ".join([*told[:SHOWN], *([f"{more} more"] if more > 0 else [])])


def _donor_word(word: str) -> str:
    parts = word.split("/")
    return f"{parts[2]}/{parts[3]}" if len(parts) == 4 else word


def ridge(corpus: PlatformCorpus, name: str, rows: Sequence[Row]) -> Counted | None:
    """A ridge on sums of architectures alone, judged likewise; None where there are too few of them."""
    models = PlatformRows.of(corpus.training_rows(rows), held_out()).models
    judging = corpus.training_rows(corpus.listed("holdout", name))
    if len(models) < RIDGE_MODELS_MIN or not judging.models:
        return None
    try:
        fit = fit_whole_model(models.lists, models.latency_ms)
    except InvalidRequest:
        return None
    lineage = Lineage(data_hash="ridge", rule_version=corpus.manifest.rule_version, code_version="ridge")
    header = Header(kernel_type=WHOLE_MODEL, platform=corpus.key, lineage=lineage)
    return Counted.of(judge(Predictor(header, fit.model, None, None), judging))


def second(corpus: PlatformCorpus, name: str) -> Counted | None:
    """The second measurements of hold-outs against the first ones, by the same generation: between two of them lies
    their bridge as well."""
    first = {row.number: row for row in corpus.listed("holdout", name) if row.is_usable}
    errors = [
        abs(row.normalised_ms / first[row.number].normalised_ms - 1)  # type: ignore[operator]
        for row in corpus.listed("again", name)
        if row.is_usable and row.number in first and first[row.number].generation == row.generation
    ]
    if not errors:
        return None
    within_5, within_10 = (sum(error <= inclusive(bound) for error in errors) for bound in (0.05, 0.10))
    return Counted(len(errors), within_5, within_10, sum(errors), 0)


def together(every: Iterable[Counted | None]) -> Counted | None:
    """The sum of those that there are."""
    total = None
    for each in every:
        if each is not None:
            total = each if total is None else total.plus(each)
    return total
