"""`benchfarm platforms`: where things are measured."""

from typing import Annotated

import typer
from rich.console import RenderableType

from benchfarm.commands.options import PlatformOptions, grouped
from benchfarm.commands.session import Json, Session
from benchfarm.commands.tables import facts, ms_text, table
from benchfarm_core.operating_ranges import ranges_text
from benchfarm_core.platforms import KEY_FORM, OPTIONS_FORM
from benchfarm_core.views import PlatformView

app = typer.Typer(
    help=f"Where things are measured: board model x operating point x engine x precision. A key is {KEY_FORM}; options"
    f" of the engine (GET /v1/engines) are written as {OPTIONS_FORM}, those at their defaults are left out.",
    no_args_is_help=True,
)

PlatformText = Annotated[str, typer.Argument(metavar="PLATFORM", help="The platform's id, key or alias.")]


@app.command("list")
@grouped
def list_platforms(
    context: typer.Context,
    filters: PlatformOptions,
    _json: Json = False,
) -> None:
    """Platforms, with the boards that serve them now."""
    session = Session.of(context)
    with session.client() as client:
        found = list(client.platforms(**filters.filters))
    rows = [(p.id, p.key, p.aliases, p.boards_online, p.results) for p in found]
    session.show(found, lambda: table(("id", "key", "aliases", "online", "results"), rows))


@app.command()
def show(context: typer.Context, platform: PlatformText, _json: Json = False) -> None:
    """One platform."""
    session = Session.of(context)
    with session.client() as client:
        found = client.platform(platform)
    session.show(found, lambda: _facts(found))


@app.command()
def alias(
    context: typer.Context,
    platform: PlatformText,
    alias: Annotated[str, typer.Argument(help="The name that shall point at it.")],
    _json: Json = False,
) -> None:
    """Point an alias at a platform. Operators only; answers go on naming the real key."""
    session = Session.of(context)
    with session.client() as client:
        found = client.set_platform_alias(platform, alias)
    session.show(found, lambda: _facts(found))


@app.command()
def fusion(context: typer.Context, platform: PlatformText, _json: Json = False) -> None:
    """Which operators the platform's engine computes as one, by latency and by profile."""
    session = Session.of(context)
    with session.client() as client:
        found = client.platform_fusion(platform)
    if not found.measured:
        session.say("never measured for this engine: by default, a layer and its activation are one kernel")
    names = ("first", "second", "fused", "by latency", "by profile", "t1 ms", "t2 ms", "t12 ms", "disagree")
    rows = [
        (
            r.first,
            r.second,
            r.fused,
            r.by_latency,
            r.by_profile,
            *map(ms_text, (r.t1_ms, r.t2_ms, r.t12_ms)),
            r.disagree,
        )
        for r in found.measured
    ]
    session.show(found, lambda: table(names, rows))


def _facts(found: PlatformView) -> RenderableType:
    point = found.operating_point.model_dump(exclude_none=True)
    shown = found.model_dump(exclude={"operating_point", "engine", "ranges"})
    return facts({**shown, **point, "engine": found.engine.key, "can be set to": ranges_text(found.ranges)})
