"""Which kinds of evidence teach most for the same seconds of a board: kernels alone, in situ, whole models, or mixes.

Engines differ in it: where a profiler tells what kernels take in a model no whole models are needed to add them up,
elsewhere sums are all there is. So it is asked of each platform by itself, in two settings: of a space whose
architectures may be measured, and of one of which none was.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from bench.corpus_cells import Cell, Line, cell, elsewhere, first_within, together
from bench.corpus_plan import MAIN_SPACES, Kind, short
from bench.corpus_rows import PlatformCorpus, Row

Shares = Mapping[Kind, float]
"""Of the seconds, by kind."""
MIXES: Final[dict[str, Shares]] = {
    "whole models": {"train": 1.0},
    "in situ": {"in_situ": 1.0},
    "alone": {"alone": 1.0},
    "whole models, in situ": {"train": 0.5, "in_situ": 0.5},
    "whole models, alone": {"train": 0.5, "alone": 0.5},
    "in situ, alone": {"in_situ": 0.5, "alone": 0.5},
    "all three": {"train": 0.5, "in_situ": 0.3, "alone": 0.2},
}
MIX_S: Final = {"known": (10.0, 30.0), "unseen": (60.0, 180.0)}
"""Seconds of a board, by setting."""
SPENT_SHARE: Final = 0.8
"""A mix of which less was measured than this share of its seconds is left out."""


def mixes(every: Sequence[PlatformCorpus]) -> list[Line]:
    """A line for each platform, setting and number of seconds; what is best is told by the mean error."""
    return [
        line
        for corpus in every
        for setting, limits in MIX_S.items()
        for limit_s in limits
        if (line := _line(corpus, setting, limit_s)) is not None
    ]


def mixed(corpus: PlatformCorpus, name: str, setting: str, shares: Shares, limit_s: float) -> list[Row] | None:
    """The rows of a mix for one space; None where too little was measured of a kind. Of an unseen space there are no
    architectures; kernels are of all spaces, as a sampler would draw them."""
    found: list[Row] = []
    for kind, share in shares.items():
        rows = first_within(_listed(corpus, kind, name, setting), share * limit_s)
        if sum(row.board_s for row in rows) < SPENT_SHARE * share * limit_s:
            return None
        found += rows
    return found


def _listed(corpus: PlatformCorpus, kind: Kind, name: str, setting: str) -> list[Row]:
    if setting == "known":
        return corpus.listed(kind, name)
    return elsewhere(corpus, name) if kind == "train" else corpus.listed(kind)


def _line(corpus: PlatformCorpus, setting: str, limit_s: float) -> Line | None:
    """None where no mix can be made of what was measured."""
    found: dict[str, list[Cell]] = {way: _cells(corpus, setting, shares, limit_s) for way, shares in MIXES.items()}
    most = max(map(len, found.values()))
    if not most:
        return None
    line: Line = {"platform": short(corpus.key), "setting": setting, "at most, s": f"{limit_s:g}", "spaces": most}
    errors = {}
    for way, cells in found.items():
        total = together(one.ours for one in cells)
        # of fewer spaces than another mix it is no comparison
        if total is None or len(cells) < most:
            line[way] = ""
            continue
        errors[way] = total.mape
        line[way] = f"{100 * total.within_10 / total.held_out:.1f} / {total.mape:.1%}"
    return line | {"best": min(errors, key=lambda way: errors[way]) if errors else ""}


def _cells(corpus: PlatformCorpus, setting: str, shares: Shares, limit_s: float) -> list[Cell]:
    """Of the main spaces, those with a predictor."""
    found = []
    for name in MAIN_SPACES:
        rows = mixed(corpus, name, setting, shares, limit_s)
        made = cell(corpus, name, rows) if rows else None
        found += [made] if made is not None and made.ours is not None else []
    return found
