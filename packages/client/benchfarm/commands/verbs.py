"""Verbs that other distributions add to the `benchfarm` command, by the entry-point group `benchfarm.commands`, and to
`benchfarm evaluate`, by `benchfarm.commands.evaluate`.

An entry point names a `typer.Typer` (a verb with commands below it) or a function (a verb without). It is loaded when
its verb is used, so that the others cost nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, ClassVar, Final

import typer
from typer.core import TyperGroup

from benchfarm.exit_codes import ExitCode

GROUP: Final = "benchfarm.commands"
EVALUATION: Final = "benchfarm.commands.evaluate"


@dataclass(frozen=True, slots=True)
class Addition:
    """A verb that comes with another distribution: what it does, and how to get it from a checkout."""

    summary: str
    requirements: str
    paths: tuple[str, ...]

    @property
    def pip_command(self) -> str:
        """Third-party packages by hash, ours from local paths: never by name from an index."""
        return (
            f"pip install --require-hashes -r requirements/{self.requirements} && "
            f"pip install --no-deps {' '.join(self.paths)}"
        )


_AGENT: Final = ("./packages/core", "./packages/workloads", "./packages/engines", "./services/device-agent")
_TRAINING: Final = ("./packages/core", "./packages/workloads", "./packages/predictor", "./packages/client")
_EVERYTHING: Final = (
    *_AGENT,
    "./packages/predictor",
    "./packages/store",
    "./packages/client",
    "./services/api",
    "./services/worker",
    "./services/standalone",
)

ADDITIONS: Final[dict[str, Addition]] = {
    "agent": Addition("Drive the boards of this host.", "agent.txt", _AGENT),
    "up": Addition("Run a whole farm on this machine.", "runtime.txt", _EVERYTHING),
}
"""The verbs that the project's own distributions add."""
EVALUATIONS: Final[dict[str, Addition]] = {
    "transfer": Addition("Judge ways to predict on recorded measurements.", "train.txt", _TRAINING),
}
"""Those below `evaluate`."""


class VerbGroup(TyperGroup):
    """The command with its own verbs, the installed additional ones, and a word about those that are not installed."""

    entry_point_group: ClassVar[str] = GROUP
    additions: ClassVar[Mapping[str, Addition]] = ADDITIONS

    def list_commands(self, ctx: Any) -> list[str]:
        installed = (entry.name for entry in entry_points(group=self.entry_point_group))
        return list(dict.fromkeys([*super().list_commands(ctx), *self.additions, *sorted(installed)]))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        found = tuple(entry_points(group=self.entry_point_group, name=cmd_name))
        if found:
            return _loaded(found[0])
        return _absent(cmd_name, self.additions[cmd_name]) if cmd_name in self.additions else None


class EvaluationGroup(VerbGroup):
    """`benchfarm evaluate`: what needs a farm is the client's own, what needs recorded measurements may be added."""

    entry_point_group = EVALUATION
    additions = EVALUATIONS


def _loaded(entry: EntryPoint) -> Any:
    verb = entry.load()
    if isinstance(verb, typer.Typer):
        group = typer.main.get_group(verb)
        group.name = entry.name
        return group
    return _command(entry.name, verb)


def _absent(name: str, addition: Addition) -> Any:
    def tell(context: typer.Context) -> None:
        typer.echo(
            f"benchfarm: the verb {name!r} is not installed; in a checkout of Benchfarm: {addition.pip_command}",
            err=True,
        )
        context.exit(ExitCode.NOT_INSTALLED)

    tell.__doc__ = f"{addition.summary} (not installed)"
    # Whatever is asked of an absent verb, the answer is how to get it: no option of it is unknown or missing.
    settings = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}
    return _command(name, tell, settings)


def _command(name: str, function: Callable[..., Any], settings: dict[str, Any] | None = None) -> Any:
    app = typer.Typer(add_completion=False)
    app.command(name, context_settings=settings)(function)
    return typer.main.get_command(app)
