"""Pins: which versions answer a question and how engines fuse, the same for a whole search.

A version that is gone, or an engine that is known to fuse otherwise by now, refuses a question only where it would
answer: a search of architectures does not end because a kernel's predictor was made anew.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from benchfarm_core.errors import Conflict, InvalidRequest
from benchfarm_core.latency import MAX_PINNED, LatencyRequest, OnMiss, Pin
from benchfarm_core.measurements import Timing
from benchfarm_store import predictors
from benchfarm_store.database import Transaction
from benchfarm_store.predictors import Head, Pinned

_AGAIN: Final = "ask without a pin and go on with the answer's"
_Places = Mapping[tuple[int, str], Pinned]


@dataclass(frozen=True, eq=False)
class Choice:
    """What may answer, by platform's row and subject: `held` by the pin, which goes before what is `active`.

    `predicts`: whether anything is to be predicted at all.
    """

    predicts: bool = False
    held: _Places = field(default_factory=dict)
    active: Mapping[tuple[int, str], Head] = field(default_factory=dict)

    def has(self, platform_id: int, subject: str) -> bool:
        """Whether something answers, or did when the pin was given."""
        return (platform_id, subject) in self.held or (platform_id, subject) in self.active

    def heads(self, platform_id: int, subjects: Iterable[str]) -> dict[str, Head]:
        """What answers some subjects. Raises Conflict (`pinned_predictor_gone`)."""
        found: dict[str, Head] = {}
        for subject in subjects:
            pinned = self.held.get((platform_id, subject))
            if pinned is not None and pinned.gone is not None:
                raise _gone(f"{pinned.gone}; {_AGAIN}", "pin.predictors")
            head = pinned.head if pinned is not None else self.active.get((platform_id, subject))
            if head is not None:
                found[subject] = head
        return found


def moment(tx: Transaction, pin: Pin | None) -> datetime:
    """Until when what was measured counts. Raises InvalidRequest for a moment that has not come yet."""
    if pin is None or pin.as_of is None:
        return tx.now
    if pin.as_of > tx.now:
        detail = f"the pin is of {pin.as_of.isoformat()}, and for the farm it is {tx.now.isoformat()}"
        raise InvalidRequest(f"{detail}: its moment has not come yet", field="pin.as_of")
    return pin.as_of


def choice(tx: Transaction, request: LatencyRequest, platform_ids: Collection[int]) -> Choice:
    """What may answer on the platforms that lack a measurement.

    Raises NotFound for a pin that names no version, InvalidRequest for two versions of one subject.
    """
    if request.timing != Timing.ALONE or request.on_miss == OnMiss.ERROR or not platform_ids:
        return Choice()
    held: dict[tuple[int, str], Pinned] = {}
    named = request.pin.predictors if request.pin is not None else ()
    for one in predictors.pinned(tx, named) if named else ():
        other = held.setdefault((one.head.platform_id, one.head.subject), one)
        if other is not one:
            detail = f"{other.head.id} and {one.head.id} are versions of one predictor: a pin names one of them"
            raise InvalidRequest(detail, field="pin.predictors")
    # where nothing answered, a search compared refusals, or sums of kernels: the first version would move these
    active = predictors.active(tx, platform_ids, None if request.pin is None else request.pin.as_of)
    return Choice(True, held, {(head.platform_id, head.subject): head for head in active})


def make(given: Pin | None, heads: Iterable[Head], fusions: Mapping[str, str], as_of: datetime) -> Pin:
    """What was pinned, and what answers beside it.

    Args:
        fusions: by the keys of platforms on which whole models are predicted, a hash of how their engines fuse now.

    Raises:
        Conflict: `pinned_predictor_gone` where an engine is known to fuse otherwise than when the pin was given.
        InvalidRequest: the pin would name more than `MAX_PINNED` versions or platforms.
    """
    before = given if given is not None else Pin()
    for key, now in fusions.items():
        if before.fusions.get(key, now) != now:
            what = f"the engine of {key} is known to fuse otherwise than when the pin was given"
            raise _gone(f"{what}, so that the same architecture has other kernels; {_AGAIN}", "pin.fusions")
    versions = tuple(dict.fromkeys((*before.predictors, *(head.id for head in heads))))
    fused = {**before.fusions, **fusions}
    if max(len(versions), len(fused)) > MAX_PINNED:
        detail = f"the pin would name {len(versions)} versions and {len(fused)} platforms; the limit is {MAX_PINNED}"
        raise InvalidRequest(f"{detail}: a pin for each search", field="pin.predictors")
    return Pin(predictors=versions, fusions=fused, as_of=as_of)


def _gone(detail: str, place: str) -> Conflict:
    return Conflict(detail, code="pinned_predictor_gone", field=place)
