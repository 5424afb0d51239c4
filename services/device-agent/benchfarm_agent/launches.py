"""The launches of one lease: in which order, with which request, and what each of them found."""

import logging
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Final

from benchfarm_agent.boards.interface import Board, Conditions, LaunchExit, LaunchOrder
from benchfarm_agent.freights import carried_failure
from benchfarm_agent.launch_evidence import launch_evidence, merged
from benchfarm_agent.launch_requests import launch_request
from benchfarm_agent.prepared import Canary, PreparedItem
from benchfarm_agent.runner_lines import LaunchRecord, VisitFailure, plain_text, read_lines, started_visit
from benchfarm_core.agent_protocol import LaunchEvidence, LeaseGrant
from benchfarm_core.boards import is_witness_enforced
from benchfarm_core.clock_proof import is_throttled, unthrottled
from benchfarm_core.comparing import speaks, unenforced_pairs, wants_more_pairs
from benchfarm_core.drift import misses_clock
from benchfarm_core.failures import FailureCode, fault_of
from benchfarm_core.measurements import LaunchSamples, MeasurementResult
from benchfarm_core.platforms import EffectivePrecision, EngineSpec
from benchfarm_core.protocols import Protocol, in_situ, is_comparison, purpose_of
from benchfarm_core.quality import CanaryGolden, launch_median_ns, lease_canaries, unenforced, wants_more_launches
from benchfarm_core.quiet_blocks import patience_ms

logger = logging.getLogger(__name__)

GRACE_S: Final = 10.0
"""A runner ends a visit that takes too long by itself; the agent cuts only one that cannot."""
BARREN_MAX: Final = 2
"""Processes in a row that end before any visit does, and with no visit to blame."""
CARRIER_SHARE: Final = 0.25
"""A carrier is visited in further launches while so many of its kernels want more."""

DISK_FULL_WORDS: Final = ("No space left on device", "Disk quota exceeded")


@dataclass
class _Findings:
    """What the launches of a lease have found so far."""

    samples: dict[int, list[LaunchSamples]]
    failures: dict[int, VisitFailure] = field(default_factory=dict)
    evidence: list[LaunchEvidence] = field(default_factory=list)
    precisions: dict[int, EffectivePrecision] = field(default_factory=dict)
    b_precisions: dict[int, EffectivePrecision] = field(default_factory=dict)


