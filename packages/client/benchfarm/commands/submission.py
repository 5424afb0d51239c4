"""`benchfarm jobs submit`: a job from a JSON file, from options, or from both."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import RenderableType

from benchfarm.calls import checked
from benchfarm.client import Client
from benchfarm.commands.options import (
    PLATFORM_HELP,
    PlatformOptions,
    WorkloadOptions,
    grouped,
    seconds_of,
    told_as_typed,
)
from benchfarm.commands.results_table import results_tables
from benchfarm.commands.session import Json, Session
from benchfarm.commands.tables import facts
from benchfarm.commands.watching import progress_text, watch
from benchfarm.durations import duration_text
from benchfarm.exit_codes import exit_code_of_job
from benchfarm.workload_text import parse_labels
from benchfarm_core.errors import InvalidRequest
from benchfarm_core.jobs import DryRun, JobRequest, PriorityClass
from benchfarm_core.measurements import Timing
from benchfarm_core.platforms import ClockProof
from benchfarm_core.protocols import COMPARE, PROTOCOLS
from benchfarm_core.summaries import Grade

IdempotencyKey = Annotated[str | None, typer.Option(help="Submitting again with the same key is the same job.")]

PROTOCOL_HELP: Final = f"One of {', '.join(name for name in PROTOCOLS if name != COMPARE)}. Pairs: benchfarm compare."
TYPED: Final = {
    "name": "--name",
    "labels": "--label",
    "protocol": "--protocol",
    "protocol.name": "--protocol",
    "timing": "--timing",
    "priority": "--priority",
    "max_age_s": "--max-age",
    "min_grade": "--min-grade",
    "clock_proof": "--clock-proof",
    "repeats": "--repeats",
    "expires_in_s": "--expires-in",
    "budget_device_s": "--budget",
}
"""The options by the fields that they become."""
MOST_CHARACTERS: Final = 8 * 2**20
"""The farm takes no larger body."""


@dataclass(frozen=True, slots=True)
class JobOptions:
    """How to measure, and what is already good enough. What is absent keeps what the file or the farm says."""

    name: Annotated[str | None, typer.Option(help="A name for people.")] = None
    label: Annotated[list[str], typer.Option(help="name=value. Repeatable.")] = field(default_factory=list)
    protocol: Annotated[str | None, typer.Option(help=PROTOCOL_HELP)] = None
    timing: Annotated[Timing | None, typer.Option(help="in_situ: kernels inside a carrier.")] = None
    priority: Annotated[PriorityClass | None, typer.Option(help="Ages one class per 15 minutes waited.")] = None
    max_age: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Oldest stored result to take; 0 measures anew.")
    ] = None
    min_grade: Annotated[Grade | None, typer.Option(help="Worst grade of a stored result to take; D never is.")] = None
    clock_proof: Annotated[ClockProof | None, typer.Option(help="Weakest clock proof to accept.")] = None
    repeats: Annotated[int | None, typer.Option(min=1, help="Independent repeats of each item.")] = None
    expires_in: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Give up what is not measured by then.")
    ] = None
    budget: Annotated[str | None, typer.Option(metavar="DURATION", help="Most board time to spend.")] = None

    def request_fields(self) -> dict[str, object]:
        """The fields of a job request that were given."""
        wanted = {
            "name": self.name,
            "labels": parse_labels(self.label) or None,
            "protocol": {"name": self.protocol} if self.protocol else None,
            "timing": self.timing,
            "priority": self.priority,
            "max_age_s": seconds_of(self.max_age, "--max-age"),
            "min_grade": self.min_grade,
            "clock_proof": self.clock_proof,
            "repeats": self.repeats,
            "expires_in_s": seconds_of(self.expires_in, "--expires-in"),
            "budget_device_s": seconds_of(self.budget, "--budget"),
        }
        return {name: value for name, value in wanted.items() if value is not None}

    @property
    def typed(self) -> dict[str, str]:
        """Those options that were given, by the field that they become: what a file says is told as it says it."""
        given = {option for option in TYPED.values() if getattr(self, option[2:].replace("-", "_"))}
        return {field: option for field, option in TYPED.items() if option in given}


@grouped
def submit(
    context: typer.Context,
    workloads: WorkloadOptions,
    filters: PlatformOptions,
    options: JobOptions,
    *,
    file: Annotated[
        Path | None, typer.Argument(help="The body of POST /v1/jobs as JSON; - reads it from stdin.")
    ] = None,
    platform: Annotated[list[str] | None, typer.Option(help=f"{PLATFORM_HELP} Repeatable. Without any: all.")] = None,
    idempotency_key: IdempotencyKey = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what the job would do; submit nothing.")] = False,
    wait: Annotated[bool, typer.Option("--watch", help="Show progress until it ends, then the results.")] = False,
    timeout: Annotated[str | None, typer.Option(metavar="DURATION", help="With --watch: stop waiting.")] = None,
    _json: Json = False,
) -> None:
    """Submit a job. Options go before what the file says; workloads add to it. Uploads are made first."""
    session = Session.of(context)
    timeout_s = seconds_of(timeout, "--timeout")
    body = _body(file)
    with told_as_typed(options.typed):
        fields = {**body, **options.request_fields()}
    if (wanted := filters.wanted(platform or [])) is not None:
        fields["platforms"] = wanted
    with session.client(patient=wait) as client, told_as_typed(options.typed):
        listed = body.get("workloads", [])
        if not listed and not workloads.labels:
            known = "--kernel, --model, --architecture, --model-id, --upload, or a file"
            raise InvalidRequest(f"name what to measure: {known}", field="workloads")
        request = checked(JobRequest, {**fields, "workloads": [*listed, *workloads.requests(client)]})
        if dry_run:
            answer = client.dry_run(request)
            session.show(answer, lambda: _dry_run(answer))
            return
        job = client.submit(request, idempotency_key=idempotency_key)
        if not wait:
            session.show(job, lambda: f"job {job.id} is {job.state}; benchfarm jobs watch {job.id}")
            return
        session.say(f"job {job.id}")
        _watch(context, client, job.id, timeout_s=timeout_s)


def _watch(context: typer.Context, client: Client, job_id: str, *, timeout_s: float | None) -> None:
    session = Session.of(context)
    job = watch(client, job_id, session.err, timeout_s=timeout_s)
    found = client.results(job_id)
    session.show(
        {"job": job, "items": list(found)},
        lambda: results_tables(found, job.protocol),
        lambda: f"job {job_id} {progress_text(job)}",
    )
    context.exit(exit_code_of_job(job.state))


def _body(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        body = json.loads(_text(file))
    except OSError as error:
        raise InvalidRequest(f"cannot read {file}: {error.strerror}", field="file") from error
    except ValueError as error:
        raise InvalidRequest(f"{file} is no JSON: {error}", field="file") from error
    except RecursionError as error:
        raise InvalidRequest(f"{file} holds no job: it is nested too deeply", field="file") from error
    if not isinstance(body, dict) or not isinstance(body.get("workloads", []), list):
        raise InvalidRequest(f"{file} holds no job: a JSON object with a list of workloads is needed", field="file")
    return body


def _text(file: Path) -> str:
    """What the file holds, at most: a device or a pipe may never end."""
    if str(file) == "-":
        text = sys.stdin.read(MOST_CHARACTERS + 1)
    else:
        with file.open(encoding="utf-8") as opened:
            text = opened.read(MOST_CHARACTERS + 1)
    if len(text) > MOST_CHARACTERS:
        raise InvalidRequest(f"{file} holds no job: the farm takes {MOST_CHARACTERS} bytes at most", field="file")
    return text


def _dry_run(answer: DryRun) -> RenderableType:
    wait = "unknown" if answer.expected_wait_s is None else duration_text(answer.expected_wait_s)
    shown = answer.model_dump(exclude={"device_s", "expected_wait_s", "reasons"})
    return facts(
        {
            **shown,
            "board time": duration_text(answer.device_s),
            "expected wait": wait,
            "reasons": "\n".join(answer.reasons),
        }
    )
