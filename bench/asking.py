"""What a search waits for: thousands of architectures asked of one API process, whose kernels are new to it or known.

python -m bench.asking [--architectures 5000 20000] [--platforms 4] [--resident 100] [--requests 1000] [--print]

Cold is the first question of a process, warm the next one of other architectures. Times are from the first byte sent
to the last one received; the client's own JSON is made before and read after. The predictors are made up: a mean of a
ridge on sums and of a sum of kernels, of which nothing is measured.

Memory is flat where the second half of many requests adds next to nothing; the first half fills what is bounded.
"""

import sys
import time
from collections.abc import Sequence
from statistics import median
from typing import Final

from bench.asked_farm import JSON, SPACE, Asking, Item, Row, Taken, asked_farm, percentile, whole_model
from bench.predicting import HEADER, kernel_lists, some_trees
from bench.report import options, tell
from benchfarm_predictor.composition import KernelSum
from benchfarm_predictor.kernel_lists import KernelLists
from benchfarm_predictor.predictor_file import Predictor
from benchfarm_predictor.trained_range import TrainedRange
from benchfarm_workloads.fusing import FusionRules
from benchfarm_workloads.spaces import draws, kernels

GOALS_S: Final = {
    (5_000, 1, "cold"): 0.5,
    (5_000, 1, "warm"): 0.15,
    (20_000, 4, "cold"): 4.0,
    (20_000, 4, "warm"): 4.0,
}
GOAL_GROWN_MB: Final = 60.0
GOAL_P99_MS: Final = 15.0
"""Of requests of one architecture."""
FLAT_MB: Final = 2.0
"""What the second half of many requests may add: the allocator's own pages come and go."""
REQUEST_SIZES: Final = (1, 100)
"""Architectures of each of many requests: one, and a generation."""
REPEATS: Final = 3
LAID_OUT: Final = 200
"""Architectures whose whole networks are looked at, for comparison."""
SAME: Final = 20_000
"""Items of a question that are all the same."""


def large_model() -> Predictor:
    """A sum of trees, as large as training makes them."""
    lists = KernelLists.of(kernel_lists(SPACE, 100))
    parts = KernelSum({name: some_trees(entries.kernels) for name, entries in lists.by_type.items()}, None)
    return Predictor(HEADER, parts, None, TrainedRange.of(lists))


def laid_out_us() -> float:
    """CPU microseconds for the kernels of one architecture by its whole network."""
    drawn = draws(SPACE, "laid out", LAID_OUT)
    began_s = time.process_time()
    for one in drawn:
        kernels(one, FusionRules())
    return (time.process_time() - began_s) / LAID_OUT * 1e6


def cold_and_warm(
    asking: Asking, count: int, keys: Sequence[str], warm: Sequence[Item] | None = None, accept: str = JSON
) -> dict[str, Taken]:
    """The best of some processes, which never saw these architectures; `warm`: those of the second question."""
    found: dict[str, list[Taken]] = {"cold": [], "warm": []}
    for _ in range(REPEATS):
        asking.restart()
        found["cold"].append(asking.ask(asking.fresh(count), keys, accept))
        found["warm"].append(asking.ask(asking.fresh(count) if warm is None else warm, keys, accept))
    return {kind: min(times) for kind, times in found.items()}


def asked_rows(asking: Asking, count: int, keys: Sequence[str], apart_us: float) -> list[Row]:
    """A row for cold and one for warm."""
    found = cold_and_warm(asking, count, keys)
    return [asked_row(kind, count, len(keys), *taken, apart_us) for kind, taken in found.items()]


def asked_row(kind: str, count: int, platforms_asked: int, wall_s: float, used_s: float, apart_us: float) -> Row:
    """Of one question."""
    goal_s = GOALS_S.get((count, platforms_asked, kind))
    each_us = used_s / count * 1e6
    return {
        "question": f"{count} architectures x {platforms_asked}, {kind}",
        "wall, s": wall_s,
        "CPU of the API, s": used_s,
        "CPU, us an architecture": each_us,
        "laid out as a whole, kernels alone: times as long": apart_us / each_us,
        "goal": "" if goal_s is None else f"<= {goal_s:g} s",
        "met": "" if goal_s is None else wall_s <= goal_s,
    }


