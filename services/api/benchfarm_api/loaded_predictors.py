"""Predictors in memory: files are read once as far as there is room, and all together stay within a bound."""

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import Final, NamedTuple

from benchfarm_predictor import predictor_file
from benchfarm_predictor.predictor_file import Predictor
from benchfarm_store.predictors import Head

OVERHEAD_BYTES: Final = 32 * 1024
"""What a predictor takes in memory beside the arrays of its file."""


MAX_MISSED: Final = 4096
"""Files that are not kept, of which it is known when somebody asked for them last: some hundred kilobytes."""


class _Kept(NamedTuple):
    """A predictor, about what it takes, and when it was asked for last: a count of questions."""

    predictor: Predictor
    size_bytes: int
    asked: int


class LoadedPredictors:
    """Predictors by the hashes of their files, up to `limit_bytes`. Any thread may ask.

    Above the limit one that is read takes the place of the least recently used, if it was asked for before and since
    these were. Whoever asks for more platforms in turn than there is room for so finds most of them, and not none, as
    where the last one read always stays. Two that miss the same one at once both read it; what is above the limit alone
    is not kept.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._lock = Lock()
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._missed: OrderedDict[str, int] = OrderedDict()
        self._held_bytes = 0
        self._questions = 0

    @property
    def held_bytes(self) -> int:
        """About what is kept takes."""
        return self._held_bytes

    def get(self, head: Head, file: Callable[[], bytes]) -> Predictor:
        """The predictor of a version; `file` is called where it is not kept.

        Raises what `file` raises, and InvalidRequest (`predictor_file_damaged`, `predictor_file_foreign`).
        """
        with self._lock:
            self._questions += 1
            kept = self._kept.get(head.sha256)
            if kept is not None:
                self._kept[head.sha256] = kept._replace(asked=self._questions)
                self._kept.move_to_end(head.sha256)
                return kept.predictor
            before = self._missed.pop(head.sha256, 0)
            self._missed[head.sha256] = self._questions
            if len(self._missed) > MAX_MISSED:
                self._missed.popitem(last=False)
        predictor = predictor_file.read(file(), head.sha256)
        self._keep(head, predictor, before)
        return predictor

    def _keep(self, head: Head, predictor: Predictor, before: int) -> None:
        """`before`: when it was asked for the time before, 0: never as far as is known."""
        size_bytes = head.size_bytes + OVERHEAD_BYTES
        with self._lock:
            if head.sha256 in self._kept or not self._make_room(size_bytes, before):
                return
            self._missed.pop(head.sha256, None)
            self._kept[head.sha256] = _Kept(predictor, size_bytes, self._questions)
            self._held_bytes += size_bytes

    def _make_room(self, size_bytes: int, before: int) -> bool:
        """Lets go what was not asked for since `before`, as much as is needed; nothing where that is not enough."""
        gone: list[str] = []
        free_bytes = self._limit_bytes - self._held_bytes
        for sha256, kept in self._kept.items():
            if free_bytes >= size_bytes or kept.asked >= before:
                break
            gone.append(sha256)
            free_bytes += kept.size_bytes
        if free_bytes < size_bytes:
            return False
        for sha256 in gone:
            self._held_bytes -= self._kept.pop(sha256).size_bytes
        return True
