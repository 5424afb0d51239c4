"""What one run of the command shares: the farm to talk to, and where its words go.

Results go to stdout, everything else to stderr. With --json, stdout holds exactly one JSON document, also when the
farm refuses: then it is `{"error": {...}}`.
"""

import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Annotated, Any, Final, NoReturn, TextIO, cast

import typer
from pydantic import TypeAdapter
from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.segment import Segment

from benchfarm.client import Client
from benchfarm.commands.tables import printable
from benchfarm.exit_codes import ExitCode, exit_code_of_error
from benchfarm.login import effective
from benchfarm.retries import Retries
from benchfarm_core.errors import BenchfarmError

_JSON: TypeAdapter[Any] = TypeAdapter(Any)
_DIMS: Final = re.compile(r"dims=\{'(.*)': 1\}")
"""How the farm and the SDK write the dimension that an upload lacks; here it is an option."""
IMPATIENT_ATTEMPTS = 3
PIPE_COLUMNS = 200
"""Width of tables where stdout is no terminal: nothing is cut off in a file."""


class _Console(Console):
    """rich's own console ends with 1 when the reader is gone, which says something else here.

    Nothing that people or boards wrote steers the terminal: whatever is printed goes through `render`.
    """

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As rich does, without control characters but those that rich itself means."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))

    def on_broken_pipe(self) -> NoReturn:
        _end_unread()


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    return _Console(stderr=stderr, width=None if stream.isatty() else PIPE_COLUMNS, highlight=False)


class StdoutLost(Exception):
    """stdout cannot be written, and nobody went away: a full disk, mostly."""


@contextmanager
def _writing_stdout() -> Iterator[None]:
    """Write and flush; where that fails, the command ends with the exit code that says so."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        _end_unread()
    except OSError as error:
        _abandon(sys.stdout)
        raise _lost(error) from error


def _lost(error: OSError) -> StdoutLost:
    return StdoutLost(f"cannot write to stdout: {error.strerror or error}")


class _Told:
    """stdout, whose failures end the command as those of `Session` do, whoever writes. They are the same again until
    the end: libraries try streams out, and swallow what they meet."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.has_failed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._telling():
            return self._stream.write(text)

    def flush(self) -> None:
        with self._telling():
            self._stream.flush()

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.has_failed = True
            if isinstance(error, BrokenPipeError):
                raise typer.Exit(ExitCode.UNREAD) from error
            raise _lost(error) from error


@contextmanager
def telling_stdout() -> Iterator[None]:
    """Meanwhile stdout tells what it cannot take: help and the version are written by nobody of ours."""
    told = _Told(sys.stdout)
    try:
        with redirect_stdout(cast(TextIO, told)):
            yield
    finally:
        if told.has_failed:
            _abandon(sys.stdout)


def _end_unread() -> NoReturn:
    """End without a word: nobody reads stdout any more."""
    _abandon(sys.stdout)
    raise typer.Exit(ExitCode.UNREAD)


def _abandon(stream: TextIO) -> None:
    """What a stream still buffers goes nowhere, instead of failing once more when the process ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _try_to_write(stream: TextIO, text: str) -> None:
    """Last words: that they cannot be written must not hide what they are about."""
    try:
        stream.write(text)
        stream.flush()
    except OSError:
        _abandon(stream)


@dataclass(slots=True)
class Session:
    """One run of the command."""

    url: str | None = None
    token_file: Path | None = None
    ca_file: Path | None = None
    as_json: bool = False
    out: Console = field(default_factory=lambda: _console(stderr=False))
    err: Console = field(default_factory=lambda: _console(stderr=True))

    @classmethod
    def of(cls, context: typer.Context) -> "Session":
        """The session of a command's context."""
        session = context.find_object(cls)
        assert session is not None, "main passes the session to every command"
        return session

    def client(self, *, patient: bool = False) -> Client:
        """A client for the farm that options, environment and the stored login name.

        A person who asks for a list wants to hear soon that the farm is away; who waits for a job (`patient`) wants
        to sit out a restart of it.
        """
        login = effective(self.url, self.token_file, self.ca_file)
        retries = Retries() if patient else Retries(attempts=IMPATIENT_ATTEMPTS)
        return Client(login.url, login.token, ca_file=login.ca_file, retries=retries)

    def show(self, document: object, *tables: Callable[[], RenderableType]) -> None:
        """Print a result: as one JSON document, or as tables, which are only made when they are wanted."""
        if self.as_json:
            self.write(_JSON.dump_json(document, indent=2).decode() + "\n")
            return
        made = [make() for make in tables]
        with _writing_stdout():
            for table in made:
                self.out.print(table)

    def write(self, text: str, *, now: bool = False) -> None:
        """Print text for programs, as it is; `now`: at once, for whoever follows it."""
        with _writing_stdout():
            sys.stdout.write(text)
            if now:
                sys.stdout.flush()

    def say(self, text: str) -> None:
        """A remark for people."""
        self.err.print(escape(text))

    def refuse(self, error: BenchfarmError) -> ExitCode:
        """Tell an error in one line, with what is needed to ask about it, and return the exit code."""
        code = exit_code_of_error(error)
        error.detail = _DIMS.sub(lambda found: f"--dim {quote(found[1] + '=1')}", error.detail)
        parts = {"code": error.code, "field": error.field, "request": error.request_id}
        known = " ".join(f"{name}={value}" for name, value in parts.items() if value)
        return self.end(code, f"{error.detail} [{known}]", error)

    def end(self, code: ExitCode, text: str, error: BenchfarmError | None = None) -> ExitCode:
        """Tell in one line why the command ends like this, and return the exit code."""
        line = printable(" ".join(text.split()))
        _try_to_write(sys.stderr, f"benchfarm: {line}\n")
        if self.as_json:
            detail = {
                "code": error.code if error else code.name.lower(),
                "detail": error.detail if error else line,
                "field": error.field if error else None,
                "request_id": error.request_id if error else None,
                "exit_code": int(code),
            }
            _try_to_write(sys.stdout, json.dumps({"error": detail}) + "\n")
        return code


def _remember_json(context: typer.Context, value: bool) -> bool:
    if value:
        Session.of(context).as_json = True
    return value


Json = Annotated[
    bool, typer.Option("--json", help="One JSON document on stdout, nothing else there.", callback=_remember_json)
]
"""The option that every command has; the session remembers it."""
