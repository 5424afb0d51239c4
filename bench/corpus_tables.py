"""The tables of the evaluation corpus: what predictors of the farm's own making reach on its hold-outs.

They are fitted as the process that trains fits them, from the first rows of each list whose share of leases is within
so many board seconds; what failed is paid for too. Beside them stand a ridge on sums of whole models and the second
measurement of the same hold-outs, which nobody beats.
"""

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Final

from bench.corpus_cells import (
    KNOWN_GOAL,
    UNSEEN_GOAL,
    Cell,
    Counted,
    Goal,
    Line,
    cell,
    elsewhere,
    first_within,
    lenders,
    lent,
    others,
    picked,
    picked_elsewhere,
    planned_holdouts,
    ridge,
    second,
    together,
)
from bench.corpus_mix import SPENT_SHARE, mixes
from bench.corpus_plan import MAIN_SPACES, short, thread_twin
from bench.corpus_rows import PlatformCorpus, Row, counts_of
from benchfarm_core.predictors import TrainingRows
from benchfarm_core.shares import Share
from benchfarm_workloads.spaces import spaces

KNOWN_S: Final = 30.0
DONOR_S: Final = 10.0
UNSEEN_S: Final = 180.0
CURVE_S: Final = (2.0, 5.0, 10.0, 20.0, 30.0, 60.0)
CURVE_PLATFORMS: Final = 3


def known_spaces(every: Sequence[PlatformCorpus]) -> list[Line]:
    """Architectures of the space were measured, and nobody lends."""
    return table(_known_cells(every, KNOWN_S, None), KNOWN_GOAL, planned_holdouts(every))


def with_donors(every: Sequence[PlatformCorpus]) -> list[Line]:
    """A few architectures of the space were measured; platforms of other families lend what they know."""
    return table(
        _known_cells(every, DONOR_S, lambda corpus: lenders(corpus, every)), KNOWN_GOAL, planned_holdouts(every)
    )


def with_any_donors(every: Sequence[PlatformCorpus]) -> list[Line]:
    """The same with every other platform, a thread twin apart: another precision of the same engine lends too."""
    return table(
        _known_cells(every, DONOR_S, lambda corpus: others(corpus, every)), KNOWN_GOAL, planned_holdouts(every)
    )


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
            models = first_within(elsewhere(corpus, name), UNSEEN_S)
            cells += [found._replace(ridge=ridge(corpus, name, models))] if found is not None else []
    order = {corpus.key: number for number, corpus in enumerate(every)}
    return table(sorted(cells, key=lambda each: order[each.platform]), UNSEEN_GOAL, planned_holdouts(every))


def _spaces_of(corpus: PlatformCorpus) -> list[str]:
    return [one.name for one in spaces() if corpus.listed("train", one.name)]


def table(cells: Sequence[Cell], goal: Goal, planned: int) -> list[Line]:
    """A line for each cell, for each platform, and for all together: of thread twins the first one counts. `planned`:
    hold-outs of the whole corpus."""
    lines: list[Line] = []
    for key in dict.fromkeys(each.platform for each in cells):
        own = [each for each in cells if each.platform == key]
        lines += [_line(each) for each in own]
        lines += pooled(short(key), own) if len(own) > 1 else []
    first: dict[tuple[str, ...], str] = {}
    for each in cells:
        first.setdefault(thread_twin(each.platform), each.platform)
    counted = [each for each in cells if each.platform in first.values()]
    return [*lines, *(line | goal.judged(counted, planned) for line in pooled("all platforms", counted))]


def _line(found: Cell) -> Line:
    line: Line = {"platform": short(found.platform), "space": found.space}
    line |= {"hold-outs": found.ours.held_out if found.ours else ""}
    line |= {"measured": "all" if found.is_whole else f"partial: {found.tried} of {found.planned}"}
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
        for note in corpus.notes:
            print(f"    {note}")
        for name, text in counts_of(corpus.rows).items():
            print(f"    {name}: {text}")


SETTINGS: Final[dict[str, tuple[str, Callable[[Sequence[PlatformCorpus]], list[Line]]]]] = {
    "known": (f"Known space, no donor, at most {KNOWN_S:g} s of a board", known_spaces),
    "donor": (f"Known space, donors of other engine families, at most {DONOR_S:g} s of a board", with_donors),
    "any-donor": (f"Known space, any other platform as donor, at most {DONOR_S:g} s of a board", with_any_donors),
    "unseen": (f"Unseen space, at most {UNSEEN_S:g} s of a board", unseen_spaces),
    "mix": ("Kinds of evidence: within 10 % and mean error for the same seconds of a board", mixes),
    "curve": ("Accuracy against board seconds", cost_curve),
}
