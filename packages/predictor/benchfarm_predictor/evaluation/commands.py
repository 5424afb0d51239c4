"""`benchfarm evaluate transfer`: the verb that this package adds to the command line. It needs no farm."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from benchfarm_core.errors import InvalidRequest, TooLarge

if TYPE_CHECKING:
    from benchfarm_predictor.evaluation.report import TransferEvaluation
    from benchfarm_predictor.evaluation.transfer import NamedSet

NAMES_MAX_BYTES: Final = 65_536


def transfer(
    *,
    target: Annotated[Path, typer.Option(metavar="DIR", help="The measurement set to predict.")],
    pool: Annotated[list[Path], typer.Option(metavar="DIR [DIR ...]", help="Measurement sets to learn from.")],
    more: Annotated[list[Path] | None, typer.Argument(metavar="DIR", help="Further sets of the pool.")] = None,
    samples: Annotated[str, typer.Option(help="How many rows of the target are known, one size or several.")] = (
        "30,100,300,1000"
    ),
    repeats: Annotated[int, typer.Option(help="How often samples are drawn.")] = 10,
    kernel: Annotated[list[str] | None, typer.Option(help="Only this kernel type. Repeatable.")] = None,
    names: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE|FOREIGN=OURS",
            help="What a foreign kernel name stands for: conv=conv-bn-act:act=none; or a JSON file of such pairs. "
            "Repeatable.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="What all chance comes from.")] = 0,
    baselines: Annotated[
        bool, typer.Option(help="LitePred's network and nn-Meter's forest too; they take most of the time.")
    ] = True,
    output: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write everything there.")] = None,
) -> None:
    """How well a platform is predicted from few samples and donors, by every method. No services needed.

    The same figures come for the same sets, options and versions.
    """
    from benchfarm_predictor.evaluation.tables import left_out_lines, text_tables
    from benchfarm_predictor.evaluation.transfer import Plan, evaluate_transfer

    wanted = tuple(kernel) if kernel else None
    plan = Plan(sizes(samples), repeats, wanted, seed=seed, baselines=baselines)
    plan.check()
    _check_output(output)
    naming = namings(names or [])
    sets = [named_set(path, naming) for path in (target, *pool, *(more or []))]
    with _Progress() as progress:
        found = evaluate_transfer(sets[0], sets[1:], plan, say=progress.say)
    for line in left_out_lines(found):
        typer.echo(line, err=True)
    typer.echo(text_tables(found))
    if output is not None:
        _write(output, found)


def sizes(text: str) -> tuple[int, ...]:
    """``30,100`` as ascending numbers. Raises InvalidRequest."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise InvalidRequest(f"{text[:60]!r} is no list of numbers; the form is 30,100,300", field="samples")
    return tuple(sorted({int(part) for part in parts}))


def namings(texts: Sequence[str]) -> dict[str, str]:
    """Foreign kernel names and what they stand for, from pairs and from files of pairs. Raises InvalidRequest."""
    found: dict[str, str] = {}
    for text in texts:
        foreign, equals, ours = text.partition("=")
        if equals and foreign and ours:
            found[foreign] = ours
        else:
            found |= _names_file(Path(text))
    return found


def _names_file(path: Path) -> dict[str, str]:
    try:
        if path.stat().st_size > NAMES_MAX_BYTES:
            raise TooLarge(f"{path} is larger than {NAMES_MAX_BYTES} bytes")
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        detail = f"{str(path)[:60]!r} is neither FOREIGN=OURS nor a JSON file: {error}"
        raise InvalidRequest(detail, field="names") from error
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise InvalidRequest(f"{path} must hold one JSON object of texts", field="names")
    return {str(name): value for name, value in found.items()}


def named_set(path: Path, naming: dict[str, str]) -> "NamedSet":
    """The measurement set of a folder, called as the folder. Raises InvalidRequest."""
    from benchfarm_predictor.evaluation.transfer import NamedSet
    from benchfarm_predictor.set_folders import read_folder

    try:
        return NamedSet(path.resolve().name, read_folder(path, naming))
    except OSError as error:
        raise InvalidRequest(f"cannot read {path}: {error.strerror or error}", field="target") from error


class _Progress:
    """One line on stderr that is overwritten; nothing where nobody looks, as in a file."""

    def __init__(self) -> None:
        self.is_seen = sys.stderr.isatty()
        self.length = 0

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_seen:
            sys.stderr.write("\r" + " " * self.length + "\r")

    def say(self, text: str) -> None:
        """Show what is going on now."""
        if self.is_seen:
            sys.stderr.write("\r" + text.ljust(self.length))
            sys.stderr.flush()
            self.length = len(text)


def _check_output(path: Path | None) -> None:
    """Before the work: hours later is too late to hear of it."""
    if path is not None and (path.is_dir() or not path.resolve().parent.is_dir()):
        raise InvalidRequest(f"cannot write {path}: it must be a file in a folder that exists", field="json")


def _write(path: Path, found: "TransferEvaluation") -> None:
    try:
        path.write_text(found.model_dump_json(indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise InvalidRequest(f"cannot write {path}: {error.strerror or error}", field="json") from error
