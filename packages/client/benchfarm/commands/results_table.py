"""A job's results as tables: one per platform, with the reasons of what could not be measured."""

from collections import Counter
from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.markup import escape

from benchfarm.commands.tables import ms_text, table
from benchfarm.comparisons import comparison_text
from benchfarm.results import Results
from benchfarm_core.jobs import ItemView
from benchfarm_core.platforms import ClockProof
from benchfarm_core.protocols import Protocol, purpose_of
from benchfarm_core.summaries import Grade, Summary
from benchfarm_core.support import precision_text

COLUMNS = ("workload", "median ms", "normalised ms", "interval ms", "grade", "launches", "from, or why not")


PROFILE_COLUMNS = ("workload", "profiled sum ms", "normalised sum ms", *COLUMNS[3:])
MEMORY_COLUMNS = ("workload", "peak MiB", "of the model MiB", "load ms", "first ms", *COLUMNS[4:])
MIB = 2**20


def results_tables(results: Results, protocol: Protocol | None = None) -> RenderableType:
    """All results of a job, platform by platform; an item without one has its reason in the last column.

    A profile's times are those of its operators together, above what an inference takes; of memory sizes are shown.
    """
    return Group(*_tables(results, "latency" if protocol is None else purpose_of(protocol)))


def tally_text(results: Results) -> str:
    """How many items have a result, and of which grades: ``60 of 62 measured: 12 A, 40 B, 8 D, 2 of them noisy``; how
    many their engines computed in another precision than the platform's: ``, 20 of them in fp32``."""
    summaries = [item.summary for item in results if item.summary]
    grades = Counter(str(summary.grade) for summary in summaries)
    counts = ", ".join(f"{count} {grade}" for grade, count in sorted(grades.items()))
    noisy = sum(summary.noisy for summary in summaries)
    marked = f", {noisy} of them noisy" if noisy else ""
    others = Counter(found for item in results if item.summary and (found := other_precision_text(item)))
    marked += "".join(f", {count} of them in {name}" for name, count in others.most_common())
    return f"{len(results.measured)} of {len(results)} measured{': ' if counts else ''}{counts}{marked}"


def other_precision_text(item: ItemView) -> str | None:
    """What an item was computed in where that is told and not the platform's precision."""
    found, asked = item.effective_precision, item.platform.rpartition("/")[2]
    return None if found in (None, asked) else precision_text(found)


def reasons(results: Results) -> Counter[str]:
    """Why items have no result, and how often each."""
    return Counter(reason_text(item) for item in results.unmeasured)


def grade_text(grade: Grade | None, clock_proof: ClockProof | None, *, noisy: bool = False) -> str:
    """Grade and clock proof, always together: "B, unpinned"; of a noisy result that too."""
    return f"{grade}, {clock_proof}{', noisy' if noisy else ''}" if grade and clock_proof else "-"


def interval_text(low_ms: float | None, high_ms: float | None, coverage: float | None) -> str:
    """An interval with its coverage; a single launch allows none, which is said."""
    if low_ms is None or high_ms is None:
        return "-"
    if not coverage:
        return "none (1 launch)"
    return f"{ms_text(low_ms)}-{ms_text(high_ms)} @ {coverage:.0%}"


def reason_text(item: ItemView) -> str:
    """Why an item has no result: the failure's code, unless the reason says it anyway, and the reason."""
    named = item.failure if item.failure and item.failure not in item.reason else None
    return ": ".join(part for part in (named, item.reason) if part) or str(item.state)


def _tables(results: Results, purpose: str) -> Iterator[RenderableType]:
    columns = PROFILE_COLUMNS if purpose == "profile" else COLUMNS
    for platform, items in results.by_platform.items():
        if purpose == "memory":
            yield table(MEMORY_COLUMNS, [_memory_row(item) for item in items], title=platform)
        else:
            yield table(columns, [_row(item) for item in items], title=platform)
        yield escape(f"{platform}: {tally_text(items)}\n")


def _label(item: ItemView) -> str:
    return item.label if item.repeat == 0 else f"{item.label} #{item.repeat}"


def _memory_row(item: ItemView) -> tuple[object, ...]:
    summary = item.summary
    if summary is None:
        return _label(item), None, None, None, None, None, None, reason_text(item)
    sizes = (
        None if size is None else f"{size / MIB:.1f}" for size in (summary.peak_pss_bytes, summary.model_pss_bytes)
    )
    times = ms_text(summary.load_ms), ms_text(summary.first_ms)
    return _label(item), *sizes, *times, _grade_text(summary), summary.launches, _source_text(item)


def _row(item: ItemView) -> tuple[object, ...]:
    label, summary = _label(item), item.summary
    if item.comparison is not None:
        return label, None, None, None, None, item.comparison.launches, comparison_text(item.comparison)
    if summary is None:
        return label, None, None, None, None, None, reason_text(item)
    return (
        label,
        ms_text(summary.median_ms),
        ms_text(summary.normalised_ms),
        interval_text(summary.low_ms, summary.high_ms, summary.interval_coverage),
        _grade_text(summary),
        summary.launches,
        _source_text(item),
    )


def _grade_text(summary: Summary) -> str:
    return grade_text(summary.grade, summary.clock_proof, noisy=summary.noisy)


def _source_text(item: ItemView) -> str | None:
    """Where a result is from; with what it was computed in where the platform's name says another precision."""
    other = other_precision_text(item)
    return item.source if other is None else f"{item.source}, in {other}"
