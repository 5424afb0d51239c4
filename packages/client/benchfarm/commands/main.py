"""The door of the `benchfarm` command: its options, its verbs, and how each end becomes an exit code."""

import traceback
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from benchfarm.commands import (
    accounts,
    adaptations,
    agents,
    boards,
    bundles,
    comparisons,
    evaluation,
    exports,
    fusions,
    jobs,
    kernels,
    latency,
    logins,
    measurement_sets,
    models,
    platforms,
    pool,
    predictors,
    spaces,
    support,
    tokens,
)
from benchfarm.commands.session import Session, StdoutLost, telling_stdout
from benchfarm.commands.verbs import VerbGroup
from benchfarm.exit_codes import ExitCode
from benchfarm.settings import Settings
from benchfarm_core.errors import BenchfarmError

app = typer.Typer(
    cls=VerbGroup,
    name="benchfarm",
    help="Measure models and kernels on the boards of a Benchfarm. Exit codes: docs/cli.md.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
logins.add_to(app)
app.add_typer(models.app, name="models")
app.add_typer(jobs.app, name="jobs")
app.add_typer(boards.app, name="boards")
app.add_typer(bundles.app, name="bundle")
app.add_typer(measurement_sets.app, name="measurements")
app.add_typer(platforms.app, name="platforms")
app.add_typer(predictors.app, name="predictors")
app.add_typer(pool.app, name="pool")
app.add_typer(exports.app, name="export")
kernels.add_to(app)
support.add_to(app)
app.add_typer(tokens.app, name="tokens")
app.add_typer(accounts.app, name="accounts")
app.add_typer(agents.app, name="agents")
latency.add_to(app)
adaptations.add_to(app)
comparisons.add_to(app)
app.add_typer(evaluation.app, name="evaluate")
app.add_typer(fusions.app, name="fusion")
app.add_typer(spaces.app, name="spaces")


def _version(value: bool) -> None:
    if value:
        typer.echo(f"benchfarm {version('benchfarm')}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    url: Annotated[str | None, typer.Option(help="The farm, else BENCHFARM_URL, else that of the login.")] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="File with the token, else BENCHFARM_TOKEN(_FILE), else that of the login.")
    ] = None,
    ca_file: Annotated[
        Path | None, typer.Option(help="Certificates of a lab's own authority (PEM), else BENCHFARM_CA_FILE.")
    ] = None,
    _version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Options before the verb."""
    session = Session.of(context)
    session.url, session.token_file, session.ca_file = url, token_file, ca_file


def run(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code. No exception leaves this function."""
    session = Session()
    try:
        with telling_stdout():
            app(arguments, obj=session, prog_name="benchfarm")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BenchfarmError as error:
        return session.refuse(error)
    except StdoutLost as error:
        return session.end(ExitCode.UNWRITTEN, str(error))
    except TimeoutError as error:
        return session.end(ExitCode.TIMEOUT, str(error))
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except Exception as error:  # boundary: the edge to a person, where a bug too is told in one line
        if Settings().trace:
            traceback.print_exc()
        return session.end(
            ExitCode.FAULT, f"a fault of this command: {type(error).__name__}: {error} (BENCHFARM_TRACE=1 shows where)"
        )
    return ExitCode.OK
