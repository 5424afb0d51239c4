"""`benchfarm compare`: which of two workloads is slower, as a person's question or as a gate in CI."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import RenderableType

from benchfarm.calls import checked
from benchfarm.client import Client
from benchfarm.commands.options import (
    DIMS,
    PLATFORM_HELP,
    AnyRequest,
    grouped,
    numbers_by_upload,
    seconds_of,
    told_as_typed,
    uploaded,
)
from benchfarm.commands.results_table import reason_text
from benchfarm.commands.session import Json, Session
from benchfarm.commands.tables import facts, ms_text
from benchfarm.commands.watching import watch
from benchfarm.comparisons import comparison_fields, comparison_text, is_slower, nothing_planned
from benchfarm.exit_codes import ExitCode, exit_code_of_job
from benchfarm.workload_text import parse_architecture, parse_generated_model, parse_kernel
from benchfarm_core.comparing import ComparisonVerdict
from benchfarm_core.errors import InvalidRequest
from benchfarm_core.failures import FailureCode
from benchfarm_core.jobs import ItemView, JobRequest, JobState
from benchfarm_core.support import precision_text
from benchfarm_core.workloads import PairWorkload, UploadRequest

MODEL_ID = "m_"
SIDE = (
    "An ONNX or .tflite file, an uploaded model's id, a generated 'mobilenet_v2 hw=224', an architecture 'bert layers=2"
    " ...' or a kernel 'fc cin=8 ...'."
)
TYPED: Final = {
    "tolerance_percent": "--tolerance",
    "max_age_s": "--max-age",
    "platforms": "--platform",
    "workloads.0.b_platform": "--b-platform",
}
"""The options by the fields that they become."""
Side = Annotated[str, typer.Argument(help=SIDE, show_default=False)]


def add_to(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(compare)


@dataclass(frozen=True, slots=True)
class Numbers:
    """What the files leave open."""

    dim: Annotated[
        list[str] | None,
        typer.Option(DIMS, help="A number for a dimension of both files: batch=1; of one: a:batch=1. Repeatable."),
    ] = None
    ints: Annotated[
        list[str] | None,
        typer.Option(
            help="An input of both files that takes integers below a limit: token_ids=30522; of one: "
            "a:token_ids=30522. Repeatable."
        ),
    ] = None


@grouped
def compare(
    context: typer.Context,
    a: Side,
    b: Side,
    *,
    platform: Annotated[str, typer.Option(help=f"Where both run. {PLATFORM_HELP}")],
    b_platform: Annotated[
        str | None, typer.Option(help="Where b runs instead; only precision and engine options may differ.")
    ] = None,
    tolerance: Annotated[
        float | None, typer.Option(metavar="PERCENT", help="Less than this either way is no difference. By default 2.")
    ] = None,
    fail_if_slower: Annotated[
        bool, typer.Option("--fail-if-slower", help="End with 12 when b is slower by what may exceed the tolerance.")
    ] = False,
    max_age: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Oldest stored answer to take; 0 measures anew.")
    ] = None,
    timeout: Annotated[str | None, typer.Option(metavar="DURATION", help="Stop waiting after this.")] = None,
    numbers: Numbers,
    _json: Json = False,
) -> None:
    """Whether B takes longer than A, less long, or as long within a tolerance. Ends with 13 where nobody can tell."""
    session = Session.of(context)
    max_age_s, timeout_s = seconds_of(max_age, "--max-age"), seconds_of(timeout, "--timeout")
    with session.client(patient=True) as client, told_as_typed(TYPED):
        texts = {"a": a, "b": b}
        files = [name for name, text in texts.items() if _is_file(text)]
        others = set(texts) - set(files)
        dims = numbers_by_upload(numbers.dim or [], files, others, field="dims")
        limits = numbers_by_upload(numbers.ints or [], files, others, field="ints")
        sides = [_side(client, text, dims.get(name), limits.get(name)) for name, text in texts.items()]
        fields = comparison_fields(sides[0], sides[1], platform, b_platform=b_platform, tolerance_percent=tolerance)
        if max_age_s is not None:
            fields["max_age_s"] = max_age_s
        job = client.submit(checked(JobRequest, fields))
        session.say(f"job {job.id}")
        job = watch(client, job.id, session.err, timeout_s=timeout_s)
        item = next(client.items(job.id), None)
    if item is None:
        session.show(job, lambda: nothing_planned(job))
        context.exit(exit_code_of_job(job.state))
    session.show(item, lambda: _table(item, a, b))
    context.exit(exit_code_of(item, job.state, fail_if_slower=fail_if_slower))


def _is_file(text: str) -> bool:
    """Whether a text means a file, which may be missing; what is too long for a path is none."""
    return text.endswith((".onnx", ".tflite")) or os.path.isfile(text)


def _side(client: Client, text: str, dims: dict[str, int] | None, ints: dict[str, int] | None) -> AnyRequest:
    """What a text means: a file, an upload's id, a model, an architecture or a kernel. Raises InvalidRequest.

    dims, ints: of a file, None of all else.
    """
    if dims is not None:
        return uploaded(client, Path(text), dims=dims, ints=ints)
    if text.startswith(MODEL_ID):
        return UploadRequest(model_id=text)
    head = text.split()[:1]
    if {model.name for model in client.generated_models()}.intersection(head):
        return parse_generated_model(text)
    if {space.name for space in client.spaces.list()}.intersection(head):
        return parse_architecture(text)
    if os.path.isdir(text):
        raise InvalidRequest(f"{text} is a folder: name a file in it, .onnx or .tflite", field="path")
    if os.sep in text:
        raise InvalidRequest(f"there is no file {text[:200]}", field="path")
    return parse_kernel(text)


def exit_code_of(item: ItemView, state: JobState, *, fail_if_slower: bool) -> ExitCode:
    """Of a pair for which the board was never left alone there is no comparison: nobody can tell."""
    found = item.comparison
    if found is None:
        return ExitCode.INCONCLUSIVE if item.failure == FailureCode.INCONCLUSIVE else exit_code_of_job(state)
    if found.verdict == ComparisonVerdict.INCONCLUSIVE:
        return ExitCode.INCONCLUSIVE
    return ExitCode.SLOWER if fail_if_slower and is_slower(found) else ExitCode.OK


def _b_side(item: ItemView) -> str:
    """How b's platform differs from a's."""
    workload = item.workload
    if not isinstance(workload, PairWorkload):
        return ""
    differing = [] if workload.b_precision is None else [str(workload.b_precision)]
    if workload.b_options is not None:
        differing.append(" ".join(f"{name}={value}" for name, value in workload.b_options.items()) or "default options")
    return f" ({', '.join(differing)})" if differing else ""


def _computed_in(item: ItemView, *, b: bool) -> str:
    """What a side was computed in, where that is told and not the precision that it was asked for."""
    workload, told = item.workload, item.b_effective_precision if b else item.effective_precision
    asked = workload.b_precision if b and isinstance(workload, PairWorkload) else None
    return "" if told in (None, asked or item.platform.rpartition("/")[2]) else f", in {precision_text(told)}"


def _table(item: ItemView, a: str, b: str) -> RenderableType:
    found = item.comparison
    if found is None:
        return facts({"platform": item.platform, "answer": reason_text(item)})
    return facts(
        {
            "platform": item.platform,
            f"a: {a}": f"{ms_text(found.a_ms)} ms{_computed_in(item, b=False)}",
            f"b: {b}{_b_side(item)}": f"{ms_text(found.b_ms)} ms{_computed_in(item, b=True)}",
            "answer": comparison_text(found),
            "interval": f"of {found.coverage:.0%} by {found.rounds} rounds in {found.launches} launches",
            "from": item.source,
        }
    )
