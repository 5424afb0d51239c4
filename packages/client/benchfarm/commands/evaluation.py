"""`benchfarm evaluate accuracy`: a predictor against architectures that are measured for it; and how that is shown."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group, RenderableType

from benchfarm.accuracy import LEAST, Accuracy, Figures, LeftOut, Nearness, measure_accuracy
from benchfarm.commands.options import PLATFORM_HELP, seconds_of, told_as_typed
from benchfarm.commands.output_files import check_file, writing
from benchfarm.commands.session import Session
from benchfarm.commands.tables import facts, ms_text, table
from benchfarm.commands.verbs import EvaluationGroup
from benchfarm.commands.watching import watch
from benchfarm.durations import duration_text
from benchfarm.exit_codes import ExitCode, exit_code_of_counts
from benchfarm.waiting import Deadline
from benchfarm_core.jobs import JobView
from benchfarm_core.spaces import MAX_DRAWN

app = typer.Typer(cls=EvaluationGroup, help="Judge predictors.", no_args_is_help=True)

_TYPED = {"archs": "--archs", "platforms": "--platform", "platform": "--platform", "space": "--space"}


@app.callback()
def evaluate() -> None:
    """Judge predictors: on this farm, or on recorded measurements."""


@app.command()
def accuracy(
    context: typer.Context,
    *,
    platform: Annotated[str, typer.Option(help=PLATFORM_HELP)],
    space: Annotated[str, typer.Option(help="A search space; `spaces list` shows them.")],
    archs: Annotated[int, typer.Option(min=LEAST, max=MAX_DRAWN, help="How many architectures are drawn.")] = 50,
    seed: Annotated[str, typer.Option(help="The same seed draws the same architectures.")] = "0",
    timeout: Annotated[str | None, typer.Option(metavar="DURATION", help="Stop waiting after this.")] = None,
    output: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write everything there.")] = None,
) -> None:
    """Measure architectures that a platform's predictor has not seen, twice, and say how near it came.

    The second measurement is the noise floor: no predictor comes nearer. What may have taught or judged the predictor
    is left out and told, and what is graded D.
    """
    session = Session.of(context)
    deadline = Deadline(seconds_of(timeout, "--timeout"))
    check_file(output, field="json")
    with session.client(patient=True) as client, told_as_typed(_TYPED):

        def wait(job_id: str) -> JobView:
            left_s = None if deadline.timeout_s is None else deadline.left_s(deadline.timeout_s)
            return watch(client, job_id, session.err, timeout_s=left_s)

        found = measure_accuracy(client, platform, space, archs=archs, seed=seed, wait=wait)
    if output is not None:
        with writing(output, field="json"):
            output.write_text(found.model_dump_json(indent=1) + "\n", encoding="utf-8")
    for one in found.left_out:
        if one.why in (LeftOut.TAUGHT, LeftOut.JUDGED):
            session.say(f"left out, {one.why} the predictor ({one.detail}): {found.space} {one.genes}")
    session.show(found, lambda: accuracy_tables(found))
    compared = len(found.architectures) if found.figures is not None else 0
    context.exit(exit_code_of_counts(compared, found.comparable) if compared else ExitCode.JOB_FAILED)


def accuracy_tables(found: Accuracy) -> RenderableType:
    """How near a predictor came, with the noise floor beside it, and what was left out."""
    predictor = f"{found.predictor_id}, version {found.predictor_version}" if found.predictor_id else None
    told = {
        "platform": found.platform,
        "space": f"{found.space}, seed {found.seed}",
        "predictor": predictor,
        "compared": f"{len(found.architectures)} of {found.drawn} architectures",
        "left out": left_out_text(found),
        "board time": duration_text(found.board_s),
    }
    if found.figures is None:
        return facts(told | {"figures": f"none: it takes {LEAST} architectures that could be compared"})
    return Group(facts(told | {"inside their intervals": _inside_text(found.figures)}), nearness_table(found.figures))


def nearness_table(figures: Figures) -> RenderableType:
    """Predictions and second measurements, against the same first measurements."""
    rows = [
        _nearness_row("the predictor", figures.predictor),
        _nearness_row("a second measurement (noise floor)", figures.floor),
        _nearness_row("the predictor, to raw medians", figures.of_medians),
    ]
    return table(("how near", "within 5 %", "within 10 %", "mean error"), rows)


def _nearness_row(name: str, found: Nearness) -> tuple[str, ...]:
    return name, found.within_5.text, found.within_10.text, f"{100 * found.mape:.2f} %"


def architectures_table(found: Accuracy) -> RenderableType:
    """Predicted beside measured, one architecture a line."""
    rows = [
        (
            f"{found.space} #{one.number}",
            ms_text(one.predicted_ms),
            f"{ms_text(one.low_ms)}-{ms_text(one.high_ms)}",
            ms_text(one.measured_ms),
            f"{100 * (one.predicted_ms / one.measured_ms - 1):+.1f} %",
            ms_text(one.again_ms),
            f"{100 * (one.again_ms / one.measured_ms - 1):+.1f} %",
        )
        for one in found.architectures
    ]
    names = ("architecture", "predicted ms", "interval ms", "measured ms", "error", "measured again ms", "noise")
    return table(names, rows)


def left_out_text(found: Accuracy) -> str:
    """What was left out, counted by reason: ``2 taught, 3 rough (3 grade D)``."""
    parts = []
    for why in LeftOut:
        details = Counter(one.detail for one in found.left_out if one.why == why)
        if details and why in (LeftOut.TAUGHT, LeftOut.JUDGED):
            parts.append(f"{details.total()} {why}")
        elif details:
            told = "; ".join(f"{count} {detail}" for detail, count in details.most_common(3))
            parts.append(f"{details.total()} {why} ({told})")
    return ", ".join(parts)


def _inside_text(figures: Figures) -> str:
    if figures.inside is None or figures.promised is None:
        return "none of them promises anything"
    count = figures.predictor.within_5.count
    wide = f"; {count - figures.inside.count} of {count} promise nothing" if figures.inside.count < count else ""
    return f"{figures.inside.text} of {figures.inside.count}, where {figures.promised:.0%} is promised{wide}"
