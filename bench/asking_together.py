"""Eight searches at once on one API process: what an architecture costs it, how long a generation waits, and what a
refresh in their middle changes.

python -m bench.asking_together [--searches 8] [--questions 150] [--population 100] [--print]

A search is a client with a connection of its own that asks one generation after the other, of architectures that nobody
asked for yet, as columns, as the SDK does. Bodies are made before and answers read after, so that clients take little
of the machine. One search and all of them take turns, A B B A. Per core: CPU seconds of the API process.

In the round with a refresh another version is published while all searches are under way, half of which hold the pin
of their first question. Each generation begins with the same architectures: a pinned search has to be told the same
numbers to the last bit from its beginning to its end, and no search may lose a question.
"""

import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from statistics import median
from threading import Event
from typing import Any, Final, NamedTuple

import httpx2
import msgpack

from bench.asked_farm import (
    COLUMNS,
    Asking,
    Item,
    Row,
    asked_farm,
    body_of,
    percentile,
    posted,
    predicted_columns,
    whole_model,
)
from bench.report import options, tell
from benchfarm_predictor.combined import Scaled
from benchfarm_predictor.predictor_file import Predictor

GOAL_SHARE: Final = 0.8
"""Of one search's throughput per core, what all together have at the least."""
SENTINELS: Final = 20
"""Architectures with which every generation of the round with a refresh begins."""
SLOWER: Final = 1.5
"""What the refreshed predictor says, of what the one before said."""
MIDDLE_WITHIN_S: Final = 300.0


@dataclass
class Searched:
    """What one search saw. `answers`: as they came; `lost`: questions without an answer, each by what came instead."""

    taken_ms: list[float] = field(default_factory=list)
    answers: list[httpx2.Response] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


class Round(NamedTuple):
    """Some searches at once: how long they took, CPU seconds of the API meanwhile, and what each saw."""

    wall_s: float
    cpu_s: float
    searched: Sequence[Searched]

    @property
    def answered(self) -> int:
        """Architectures, each on one platform."""
        return sum(predicted_columns(answer).count for one in self.searched for answer in one.answers)

    @property
    def taken_ms(self) -> list[float]:
        """Of each question."""
        return [taken for one in self.searched for taken in one.taken_ms]

    @property
    def lost(self) -> list[str]:
        """Of all searches."""
        return [each for one in self.searched for each in one.lost]


def search(client: httpx2.Client, bodies: Sequence[bytes], middle: Event) -> Searched:
    """Ask one after the other; `middle` is set when half of them are answered."""
    found = Searched()
    for number, body in enumerate(bodies):
        if 2 * number >= len(bodies):
            middle.set()
        try:
            taken_s, answer = posted(client, body, COLUMNS)
        except httpx2.HTTPError as error:
            found.lost.append(repr(error))
            continue
        found.taken_ms.append(1000 * taken_s)
        found.answers.append(answer)
    return found


def searches(asking: Asking, bodies: Sequence[Sequence[bytes]], refresh: Predictor | None = None) -> Round:
    """All at once, each in a thread of its own; with a predictor to `refresh`, that is published in their middle."""
    clients, middle = [asking.connected() for _ in bodies], Event()
    before_s, began_s = asking.cpu_s(), time.perf_counter()
    with ThreadPoolExecutor(len(bodies)) as pool:
        running = [pool.submit(search, *pair, middle) for pair in zip(clients, bodies, strict=True)]
        if refresh is not None and middle.wait(MIDDLE_WITHIN_S):
            asking.publish(refresh, asking.keys[:1])
        searched = [one.result() for one in running]
    wall_s, cpu_s = time.perf_counter() - began_s, asking.cpu_s() - before_s
    for client in clients:
        client.close()
    return Round(wall_s, cpu_s, searched)


def generations(asking: Asking, count: int, size: int, first: Sequence[Item] = (), **fields: Any) -> list[bytes]:
    """The questions of a search; each begins with the architectures `first`."""
    own = size - len(first)
    fresh = asking.fresh(count * own)
    parts = (fresh[start : start + own] for start in range(0, len(fresh), own))
    return [body_of([*first, *part], asking.keys[:1], **fields) for part in parts]


def rounds(asking: Asking, count: int, questions: int, size: int) -> list[Row]:
    """One search and all of them in turn: a row for each, both rounds together."""
    found: dict[int, list[Round]] = {1: [], count: []}
    for together in (1, count, count, 1):
        bodies = [generations(asking, questions, size) for _ in range(together)]
        found[together].append(searches(asking, bodies))
    alone = of_core(found[1])
    return [together_row(together, of_number, alone) for together, of_number in found.items()]


