"""`benchfarm adapt` and `benchfarm adaptations`: predictors for a platform from donors and few measurements."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Final

import typer
from rich.console import RenderableType

from benchfarm.calls import checked
from benchfarm.client import Client
from benchfarm.commands.options import ARCHITECTURE_EXAMPLE, PLATFORM_HELP, grouped, seconds_of, told_as_typed
from benchfarm.commands.session import Json, Session
from benchfarm.commands.tables import facts, table
from benchfarm.durations import duration_text, parse_duration_s
from benchfarm.exit_codes import ExitCode
from benchfarm.workload_text import parse_architecture
from benchfarm_core.adapting import (
    AdaptationRequest,
    AdaptationState,
    AdaptationView,
    AdaptedPredictor,
    CurvePoint,
    DonorChoice,
    parse_target,
)
from benchfarm_core.errors import Unavailable
from benchfarm_core.predictors import HoldoutScore

app = typer.Typer(help="Adaptations: predictors made from donors and few measurements.", no_args_is_help=True)

AdaptationId = Annotated[str, typer.Argument(metavar="ADAPTATION", help="The adaptation's id.")]
Timeout = Annotated[str | None, typer.Option(metavar="DURATION", help="Stop waiting after this; it goes on.")]
EXIT_CODES: Final = {AdaptationState.FAILED: ExitCode.JOB_FAILED, AdaptationState.CANCELLED: ExitCode.JOB_FAILED}


@dataclass(frozen=True, slots=True)
class AdaptationOptions:
    """What is asked for."""

    budget: Annotated[str, typer.Option(metavar="DURATION", help="Board time to spend, without hold-outs.")] = "180s"
    target: Annotated[str, typer.Option(help="How good is good enough: SHARE@5% or SHARE@10%.")] = "0.95@10%"
    space: Annotated[
        list[str],
        typer.Option(help="A search space whose architectures may be measured. Repeatable; none: kernels alone."),
    ] = field(default_factory=list)
    unseen_space: Annotated[
        list[str], typer.Option(help="A search space that is judged and of which no architecture teaches. Repeatable.")
    ] = field(default_factory=list)
    holdouts: Annotated[int, typer.Option(min=5, help="Architectures of each space that judge.")] = 20
    donors: Annotated[DonorChoice, typer.Option(help="From which platforms it may start.")] = DonorChoice.ANY
    seed: Annotated[str, typer.Option(help="What is drawn follows from it.")] = "0"
    architecture: Annotated[
        list[str],
        typer.Option(
            metavar="TEXT",
            help="One that teaches or judges instead of what would be drawn, the best first, such as the winners of a"
            f" search; lists with commas: '{ARCHITECTURE_EXAMPLE}'. Repeatable.",
        ),
    ] = field(default_factory=list)

    @property
    def request(self) -> AdaptationRequest:
        """As the farm takes it; given architectures bring their spaces along. Raises InvalidRequest."""
        given = tuple(map(parse_architecture, self.architecture))
        wanted = {
            "architectures": given,
            "budget_s": parse_duration_s(self.budget, field="budget_s"),
            "target": parse_target(self.target),
            "spaces": tuple(dict.fromkeys([*self.space, *(one.space for one in given)])),
            "unseen_spaces": tuple(self.unseen_space),
            "holdouts": self.holdouts,
            "donors": self.donors,
            "seed": self.seed,
        }
        return checked(AdaptationRequest, wanted)


def add_to(main: typer.Typer) -> None:
    """Add the verbs."""
    main.command()(adapt)
    main.add_typer(app, name="adaptations")


@grouped
def adapt(
    context: typer.Context,
    platform: Annotated[str, typer.Argument(help=PLATFORM_HELP)],
    options: AdaptationOptions,
    wait: Annotated[bool, typer.Option(help="Follow it to its end.")] = True,
    timeout: Timeout = None,
    _json: Json = False,
) -> None:
    """Make predictors for a platform: probes, rounds of measurements, then judged on what was declared beforehand.

    What answers already stays unless the new one is better on the same hold-outs.
    """
    session = Session.of(context)
    names = {
        "budget_s": "--budget",
        "target": "--target",
        "spaces": "--space",
        "unseen_spaces": "--unseen-space",
        "architectures": "--architecture",
    }
    with told_as_typed(names):
        request = options.request
    timeout_s = seconds_of(timeout, "--timeout")
    with session.client(patient=True) as client:
        found = client.adaptations.start(platform, request)
        session.say(f"adaptation {found.id} of {found.platform}")
        if wait:
            found = _follow(session, client, found.id, timeout_s)
    session.show(found, *_tables(found))
    context.exit(EXIT_CODES.get(found.state, ExitCode.OK))


def _follow(session: Session, client: Client, adaptation_id: str, timeout_s: float | None) -> AdaptationView:
    try:
        return client.adaptations.wait(adaptation_id, progress=_teller(session.say), timeout_s=timeout_s)
    except Unavailable as error:
        error.detail += f"; it goes on when the farm is back: benchfarm adaptations watch {adaptation_id}"
        raise


def _teller(say: Callable[[str], None]) -> Callable[[AdaptationView], None]:
    """Says a line whenever something that people read has changed."""
    last = ""

    def tell(found: AdaptationView) -> None:
        nonlocal last
        line = progress_text(found)
        if line != last:
            last = line
            say(line)

    return tell


def progress_text(found: AdaptationView) -> str:
    """One line: where it stands, what it cost so far, and how good it would be."""
    seen = found.measured
    ended = seen.done + seen.failed
    parts = [
        f"{found.state}",
        f"round {found.round}",
        f"{ended}/{seen.wanted} measured",
        f"{duration_text(found.board_s)} of {duration_text(found.request.budget_s)}",
    ]
    if found.state == AdaptationState.JUDGING:
        parts.append(f"{seen.holdouts_done}/{seen.holdouts} hold-outs")
    parts.append(f"expected {_score(found.expected)}" if found.expected else "nothing expected yet")
    return ", ".join(parts)


@app.command("list")
def list_adaptations(
    context: typer.Context,
    platform: Annotated[str | None, typer.Option(help=f"Only of this one. {PLATFORM_HELP}")] = None,
    state: Annotated[AdaptationState | None, typer.Option(help="Only in this state.")] = None,
    _json: Json = False,
) -> None:
    """Adaptations, the newest first."""
    session = Session.of(context)
    with session.client() as client:
        found = list(client.adaptations.list(platform=platform, state=state))
    rows = [
        (one.id, one.platform, one.state, one.round, duration_text(one.board_s), _score(one.expected), one.reason)
        for one in found
    ]
    names = ("id", "platform", "state", "round", "board time", "expected", "reason")
    session.show(found, lambda: table(names, rows))


@app.command()
def show(context: typer.Context, adaptation: AdaptationId, _json: Json = False) -> None:
    """One adaptation's whole story: what it cost, its donors, its curve, its predictors."""
    session = Session.of(context)
    with session.client() as client:
        found = client.adaptations.get(adaptation)
    session.show(found, *_tables(found))


