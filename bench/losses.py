"""What a farm that was killed over and over may not have done, judged from what it wrote down.

The witness of who ran is not the farm: it is the agent's own note, read while the agent stood still before its death.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from benchfarm_core.failures import INCONCLUSIVE_CODES, FailureCode
from benchfarm_core.jobs import ItemState
from benchfarm_core.measurements import MAX_INCONCLUSIVE

KEPT_CODES: Final = frozenset({FailureCode.NOISY, FailureCode.CONTENDED, FailureCode.CANARY_DRIFT})
"""What a try that is kept may have come to."""

Ran = tuple[str, int]
"""A lease by its token, and the measurement that ran in it when its agent was killed."""


@dataclass(frozen=True)
class Fate:
    """One item at the end. `delivered` holds the outcome of every delivery of its measurement, of all its leases,
    `answered_by` that of the delivery which its result names."""

    item: tuple[str, str]
    measurement_id: int | None
    state: ItemState
    failure: str | None
    has_result: bool
    attempts: int
    delivered: tuple[str, ...]
    answered_by: str | None

    @property
    def is_inconclusive(self) -> bool:
        """Failed by bad conditions, each time on the record: an outcome with its reason, not a loss."""
        return self.failure == FailureCode.INCONCLUSIVE and self._is_proved and not self.has_result

    @property
    def is_answered_by_kept_try(self) -> bool:
        """Succeeded by an answer that had been given up (noise, or a moment's canary): no better one came, each time on
        the record."""
        return self.state is ItemState.SUCCEEDED and self._is_proved and self.answered_by in KEPT_CODES

    @property
    def _is_proved(self) -> bool:
        """Whether bad conditions were met as often as it takes, and nothing else but what is tried again for free
        (noise) or is an attempt paid for a death, which `unjust_payments` judges."""
        met = [outcome for outcome in self.delivered if outcome in INCONCLUSIVE_CODES - {FailureCode.NOISY}]
        others = set(self.delivered) - INCONCLUSIVE_CODES - {FailureCode.LEASE_LOST, FailureCode.BOARD_LOST}
        return len(met) == MAX_INCONCLUSIVE and not others


def losses(fates: Sequence[Fate], *, kernels: int, inconclusive_max: int) -> list[str]:
    """Every breach of: one item for each kernel, one measurement for each item, one result for each measurement."""
    inconclusive = sum(fate.is_inconclusive for fate in fates)
    too_many = [f"{inconclusive} of {len(fates)} items are inconclusive"] if inconclusive > inconclusive_max else []
    return [*_items(fates, kernels), *_results(fates), *too_many]


def unjust_payments(fates: Sequence[Fate], ran: Collection[Ran]) -> list[str]:
    """Measurements that paid more attempts than there were deaths of an agent at which they ran."""
    deaths = Counter(measurement for _, measurement in set(ran))
    owed = [(fate, deaths[fate.measurement_id] if fate.measurement_id is not None else 0) for fate in fates]
    return [
        f"measurement {fate.measurement_id} paid {fate.attempts} attempts and ran at {count} deaths of its agent"
        for fate, count in owed
        if fate.attempts > count
    ]


def kills_missed(kills: Mapping[str, int], wanted: Mapping[str, int]) -> list[str]:
    """Processes that were killed more or less often than the measurement demands."""
    names = sorted({*kills, *wanted})
    return [
        f"{name} was killed {kills.get(name, 0)} times, not {wanted.get(name, 0)}"
        for name in names
        if kills.get(name, 0) != wanted.get(name, 0)
    ]


def _items(fates: Sequence[Fate], kernels: int) -> Iterator[str]:
    platforms = {fate.item[1] for fate in fates}
    if not fates or len({fate.item for fate in fates}) != kernels * len(platforms) or len(fates) % kernels:
        yield f"{len(fates)} items of {kernels} kernels on {len(platforms)} platforms"
    owners = Counter(fate.measurement_id for fate in fates if fate.measurement_id is not None)
    for measurement, count in owners.items():
        if count > 1:
            yield f"measurement {measurement} stands for {count} items"


def _results(fates: Sequence[Fate]) -> Iterator[str]:
    for fate in fates:
        if fate.is_inconclusive:
            continue
        results = fate.delivered.count("ok") + fate.is_answered_by_kept_try
        if fate.state is not ItemState.SUCCEEDED or not fate.has_result or results != 1:
            yield f"measurement {fate.measurement_id} {fate.state} ({fate.failure}) with {results} results delivered"
        elif not fate.is_answered_by_kept_try and fate.answered_by != "ok":
            yield f"measurement {fate.measurement_id} is answered by a try that came to {fate.answered_by}"
