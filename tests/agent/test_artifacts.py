"""Files of a batch with the real builders and the real reference child: made once, bounded, typed when bad."""

import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchfarm_agent.artifacts import ArtifactCache
from benchfarm_agent.conversions import Conversions
from benchfarm_agent.engine_environments import EngineEnvironments
from benchfarm_agent.farm_client import FarmClient
from benchfarm_agent.file_cache import FileCache
from benchfarm_agent.prepared import PreparedItem
from benchfarm_agent.references import ReferenceChild
from benchfarm_agent.state_dir import StateDir
from benchfarm_core.agent_protocol import BatchItem, LeaseGrant
from benchfarm_core.failures import FailureCode
from benchfarm_core.measurements import MeasurementResult
from benchfarm_core.platforms import Platform
from benchfarm_core.workloads import ArchitectureWorkload, KernelWorkload
from benchfarm_workloads.spaces import space
from tests.agent.conftest import grant_of
from tests.agent.scripted_farm import HANG_UP, problem, scripted_farm

Run = Callable[[Any], Any]
Grant = Callable[..., LeaseGrant]
PLATFORM = grant_of(1).platform
NOBODY_LISTENS = "http://127.0.0.1:1"


@asynccontextmanager
async def cache_in(
    state: StateDir, limit_bytes: int = 2**30, references: ReferenceChild | None = None, url: str = NOBODY_LISTENS
) -> AsyncIterator[tuple[ArtifactCache, ReferenceChild]]:
    farm, references = FarmClient(url), references or ReferenceChild(state.cache)
    conversions = Conversions(state.cache, EngineEnvironments(state.engines))
    files = FileCache(state.cache, limit_bytes=limit_bytes)
    files.open()
    try:
        yield ArtifactCache(files, farm, references, conversions, file_limit_bytes=2**20), references
    finally:
        await references.close()
        await conversions.close()
        await farm.close()


async def prepare(
    cache: ArtifactCache, items: Sequence[BatchItem], platform: Platform = PLATFORM
) -> tuple[dict[int, PreparedItem], list[MeasurementResult]]:
    async with cache.prepared(items, platform) as outcome:
        return outcome


def test_a_batch_is_built_once_and_its_references_are_right(state: StateDir, grant: Grant, running: Run) -> None:
    items = grant(4).items

    async def twice() -> tuple[dict[int, PreparedItem], dict[int, PreparedItem], bool]:
        async with cache_in(state) as (cache, references):
            first, failed = await prepare(cache, items)
            assert failed == []
            await references.close()
            second, _ = await prepare(cache, items)
            return first, second, references.pid is not None

    first, second, child_was_needed = running(twice())
    assert first == second
    assert not child_was_needed
    for item in first.values():
        assert item.artifact.name == item.artifact_sha256
        with np.load(item.reference, allow_pickle=False) as reference:
            assert np.isfinite(reference["out0"]).all()
        assert {path.stat().st_mode & 0o777 for path in item.files} == {0o644}


def test_repeats_of_a_workload_share_its_files(state: StateDir, grant: Grant, running: Run) -> None:
    one = grant(1).items[0]
    items = [one, one.model_copy(update={"measurement_id": 2})]

    async def prepare_both() -> tuple[dict[int, PreparedItem], list[MeasurementResult]]:
        async with cache_in(state) as (cache, _):
            return await prepare(cache, items)

    ready, _ = running(prepare_both())
    assert ready[1].files == ready[2].files


def test_a_workload_of_a_newer_farm_fails_alone(state: StateDir, grant: Grant, running: Run) -> None:
    items = grant(3).items
    newer = items[1].workload.model_copy(update={"catalogue_version": 9999})
    assert isinstance(newer, KernelWorkload)
    items[1] = items[1].model_copy(update={"workload": newer})

    async def prepare_all() -> tuple[dict[int, PreparedItem], list[MeasurementResult]]:
        async with cache_in(state) as (cache, _):
            return await prepare(cache, items)

    ready, failed = running(prepare_all())
    assert sorted(ready) == [1, 3]
    assert [(one.measurement_id, one.failure) for one in failed] == [(2, FailureCode.INVALID_WORKLOAD)]


def test_an_architecture_is_built_as_any_model(state: StateDir, grant: Grant, running: Run) -> None:
    drawn = space("bert").validate({"layers": 1, "hidden": 128, "seq": 64, "intermediate": 512, "heads": 2})
    workload = ArchitectureWorkload(**dict(drawn))
    items = [item.model_copy(update={"workload": workload}) for item in grant(2).items]
    items[1] = items[1].model_copy(update={"workload": workload.model_copy(update={"space_version": 9})})

    async def prepare_both() -> tuple[dict[int, PreparedItem], list[MeasurementResult]]:
        async with cache_in(state) as (cache, _):
            return await prepare(cache, items)

    ready, failed = running(prepare_both())
    [item] = ready.values()
    assert item.inputs[0]["shape"] == [1, 64, 128]
    with np.load(item.reference, allow_pickle=False) as reference:
        assert reference["out0"].shape == (1, 64, 2)
    assert [(one.measurement_id, one.failure) for one in failed] == [(2, FailureCode.INVALID_WORKLOAD)]
    assert "space_version=9 is not built here" in failed[0].detail


