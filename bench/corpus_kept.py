"""What is done of the evaluation corpus: portions in a folder beside their farm, and what all machines committed."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from bench.corpus_plan import Portion, file_name
from bench.corpus_rows import Fused, Generation, Measured, Session
from benchfarm_core.values import Value


class Board(NamedTuple):
    """What measures: `keys`: the farm's own keys of platforms, by those of the corpus; `generation`: its name there;
    `machine`: facts for people."""

    keys: dict[str, str]
    generation: str
    machine: dict[str, str | int | float]


class Kept:
    """What is done. In a folder: a file for each portion, the sessions, the farm; elsewhere what is committed.

    `committed`: generations of all machines so far.
    """

    def __init__(self, folder: Path, committed: Sequence[Generation] = ()) -> None:
        self.folder = folder
        self._known: dict[Path, Measured] = {}
        self._committed: dict[str, list[Measured]] = {}
        for generation in committed:
            self._committed.setdefault(generation.manifest.key, []).extend(generation.measured)
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def farm(self) -> Path:
        """The farm's home."""
        return self.folder / "farm"

    def portion(self, portion: Portion) -> Measured | None:
        """A portion that is done here. One that was cut short while it was written is not."""
        path = self._path(portion)
        return self._read(path) if path.exists() else None

    def is_done(self, portion: Portion, generation: str) -> bool:
        """Whether it is done, here or on any machine before; the bridge, whether this generation has done it."""
        done = [one for one in self._elsewhere(portion.platform) if one.name == portion.name]
        if portion.is_bridge:
            done = [one for one in done if one.generation == generation]
            own = self.portion(portion)
            return bool(done) or (own is not None and own.generation == generation)
        return bool(done) or self.portion(portion) is not None

    def add(self, portion: Portion, measured: Measured) -> None:
        """Keep it; what is there is there whole."""
        path = self._path(portion)
        path.parent.mkdir(exist_ok=True)
        self._replace(path, measured)
        self._known[path] = measured

    def own(self) -> dict[tuple[str, str], list[Measured]]:
        """What lies in the folder, by platform and generation."""
        found: dict[tuple[str, str], list[Measured]] = {}
        for measured in self._all("*"):
            found.setdefault((measured.key, measured.generation), []).append(measured)
        return found

    def of_list(self, portion: Portion) -> list[Measured]:
        """The portions of its list that are done, here or before; the latest last."""
        head = f"{portion.kind}-{portion.space}-"
        every = {one.name: one for one in [*self._elsewhere(portion.platform), *self._of(portion.platform)]}
        return [measured for name, measured in sorted(every.items()) if name.startswith(head)]

    def sessions(self) -> tuple[Session, ...]:
        """Every run so far."""
        path = self.folder / "sessions.json"
        return _Sessions.model_validate_json(path.read_text()).sessions if path.exists() else ()

    def begin(self, session: Session) -> int:
        """Add a run; its number."""
        every = (*self.sessions(), session)
        self._replace(self.folder / "sessions.json", _Sessions(sessions=every))
        return len(every) - 1

    def board(self) -> Board | None:
        """What measured last."""
        path = self.folder / "board.json"
        return _KeptBoard.model_validate_json(path.read_text()).board if path.exists() else None

    def note_board(self, board: Board) -> None:
        """Keep what measures now: rows are packed when it is gone."""
        self._replace(self.folder / "board.json", _KeptBoard(board=board))

    def fused(self, key: str) -> Fused:
        """What a platform's engine was seen to fuse, by the farm that measured."""
        path = self.folder / "fused.json"
        known = _FusedPairs.model_validate_json(path.read_text()).by_platform if path.exists() else {}
        return known.get(key, ())

    def note_fused(self, found: dict[str, Fused]) -> None:
        """Keep that beside what was known of other platforms."""
        path = self.folder / "fused.json"
        known = _FusedPairs.model_validate_json(path.read_text()).by_platform if path.exists() else {}
        self._replace(path, _FusedPairs(by_platform=known | found))

    def _elsewhere(self, key: str) -> Sequence[Measured]:
        return self._committed.get(key, ())

    def _of(self, key: str) -> Iterator[Measured]:
        return self._all(file_name(key))

    def _all(self, folder: str) -> Iterator[Measured]:
        paths = sorted(path for path in self.folder.glob(f"{folder}/*.json") if path.parent != self.farm)
        return (measured for path in paths if (measured := self._read(path)) is not None)

    def _read(self, path: Path) -> Measured | None:
        if path not in self._known:
            try:
                self._known[path] = Measured.model_validate_json(path.read_text())
            except ValidationError:
                return None
        return self._known[path]

    def _path(self, portion: Portion) -> Path:
        return self.folder / file_name(portion.platform) / f"{portion.name}.json"

    @staticmethod
    def _replace(path: Path, value: Value) -> None:
        beside = path.with_suffix(".part")
        beside.write_text(value.model_dump_json())
        beside.replace(path)


class _Sessions(Value):
    sessions: tuple[Session, ...]


class _KeptBoard(Value):
    board: Board


class _FusedPairs(Value):
    by_platform: dict[str, Fused]