@app.command()
def watch(context: typer.Context, adaptation: AdaptationId, timeout: Timeout = None, _json: Json = False) -> None:
    """Follow one until it ends."""
    session = Session.of(context)
    timeout_s = seconds_of(timeout, "--timeout")
    with session.client(patient=True) as client:
        found = _follow(session, client, adaptation, timeout_s)
    session.show(found, *_tables(found))
    context.exit(EXIT_CODES.get(found.state, ExitCode.OK))


@app.command()
def cancel(context: typer.Context, adaptation: AdaptationId, _json: Json = False) -> None:
    """End one; what was measured stays."""
    session = Session.of(context)
    with session.client() as client:
        found = client.adaptations.cancel(adaptation)
    session.show(found, lambda: progress_text(found))


def _tables(found: AdaptationView) -> list[Callable[[], RenderableType]]:
    return [lambda: _facts(found), lambda: _curve(found.curve), lambda: _predictors(found.predictors)]


def _facts(found: AdaptationView) -> RenderableType:
    request = found.request
    return facts(
        {
            "id": found.id,
            "platform": found.platform,
            "state": found.state,
            "reason": found.reason,
            "asked for": f"{request.target.text} within {duration_text(request.budget_s)}",
            "spaces": list(request.spaces) or "kernels alone",
            "unseen spaces": list(request.unseen_spaces),
            "given architectures": len(request.architectures) or None,
            "board time": duration_text(found.board_s),
            "of hold-outs": duration_text(found.holdout_board_s),
            "known before": duration_text(found.known_board_s),
            "training": duration_text(found.train_s),
            "measured": found.measured.model_dump(),
            "donors": "\n".join(found.donors),
            "by": found.author,
        }
    )


def _curve(points: list[CurvePoint]) -> RenderableType:
    rows = [
        (one.round, f"{one.board_s:.1f}", one.rows, _score(one.unseen), "\n".join(one.chosen[:3]), f"{one.train_s:.1f}")
        for one in points
    ]
    return table(("round", "board s", "rows", "expected", "made of", "training s"), rows, title="rounds")


def _predictors(found: list[AdaptedPredictor]) -> RenderableType:
    rows = [
        (one.subject, one.predictor_id, one.version, one.is_active, _score(one.holdout), _score(one.before), one.detail)
        for one in found
    ]
    names = ("subject", "predictor", "version", "answers", "on hold-outs", "what answered before", "detail")
    return table(names, rows, title="predictors")


def _score(found: HoldoutScore | None) -> str:
    """``98 % / 100 % of 20, 1.4 % off``: within 5 %, within 10 %, rows, mean error."""
    if found is None:
        return "-"
    within = f"{found.within_5:.0%} / {found.within_10:.0%} of {found.count}, {found.mape:.1%} off"
    return within.replace("%", " %")
