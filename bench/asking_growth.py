"""How the time of an answer grows with architectures and platforms, and where it bends.

python -m bench.asking_growth [--architectures 10 100 1000 10000 100000] [--platforms 1 10 100] [--print]

What one question cannot hold is asked in several, split as the SDK splits it, with answers in columns as it asks for
them. Each cell is the best of several tries, the largest are asked once. To all of them one law is fitted: a question
costs so much, each of its architectures so much, and each answer so much. It bends where the parts are equal: below so
many architectures a question's own cost is the larger part, above so many platforms the answers are. What the law does
not say shows as the distance of a cell from it.

The platforms and predictors are made up, as those of `bench.asking`.
"""

import math
import sys
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from bench.asked_farm import COLUMNS, Asking, Item, Row, Taken, asked_farm, whole_model
from bench.report import options, tell
from benchfarm_core.latency import MAX_ANSWERS, MAX_ITEMS

TRIES: Final = 20
"""Of a cell, or as many as `TRIED_S` has room for."""
TRIED_S: Final = 3.0
TWICE: Final = 1_000_000
"""Answers up to which a cell is asked at least twice."""
BENT: Final = 0.25
"""How far a cell may be from the law before it is said to bend there."""


class Cell(NamedTuple):
    """So many architectures on so many platforms, in so many questions."""

    architectures: int
    platforms: int
    questions: int
    wall_s: float
    cpu_s: float

    @property
    def answers(self) -> int:
        """Of all questions."""
        return self.architectures * self.platforms


class Law(NamedTuple):
    """Seconds of a question, of each architecture, of each answer."""

    question_s: float
    architecture_s: float
    answer_s: float

    def wall_s(self, cell: Cell) -> float:
        """What a cell takes by it."""
        counts = (cell.questions, cell.architectures, cell.answers)
        return sum(count * cost_s for count, cost_s in zip(counts, self, strict=True))

    def bend_architectures(self, platforms: int) -> float:
        """Architectures of one question that take as long as the question itself."""
        return ratio(self.question_s, self.architecture_s + platforms * self.answer_s)

    @property
    def bend_platforms(self) -> float:
        """Platforms whose answers take as long as their architecture."""
        return ratio(self.architecture_s, self.answer_s)


def ratio(part: float, of: float) -> float:
    """Infinite where there is nothing of the other."""
    return part / of if of > 0 else math.inf


def measured_cells(asking: Asking, architectures: Sequence[int], platforms: Sequence[int]) -> list[Cell]:
    """Every size on every number of platforms, of a process that knows predictors and kernels."""
    fresh = asking.fresh(max(architectures))
    asking.ask(fresh[:100], asking.keys[: max(platforms)], COLUMNS)
    for start in range(0, len(fresh), MAX_ITEMS):
        asking.ask(fresh[start : start + MAX_ITEMS], asking.keys[:1], COLUMNS)
    return [measured(asking, fresh[:count], asking.keys[:width]) for width in platforms for count in architectures]


def measured(asking: Asking, items: Sequence[Item], keys: Sequence[str]) -> Cell:
    """The best of as many tries as there is time for."""
    parts = questions_of(items, len(keys))
    until_s, found = time.monotonic() + TRIED_S, list[Taken]()
    least = 2 if len(items) * len(keys) <= TWICE else 1
    while len(found) < least or (time.monotonic() < until_s and len(found) < TRIES):
        taken = [asking.ask(part, keys, COLUMNS) for part in parts]
        found.append(Taken(sum(one.wall_s for one in taken), sum(one.cpu_s for one in taken)))
    best = min(found)
    cpu_s = sum(one.cpu_s for one in found) / len(found)  # a clock of hundredths says nothing of one short question
    return Cell(len(items), len(keys), len(parts), best.wall_s, cpu_s)


def questions_of(items: Sequence[Item], width: int) -> list[Sequence[Item]]:
    """The items as one question after the other holds them on so many platforms."""
    most = min(MAX_ITEMS, MAX_ANSWERS // width)
    return [items[start : start + most] for start in range(0, len(items), most)]


def law_of(cells: Sequence[Cell]) -> Law:
    """The law that is nearest to all cells by their relative errors; no part of it is negative."""
    counts = np.array([(cell.questions, cell.architectures, cell.answers) for cell in cells], dtype=np.float64)
    scaled = counts / np.array([cell.wall_s for cell in cells])[:, None]
    found, chosen = np.zeros(3), [0, 1, 2]
    while chosen:
        fitted: npt.NDArray[np.float64] = np.linalg.lstsq(scaled[:, chosen], np.ones(len(cells)), rcond=None)[0]
        if fitted.min() >= 0:
            found[chosen] = fitted
            break
        del chosen[int(fitted.argmin())]
    return Law(*map(float, found))


def cell_rows(cells: Sequence[Cell], law: Law) -> list[Row]:
    """A row for each cell. It grows as a power of its architectures: 1 is the same time for each."""
    rows: list[Row] = []
    for before, cell in zip([None, *cells], cells, strict=False):
        is_next = before is not None and before.platforms == cell.platforms
        apart = cell.wall_s / law.wall_s(cell) - 1
        rows.append(
            {
                "architectures": cell.architectures,
                "platforms": cell.platforms,
                "questions": cell.questions,
                "wall, s": cell.wall_s,
                "us an answer": cell.wall_s / cell.answers * 1e6,
                "CPU of the API, us an answer": cell.cpu_s / cell.answers * 1e6,
                "grows as the power": power(before, cell) if before is not None and is_next else "",
                "from the law": f"{apart:+.1%}",
                "bends": "yes" if abs(apart) > BENT else "",
            }
        )
    return rows


def power(before: Cell, cell: Cell) -> float:
    """By which the time grew from one number of architectures to the next."""
    return math.log(cell.wall_s / before.wall_s) / math.log(cell.architectures / before.architectures)


def bend_rows(cells: Sequence[Cell], law: Law) -> list[Row]:
    """Where the law bends, and what it is."""
    said = (
        f"the law: {law.question_s * 1e3:.3g} ms a question, {law.architecture_s * 1e6:.3g} us an architecture, "
        f"{law.answer_s * 1e6:.3g} us an answer"
    )
    rows: list[Row] = [{"architectures": said}]
    for width in dict.fromkeys(cell.platforms for cell in cells):
        bend = law.bend_architectures(width)
        rows.append({"architectures": f"bends at {bend:.3g} in a question", "platforms": width})
    rows.append({"architectures": "any number", "platforms": f"bends at {law.bend_platforms:.3g}"})
    return rows


def main() -> int:
    """Measure, fit, write the section."""
    parser = options(__doc__)
    parser.add_argument("--architectures", type=int, nargs="+", default=[10, 100, 1_000, 10_000, 100_000])
    parser.add_argument("--platforms", type=int, nargs="+", default=[1, 10, 100])
    given = parser.parse_args()
    with asked_farm(max(given.platforms)) as asking:
        asking.publish(whole_model(), asking.keys)
        cells = measured_cells(asking, sorted(given.architectures), sorted(given.platforms))
    law = law_of(cells)
    return tell("Growth of questions", [*cell_rows(cells, law), *bend_rows(cells, law)], printed=given.print)


if __name__ == "__main__":
    sys.exit(main())
