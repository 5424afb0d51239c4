"""What results of a lease come to, by its canaries and the rules of `core`: answers, or attempts that gave none.

Nothing is written here but what canaries are known by (`goldens`); `ingesting` writes what was judged.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Row

from benchfarm_core.boards import is_witness_enforced
from benchfarm_core.clock_proof import ClockEvidence, proof_of_launches, unthrottled
from benchfarm_core.comparing import Comparison, compare
from benchfarm_core.correctness import is_ungated, without_gate
from benchfarm_core.drift import is_late, slowest_ns
from benchfarm_core.failures import FailureCode
from benchfarm_core.measurements import (
    LaunchSamples,
    MeasurementResult,
    Timing,
    Tries,
    Verdict,
    after_failure,
    answered_after_all,
)
from benchfarm_core.platforms import ClockProof, Platform
from benchfarm_core.protocols import Protocol, in_situ, is_comparison
from benchfarm_core.quality import CanaryGolden, accepted_launches, canary_floors, drifted, is_noisy, summarise
from benchfarm_core.summaries import Summary, as_noisy
from benchfarm_store import goldens, kept_tries, sample_codec
from benchfarm_store.database import Transaction
from benchfarm_store.encodings import clock_level
from benchfarm_store.kept_tries import Kept


class Good(NamedTuple):
    """An accepted result, ready to be written."""

    result: MeasurementResult
    packed: bytes
    answer: Summary | Comparison
    clock_proof: ClockProof


class Bad(NamedTuple):
    """A failed or inconclusive attempt. `kept`: what it would have answered; None where it has nothing to say."""

    result: MeasurementResult
    code: FailureCode
    verdict: Verdict
    kept: Kept | None


class Held(NamedTuple):
    """A live lease that this transaction holds, with the measurements that it was given."""

    row: Row[Any]
    platform: Platform
    protocol: Protocol
    items: dict[int, Row[Any]]

    @property
    def has_uploads(self) -> bool:
        """Whether a stranger's file is among them."""
        return any(item.uploaded for item in self.items.values())


class Lease(NamedTuple):
    """What judging a result needs to know of its lease."""

    held: Held
    clocks: dict[int, ClockEvidence]

    @property
    def row(self) -> Row[Any]:
        return self.held.row

    @property
    def protocol(self) -> Protocol:
        return self.held.protocol

    def in_situ(self) -> "Lease":
        """As it judges what was timed in situ."""
        return self._replace(held=self.held._replace(protocol=in_situ(self.protocol)))

    @property
    def is_ungated(self) -> bool:
        return is_ungated(self.held.platform.engine.name)

    @property
    def is_enforced(self) -> bool:
        """Whether the witness is."""
        return is_witness_enforced(self.held.platform.board_model)


def judge(
    tx: Transaction, lease: Lease, live: Sequence[MeasurementResult], noisy_max: int
) -> tuple[list[Good], list[Bad]]:
    """What results that came together are: answers, and attempts that gave none. `noisy_max` as in `ingest`."""
    packed = {r.measurement_id: sample_codec.pack(r.launches) for r in live if r.outcome == "ok"}
    # judged as it will be read back, so that deriving the summary again gives the same numbers
    ok = {id_: one.launches for id_, one in packed.items()}
    # a process that opened a stranger's file says nothing that other results are judged by
    has_uploads = lease.held.has_uploads
    told = [one for launches in (() if has_uploads else ok.values()) for one in unthrottled(launches, lease.clocks)]
    of_board = (lease.row.generation_id, lease.row.platform_id)
    canaries = goldens.find(tx, *of_board, told, by_lease=not has_uploads, is_by_share=lease.row.is_by_share)
    beside = None if has_uploads else goldens.of_lease(tx, lease.row.id, canaries)
    canaries = goldens.seen_by_all(tx, canaries, lease.row.id, beside)
    good: list[Good] = []
    bad: list[Bad] = []
    for result in live:
        row = lease.held.items[result.measurement_id]
        launches = ok.get(result.measurement_id)
        tries = Tries(row.attempts, row.losses, row.inconclusive, row.noisy)
        judged: Judged | GivenUp | FailureCode | None = result.failure
        if launches is not None:
            of_item = lease.in_situ() if row.timing == Timing.IN_SITU else lease
            judged = _judge_launches(of_item, canaries, beside, launches, row.clock_need, noisy_max - tries.noisy)
        if isinstance(judged, Judged):
            good.append(Good(result, packed[result.measurement_id].data, *judged))
        else:
            bad.append(_bad(tx, canaries, result, judged, packed.get(result.measurement_id), tries))
    goldens.remember(tx, canaries, lease_id=lease.row.id, keep_reference=bool(good))
    return _answered_after_all(tx, good, bad)


class Judged(NamedTuple):
    """An answer with how sure the farm is of its clock."""

    answer: Summary | Comparison
    clock_proof: ClockProof


class GivenUp(NamedTuple):
    """An answer, marked, that does not count while there is hope of a better one, and why."""

    summary: Summary
    code: FailureCode


