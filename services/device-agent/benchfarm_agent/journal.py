"""What the agent changed on its boards, on disk before the change, so that a restart can put it back."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from benchfarm_agent.files import write_whole


class Journal:
    """Per board a few named values. What they mean is the board's own business.

    `durable` writes survive a power cut; a change that a reboot undoes anyway needs no more than a kill-proof one.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def entries(self, board: str) -> dict[str, str]:
        """What is still to be put back on a board; a damaged file counts as nothing."""
        try:
            content = json.loads(self._path(board).read_bytes())
        except (FileNotFoundError, ValueError):
            return {}
        return {str(name): str(value) for name, value in content.items()} if isinstance(content, dict) else {}

    def unsettled(self) -> tuple[str, ...]:
        """The boards on which something is left to be put back; a damaged file counts as nothing."""
        return tuple(sorted(path.stem for path in self._folder.glob("*.json") if self.entries(path.stem)))

    def is_settled(self) -> bool:
        """Whether nothing is left to be put back on any board."""
        return not self.unsettled()

    def note_way(self, board: str, way: str) -> None:
        """Notes how a board is reached, before anything is changed on it. It stays: the next change may need it."""
        if self.way(board) != way:
            write_whole(self._folder / f"{board}.way", way.encode())

    def way(self, board: str) -> str:
        """How a board was reached when something was last changed on it; empty where nothing says so."""
        try:
            return (self._folder / f"{board}.way").read_text()
        except (FileNotFoundError, UnicodeDecodeError):
            return ""

    def remember(self, board: str, name: str, value: str, *, durable: bool = True) -> None:
        """Notes a value before it is changed. The first note of a name stays: it is what was found."""
        self.remember_all(board, {name: value}, durable=durable)

    def remember_all(self, board: str, values: Mapping[str, str], *, durable: bool = True) -> None:
        """The same for several values, in one write."""
        entries = self.entries(board)
        if values.keys() - entries.keys():
            self._write(board, {**values, **entries}, durable=durable)

    def forget(self, board: str, name: str, *, durable: bool = True) -> None:
        """Strikes out a value that was put back."""
        self.forget_all(board, [name], durable=durable)

    def forget_all(self, board: str, names: Iterable[str], *, durable: bool = True) -> None:
        """The same for several values, in one write."""
        entries, gone = self.entries(board), set(names)
        if gone & entries.keys():
            self._write(board, {name: entries[name] for name in entries if name not in gone}, durable=durable)

    def _write(self, board: str, entries: dict[str, str], *, durable: bool) -> None:
        write_whole(self._path(board), json.dumps(entries).encode(), durable=durable)

    def _path(self, board: str) -> Path:
        return self._folder / f"{board}.json"
