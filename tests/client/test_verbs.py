"""Verbs of other distributions: found by their entry point, or named with the command that brings them."""

from importlib.metadata import EntryPoint
from typing import Annotated, Any

import pytest
import typer

from benchfarm.commands import verbs
from benchfarm.exit_codes import ExitCode

group = typer.Typer(help="A verb with verbs below it.")


@group.command("run")
def group_run(times: int = 1) -> None:
    """Run."""
    typer.echo(f"ran {times}")


def single(name: Annotated[str, typer.Option()] = "nobody") -> None:
    """A verb without verbs below it."""
    typer.echo(f"hello {name}")


def broken() -> None:
    """A verb that fails."""
    raise RuntimeError("no wheel")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Only the entry points that a test names are installed, as objects of this file; `evaluate single` is one below
    `evaluate`."""
    names: list[str] = []
    here = {"group": group, "single": single, "broken": broken, "agent": single}

    class Found(EntryPoint):
        def load(self) -> Any:
            return here[self.name]

    def entry_points(*, group: str, name: str | None = None) -> list[EntryPoint]:
        above = {"benchfarm.commands": "", "benchfarm.commands.evaluate": "evaluate "}[group]
        own = [found.removeprefix(above) for found in names if above == found[: -len(found.split()[-1])]]
        return [Found(found, "x:y", group) for found in own if name in (None, found)]

    monkeypatch.setattr(verbs, "entry_points", entry_points)
    return names


def test_a_verb_with_verbs_below_it(command: Any, installed: list[str]) -> None:
    installed.append("group")
    assert command("group", "run", "--times", "3").out == "ran 3\n"
    assert "A verb with verbs below it" in command("--help").out


def test_a_verb_without(command: Any, installed: list[str]) -> None:
    installed.append("single")
    assert command("single", "--name", "you").out == "hello you\n"


def test_our_own_verbs_cannot_be_replaced(command: Any, installed: list[str]) -> None:
    installed += ["jobs", "evaluate accuracy"]
    assert "Submit jobs" in command("jobs", "--help").out
    assert "noise floor" in command("evaluate", "accuracy", "--help").out


def test_a_verb_below_evaluate_stands_beside_our_own(command: Any, installed: list[str]) -> None:
    installed.append("evaluate single")
    assert command("evaluate", "single", "--name", "you").out == "hello you\n"
    shown = command("evaluate", "--help").out
    assert [name in shown for name in ("accuracy", "single", "transfer")] == [True] * 3
    assert command("single").code == ExitCode.USAGE


ABSENT: dict[tuple[str, ...], verbs.Addition] = {(name,): found for name, found in verbs.ADDITIONS.items()} | {
    ("evaluate", name): found for name, found in verbs.EVALUATIONS.items()
}


@pytest.mark.parametrize("verb", sorted(ABSENT))
@pytest.mark.parametrize("more", [[], ["run", "--anything"], ["--help"]])
def test_a_verb_that_is_not_installed_says_what_brings_it(
    command: Any, installed: list[str], verb: tuple[str, ...], more: list[str]
) -> None:
    ended = command(*verb, *more)
    assert (ended.code, ended.out) == (ExitCode.NOT_INSTALLED, "")
    assert ABSENT[verb].pip_command in ended.err
    assert "--require-hashes" in ended.err


def test_an_installed_verb_is_no_longer_missing(command: Any, installed: list[str]) -> None:
    installed.append("agent")
    assert command("agent").out == "hello nobody\n"


def test_a_verb_that_fails_is_told_in_one_line(command: Any, installed: list[str]) -> None:
    installed.append("broken")
    ended = command("broken")
    assert ended.code == ExitCode.FAULT
    assert ended.err.count("\n") == 1


def test_the_pip_commands_name_folders_that_exist(request: pytest.FixtureRequest) -> None:
    root = request.config.rootpath
    for addition in ABSENT.values():
        assert (root / "requirements" / addition.requirements).is_file()
        for path in addition.paths:
            assert (root / path.partition("[")[0] / "pyproject.toml").is_file()