def _bad(
    tx: Transaction,
    canaries: goldens.Canaries,
    result: MeasurementResult,
    judged: GivenUp | FailureCode | None,
    packed: sample_codec.Packed | None,
    tries: Tries,
) -> Bad:
    found = judged.code if isinstance(judged, GivenUp) else judged or FailureCode.RUNNER_GARBAGE
    code = goldens.told_apart(tx, canaries, found, None if packed is None else packed.launches)
    kept = None
    if isinstance(judged, GivenUp) and packed is not None:
        kept = _kept(canaries, code, judged, result, packed)
    return Bad(result, code, after_failure(code, tries), kept)


def _kept(
    canaries: goldens.Canaries,
    code: FailureCode,
    given_up: GivenUp,
    result: MeasurementResult,
    packed: sample_codec.Packed,
) -> Kept | None:
    """What is kept of a try whose code is `code`; nothing where a board got faster: no neighbour makes it so."""
    if code != FailureCode.CANARY_DRIFT:
        return Kept(result, packed.data, given_up.summary, None)
    limit_ns = slowest_ns(canaries.history, given_up.summary.clock_proof)
    if limit_ns is None or not is_late(packed.launches, limit_ns):
        return None
    return Kept(result, packed.data, given_up.summary, limit_ns)


def _answered_after_all(tx: Transaction, good: list[Good], bad: Sequence[Bad]) -> tuple[list[Good], list[Bad]]:
    """The same, but where the last try of a measurement was inconclusive, what it would have answered itself if it was
    of a loud moment, else the try that was kept of it, is the answer."""
    left: list[Bad] = []
    for one in bad:
        kept = one.kept
        if one.verdict.failure == FailureCode.INCONCLUSIVE and kept is not None and kept.slowest_ns is None:
            good.append(Good(one.result, kept.packed, kept.summary, kept.summary.clock_proof))
        else:
            left.append(one)
    last = [one.result.measurement_id for one in left if one.verdict.failure == FailureCode.INCONCLUSIVE]
    known = kept_tries.answering(tx, last)
    return good, [
        one._replace(verdict=answered_after_all(one.verdict)) if one.result.measurement_id in known else one
        for one in left
    ]


def _judge_launches(
    lease: Lease,
    canaries: goldens.Canaries,
    beside: CanaryGolden | None,
    launches: Sequence[LaunchSamples],
    clock_need: int,
    noisy_left: int,
) -> Judged | GivenUp | FailureCode:
    """The answer of launches, without the throttled ones; their weakest proof of the clock must reach `clock_need`.
    noisy_left: tries that noise may still cost; without one the answer counts, marked."""
    kept = accepted_launches(launches, lease.clocks, lease.protocol)
    if isinstance(kept, FailureCode):
        return kept
    clock_proof = proof_of_launches(kept, lease.clocks)
    if clock_level(clock_proof) < clock_need:
        return FailureCode.PIN_NOT_VERIFIED
    has_drifted = _has_drifted(lease, canaries, kept, clock_proof)
    # what all of a lease saw says that the board changed; the few canaries of an upload may have met a moment
    if has_drifted and (canaries.seen or clock_proof == ClockProof.VERIFIED):
        return FailureCode.CANARY_DRIFT
    found = _answer(lease, canaries, beside, kept, clock_proof)
    if has_drifted:
        code = FailureCode.CANARY_DRIFT
        return GivenUp(as_noisy(found), code) if isinstance(found, Summary) else code
    # comparisons do not ask, nor where neighbours belong to the board
    if lease.is_enforced and isinstance(found, Summary) and is_noisy(kept, lease.protocol, canaries.quiet, beside):
        marked = as_noisy(found)
        return GivenUp(marked, FailureCode.NOISY) if noisy_left > 0 else Judged(marked, clock_proof)
    return found if isinstance(found, FailureCode) else Judged(found, clock_proof)


def _has_drifted(
    lease: Lease, canaries: goldens.Canaries, launches: Sequence[LaunchSamples], clock_proof: ClockProof
) -> bool:
    if is_comparison(lease.protocol):  # whatever drifts takes both sides along
        return False
    # a clock that wanders has modes that few of a measurement's own runs meet: the history holds whole leases' fastest
    own = clock_proof == ClockProof.VERIFIED or not canaries.seen
    seen = canary_floors(launches) if own else canaries.seen
    # after a loud minute the history is loud: who is back at what quiet leases take has not changed
    return all(drifted(seen, known, clock_proof) for known in (canaries.history, canaries.quiet))


def _answer(
    lease: Lease,
    canaries: goldens.Canaries,
    beside: CanaryGolden | None,
    launches: Sequence[LaunchSamples],
    clock_proof: ClockProof,
) -> Summary | Comparison | FailureCode:
    if is_comparison(lease.protocol):
        return compare(launches, lease.protocol, is_enforced=lease.is_enforced)
    found = summarise(
        launches,
        protocol=lease.protocol,
        golden=canaries.reference,
        clock_proof=clock_proof,
        beside=beside,
        is_enforced=lease.is_enforced,
    )
    return without_gate(found) if lease.is_ungated and isinstance(found, Summary) else found
