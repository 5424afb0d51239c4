"""What is done of the evaluation corpus: portions in a folder beside their farm, and what all machines committed."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from bench.corpus_generations import age, counting
from bench.corpus_plan import BRIDGE, Portion, file_name
from bench.corpus_rows import Fused, Generation, Measured, Row, Session
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
        folder.mkdir(parents=True, exist_ok=True)
        self._own = {path: measured for path in self._paths() if (measured := _read(path)) is not None}
        self._done: dict[str, dict[tuple[str, str], Measured]] = {}
        self._counting: dict[tuple[str, str], frozenset[str]] = {}
        for generation in sorted(committed, key=age):
            self._note(generation.measured)
        self._note(self._own.values())

    @property
    def farm(self) -> Path:
        """The farm's home."""
        return self.folder / "farm"

    def is_done(self, portion: Portion, generation: str) -> bool:
        """Whether it is done, here or on any machine before, by a generation whose rows are told together with those of
        this one; the bridge, whether this one has done it."""
        done = self._done.get(portion.platform, {})
        by = {generation} if portion.is_bridge else self.counting(portion.platform, generation)
        return any((portion.name, name) in done for name in by)

    def awaits_bridge(self, key: str, generation: str) -> bool:
        """Whether others have measured a platform, and nothing tells yet how this generation relates to them."""
        done = self._done.get(key, {})
        others = any(name != generation for _, name in done)
        return others and not any(Portion(key, *BRIDGE, 0, 0).name == name for name, by in done if by == generation)

    def counting(self, key: str, generation: str) -> frozenset[str]:
        """The generations of a platform whose rows are told together with those of this one."""
        if (key, generation) not in self._counting:
            by_name: dict[str, list[Row]] = {}
            for (_, name), measured in self._done.get(key, {}).items():
                by_name.setdefault(name, []).extend(measured.rows)
            self._counting[key, generation] = counting(by_name, generation)
        return self._counting[key, generation]

    def add(self, portion: Portion, measured: Measured) -> None:
        """Keep it; what is there is there whole."""
        path = self.folder / file_name(portion.platform) / measured.generation / f"{portion.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        self._replace(path, measured)
        self._own[path] = measured
        self._note([measured])

    def own(self) -> dict[tuple[str, str], list[Measured]]:
        """What lies in the folder, by platform and generation."""
        found: dict[tuple[str, str], list[Measured]] = {}
        for _, measured in sorted(self._own.items()):
            found.setdefault((measured.key, measured.generation), []).append(measured)
        return found

    def of_list(self, portion: Portion, generation: str) -> list[Measured]:
        """The portions of its list that are done for a generation, the latest last."""
        counted = self.counting(portion.platform, generation)
        every = [one for one in self._done.get(portion.platform, {}).values() if one.generation in counted]
        return _of_list(every, portion)

    def of_kind(self, portion: Portion) -> list[Measured]:
        """All that was measured, by whomever, of its list; else of its kind on its platform; else there: what tells how
        long another one takes. The latest last."""
        every = list(self._done.get(portion.platform, {}).values())
        of_kind = [one for one in every if one.name.startswith(f"{portion.kind}-")]
        return _of_list(every, portion) or of_kind or every

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

    def _note(self, every: Iterable[Measured]) -> None:
        for measured in every:
            self._done.setdefault(measured.key, {})[measured.name, measured.generation] = measured
        self._counting.clear()

    def _paths(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("*/*/*.json") if path.parents[1] != self.farm)

    @staticmethod
    def _replace(path: Path, value: Value) -> None:
        beside = path.with_suffix(".part")
        beside.write_text(value.model_dump_json())
        beside.replace(path)


def _of_list(every: Sequence[Measured], portion: Portion) -> list[Measured]:
    """Those of a portion's list, each portion once."""
    by_name = {one.name: one for one in every if one.name.startswith(f"{portion.kind}-{portion.space}-")}
    return [measured for _, measured in sorted(by_name.items())]


def _read(path: Path) -> Measured | None:
    """None of one that was cut short while it was written."""
    try:
        return Measured.model_validate_json(path.read_text())
    except ValidationError:
        return None


class _Sessions(Value):
    sessions: tuple[Session, ...]


class _KeptBoard(Value):
    board: Board


class _FusedPairs(Value):
    by_platform: dict[str, Fused]
