"""Generations of the evaluation corpus: which rows of a platform are comparable, and how they are made so.

DESIGN has it that boards of one model share results, that every virtual machine is a model of its own unless an
operator merges two, and that a board's new state (system, firmware, microcode) is a new generation, whose results do
not mix with older ones unsaid. The corpus outlives machines, so here:

- platforms are named by the hardware alone (processor, caches, memory, hypervisor): other hardware is another platform;
- a *generation* is one board in one state, on one farm, by one version of the rules. Another machine is another one, if
  only because the clock that times are normalised to is the first lease's of its farm;
- every generation measures the bridge, the probe set's networks. Where it tells two generations to be alike but for a
  factor, their rows are brought to one clock; where it does not, those are told that are more together, and the others
  are left out, and said. What is left out counts as not measured: see `counting`.
"""

from collections.abc import Mapping, Sequence
from math import ceil, exp, log
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

from bench.corpus_plan import BRIDGE
from bench.corpus_rows import Generation, PlatformCorpus, Row, Session, counts_of, read_generations
from benchfarm_core.platforms import parse_platform_key
from benchfarm_core.values import digest

BRIDGED_MIN: Final = 6
"""Workloads that both generations measured."""
ALIKE: Final = 0.03
ALIKE_SHARE: Final = 0.75
"""So far, at the most, so many of them lie from their middle: more is another shape, and no factor mends it."""


class Bridge(NamedTuple):
    """How times of one generation relate to another's: `factor` of the median, `spread` of most of them around it."""

    networks: int
    factor: float
    spread: float

    @property
    def holds(self) -> bool:
        """Whether the two may be one corpus."""
        return self.networks >= BRIDGED_MIN and self.spread <= ALIKE


def generation_name(board_id: str, board_generation: str, rule_version: int) -> str:
    """Of what a farm measures on a board as it is now, by these rules; boards' ids are salted by their farm."""
    return digest([board_id, board_generation, rule_version], length=8)


def hardware_key(key: str, hardware: str, prefix: str = "") -> str:
    """A platform's key with its board named by its hardware alone, as bare machines with equal hardware share one.
    `prefix`: the marks of the board's model."""
    _, _, rest = key.partition("/")
    found = f"{prefix}host-{digest([hardware, None], length=12)}/{rest}"
    return parse_platform_key(found).key


def bridge(first: Sequence[Row], other: Sequence[Row]) -> Bridge:
    """How the times of `first` relate to those of the same workloads in `other`."""
    known = _bridging(first)
    logs = [log(known[name] / ms) for name, ms in _bridging(other).items() if name in known]
    if not logs:
        return Bridge(0, 1.0, 0.0)
    middle = median(logs)
    apart = sorted(abs(each - middle) for each in logs)
    return Bridge(len(logs), exp(middle), apart[ceil(ALIKE_SHARE * len(logs)) - 1])


def _bridging(rows: Sequence[Row]) -> dict[str, float]:
    """In ms, by workload."""
    return {
        row.workload: row.normalised_ms
        for row in rows
        if (row.kind, row.drawn_for) == BRIDGE and row.is_usable and row.normalised_ms is not None
    }


def read(folder: Path) -> list[PlatformCorpus]:
    """Every platform of a folder with the generations that are comparable, in the order of keys. Raises ValueError as
    `read_generations`."""
    by_key: dict[str, list[Generation]] = {}
    for generation in read_generations(folder):
        by_key.setdefault(generation.manifest.key, []).append(generation)
    return [joined(generations) for _, generations in sorted(by_key.items())]


def counting(by_name: Mapping[str, Sequence[Row]], own: str) -> frozenset[str]:
    """The generations of a platform whose rows are told together with those of `own`, itself among them.

    Rows of all others would be left out beside what `own` measures, so for it they are not there.

    Args:
        by_name: rows of every generation, those that began earlier first.
        own: a generation, which may have measured nothing yet; then it stands alone.
    """
    groups = [group for base in by_name if own in (group := _group(by_name, base))]
    return frozenset(max(groups, key=lambda group: _told_count(by_name, group), default={own: None}))


def _group(by_name: Mapping[str, Sequence[Row]], base: str) -> dict[str, Bridge | None]:
    """The generations that can be told by the clock of `base`, which is the first of them."""
    bridges = {name: bridge(by_name[base], rows) for name, rows in by_name.items() if name != base}
    return {base: None} | {name: found for name, found in bridges.items() if found.holds}


def _told_count(by_name: Mapping[str, Sequence[Row]], group: Mapping[str, Bridge | None]) -> int:
    """Measurements that teach or judge, each once."""
    return len({_place(row) for name in group for row in by_name[name] if row.is_usable})


def joined(generations: Sequence[Generation]) -> PlatformCorpus:
    """The generations of one platform on the clock of one of them, so that as much as possible is told: of equals the
    earliest. Those that no bridge joins to it are left out."""
    ordered = {each.manifest.generation: each for each in sorted(generations, key=age)}
    by_name = {name: each.rows for name, each in ordered.items()}
    base = max(by_name, key=lambda name: _told_count(by_name, _group(by_name, name)))
    first, others = ordered[base], [each for name, each in ordered.items() if name != base]
    rows, sessions, notes = list(first.rows), list(first.manifest.sessions), list[str]()
    seen = {_place(row) for row in rows}
    for other in others:
        found = bridge(first.rows, other.rows)
        name, said = other.manifest.generation, bridge_text(found)
        if not found.holds:
            notes.append(f"generation {name}: {len(other.rows)} rows left out, not comparable ({said})")
            continue
        notes.append(f"generation {name}: {len(other.rows)} rows brought to the clock of {base} ({said})")
        rows += [_moved(row, found.factor, len(sessions)) for row in other.rows if _place(row) not in seen]
        seen |= {_place(row) for row in other.rows}
        sessions += other.manifest.sessions
    said_of_all = {
        "sessions": tuple(sessions),
        "counts": counts_of(rows),
        "board_s": round(sum(row.board_s for row in rows), 1),
        "fused": next((each.manifest.fused for each in [first, *others] if each.manifest.fused), ()),
    }
    return PlatformCorpus(first.manifest.model_copy(update=said_of_all), rows, tuple(notes))


def bridge_text(found: Bridge) -> str:
    """A bridge for people."""
    return f"{found.networks} networks, factor {found.factor:.3f}, {ALIKE_SHARE:.0%} within {found.spread:.1%}"


def age(generation: Generation) -> tuple[int, str]:
    """Sorts generations from the earliest on."""
    return _began(generation), generation.manifest.generation


def _began(generation: Generation) -> int:
    sessions: tuple[Session, ...] = generation.manifest.sessions
    return min((one.began_unix_s for one in sessions), default=0)


def _place(row: Row) -> tuple[str, str, int]:
    return row.kind, row.drawn_for, row.number


def _moved(row: Row, factor: float, sessions: int) -> Row:
    """On another generation's clock; `median_ms` stays what was seen. `sessions`: how many come before its own."""
    moved_ms = None if row.normalised_ms is None else row.normalised_ms * factor
    return row.model_copy(update={"normalised_ms": moved_ms, "session": row.session + sessions})
