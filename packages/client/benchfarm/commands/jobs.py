"""`benchfarm jobs`: submit, watch, read."""

from itertools import islice
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import RenderableType

from benchfarm.commands.options import seconds_of
from benchfarm.commands.output_files import writing
from benchfarm.commands.results_table import results_tables
from benchfarm.commands.session import Json, Session
from benchfarm.commands.submission import IdempotencyKey, submit
from benchfarm.commands.tables import facts, table
from benchfarm.commands.watching import progress_text, watch
from benchfarm.durations import duration_text
from benchfarm.exit_codes import exit_code_of_job
from benchfarm_core.jobs import BoardWhy, ItemState, JobState, JobView, WhyView
from benchfarm_core.protocols import changed_parameters, parameters_text

app = typer.Typer(help="Submit jobs, watch them, read their results.", no_args_is_help=True)
app.command("submit")(submit)

MOST_JOBS: Final = 100_000
JobId = Annotated[str, typer.Argument(help="The job's id.")]


@app.command("list")
def list_jobs(
    context: typer.Context,
    state: Annotated[JobState | None, typer.Option(help="Only jobs in this state.")] = None,
    label: Annotated[str | None, typer.Option(help="Only jobs with this label: name or name=value.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=MOST_JOBS, help="Most jobs to list.")] = 50,
    _json: Json = False,
) -> None:
    """Your jobs, the newest first."""
    session = Session.of(context)
    with session.client() as client:
        jobs = list(islice(client.jobs(state=state, label=label), limit))
    rows = [(job.id, job.name, job.state, _counts(job), job.created_at, job.reason) for job in jobs]
    session.show(jobs, lambda: table(("id", "name", "state", "done", "created", "reason"), rows))


@app.command()
def show(context: typer.Context, job: JobId, _json: Json = False) -> None:
    """One job."""
    session = Session.of(context)
    with session.client() as client:
        found = client.job(job)
    session.show(found, lambda: _facts(found))


@app.command("watch")
def watch_job(
    context: typer.Context,
    job: JobId,
    timeout: Annotated[str | None, typer.Option(metavar="DURATION", help="Stop waiting after this.")] = None,
    _json: Json = False,
) -> None:
    """Show a job's progress until it ends. The exit code says how it ended."""
    session = Session.of(context)
    timeout_s = seconds_of(timeout, "--timeout")
    with session.client(patient=True) as client:
        found = watch(client, job, session.err, timeout_s=timeout_s)
    session.show(found, lambda: progress_text(found))
    context.exit(exit_code_of_job(found.state))


@app.command()
def why(context: typer.Context, job: JobId, _json: Json = False) -> None:
    """What stands in the way of a job's pending items."""
    session = Session.of(context)
    with session.client() as client:
        found = client.why(job)
    session.show(found, lambda: f"{found.state}{': ' if found.reason else ''}{found.reason}", lambda: _why(found))


@app.command()
def cancel(context: typer.Context, job: JobId, _json: Json = False) -> None:
    """Cancel what is not measured yet."""
    session = Session.of(context)
    with session.client() as client:
        found = client.cancel(job)
    session.show(found, lambda: progress_text(found))


@app.command()
def retry(context: typer.Context, job: JobId, idempotency_key: IdempotencyKey = None, _json: Json = False) -> None:
    """Submit the failed items of a finished job again, as a new job."""
    session = Session.of(context)
    with session.client() as client:
        found = client.retry(job, idempotency_key=idempotency_key)
    session.show(found, lambda: f"job {found.id}: {progress_text(found)}")


@app.command()
def results(
    context: typer.Context,
    job: JobId,
    state: Annotated[ItemState | None, typer.Option(help="Only items in this state.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write CSV into this file; - writes it to stdout.")] = None,
    _json: Json = False,
) -> None:
    """A job's results: per platform, each number with its interval, grade and clock proof."""
    session = Session.of(context)
    with session.client() as client:
        found = client.results(job, state=state)
        protocol = client.job(job).protocol
    if csv is None or session.as_json:
        session.show(list(found), lambda: results_tables(found, protocol))
    elif str(csv) == "-":
        session.write(found.to_csv())
    else:
        with writing(csv, field="csv"):
            found.to_csv(csv)
        session.say(f"{len(found)} items written to {csv}")


def _counts(job: JobView) -> str:
    seen = job.progress
    return f"{seen.succeeded + seen.failed + seen.cancelled}/{seen.total}"


def _facts(job: JobView) -> RenderableType:
    changed = parameters_text(changed_parameters(job.protocol))
    shown = job.model_dump(exclude={"protocol", "progress", "platforms", "device_s_spent"})
    return facts(
        {
            **shown,
            "protocol": f"{job.protocol.name} {job.protocol.version} {changed}".rstrip(),
            "progress": job.progress.model_dump(),
            "board time": duration_text(job.device_s_spent),
            "platforms": "\n".join(job.platforms),
        }
    )


def _board_why(board: BoardWhy) -> str:
    return f"{board.board_id}: {board.reason}" + (f" [{board.removed_by}]" if board.removed_by else "")


def _why(found: WhyView) -> RenderableType:
    rows = [
        (
            part.platform,
            part.pending,
            part.reason,
            "\n".join(map(_board_why, part.boards)),
        )
        for part in found.platforms
    ]
    return table(("platform", "pending items", "reason", "boards"), rows)