def many_rows(asking: Asking, keys: Sequence[str], requests: int) -> list[Row]:
    """Many requests one after the other, of a process that knows the space's kernels."""
    asking.ask(asking.fresh(5_000), keys)
    return [many_row(asking, keys, requests, size) for size in REQUEST_SIZES]


def many_row(asking: Asking, keys: Sequence[str], requests: int, size: int) -> Row:
    """Requests of so many architectures each: how long they take, and what they leave in memory."""
    fresh = asking.fresh(requests * size)
    parts = [fresh[at : at + size] for at in range(0, len(fresh), size)]
    held_mb, taken_ms = [asking.resident_mb()], list[float]()
    for half in (parts[: requests // 2], parts[requests // 2 :]):
        taken_ms += [1000 * asking.ask(items, keys).wall_s for items in half]
        held_mb.append(asking.resident_mb())
    return told_many(size, taken_ms, held_mb)


def told_many(size: int, taken_ms: Sequence[float], held_mb: Sequence[float]) -> Row:
    """The figures of many requests; `held_mb`: before, after the first half, and after the second."""
    p99_ms, grown_mb = percentile(taken_ms, 99), held_mb[2] - held_mb[1]
    is_timed = size == 1
    timed = f"p99 <= {GOAL_P99_MS:g} ms, " if is_timed else ""
    return {
        "question": f"{len(taken_ms)} requests of {size} architecture{'s' * (size > 1)}",
        "wall, s": sum(taken_ms) / 1000,
        "median ms": median(taken_ms),
        "p99 ms": p99_ms,
        "first half grown, MB": held_mb[1] - held_mb[0],
        "grown, MB": grown_mb,
        "goal": f"{timed}second half < {FLAT_MB:g} MB",
        "met": grown_mb < FLAT_MB and (p99_ms <= GOAL_P99_MS or not is_timed),
    }


def same_row(asking: Asking, keys: Sequence[str], count: int) -> Row:
    """One generated model again and again: its network is laid out once."""
    item: Item = {"kind": "model", "name": "resnet18", "config": {}}
    taken = asking.ask([item] * count, keys)
    return {
        "question": f"{count} times the same generated model",
        "wall, s": taken.wall_s,
        "CPU of the API, s": taken.cpu_s,
        "CPU, us an architecture": taken.cpu_s / count * 1e6,
        "goal": "",
        "met": "",
    }


def resident_rows(asking: Asking, keys: Sequence[str]) -> list[Row]:
    """Many platforms with a large predictor each, asked in turn twice."""
    size_bytes = asking.publish(large_model(), keys)
    asking.restart()
    architecture, before_mb = asking.fresh(1), asking.resident_mb()
    rows: list[Row] = []
    for turn in ("first", "second"):
        walls_s = [asking.ask(architecture, [key]).wall_s for key in keys]
        grown_mb = asking.resident_mb() - before_mb
        rows.append(
            {
                "question": f"1 architecture of each of {len(keys)} platforms, {turn} turn",
                "wall, s": sum(walls_s),
                "bytes of a predictor": size_bytes,
                "predictors held, MB": asking.held_mb(),
                "grown, MB": grown_mb,
                "goal": f"< {GOAL_GROWN_MB:g} MB",
                "met": grown_mb < GOAL_GROWN_MB,
            }
        )
    return rows


def main() -> int:
    """Measure, write the section; 1 where a goal is missed."""
    parser = options(__doc__)
    parser.add_argument("--architectures", type=int, nargs="+", default=[5_000, 20_000])
    parser.add_argument("--platforms", type=int, default=4, help="of the larger questions")
    parser.add_argument("--resident", type=int, default=100, help="platforms that are asked in turn")
    parser.add_argument("--requests", type=int, default=1_000, help="one after the other")
    given = parser.parse_args()
    with asked_farm(max(given.platforms, given.resident, 4)) as asking:
        apart_us = laid_out_us()
        few = asking.keys[: max(given.platforms, 4)]
        asking.publish(whole_model(), few)
        rows = [
            row
            for count in given.architectures
            for asked in dict.fromkeys((1, given.platforms))
            for row in asked_rows(asking, count, few[:asked], apart_us)
        ]
        rows += many_rows(asking, few[:1], given.requests)
        rows.append(same_row(asking, few[:1], SAME))
        rows += resident_rows(asking, asking.keys[: given.resident])
    return tell("Architectures asked", rows, printed=given.print)


if __name__ == "__main__":
    sys.exit(main())
