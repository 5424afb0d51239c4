"""Predictors in memory: each file is read once, and all together stay within a bound."""

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import Final

from benchfarm_predictor import predictor_file
from benchfarm_predictor.predictor_file import Predictor
from benchfarm_store.predictors import Head

OVERHEAD_BYTES: Final = 32 * 1024
"""What a predictor takes in memory beside the arrays of its file."""


class LoadedPredictors:
    """Predictors by the hashes of their files, up to `limit_bytes`; above it the least recently used are let go.

    Any thread may ask. Two that miss the same one at once both read it; what is above the limit alone is not kept.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._lock = Lock()
        self._kept: OrderedDict[str, tuple[Predictor, int]] = OrderedDict()
        self._held_bytes = 0

    @property
    def held_bytes(self) -> int:
        """About what is kept takes."""
        return self._held_bytes

    def get(self, head: Head, file: Callable[[], bytes]) -> Predictor:
        """The predictor of a version; `file` is called where it is not kept.

        Raises what `file` raises, and InvalidRequest (`predictor_file_damaged`, `predictor_file_foreign`).
        """
        with self._lock:
            if head.sha256 in self._kept:
                self._kept.move_to_end(head.sha256)
                return self._kept[head.sha256][0]
        predictor = predictor_file.read(file(), head.sha256)
        self._keep(head, predictor)
        return predictor

    def _keep(self, head: Head, predictor: Predictor) -> None:
        size_bytes = head.size_bytes + OVERHEAD_BYTES
        if size_bytes > self._limit_bytes:
            return
        with self._lock:
            if head.sha256 not in self._kept:
                self._kept[head.sha256] = predictor, size_bytes
                self._held_bytes += size_bytes
            while self._held_bytes > self._limit_bytes:
                _, (_, gone_bytes) = self._kept.popitem(last=False)
                self._held_bytes -= gone_bytes
