"""Predictors in memory: read once, bounded in bytes, the least recently used let go."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import pytest

from benchfarm_api.loaded_predictors import OVERHEAD_BYTES, LoadedPredictors
from benchfarm_core.errors import InvalidRequest
from benchfarm_predictor.combined import Scaled
from benchfarm_predictor.predictor_file import write
from benchfarm_store.predictors import Head
from tests.predictor.predictors import kernel_predictor

BASE = kernel_predictor("fc")
FILES = [write(replace(BASE, model=Scaled(BASE.model, 1.0 + number))) for number in range(4)]
LARGEST = max(map(len, FILES)) + OVERHEAD_BYTES


def head(number: int) -> Head:
    data = FILES[number]
    return Head(f"pr_{number}", 1, "fc", number + 1, hashlib.sha256(data).hexdigest(), len(data))


class Reader:
    """Files, and which of them were read."""

    def __init__(self, limit_bytes: int) -> None:
        self.loaded, self.read = LoadedPredictors(limit_bytes), list[int]()

    def get(self, number: int) -> float:
        """The factor of the predictor."""
        model = self.loaded.get(head(number), partial(self._file, number)).model
        assert isinstance(model, Scaled)
        return model.factor

    def _file(self, number: int) -> bytes:
        self.read.append(number)
        return FILES[number]


def test_a_file_is_read_once() -> None:
    reader = Reader(10 * LARGEST)
    assert [reader.get(number) for number in (0, 1, 0, 1, 0)] == [1, 2, 1, 2, 1]
    assert reader.read == [0, 1]
    assert reader.loaded.held_bytes == len(FILES[0]) + len(FILES[1]) + 2 * OVERHEAD_BYTES


def test_the_least_recently_used_goes_first_and_the_bound_holds() -> None:
    reader = Reader(2 * LARGEST)
    for number in (0, 1, 0, 2, 2):
        reader.get(number)
    assert reader.loaded.held_bytes <= 2 * LARGEST
    assert reader.read == [0, 1, 2, 2], "asked for once it does not take a place yet"
    reader.get(2)
    reader.get(0)
    assert reader.read == [0, 1, 2, 2]
    reader.get(1)
    assert reader.read == [0, 1, 2, 2, 1]


def test_a_round_of_more_than_there_is_room_for_finds_most_of_them() -> None:
    """If the last one read always stayed, every one of them would be gone when its turn comes."""
    reader = Reader(3 * LARGEST)
    for _ in range(10):
        for number in range(4):
            reader.get(number)
    assert reader.read == [0, 1, 2, *[3] * 10]


def test_others_take_the_places_of_those_that_nobody_asks_for_any_more() -> None:
    """As a new version does, and platforms that another search asks for."""
    reader = Reader(2 * LARGEST)
    for number in (0, 1, 0, 1, 2, 3, 2, 3):
        reader.get(number)
    assert reader.read == [0, 1, 2, 3, 2, 3]
    for number in (2, 3):
        reader.get(number)
    assert reader.read == [0, 1, 2, 3, 2, 3]
    assert reader.loaded.held_bytes <= 2 * LARGEST


def test_what_is_above_the_bound_alone_is_not_kept_and_drives_nothing_out() -> None:
    reader = Reader(len(FILES[0]) + OVERHEAD_BYTES - 1)
    assert [reader.get(0), reader.get(0)] == [1, 1]
    assert (reader.read, reader.loaded.held_bytes) == ([0, 0], 0)


def test_a_file_that_is_not_the_announced_one_is_refused_and_not_kept() -> None:
    loaded = LoadedPredictors(10 * LARGEST)
    with pytest.raises(InvalidRequest) as refused:
        loaded.get(head(0), lambda: FILES[1])
    assert (refused.value.code, loaded.held_bytes) == ("predictor_file_damaged", 0)


def test_threads_share_what_is_kept() -> None:
    reader = Reader(2 * LARGEST)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(reader.get, [number % 4 for number in range(200)]))
    assert found == [1.0 + number % 4 for number in range(200)]
    assert 0 < reader.loaded.held_bytes <= 2 * LARGEST