class LeaseLaunches:
    """Runs the launches of one lease on one board.

    `on_running` hears which measurement is being visited and None between visits, in time with the runner. `turn` is
    entered for each launch: others may have theirs in between.
    """

    def __init__(
        self,
        board: Board,
        grant: LeaseGrant,
        items: Iterable[PreparedItem],
        canary: Canary,
        on_running: Callable[[int | None], None],
        turn: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
    ) -> None:
        self.board = board
        self._grant = grant
        self._items = {item.measurement_id: item for item in items}
        self._canary = canary
        self._on_running = on_running
        self._turn = turn
        self._running: int | None = None
        self._found = _Findings(samples={measurement_id: [] for measurement_id in self._items})
        self._dropped: set[int] = set()
        self._stopping = False
        self._waited_ms = 0.0
        self.came_to_a_visit = False
        """Whether a runner ever got as far as a workload: else whatever failed says nothing of any workload."""

    def drop(self, measurement_ids: Iterable[int]) -> None:
        """Leaves measurements out of later launches: nobody wants them any more."""
        self._dropped.update(measurement_ids)

    def finish_early(self) -> None:
        """No launch after the one in progress."""
        self._stopping = True

    @property
    def _apart(self) -> bool:
        """Whether each workload has a process of its own."""
        return purpose_of(self._grant.protocol) == "memory"

    @property
    def evidence(self) -> list[LaunchEvidence]:
        return self._found.evidence

    async def run(self) -> None:
        """All launches, or those up to `finish_early`. Raises what `Board.launch` raises."""
        for launch_no in range(self._grant.protocol.launches_max):
            wanted = self._wanted()
            if not wanted or self._stopping:
                return
            async with self._turn():
                if not self._stopping:
                    await self._launch(launch_no, shuffled(wanted, self._grant.lease_token, launch_no))

    def give_up(self, code: FailureCode, detail: str) -> None:
        """No launch is possible any more: what would need another one fails."""
        self._fail(self._wanted(), code, detail)

    def break_off(self, code: FailureCode, detail: str) -> None:
        """The same after a fault that nobody has foreseen: what was found is not looked into, for that may be it."""
        self._fail(self._open(), code, detail)

    def lose_board(self, detail: str) -> None:
        """The board is away: what it was running fails, the rest stays wanted. No launch after this."""
        self._stopping = True
        if self._running is not None:
            blamed = self._sharers(self._running, self._wanted())
            self._fail(blamed, *self._blame(self._running, FailureCode.BOARD_LOST, detail))

    def results(self) -> list[MeasurementResult]:
        """Outcomes of all measurements that came to one; the others simply stay wanted."""
        open_ = {mid: samples for mid, samples in self._found.samples.items() if mid not in self._dropped}
        complete = [self._ok(mid, samples) for mid, samples in open_.items() if self._is_complete(mid, samples)]
        done = {result.measurement_id for result in complete}
        failures = self._found.failures.items()
        return [_failure(mid, *why) for mid, why in failures if mid in open_ and mid not in done] + complete

    def _ok(self, measurement_id: int, samples: Sequence[LaunchSamples]) -> MeasurementResult:
        return MeasurementResult(
            measurement_id=measurement_id,
            outcome="ok",
            launches=tuple(samples),
            artifact_sha256=self._items[measurement_id].artifact_sha256,
            effective_precision=self._found.precisions.get(measurement_id),
            b_effective_precision=self._found.b_precisions.get(measurement_id),
        )

    def _is_complete(self, measurement_id: int, samples: Sequence[LaunchSamples]) -> bool:
        """Clean launches enough, or no replacement left. After an early end the others stay wanted, free of charge.

        Once enough are clean, further launches only seek confirmation: a board or a runner that is lost in one of
        them takes nothing back. A fault of the workload does: it says that the numbers mean nothing.
        """
        protocol = self._grant.protocol
        failure = self._found.failures.get(measurement_id)
        if failure is None and (len(samples) >= protocol.launches_max or not self._stopping):
            return len(samples) >= protocol.launches_min
        if failure is not None and fault_of(failure[0]) != "transient":
            return False
        sound = self._sound()[measurement_id]
        if is_comparison(protocol):
            return sum(speaks(launch) for launch in sound) >= protocol.launches_min
        return sum(launch_median_ns(launch) is not None for launch in sound) >= protocol.launches_min

    def _wanted(self) -> list[int]:
        """What still needs a launch. The samples are looked into only when they could be enough: the board waits."""
        found, protocol, open_ = self._sound(), self._grant.protocol, self._open()
        if all(len(found[mid]) < protocol.launches_min for mid in open_):
            return open_
        if is_comparison(protocol):
            return [mid for mid in open_ if wants_more_pairs(found[mid], protocol)]
        lease = _lease_canaries(found)
        if any(item.uploaded for item in self._items.values()):  # as the farm: a stranger's file ran beside that clock
            lease = lease.model_copy(update={"sgemm_ns": None})
        unsure = {mid for mid in open_ if wants_more_launches(found[mid], self._followed(mid), lease=lease)}
        unsure |= {mid for mid in open_ if misses_clock(found[mid], protocol, self._grant.slowest_canary_ns)}
        return [mid for mid in open_ if mid in unsure and self._is_worth_a_visit(mid, open_, unsure)]

    def _fastest_canary_ns(self) -> int | None:
        """What a launch waits for: the clock's canary as the board's history or this lease had it at its fastest."""
        known = (self._grant.fastest_canary_ns, _lease_canaries(self._found.samples).sgemm_ns)
        return min((ns for ns in known if ns is not None), default=None)

    def _open(self) -> list[int]:
        return [mid for mid in self._items if mid not in self._found.failures and mid not in self._dropped]

    def _followed(self, measurement_id: int) -> Protocol:
        """The lease's protocol, as it is followed by one of its measurements."""
        return in_situ(self._grant.protocol) if self._items[measurement_id].is_in_situ else self._grant.protocol

    def _sound(self) -> Mapping[int, Sequence[LaunchSamples]]:
        """What was found as the farm counts it: without launches in which the board slowed itself down, and as they are
        where the witness is not enforced."""
        clocks = {one.launch_no: one.clock for one in self._found.evidence if one.clock is not None}
        found: Mapping[int, Sequence[LaunchSamples]] = self._found.samples
        if any(map(is_throttled, clocks.values())):
            found = {mid: unthrottled(samples, clocks) for mid, samples in found.items()}
        if is_witness_enforced(self._grant.platform.board_model):
            return found
        counted = unenforced_pairs if is_comparison(self._grant.protocol) else unenforced
        return {mid: counted(samples) for mid, samples in found.items()}

    def _is_worth_a_visit(self, measurement_id: int, open_: Sequence[int], unsure: set[int]) -> bool:
        """Of a carrier only when several of its kernels want one: it takes as long for one as for all."""
        sharers = self._sharers(measurement_id, open_)
        return len(unsure.intersection(sharers)) >= CARRIER_SHARE * len(sharers)

    async def _launch(self, launch_no: int, order: list[int]) -> None:
        """One launch. A process that dies takes one visit with it; a new one goes on with the rest."""
        parts: list[LaunchEvidence] = []
        try:
            await self._processes(launch_no, order, parts)
        finally:  # what one process has found stays found when the board is lost in the next
            self._found.evidence += merged(parts)

    async def _processes(self, launch_no: int, order: list[int], parts: list[LaunchEvidence]) -> None:
        barren = 0
        while order:
            before = await self.board.evidence(self._grant.platform.operating_point)
            record, ended = await self._process(launch_no, order[:1] if self._apart else order)
            self._keep(record)
            after = Conditions()
            try:
                after = await self.board.evidence(self._grant.platform.operating_point)
            finally:
                parts += launch_evidence(launch_no, record, ended, before, after)
            if ended.cut == "stopped":
                break
            order = self._rest(order, record, ended)
            barren = 0 if record.visited() or record.running is not None else barren + 1
            if barren == BARREN_MAX:
                self._fail(order, *why_ended(record, ended))
                break

    async def _process(self, launch_no: int, order: list[int]) -> tuple[LaunchRecord, LaunchExit]:
        lines: list[bytes] = []

        def on_line(line: bytes) -> None:
            self._running = started_visit(line, order)
            self._on_running(self._running)
            lines.append(line)

        self._running = None
        ended = await self.board.launch(self._order(launch_no, order), on_line)
        self._running = None
        self._on_running(None)
        record = read_lines(lines, visits=order, launch_no=launch_no)
        self.came_to_a_visit |= bool(record.visited()) or record.running is not None
        return _of_this_version(record, self._grant.platform.engine), ended

    def _order(self, launch_no: int, order: list[int]) -> LaunchOrder:
        items = [self._items[measurement_id] for measurement_id in order]
        protocol = self._grant.protocol
        untold = not self._found.precisions.keys() >= set(order)  # asking takes time: mostly the first launch's alone
        return LaunchOrder(
            request=launch_request(
                self._grant,
                items,
                self._canary,
                launch_no=launch_no,
                asks_precision=untold,
                fastest_canary_ns=self._fastest_canary_ns(),
                patience_ms=patience_ms(protocol, len(self._items), self._waited_ms),
            ),
            readable=tuple(dict.fromkeys([self._canary.artifact, *(path for item in items for path in item.files)])),
            silence_s=protocol.visit_timeout_s + GRACE_S,
            lines_max=2 * len(items) + 2,
            strict=any(item.uploaded for item in items),
        )

    def _keep(self, record: LaunchRecord) -> None:
        # one that died told no sum: what its canaries cost is no less than what it waited
        costs_ms = sum(samples.canary_ms for samples in record.samples.values())
        self._waited_ms += record.end.waited_ms if record.end else costs_ms
        for measurement_id, samples in record.samples.items():
            self._found.samples[measurement_id].append(samples)
        self._found.precisions |= record.precisions
        self._found.b_precisions |= record.b_precisions
        for measurement_id, failure in record.failures.items():
            blamed = VisitFailure(*self._blame(measurement_id, failure.code, failure.detail), failure.subject)
            self._found.failures[measurement_id] = blamed

    def _rest(self, order: list[int], record: LaunchRecord, ended: LaunchExit) -> list[int]:
        """What is left for another process; blames the measurement that was running, or all when nothing can run."""
        left = [measurement_id for measurement_id in order if measurement_id not in record.visited()]
        if record.failed is not None:
            self._fail(left, *record.failed)
            return []
        if record.running is not None:
            blamed = self._sharers(record.running, left)
            self._fail(blamed, *self._blame(record.running, *why_ended(record, ended)))
            left = [measurement_id for measurement_id in left if measurement_id not in blamed]
        return left

    def _sharers(self, measurement_id: int, among: Iterable[int]) -> list[int]:
        """Those that are visited at once with a measurement, itself included: the others of its carrier."""
        sites = self._items[measurement_id].sites
        return [one for one in among if one == measurement_id or (sites and self._items[one].sites == sites)]

    def _blame(self, measurement_id: int, code: FailureCode, detail: str) -> tuple[FailureCode, str]:
        """A failed visit as a failure of the measurement."""
        shared = self._items[measurement_id].is_shared
        return carried_failure(code, detail) if shared else (code, detail)

    def _fail(self, measurement_ids: Iterable[int], code: FailureCode, detail: str) -> None:
        logger.warning("a launch failed: %s: %s", code, detail)
        self._found.failures.update(dict.fromkeys(measurement_ids, VisitFailure(code, detail)))


