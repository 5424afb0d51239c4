"""How lists and single things look in a terminal. Every text of the farm is escaped: it is data, not markup."""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from rich import box
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    """Text for a terminal, without characters that steer one; lines and tabs stay."""
    return _CONTROL.sub("", text)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None) -> Table:
    """A table; columns whose name ends in a unit or counts something stand to the right."""
    made = Table(box=box.SIMPLE_HEAD, title=escape(title) if title else None, title_justify="left", pad_edge=False)
    for name in columns:
        right = name.endswith((" ms", " s", "bytes", " MiB")) or name in (
            "items",
            "launches",
            "results",
            "online",
            "version",
        )
        made.add_column(name, justify="right" if right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(escape(cell(value)) for value in row))
    return made


def facts(values: Mapping[str, object]) -> RenderableType:
    """One thing: a name and a value per line. Names that are identifiers, as fields are, are shown in words; any other
    stands as it is, since a file's name has its underscores."""
    made = Table(box=None, show_header=False, pad_edge=False)
    made.add_column(style="bold")
    made.add_column(overflow="fold")
    for name, value in values.items():
        made.add_row(escape(name.replace("_", " ") if name.isidentifier() else name), escape(cell(value)))
    return made


def cell(value: object) -> str:
    """A value as text: lists with commas, times in UTC, nothing as a dash."""
    if value is None or value in ("", [], {}, ()):
        return "-"
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={cell(part)}" for name, part in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(cell(part) for part in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def ms_text(value_ms: float | None) -> str:
    """A time in ms to about four figures."""
    if value_ms is None:
        return "-"
    decimals = next((digits for limit, digits in ((100, 1), (10, 2), (1, 3), (0.1, 4)) if value_ms >= limit), 5)
    return f"{value_ms:.{decimals}f}"