class Starved(ReferenceChild):
    """Meets what nobody has foreseen with its first question."""

    asked = 0

    async def compute(self, *args: Any, **named: Any) -> bytes:
        self.asked += 1
        if self.asked == 1:
            raise MemoryError("no room")
        return await super().compute(*args, **named)


def test_a_fault_that_nobody_foresaw_costs_one_measurement_an_attempt(
    state: StateDir, grant: Grant, running: Run
) -> None:
    items = grant(3).items
    notes: list[int | None] = []

    async def prepare_all() -> tuple[dict[int, PreparedItem], list[MeasurementResult]]:
        references = Starved(state.cache)
        async with (
            cache_in(state, references=references) as (cache, _),
            cache.prepared(items, PLATFORM, notes.append) as outcome,
        ):
            return outcome

    ready, failed = running(prepare_all())
    assert len(ready) == 2
    assert [one.failure for one in failed] == [FailureCode.RUNNER_DIED]
    assert "MemoryError" in failed[0].detail
    assert sorted(note for note in notes[::2] if note) == [1, 2, 3]
    assert notes[1::2] == [None] * 3


def test_a_reference_child_that_dies_comes_back(state: StateDir, grant: Grant, running: Run) -> None:
    items = grant(2).items

    async def kill_between() -> tuple[dict[int, PreparedItem], dict[int, PreparedItem]]:
        async with cache_in(state) as (cache, references):
            one, _ = await prepare(cache, items[:1])
            assert references.pid is not None
            os.kill(references.pid, 9)
            return one, (await prepare(cache, items[1:]))[0]

    one, two = running(kill_between())
    assert one
    assert two


def test_the_least_recently_used_go_first(state: StateDir, grant: Grant, running: Run) -> None:
    items = grant(6).items

    async def fill() -> tuple[list[Path], list[bool]]:
        async with cache_in(state) as (cache, _):
            ready, _ = await prepare(cache, items)
        paths = [ready[item.measurement_id].artifact for item in items]
        for age_s, path in enumerate(reversed(paths)):
            os.utime(path, (1e9 - age_s, 1e9 - age_s))
        kept_bytes = sum(path.stat().st_size for item in list(ready.values())[-1:] for path in item.files)
        async with cache_in(state, limit_bytes=kept_bytes) as (cache, _):
            await prepare(cache, items[-1:])
        return paths, [path.exists() for path in paths]

    _, left = running(fill())
    assert left == [False] * 5 + [True]


def upload(grant: Grant) -> BatchItem:
    workload = {"kind": "upload", "sha256": "a" * 64, "format": "onnx", "dims": {}, "inputs": []}
    files = {"file_sha256": "a" * 64, "reference_sha256": "b" * 64}
    return BatchItem.model_validate({**grant(1).items[0].model_dump(), "workload": workload, **files})


@pytest.mark.parametrize(
    ("answer", "failures"),
    [
        (HANG_UP, []),
        (problem(503, "unavailable"), []),
        (problem(404, "not_found"), [FailureCode.FILE_LOST]),
        ((200, b"other bytes"), [FailureCode.FILE_LOST]),
    ],
)
def test_an_upload_that_cannot_be_fetched_is_never_a_lost_board(
    state: StateDir,
    grant: Grant,
    running: Run,
    monkeypatch: pytest.MonkeyPatch,
    answer: Any,
    failures: list[FailureCode],
) -> None:
    """A farm that is away costs nothing; a file that is gone or damaged there is the farm's fault, and final."""
    monkeypatch.setattr("benchfarm_agent.farm_client.PATIENCE_S", 0.2)

    async def prepare_it() -> tuple[dict[int, PreparedItem], list[MeasurementResult]]:
        async with scripted_farm(lambda _: answer) as farm, cache_in(state, url=farm.url) as (cache, _):
            return await prepare(cache, [upload(grant)])

    ready, failed = running(prepare_it())
    assert ready == {}
    assert [one.failure for one in failed] == failures


def test_half_written_files_of_a_killed_agent_are_removed(state: StateDir, running: Run) -> None:
    files = state.cache / "files"
    files.mkdir(parents=True)
    (files / ".abc.part").write_bytes(b"half")

    async def open_cache() -> None:
        async with cache_in(state):
            pass

    running(open_cache())
    assert list(files.iterdir()) == []