def of_core(found: Sequence[Round]) -> float:
    """Architectures in a CPU second of the API."""
    return sum(one.answered for one in found) / sum(one.cpu_s for one in found)


def together_row(count: int, found: Sequence[Round], alone: float) -> Row:
    """So many searches at once; `alone`: what one has of a core."""
    taken_ms, share = [taken for one in found for taken in one.taken_ms], of_core(found) / alone
    lost, answered = [each for one in found for each in one.lost], sum(one.answered for one in found)
    wall_s = sum(one.wall_s for one in found)
    return {
        "searches": count,
        "questions": len(taken_ms),
        "architectures": answered,
        "a second": answered / wall_s,
        "cores of the API": sum(one.cpu_s for one in found) / wall_s,
        "a second of a core": of_core(found),
        "of one search's": share,
        "median ms": median(taken_ms),
        "p99 ms": percentile(taken_ms, 99),
        "lost": len(lost),
        "goal": "" if count == 1 else f">= {GOAL_SHARE:.0%} of one search's, none lost",
        "met": "" if count == 1 else share >= GOAL_SHARE and not lost,
    }


def refreshed_rows(asking: Asking, predictor: Predictor, count: int, questions: int, size: int) -> list[Row]:
    """Searches with and without a pin, and a new version in their middle."""
    first = asking.fresh(min(SENTINELS, size - 1))
    with asking.connected() as client:
        _, answer = posted(client, body_of(first, asking.keys[:1]), COLUMNS)
    pin = msgpack.unpackb(answer.content)["pin"]
    pinned = [generations(asking, questions, size, first, pin=pin) for _ in range(count // 2)]
    others = [generations(asking, questions, size, first) for _ in range(count - count // 2)]
    found = searches(asking, [*pinned, *others], replace(predictor, model=Scaled(predictor.model, SLOWER)))
    before = numbers_of(answer, len(first))
    held, free = found.searched[: len(pinned)], found.searched[len(pinned) :]
    return [refreshed_row("pinned", held, before, len(first)), refreshed_row("not pinned", free, before, len(first))]


def refreshed_row(kind: str, searched: Sequence[Searched], before: bytes, first: int) -> Row:
    """What these searches were told around the refresh; `before`: the numbers of the first architectures then."""
    answers = [answer for one in searched for answer in one.answers]
    others = sum(numbers_of(answer, first) != before for answer in answers)
    lost = [each for one in searched for each in one.lost]
    taken_ms = [taken for one in searched for taken in one.taken_ms]
    is_pinned = kind == "pinned"
    return {
        "searches": f"{len(searched)} with a refresh in their middle, {kind}",
        "questions": len(answers),
        "architectures": sum(predicted_columns(answer).count for answer in answers),
        "median ms": median(taken_ms),
        "p99 ms": percentile(taken_ms, 99),
        "lost": len(lost),
        "told other numbers": others,
        "goal": "none lost, no other numbers" if is_pinned else "none lost, each sees the new version once and for all",
        "met": not lost and (others == 0 if is_pinned else all(has_turned(one, before, first) for one in searched)),
    }


def has_turned(one: Searched, before: bytes, first: int) -> bool:
    """Whether a search was told the old numbers, then others, and never the old ones again."""
    old = [numbers_of(answer, first) == before for answer in one.answers]
    return 0 < sum(old) < len(old) and old == sorted(old, reverse=True)


def numbers_of(answer: httpx2.Response, count: int) -> bytes:
    """Latencies and intervals of the first architectures, to the last bit."""
    numbers = predicted_columns(answer).numbers
    return b"".join(numbers[name][:count].tobytes() for name in ("median_ms", "low_ms", "high_ms"))


def main() -> int:
    """Measure, write the section; 1 where a goal is missed."""
    parser = options(__doc__)
    parser.add_argument("--searches", type=int, default=8)
    parser.add_argument("--questions", type=int, default=150, help="generations of a search, in each round")
    parser.add_argument("--population", type=int, default=100, help="architectures of a generation")
    given = parser.parse_args()
    with asked_farm(1) as asking:
        predictor = whole_model()
        asking.publish(predictor, asking.keys)
        asking.ask(asking.fresh(5_000), asking.keys)  # the kernels of the space are known from here on
        rows = rounds(asking, given.searches, given.questions, given.population)
        rows += refreshed_rows(asking, predictor, given.searches, given.questions, given.population)
    return tell("Searches at once", rows, printed=given.print)


if __name__ == "__main__":
    sys.exit(main())