def _of_this_version(record: LaunchRecord, engine: EngineSpec) -> LaunchRecord:
    """The record; of an engine that was replaced below the agent nothing, for that is another platform."""
    if record.ready is None or record.ready.engine_version == engine.version:
        return record
    seen = f"{engine.name} {record.ready.engine_version} ran where {engine.version} is wanted"
    why = f"{seen}: it was replaced while the agent ran; start the agent again, and it offers what is there now"
    return LaunchRecord(ready=record.ready, failed=(FailureCode.ENGINE_UNAVAILABLE, why))


def _lease_canaries(found: Mapping[int, Sequence[LaunchSamples]]) -> CanaryGolden:
    return lease_canaries(launch for samples in found.values() for launch in samples)


def shuffled(measurement_ids: Sequence[int], lease_token: str, launch_no: int) -> list[int]:
    """The order of one launch: by chance, but the same again for the same lease and launch."""
    order = sorted(measurement_ids)
    random.Random(f"{lease_token}:{launch_no}").shuffle(order)
    return order


def why_ended(record: LaunchRecord, ended: LaunchExit) -> tuple[FailureCode, str]:
    """What to hold against the measurement that was running when a runner ended too early."""
    if record.garbage is not None or ended.cut == "garbage":
        return FailureCode.RUNNER_GARBAGE, record.garbage or "a line or a number of lines above the limit"
    if ended.cut == "silent":
        return FailureCode.TIMEOUT, "the runner said nothing for longer than a visit may take and was ended"
    if ended.out_of_memory:
        return FailureCode.OUT_OF_MEMORY, "the runner was ended for want of memory"
    if any(words in ended.stderr_tail for words in DISK_FULL_WORDS):
        return FailureCode.DISK_FULL, "the runner found no room for its scratch files"
    how = f"signal {-ended.returncode}" if ended.returncode < 0 else f"exit code {ended.returncode}"
    last = plain_text(" ".join(ended.stderr_tail.strip().splitlines()[-1:]))
    return FailureCode.RUNNER_DIED, f"the runner ended with {how} {last}".strip()[:300]


def _failure(measurement_id: int, code: FailureCode, detail: str, subject: str = "") -> MeasurementResult:
    return MeasurementResult(
        measurement_id=measurement_id, outcome="failed", failure=code, detail=detail[:300], subject=subject
    )
