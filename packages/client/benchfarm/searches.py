"""An architecture search as the farm's client: generations of architectures judged by latency constraints.

    search = Search(farm, [LatencyConstraint(platform, limit_ms=8.0)])
    for generation in range(30):
        judged = search.judge(population)
        population = next_generation([one for one in judged if one.is_met])

Every generation is asked in one question, of the same predictors from the first to the last. Optuna and pymoo are led
by `benchfarm.optuna_search` and `benchfarm.pymoo_search`.

Who wins a search was picked by what the predictor gets wrong. So let the predictor learn from winners, and from whoever
stands right behind them; then search a few times more, from other beginnings, and have these winners measured: the next
search knows by how much winners are off.

    for seed in range(2):
        search = search.taught(winners_of(search, seed)[:24])
    search = search.checked([winners_of(search, seed)[:4] for seed in range(2, 6)])
    ...  # the same search once more; whoever wins now meets the limits as probably as is said
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from benchfarm.calls import checked
from benchfarm.client import Client
from benchfarm.latencies import Item, Latencies, item_of
from benchfarm.latency_constraint import ComparableMs, LatencyConstraint
from benchfarm_core.adapting import AdaptationRequest, AdaptationView
from benchfarm_core.errors import InvalidRequest
from benchfarm_core.latency import LatencyAnswer, OnMiss, Pin
from benchfarm_core.winner_errors import WinnerErrors
from benchfarm_core.workloads import ArchitectureRequest

LESSON_S: Final = 60.0
"""Of boards, on each platform, for what a lesson has measured to teach."""
JUDGES: Final = 8
"""Of a lesson's architectures, at most; these never teach."""
ANY_WIDTH: Final = 1e-9
"""A tolerance within which no prediction is."""
_MEASURED_FIELDS: Final = ("max_age_s", "min_grade")


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
        self.lessons: tuple[AdaptationView, ...] = ()
        """What its predictors were taught, the latest last: one for each platform and round."""
        self._names = list(dict.fromkeys(constraint.platform for constraint in constraints))
        self._first_places = [[one.platform for one in constraints].index(name) for name in self._names]
        """Of these names the first constraint."""
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

    def taught(
        self,
        items: Iterable[Item],
        *,
        budget_s: float = LESSON_S,
        wait: Callable[[str], AdaptationView] | None = None,
    ) -> "Search":
        """A search below the same limits by predictors that have learnt from winners of this one.

        Of the items every second one, eight at most, is declared to judge before it is measured, on each platform; as
        many of the others teach as are worth it and the budget allows, the first and those that are least like each
        other. The version that comes of it answers where it is shown to be better on them and on all that judged there
        before, and is no worse on these: `lessons` say what became of it. Whatever answers then is pinned by the new
        search's first question, which knows no errors of winners: those of a version say nothing of the next one.

        Who searches again picks others, and what the new version gets wrong of them. Two rounds or three bring it near
        what a search finds below the limits; `checked` then says how near.

        Args:
            items: architectures, at most 100: winners, the best first, and whoever stands right behind them; of
                several searches one after the other.
            budget_s: seconds of boards on each platform, charged as an adaptation's are; what judges is measured
                beside.
            wait: until an adaptation, given by its id, has ended; `Client.adaptations.wait` by default.

        Raises:
            InvalidRequest: an item is no architecture, or there are none or too many.
            Conflict: an adaptation of a platform is under way; those of the platforms before it go on.
            QuotaExceeded: the account has too much under way.
        """
        request = _lesson(items, budget_s)
        begun = [self._farm.adaptations.start(key, request) for key in self._keys or self._names]
        done = [(wait or self._farm.adaptations.wait)(one.id) for one in begun]
        made = self._next([replace(one, errors=None) for one in self.constraints], pin=None)
        made.lessons += tuple(done)
        return made

    def checked(self, rounds: Iterable[Sequence[Item]], *, wait: Callable[[str], object] | None = None) -> "Search":
        """A search by the same predictors and constraints that knows by how much winners of this one are off.

        They are measured, within the token's budget, round after round. A round is made of the winners of a search of
        its own: they are alike and err together, and their leases are their own too, so what lies between rounds is
        what lies between searches and leases. Four rounds of four are enough; of two the next search has to stay far
        below its limits. Their errors (`constraints[0].errors`) serve constraints with other limits on the same
        platform too, as long as the pin is the same and winners are picked in the same way.

        What was measured before this search's pin says nothing of its predictions and is left out, and so is what was
        not measured well enough to answer.

        Args:
            rounds: at least two; items that met the constraints, each once.
            wait: until a job, given by its id, has ended; `Client.wait` by default.

        Raises:
            InvalidRequest: of fewer than two rounds something was measured on a platform; and as `judge`.
        """
        of_round = [self._ratios(self.judge(one), wait or self._farm.wait) for one in rounds]
        known = {name: WinnerErrors.of([one[name] for one in of_round]) for name in self._names}
        constraints = [replace(one, errors=known[one.platform]) for one in self.constraints]
        return self._next(constraints, pin=self.pin)

    def _next(self, constraints: Sequence[LatencyConstraint], pin: Pin | None) -> "Search":
        made = Search(self._farm, constraints, pin=pin, **self._fields)
        made.lessons = self.lessons
        made._keys = list(self._keys)  # an alias that moves meanwhile does not take along what was learnt
        return made

    def _ratios(self, said: Sequence[Judged], wait: Callable[[str], object]) -> dict[str, list[float]]:
        """By platform measured over predicted, of those that have both; all of them are measured for it."""
        ratios: dict[str, list[float]] = {name: [] for name in self._names}
        found = self._measured([one.item for one in said], wait) if said else ()
        predicted = [one.answers[place] for one in said for place in self._first_places]
        for number, pair in enumerate(zip(predicted, found, strict=True)):
            if (ratio := _ratio(*pair)) is not None:
                ratios[self._names[number % len(self._names)]].append(ratio)
        return ratios

    def _measured(self, items: Sequence[Item], wait: Callable[[str], object]) -> Latencies:
        """What is measured of the items, after all of them were."""
        fields = {name: self._fields[name] for name in _MEASURED_FIELDS if name in self._fields}
        asked = self._farm.latency(items, self._keys, tolerance=ANY_WIDTH, on_miss=OnMiss.MEASURE, **fields)
        for job_id in sorted({job_id for one in asked.measuring for job_id in one.jobs}):
            wait(job_id)
        return self._farm.latency(items, self._keys, on_miss=OnMiss.ERROR, **fields)

    def _judged(self, item: Item, found: Latencies, number: int, places: Sequence[int]) -> Judged:
        of_item = found.of_item(number)
        answers = tuple(of_item[place] for place in places)
        pairs = list(zip(self.constraints, answers, strict=True))
        probabilities = tuple(constraint.probability_of(answer) for constraint, answer in pairs)
        return Judged(item, answers, probabilities, tuple(one.violation(answer) for one, answer in pairs))


def _lesson(items: Iterable[Item], budget_s: float) -> AdaptationRequest:
    given = [item_of(number, one) for number, one in enumerate(items)]
    strange = next((number for number, one in enumerate(given) if not isinstance(one, ArchitectureRequest)), None)
    if strange is not None or not given:
        detail = "there is nothing to learn from" if not given else "it is no architecture of a search space"
        field = "items" if strange is None else f"items.{strange}"
        raise InvalidRequest(f"{field}: {detail}; give winners of the search", field=field)
    spaces = tuple(dict.fromkeys(one.space for one in given if isinstance(one, ArchitectureRequest)))
    fields = {"budget_s": budget_s, "spaces": spaces, "architectures": tuple(given), "holdouts": JUDGES}
    return checked(AdaptationRequest, fields)


def _ratio(said: LatencyAnswer, found: LatencyAnswer) -> float | None:
    """Measured over predicted; None where there is not the one or the other."""
    predicted, measured = ComparableMs.of(said), ComparableMs.of(found)
    if predicted is None or measured is None or said.source == "measured" or found.source != "measured":
        return None
    return measured.median_ms / predicted.median_ms
