"""The tables of the evaluation corpus: what predictors of the farm's own making reach on its hold-outs.

They are fitted as the process that trains fits them, from the first rows of each list whose share of leases is within
so many board seconds; what failed is paid for too. Beside them stand a ridge on sums of whole models and the second
measurement of the same hold-outs, which nobody beats.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cache
from statistics import fmean
from typing import Final, NamedTuple

from bench.corpus_plan import MAIN_SPACES, family, holdouts, short, thread_twin
from bench.corpus_rows import PlatformCorpus, Row, counts_of, workload_of
from benchfarm_core.adapting import mix_of
from benchfarm_core.errors import InvalidRequest
from benchfarm_core.predictors import WHOLE_MODEL, HoldoutScore, TrainingRows
from benchfarm_core.shares import Share, inclusive
from benchfarm_core.workloads import ArchitectureWorkload, workload_id
from benchfarm_predictor import predictor_file
from benchfarm_predictor.composition import fit_whole_model
from benchfarm_predictor.predictor_file import Header, Lineage, Predictor
from benchfarm_predictor.training.judging import judge
from benchfarm_predictor.training.platform_rows import PlatformRows
from benchfarm_worker.fitting import Known, fit_or_why
from benchfarm_workloads.spaces import spaces

KNOWN_S: Final = 30.0
DONOR_S: Final = 10.0
UNSEEN_S: Final = 180.0
UNSEEN_MIX: Final = (("train", 0.5), ("in_situ", 0.3), ("alone", 0.2))
"""Of the seconds: architectures of other spaces, kernels in situ, kernels alone."""
CURVE_S: Final = (2.0, 5.0, 10.0, 20.0, 30.0, 60.0)
CURVE_PLATFORMS: Final = 3
SPENT_SHARE: Final = 0.8
"""A point of the curve for which less was measured than this share of its seconds is left out."""
LEAST_HELD_OUT: Final = 5
SHOWN: Final = 2
"""Of the candidates that a predictor is the mean of."""
RIDGE_MODELS_MIN: Final = 5
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
    """One space on one platform. `why` is empty where there is a predictor."""

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


class Goal(NamedTuple):
    """Shares of all hold-outs together."""

    within_5: float
    within_10: float

    def judged(self, cells: Sequence[Cell]) -> Line:
        """The goal, and whether it is met; spaces without a predictor meet nothing."""
        shares = ((self.within_5, "5 %"), (self.within_10, "10 %"))
        said = ", ".join(f">= {share:.1%} within {bound}" for share, bound in shares if share)
        ours = together(each.ours for each in cells)
        if ours is None or any(each.ours is None for each in cells):
            return {"goal": said, "met": False}
        least = (share * ours.held_out for share, _ in shares)
        return {"goal": said, "met": all(hits >= wanted for hits, wanted in zip(ours[1:3], least, strict=True))}


KNOWN_GOAL: Final = Goal(0.95, 0.993)
UNSEEN_GOAL: Final = Goal(0.0, 0.95)


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
    mix = mix_of(round_no=1, has_spaces=True, times_in_situ=bool(in_situ), whole_models=len(models))
    return [*first_within(every, mix.architectures * limit_s), *first_within(in_situ, mix.in_situ * limit_s)]


def picked_elsewhere(corpus: PlatformCorpus, name: str, limit_s: float) -> list[Row]:
    """Architectures of other spaces than this one, and kernels."""
    lists = {"in_situ": corpus.listed("in_situ"), "alone": corpus.listed("alone")}
    lists["train"] = _elsewhere(corpus, name)
    return [row for kind, share in UNSEEN_MIX for row in first_within(lists[kind], share * limit_s)]


def _elsewhere(corpus: PlatformCorpus, name: str) -> list[Row]:
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
    """All platforms but this one and its thread twins."""
    return [other for other in every if thread_twin(other.key) != thread_twin(corpus.key)]


def lenders(corpus: PlatformCorpus, every: Sequence[PlatformCorpus]) -> list[PlatformCorpus]:
    """Platforms of other families: another board model, or another engine."""
    return [other for other in every if family(other.key) != family(corpus.key)]


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
    board_s = sum(row.board_s for row in rows)
    if isinstance(found, str):
        return Cell(corpus.key, name, models, kernels, board_s, why=found)
    ours, chosen = found
    again = second(corpus, name)
    return Cell(corpus.key, name, models, kernels, board_s, ours, None, again, chosen)


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
    """The second measurements of hold-outs against the first ones."""
    first = {row.number: row for row in corpus.listed("holdout", name) if row.is_usable}
    errors = [
        abs(row.normalised_ms / first[row.number].normalised_ms - 1)  # type: ignore[operator]
        for row in corpus.listed("again", name)
        if row.is_usable and row.number in first
    ]
    if not errors:
        return None
    within_5, within_10 = (sum(error <= inclusive(bound) for error in errors) for bound in (0.05, 0.10))
    return Counted(len(errors), within_5, within_10, sum(errors), 0)


# --- tables


def known_spaces(every: Sequence[PlatformCorpus]) -> list[Line]:
    """Architectures of the space were measured, and nobody lends."""
    return table(_known_cells(every, KNOWN_S, None), KNOWN_GOAL)


def with_donors(every: Sequence[PlatformCorpus]) -> list[Line]:
    """A few architectures of the space were measured; platforms of other families lend what they know."""
    return table(_known_cells(every, DONOR_S, lambda corpus: lenders(corpus, every)), KNOWN_GOAL)


def with_any_donors(every: Sequence[PlatformCorpus]) -> list[Line]:
    """The same with every other platform, a thread twin apart: another precision of the same engine lends too."""
    return table(_known_cells(every, DONOR_S, lambda corpus: others(corpus, every)), KNOWN_GOAL)


def _known_cells(
    every: Sequence[PlatformCorpus], limit_s: float, lends: Callable[[PlatformCorpus], list[PlatformCorpus]] | None
) -> list[Cell]:
    """Of platforms to which somebody lends; of all where nobody is asked to."""
    cells = []
    for corpus in every:
        donors = [lent(other) for other in lends(corpus)] if lends else []
        if lends and not donors:
            continue
        for name in _spaces_of(corpus):
            found = cell(corpus, name, picked(corpus, name, limit_s), donors)
            alone = first_within(corpus.listed("train", name), limit_s)
            cells += [found._replace(ridge=ridge(corpus, name, alone))] if found is not None else []
    return cells


def unseen_spaces(every: Sequence[PlatformCorpus]) -> list[Line]:
    """No architecture of the space was measured here or by a donor: other spaces and kernels teach."""
    cells = []
    # a space's turn for all platforms, so that its donors are fitted once
    for name in (one.name for one in spaces()):
        for corpus in every:
            donors = [lent(other, name) for other in lenders(corpus, every)]
            rows = picked_elsewhere(corpus, name, UNSEEN_S)
            found = cell(corpus, name, rows, donors) if rows else None
            elsewhere = first_within(_elsewhere(corpus, name), UNSEEN_S)
            cells += [found._replace(ridge=ridge(corpus, name, elsewhere))] if found is not None else []
    order = {corpus.key: number for number, corpus in enumerate(every)}
    return table(sorted(cells, key=lambda each: order[each.platform]), UNSEEN_GOAL)


def _spaces_of(corpus: PlatformCorpus) -> list[str]:
    return [one.name for one in spaces() if corpus.listed("train", one.name)]


def table(cells: Sequence[Cell], goal: Goal) -> list[Line]:
    """A line for each cell, for each platform, and for all together: of thread twins the first one counts."""
    lines: list[Line] = []
    for key in dict.fromkeys(each.platform for each in cells):
        own = [each for each in cells if each.platform == key]
        lines += [_line(each) for each in own]
        lines += pooled(short(key), own) if len(own) > 1 else []
    first: dict[tuple[str, ...], str] = {}
    for each in cells:
        first.setdefault(thread_twin(each.platform), each.platform)
    counted = [each for each in cells if each.platform in first.values()]
    return [*lines, *(line | goal.judged(counted) for line in pooled("all platforms", counted))]


def _line(found: Cell) -> Line:
    line: Line = {"platform": short(found.platform), "space": found.space}
    line |= {"hold-outs": found.ours.held_out if found.ours else ""}
    line |= {"models": found.models, "kernels": found.kernels, "board s": f"{found.board_s:.1f}"}
    for head, counted in (("", found.ours), ("ridge: ", found.ridge), ("again: ", found.again)):
        line |= _shares(head, counted)
    line["in 90 %"] = _percent(found.ours.inside, found.ours.held_out) if found.ours else ""
    return line | {"made of": found.made_of or f"none: {found.why}"}


def _shares(head: str, counted: Counted | None) -> Line:
    names = [f"{head}{what}" for what in ("within 5 %", "within 10 %", "mean error")]
    if counted is None:
        return dict.fromkeys(names, "")
    near = [_percent(hits, counted.held_out) for hits in (counted.within_5, counted.within_10)]
    return dict(zip(names, [*near, f"{counted.mape:.1%}"], strict=True))


def pooled(label: str, cells: Sequence[Cell]) -> list[Line]:
    """All hold-outs of some cells, with intervals; nothing where none has a predictor."""
    scored = [each for each in cells if each.ours is not None]
    if not scored:
        return []
    line: Line = {"platform": label, "space": f"{len(scored)} of {len(cells)} together"}
    ours = together(each.ours for each in scored)
    assert ours is not None
    line |= {"hold-outs": ours.held_out, "board s": f"{fmean(each.board_s for each in scored):.1f} in the mean"}
    for head, counted in (
        ("", ours),
        ("ridge: ", together(each.ridge for each in scored)),
        ("again: ", together(each.again for each in scored)),
    ):
        line |= _shares(head, counted)
        if counted is not None:
            line[f"{head}within 5 %"] = _with_interval(counted.within_5, counted.held_out)
            line[f"{head}within 10 %"] = _with_interval(counted.within_10, counted.held_out)
    return [line | {"in 90 %": _with_interval(ours.inside, ours.held_out)}]


def together(every: Iterable[Counted | None]) -> Counted | None:
    """The sum of those that there are."""
    total = None
    for each in every:
        if each is not None:
            total = each if total is None else total.plus(each)
    return total


def _percent(hits: int, count: int) -> str:
    return f"{100 * hits / count:.1f}" if count else ""


def _with_interval(hits: int, count: int) -> str:
    return Share.of(hits, count).text.replace(" %", "")


def cost_curve(every: Sequence[PlatformCorpus]) -> list[Line]:
    """Accuracy against board seconds, on the platforms with the most rows: all hold-outs of main spaces together."""
    chosen = sorted(every, key=lambda corpus: -len(corpus.rows))[:CURVE_PLATFORMS]
    lines = []
    for corpus in chosen:
        donors = [lent(other) for other in lenders(corpus, every)]
        for limit_s in CURVE_S:
            line = _point(corpus, limit_s, donors)
            lines += [line] if line else []
    return lines


def _point(corpus: PlatformCorpus, limit_s: float, donors: Sequence[TrainingRows]) -> Line | None:
    """One line of the curve: the spaces of which so much was measured."""
    names = [name for name in MAIN_SPACES if _has(corpus.listed("train", name), limit_s)]
    ways: dict[str, Callable[[str], Cell | None]] = {
        "ours, no donor": lambda name: cell(corpus, name, picked(corpus, name, limit_s)),
        "ours, donors": lambda name: cell(corpus, name, picked(corpus, name, limit_s), donors) if donors else None,
        "kernels alone": lambda name: _of_kernels(corpus, name, limit_s),
    }
    found = {way: [one for name in names if (one := make(name)) is not None] for way, make in ways.items()}
    if not found["ours, no donor"]:
        return None
    plain = [ridge(corpus, name, first_within(corpus.listed("train", name), limit_s)) for name in names]
    line: Line = {"platform": short(corpus.key), "at most, s": f"{limit_s:g}", "spaces": len(names)}
    line["models"] = f"{fmean(each.models for each in found['ours, no donor']):.0f}"
    line |= {way: _curve_text([each.ours for each in cells]) for way, cells in found.items()}
    return line | {"ridge": _curve_text(plain), "again": _floor_text(corpus, names)}


def _has(rows: Sequence[Row], limit_s: float) -> bool:
    return sum(row.board_s for row in rows) >= SPENT_SHARE * limit_s


def _of_kernels(corpus: PlatformCorpus, name: str, limit_s: float) -> Cell | None:
    """From kernels timed alone, as nn-Meter and LitePred learn: no whole model."""
    rows = corpus.listed("alone", name)
    return cell(corpus, name, first_within(rows, limit_s)) if _has(rows, limit_s) else None


def _curve_text(found: Sequence[Counted | None]) -> str:
    total = together(found)
    if total is None:
        return ""
    near = (_percent(hits, total.held_out) for hits in (total.within_5, total.within_10))
    return f"{' / '.join(near)} / {total.mape:.1%} ({len([one for one in found if one])})"


def _floor_text(corpus: PlatformCorpus, names: Sequence[str]) -> str:
    return _curve_text([second(corpus, name) for name in names])


def print_sizes(every: Sequence[PlatformCorpus]) -> None:
    """What there is: a corpus that was measured in part says how far."""
    for corpus in every:
        print(f"{corpus.key}: {len(corpus.rows)} rows, board {corpus.manifest.board_s:.0f} s")
        for name, text in counts_of(corpus.rows).items():
            print(f"    {name}: {text}")


SETTINGS: Final[dict[str, tuple[str, Callable[[Sequence[PlatformCorpus]], list[Line]]]]] = {
    "known": (f"Known space, no donor, at most {KNOWN_S:g} s of a board", known_spaces),
    "donor": (f"Known space, donors of other engine families, at most {DONOR_S:g} s of a board", with_donors),
    "any-donor": (f"Known space, any other platform as donor, at most {DONOR_S:g} s of a board", with_any_donors),
    "unseen": (f"Unseen space, at most {UNSEEN_S:g} s of a board", unseen_spaces),
    "curve": ("Accuracy against board seconds", cost_curve),
}
