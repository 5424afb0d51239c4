"""What an agent sees of each board, written down for `benchfarm agent boards`."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from pydantic import TypeAdapter, ValidationError

from benchfarm_agent.files import write_whole
from benchfarm_core.values import Value


class Standing(Value):
    """One way to a board, for people. advice: what to do about its state; since_unix_s: when it began."""

    label: str
    state: str
    detail: str = ""
    advice: str = ""
    since_unix_s: float = 0.0


_STANDINGS = TypeAdapter(list[Standing])


class _Watch(Protocol):
    def standings(self) -> Sequence[Standing]: ...


def write_standings(path: Path, watch: _Watch) -> None:
    """Writes what is seen now; a full disk is no reason to stop."""
    with contextlib.suppress(OSError):
        write_whole(path, _STANDINGS.dump_json(list(watch.standings())), durable=False)


def read_standings(path: Path) -> list[Standing]:
    """What was written last; nothing where that cannot be read."""
    try:
        return _STANDINGS.validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return []
