"""`benchfarm fusion`: which operators an engine computes as one, found by measuring pairs of them."""

from typing import Annotated

import typer
from rich.console import RenderableType

from benchfarm.commands.options import seconds_of
from benchfarm.commands.session import Json, Session
from benchfarm.commands.tables import ms_text, table
from benchfarm.commands.watching import watch
from benchfarm.exit_codes import exit_code_of_counts
from benchfarm.fusions import FoundPair, FusionsFound, measure_fusions
from benchfarm.waiting import Deadline
from benchfarm_core.errors import InvalidRequest
from benchfarm_core.fusion import FusionView
from benchfarm_core.jobs import JobView
from benchfarm_core.operator_pairs import OPERATOR_PAIRS, Pair

app = typer.Typer(help="Which operators an engine computes as one.", no_args_is_help=True)

COLUMNS = ("first", "second", "t1 ms", "t2 ms", "t12 ms", "spread ms", "by latency", "by profile", "fused", "note")


@app.callback()
def fusion() -> None:
    """A group, though it has one command yet."""


@app.command()
def measure(
    context: typer.Context,
    platform: Annotated[str, typer.Option(help="The platform's id, key or alias.")],
    pair: Annotated[
        list[str] | None, typer.Option(metavar="FIRST+SECOND", help="Only this pair: Conv+Relu. Repeatable.")
    ] = None,
    max_age: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Oldest stored result to take; 0 measures anew.")
    ] = None,
    timeout: Annotated[str | None, typer.Option(metavar="DURATION", help="Stop waiting after this.")] = None,
    _json: Json = False,
) -> None:
    """Measure pairs of operators, each part alone and both, and tell the farm what is fused. Operators only.

    Interrupted, it goes on when called again: results that are stored are taken. Without --pair, those of networks.
    """
    session = Session.of(context)
    wanted = [_pair(text) for text in pair] if pair else list(OPERATOR_PAIRS)
    deadline = Deadline(seconds_of(timeout, "--timeout"))
    age_s = seconds_of(max_age, "--max-age")
    with session.client(patient=True) as client:

        def wait(job_id: str) -> JobView:
            left_s = None if deadline.timeout_s is None else deadline.left_s(deadline.timeout_s)
            return watch(client, job_id, session.err, timeout_s=left_s)

        found = measure_fusions(client, platform, wanted, wait=wait, max_age_s=age_s)
    session.show(found, lambda: _table(found))
    context.exit(exit_code_of_counts(found.complete, len(found.pairs)))


def _pair(text: str) -> Pair:
    first, sign, second = text.partition("+")
    if not first or not second or not sign:
        raise InvalidRequest(f"{text[:60]!r} is no pair; the form is: Conv+Relu", field="pair")
    return first, second


def _table(found: FusionsFound) -> RenderableType:
    known = {(one.first, one.second): one for one in found.view.measured}
    return table(COLUMNS, [_row(pair, known.get((pair.first, pair.second))) for pair in found.pairs])


def _row(pair: FoundPair, known: FusionView | None) -> tuple[object, ...]:
    if known is None:
        return (pair.first, pair.second, *[None] * 7, pair.reason)
    times = map(ms_text, (known.t1_ms, known.t2_ms, known.t12_ms, known.spread_ms))
    note = "; ".join(["the two disagree"] * known.disagree + [pair.reason] * bool(pair.reason))
    return (pair.first, pair.second, *times, known.by_latency, known.by_profile, known.fused, note)
