"""`benchfarm latency`: how long it takes, from what is known."""

from typing import Annotated

import typer
from rich.console import RenderableType

from benchfarm.commands.options import PLATFORM_HELP, WorkloadOptions, grouped, told_as_typed
from benchfarm.commands.results_table import grade_text, interval_text
from benchfarm.commands.session import Json, Session
from benchfarm.commands.tables import ms_text, table
from benchfarm.durations import parse_duration_s
from benchfarm.exit_codes import exit_code_of_counts
from benchfarm_core.errors import InvalidRequest
from benchfarm_core.latency import LatencyAnswer
from benchfarm_core.measurements import Timing
from benchfarm_core.summaries import Grade


def add_to(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(latency)


@grouped
def latency(
    context: typer.Context,
    workloads: WorkloadOptions,
    platform: Annotated[list[str] | None, typer.Option(help=f"{PLATFORM_HELP} Repeatable.")] = None,
    max_age: Annotated[str, typer.Option(metavar="DURATION", help="Oldest measurement that counts.")] = "30d",
    min_grade: Annotated[Grade, typer.Option(help="Worst grade that counts.")] = Grade.C,
    timing: Annotated[Timing, typer.Option(help="in_situ: kernels inside a model; these are never predicted.")] = (
        Timing.ALONE
    ),
    _json: Json = False,
) -> None:
    """Ask for latencies. Each answer says whether it was measured or predicted; nothing is measured for it now.

    A predicted time is that without neighbours at the reference clock (normalised), with the interval in which it lies.
    """
    session = Session.of(context)
    if not platform:
        raise InvalidRequest("name at least one --platform; `benchfarm platforms list` shows them", field="platforms")
    typed = {"max_age_s": "--max-age"}
    with told_as_typed(typed):
        age_s = parse_duration_s(max_age, field="max_age_s")
    with session.client() as client, told_as_typed(typed):
        items = workloads.requests(client)
        answers = client.latency(items, platform, max_age_s=age_s, min_grade=min_grade, timing=timing)
    session.show(answers, lambda: _table(answers, workloads.labels))
    context.exit(exit_code_of_counts(sum(answer.error is None for answer in answers), len(answers)))


def _table(answers: list[LatencyAnswer], labels: list[str]) -> RenderableType:
    rows = [
        (
            labels[a.item_no],
            a.platform,
            ms_text(a.median_ms),
            ms_text(a.normalised_ms),
            _interval(a),
            grade_text(a.grade, a.clock_proof),
            _source(a),
            a.detail or _doubts(a),
        )
        for a in answers
    ]
    names = ("workload", "platform", "median ms", "normalised ms", "interval ms", "grade", "source", "detail")
    return table(names, rows)


def _interval(answer: LatencyAnswer) -> str:
    """A predictor that was calibrated on nothing guarantees nothing, which is said."""
    if answer.source == "predicted" and not answer.coverage:
        return f"{ms_text(answer.low_ms)}-{ms_text(answer.high_ms)} @ no guarantee"
    return interval_text(answer.low_ms, answer.high_ms, answer.coverage)


def _source(answer: LatencyAnswer) -> str | None:
    if answer.predictor_version is None:
        return answer.source or answer.error
    return f"{answer.source}, version {answer.predictor_version}"


def _doubts(answer: LatencyAnswer) -> str:
    """What makes a prediction less sure."""
    doubts = (("unknown", answer.unknown_kernels), ("outside of what it learnt from", answer.outside))
    return "; ".join(f"{name}: {', '.join(found)}" for name, found in doubts if found)
