"""`benchfarm latency`: how long it takes, from what is known."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import RenderableType

from benchfarm.commands.options import PLATFORM_HELP, WorkloadOptions, grouped, told_as_typed
from benchfarm.commands.results_table import grade_text, interval_text
from benchfarm.commands.session import Json, Session
from benchfarm.commands.tables import ms_text, table
from benchfarm.durations import parse_duration_s
from benchfarm.exit_codes import exit_code_of_counts
from benchfarm_core.errors import InvalidRequest
from benchfarm_core.latency import LatencyAnswer, Measuring, OnMiss, Pin
from benchfarm_core.measurements import Timing
from benchfarm_core.summaries import Grade


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """How exact a prediction has to be, what is done where no usable measurement exists, and what keeps predictors."""

    tolerance: Annotated[
        float | None,
        typer.Option(help="How wide half of a prediction's interval may be, as a share of its median: 0.1."),
    ] = None
    on_miss: Annotated[
        OnMiss,
        typer.Option(
            help="Where nothing usable is measured: predict; measure predicts too, and queues what is less exact than"
            " --tolerance; error says so and predicts nothing."
        ),
    ] = OnMiss.PREDICT
    pin: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Have every question answered by the same predictors: the first one writes this file, later ones are"
            " asked by it.",
        ),
    ] = None


def add_to(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(latency)


@grouped
def latency(
    context: typer.Context,
    workloads: WorkloadOptions,
    platform: Annotated[list[str] | None, typer.Option(help=f"{PLATFORM_HELP} Repeatable.")] = None,
    max_age: Annotated[str, typer.Option(metavar="DURATION", help="Oldest measurement that counts.")] = "30d",
    min_grade: Annotated[Grade, typer.Option(help="Worst grade that counts; D never does.")] = Grade.C,
    timing: Annotated[Timing, typer.Option(help="in_situ: kernels inside a model; these are never predicted.")] = (
        Timing.ALONE
    ),
    search: SearchOptions = SearchOptions(),
    _json: Json = False,
) -> None:
    """Ask for latencies. Each answer says whether it was measured or predicted; nothing is measured for it now.

    A predicted time is that without neighbours at the reference clock (normalised), with the interval in which it lies.
    """
    session = Session.of(context)
    if not platform:
        raise InvalidRequest("name at least one --platform; `benchfarm platforms list` shows them", field="platforms")
    if search.on_miss == OnMiss.MEASURE and search.tolerance is None:
        raise InvalidRequest("--on-miss measure needs a --tolerance: what is less exact is measured", field="tolerance")
    typed = {"max_age_s": "--max-age", "tolerance": "--tolerance", "min_grade": "--min-grade"}
    with told_as_typed(typed):
        age_s = parse_duration_s(max_age, field="max_age_s")
    held = None if search.pin is None else _pin_of(search.pin)
    with session.client() as client, told_as_typed(typed):
        items = workloads.requests(client)
        found = client.latency(
            items,
            platform,
            max_age_s=age_s,
            min_grade=min_grade,
            timing=timing,
            tolerance=search.tolerance,
            on_miss=search.on_miss,
            pin=held,
        )
    if search.pin is not None and found.pin is not None:
        _keep(search.pin, found.pin)
    answers = list(found)
    session.show(answers, lambda: _table(answers, workloads.labels))
    for measuring in found.measuring:
        session.say(_measuring_text(measuring))
    context.exit(exit_code_of_counts(sum(answer.error is None for answer in answers), len(answers)))


def _pin_of(path: Path) -> Pin | None:
    """None where there is no such file yet. Raises InvalidRequest for one that holds no pin."""
    try:
        return Pin.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InvalidRequest(f"cannot read {path}: {error.strerror or error}", field="--pin") from error
    except ValidationError as error:
        raise InvalidRequest(f"{path} holds no pin of a question", field="--pin") from error


def _keep(path: Path, pin: Pin) -> None:
    """Whole or not at all. Raises InvalidRequest where it cannot be written."""
    part = path.with_name(f"{path.name}.part")
    try:
        part.write_text(pin.model_dump_json(), encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise InvalidRequest(f"cannot write {path}: {error.strerror or error}", field="--pin") from error


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
            _detail(a),
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


def _detail(answer: LatencyAnswer) -> str:
    """Why there is no number, or what makes a prediction less sure; and what measures it."""
    doubts = (("unknown", answer.unknown_kernels), ("outside of what it learnt from", answer.outside))
    parts = [answer.detail or "", *(f"{name}: {', '.join(found)}" for name, found in doubts if found)]
    parts += ["less exact than the tolerance"] if answer.within_tolerance is False else []
    parts += [f"measured by job {answer.job_id}"] if answer.job_id else []
    return "; ".join(filter(None, parts))


def _measuring_text(measuring: Measuring) -> str:
    """What a question had queued, in one line."""
    if not measuring.wanted:
        return "nothing has to be measured: all of it is exact enough"
    counts = {
        "queued": measuring.queued,
        "queued before": measuring.waiting,
        "measured by now": measuring.measured,
        "left out (the token's budget, or too many at once)": measuring.left_out,
        "refused": measuring.refused,
    }
    told = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    why = f" ({measuring.detail})" if measuring.detail else ""
    return f"of {measuring.wanted} to be measured {told}{why}"
