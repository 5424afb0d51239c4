"""`benchfarm predictors`: what answers where nothing is measured, how good it is, and the way back."""

from typing import Annotated

import typer
from rich.console import RenderableType

from benchfarm.calls import checked
from benchfarm.commands.platforms import PlatformText
from benchfarm.commands.session import Json, Session
from benchfarm.commands.tables import cell, facts, table
from benchfarm_core.predictors import HoldoutScore, PredictorState, PredictorView, RollbackRequest

app = typer.Typer(
    help="Latency models of platforms, one for each kernel type and one for whole models.", no_args_is_help=True
)

Subject = Annotated[str | None, typer.Option(help="A kernel type, or `model`.")]


@app.command("list")
def list_predictors(
    context: typer.Context,
    platform: Annotated[str | None, typer.Option(help="A platform's id, key or alias.")] = None,
    subject: Subject = None,
    state: Annotated[PredictorState | None, typer.Option(help="`active`: those that answer.")] = None,
    _json: Json = False,
) -> None:
    """Versions of predictors, newest first, and how many predictions came within 10 % of what was measured."""
    session = Session.of(context)
    with session.client() as client:
        found = list(client.predictors.list(platform=platform, subject=subject, state=state))
    names = ("id", "platform", "subject", "version", "state", "within 10 %", "rows", "board s", "made")
    session.show(found, lambda: table(names, map(_listed, found)))


def _listed(found: PredictorView) -> tuple[object, ...]:
    evidence = found.evidence
    place = (found.id, found.platform, found.subject, found.version, found.state)
    return (*place, _within_10(found), sum(evidence.rows.values()), f"{evidence.board_s:.1f}", found.created_at)


def _within_10(found: PredictorView) -> str:
    """Hold-outs say most; without them, what was said of rows by models that had not seen them."""
    evidence = found.evidence
    if evidence.holdout is not None:
        return f"{evidence.holdout.within_10:.1%} of {evidence.holdout.count} hold-outs"
    return "-" if evidence.unseen is None else f"{evidence.unseen.within_10:.1%} of {evidence.unseen.count} rows"


@app.command()
def show(
    context: typer.Context,
    predictor: Annotated[str, typer.Argument(metavar="PREDICTOR", help="The version's id.")],
    _json: Json = False,
) -> None:
    """One version: what it was made of, by whom it was taught, and how good it is."""
    session = Session.of(context)
    with session.client() as client:
        found = client.predictors.get(predictor)
    session.show(found, lambda: _facts(found))


@app.command()
def rollback(
    context: typer.Context,
    platform: PlatformText,
    subject: Annotated[str, typer.Argument(metavar="SUBJECT", help="A kernel type, or `model`.")],
    reason: Annotated[str, typer.Option(help="Why; it stands beside both versions.")],
    version: Annotated[int | None, typer.Option(min=1, help="Only if this version answers now.")] = None,
    _json: Json = False,
) -> None:
    """Let the version before the active one answer again, at once. Operators only."""
    session = Session.of(context)
    request = checked(RollbackRequest, {"reason": reason, "version": version})
    with session.client() as client:
        found = client.predictors.rollback(platform, subject, request)
    session.show(found, lambda: f"{found.subject} on {found.platform}: version {found.version} answers again")


def _facts(found: PredictorView) -> RenderableType:
    evidence = found.evidence
    shown = found.model_dump(exclude={"lineage", "evidence"})
    made = {
        "made of": evidence.chosen,
        "rows": evidence.rows,
        "donors": evidence.donors,
        "board s": f"{evidence.board_s:.1f}",
        "hold-outs": _score(evidence.holdout),
        "unseen rows": _score(evidence.unseen),
        "adaptation": evidence.adaptation_id,
    }
    lineage = found.lineage.model_dump(exclude={"donors"})
    return facts({**shown, **made, **lineage})


def _score(score: HoldoutScore | None) -> str:
    """`98.0% within 10 %, 90.0% within 5 %, MAPE 2.1%, 91.0% inside their interval, of 50; measured again: ...`."""
    if score is None:
        return cell(None)
    told = (
        f"{score.within_10:.1%} within 10 %, {score.within_5:.1%} within 5 %, MAPE {score.mape:.1%},"
        f" {score.coverage:.1%} inside their interval, of {score.count}"
    )
    if score.floor_within_10 is None or score.floor_within_5 is None:
        return told
    return f"{told}; measured again: {score.floor_within_10:.1%} and {score.floor_within_5:.1%}"
