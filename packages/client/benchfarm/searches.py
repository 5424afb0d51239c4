"""An architecture search as the farm's client: generations of architectures judged by latency constraints.

    search = Search(farm, [LatencyConstraint(platform, limit_ms=8.0)])
    for generation in range(30):
        judged = search.judge(population)
        population = next_generation([one for one in judged if one.is_met])

Every generation is asked in one question, of the same predictors from the first to the last. Optuna and pymoo are led
by `benchfarm.optuna_search` and `benchfarm.pymoo_search`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from benchfarm.client import Client
from benchfarm.latencies import Item, Latencies
from benchfarm.latency_constraint import ComparableMs, LatencyConstraint
from benchfarm_core.errors import InvalidRequest
from benchfarm_core.latency import LatencyAnswer, Pin


@dataclass(frozen=True, slots=True)
class Judged:
    """An item with its answers, one for each constraint, in their order.

    probabilities: that each is met. violations: how much probability each lacks; at most 0 where it is met.
    """

    item: Item
    answers: tuple[LatencyAnswer, ...]
    probabilities: tuple[float, ...]
    violations: tuple[float, ...]

    @property
    def is_met(self) -> bool:
        """Whether all constraints are."""
        return all(violation <= 0 for violation in self.violations)

    @property
    def latencies_ms(self) -> tuple[float | None, ...]:
        """What the constraints were held against: normalised medians; None where there is no number."""
        found = map(ComparableMs.of, self.answers)
        return tuple(None if one is None else one.median_ms for one in found)


class Search:
    """Judges architectures, and other items, by constraints on any number of platforms.

    The first question pins what answers, so that a refresh in the middle of a search changes nothing; give the `pin` of
    another search to go on with its predictors. With `on_miss` measure, what it has measured lies after that pin: this
    search predicts it to its end, and one without a pin sees it. Not to be shared between threads.

    Args:
        farm: the client; its connection is kept open from question to question.
        constraints: at least one; several may be of one platform.
        pin: what answers; None: whatever does at the first question.
        fields: others of a latency question: `tolerance`, `on_miss`, `max_age_s`, `min_grade`.
    """

    def __init__(
        self, farm: Client, constraints: Sequence[LatencyConstraint], *, pin: Pin | None = None, **fields: Any
    ) -> None:
        if not constraints:
            raise InvalidRequest("a search needs at least one constraint", field="constraints")
        self._farm = farm
        self._fields = fields
        self.constraints = tuple(constraints)
        self.pin = pin
        self.questions = 0
        """Items that were asked."""
        self._names = list(dict.fromkeys(constraint.platform for constraint in constraints))
        self._keys: list[str] = []
        """The platforms of these names, once they have answered: an alias may mean another one later."""

    def judge(self, items: Iterable[Item]) -> list[Judged]:
        """The items in their order. Raises as `Client.latency`, InvalidRequest where two names mean one platform."""
        asked = list(items)
        if not asked:
            return []
        found = self._farm.latency(asked, self._keys or self._names, pin=self.pin, **self._fields)
        if len(found.platforms) != len(self._names):
            names = ", ".join(self._names)
            raise InvalidRequest(f"of {names} two mean one platform: name it once", field="constraints")
        self.pin, self._keys = found.pin, list(found.platforms)
        self.questions += len(asked)
        places = [self._names.index(constraint.platform) for constraint in self.constraints]
        return [self._judged(one, found, number, places) for number, one in enumerate(asked)]

    def _judged(self, item: Item, found: Latencies, number: int, places: Sequence[int]) -> Judged:
        of_item = found.of_item(number)
        answers = tuple(of_item[place] for place in places)
        pairs = list(zip(self.constraints, answers, strict=True))
        probabilities = tuple(constraint.probability_of(answer) for constraint, answer in pairs)
        return Judged(item, answers, probabilities, tuple(one.violation(answer) for one, answer in pairs))
