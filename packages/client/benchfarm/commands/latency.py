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
    _json: Json = False,
) -> None:
    """Ask for latencies. Each answer says whether it was measured or predicted; nothing is measured for it now."""
    session = Session.of(context)
    if not platform:
        raise InvalidRequest("name at least one --platform; `benchfarm platforms list` shows them", field="platforms")
    with session.client() as client, told_as_typed({"max_age_s": "--max-age"}):
        items = workloads.requests(client)
        answers = client.latency(
            items, platform, max_age_s=parse_duration_s(max_age, field="max_age_s"), min_grade=min_grade
        )
    session.show(answers, lambda: _table(answers, workloads.labels))
    context.exit(exit_code_of_counts(sum(answer.error is None for answer in answers), len(answers)))


def _table(answers: list[LatencyAnswer], labels: list[str]) -> RenderableType:
    rows = [
        (
            labels[a.item_no],
            a.platform,
            ms_text(a.median_ms),
            ms_text(a.normalised_ms),
            interval_text(a.low_ms, a.high_ms, a.coverage),
            grade_text(a.grade, a.clock_proof),
            a.source or a.error,
            a.detail,
        )
        for a in answers
    ]
    names = ("workload", "platform", "median ms", "normalised ms", "interval ms", "grade", "source", "detail")
    return table(names, rows)
