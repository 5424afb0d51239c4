"""The facts of a launch, as its lease's end carries them to the farm."""

from collections.abc import Iterable, Sequence

from benchfarm_agent.boards.interface import Conditions, LaunchExit
from benchfarm_agent.runner_lines import LaunchRecord
from benchfarm_core.agent_protocol import LaunchEvidence
from benchfarm_core.clock_proof import ClockEvidence
from benchfarm_core.measurements import MS_MAX


def launch_evidence(
    launch_no: int, record: LaunchRecord, ended: LaunchExit, before: Conditions, after: Conditions
) -> list[LaunchEvidence]:
    """The facts of one process; none when it never got ready."""
    ready = record.ready
    if ready is None:
        return []
    return [
        LaunchEvidence(
            launch_no=launch_no,
            began_unix_s=ended.began_unix_s,
            first_block_unix_s=record.end.first_block_unix_s if record.end else None,
            ended_unix_s=ended.ended_unix_s,
            engine_version=ready.engine_version,
            precision=ready.precision,
            threads=ready.threads,
            threads_observed=ready.threads_observed,
            affinity=ready.affinity,
            confinement=ready.confinement,
            witness_cost_ns=ready.witness_cost_ns,
            import_ms=ready.import_ms,
            canary_open_ms=ready.canary_open_ms,
            wall_ms=ended.wall_ms,
            timed_ms=_total_ms(samples.timed_ms for samples in record.samples.values()),
            canary_ms=_total_ms(samples.canary_ms for samples in record.samples.values()),
            open_ms=_total_ms(samples.open_ms for samples in record.samples.values()),
            peak_rss_bytes=record.end.peak_rss_bytes if record.end else 0,
            load_1m_before=before.load_1m,
            freq_khz_observed=after.freq_khz,
            governor=after.governor,
            temperature_c_before=before.temperature_c,
            temperature_c_after=after.temperature_c,
            throttled=_throttled(before, after),
            gpu=record.end.gpu if record.end else None,
            twin_relative_l2=record.end.twin_relative_l2 if record.end else None,
            clock=_clock(ended.clock, before, after),
            ungated=ready.ungated,
        )
    ]


def merged(parts: Sequence[LaunchEvidence]) -> list[LaunchEvidence]:
    """One piece of evidence for a launch that took several processes: times add up, facts are the last one's."""
    if not parts:
        return []
    shares = ("wall_ms", "timed_ms", "canary_ms", "open_ms")
    sums = {name: _total_ms(getattr(part, name) for part in parts) for name in shares}
    firsts = [part.first_block_unix_s for part in parts if part.first_block_unix_s is not None]
    whole = {
        "began_unix_s": parts[0].began_unix_s,
        "first_block_unix_s": firsts[0] if firsts else None,
        "peak_rss_bytes": max(part.peak_rss_bytes for part in parts),
        "throttled": any(part.throttled for part in parts) or parts[-1].throttled,
        "clock": _joined([part.clock for part in parts]),
        "twin_relative_l2": max((p.twin_relative_l2 for p in parts if p.twin_relative_l2 is not None), default=None),
    }
    return [parts[-1].model_copy(update=sums | whole)]


def _joined(clocks: Sequence[ClockEvidence | None]) -> ClockEvidence | None:
    """What was seen of the clock over several processes: the worst of each. One unseen proves nothing."""
    known = [clock for clock in clocks if clock is not None]
    residencies = [clock.residency for clock in known if clock.residency is not None]
    events = [clock.throttle_events for clock in known if clock.throttle_events is not None]
    lost = any(clock.cores_lost for clock in known)
    if len(known) < len(clocks):
        return ClockEvidence(throttle_events=sum(events), cores_lost=lost) if any(events) or lost else None
    return ClockEvidence(
        asked_khz=known[-1].asked_khz,
        residency=min(residencies) if len(residencies) == len(known) else None,
        watched_s=sum(clock.watched_s for clock in known),
        samples=sum(clock.samples for clock in known),
        samples_off=sum(clock.samples_off for clock in known),
        throttle_events=sum(events) if events else None,
        cores_lost=lost,
    )


def _total_ms(shares: Iterable[float]) -> float:
    """A runner may claim the most for every visit; evidence carries no more than that for all of them."""
    return min(sum(shares), MS_MAX)


def _throttles(before: Conditions, after: Conditions) -> int | None:
    if before.throttle_count is None or after.throttle_count is None:
        return None
    return max(0, after.throttle_count - before.throttle_count)


def _throttled(before: Conditions, after: Conditions) -> bool | None:
    count = _throttles(before, after)
    return None if count is None else count > 0


def _clock(seen: ClockEvidence | None, before: Conditions, after: Conditions) -> ClockEvidence | None:
    """What was seen of the clock; where nobody watched it, how often the board's own counters say it slowed down."""
    count = _throttles(before, after)
    return seen if seen is not None or not count else ClockEvidence(throttle_events=count)
