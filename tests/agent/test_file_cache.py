"""Files of the cache are what their names say whenever they are used, whatever a power cut left of them."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto

from benchfarm_agent import file_cache
from benchfarm_agent.file_cache import FileCache
from benchfarm_agent.prepared import PreparedItem
from benchfarm_agent.state_dir import StateDir
from benchfarm_core.agent_protocol import LeaseGrant
from tests.agent.scripted_farm import ScriptedFarm, scripted_farm
from tests.agent.test_artifacts import cache_in, prepare
from tests.agent.test_upload_precisions import product, uploaded

Run = Callable[[Any], Any]
Grant = Callable[..., LeaseGrant]
CONTENT = b"what a workload is made of" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def opened(folder: Path) -> FileCache:
    """As an agent that has just started opens it."""
    cache = FileCache(folder, limit_bytes=2**20)
    cache.open()
    return cache


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def empty(path: Path) -> None:
    os.truncate(path, 0)


def harm(path: Path, damage: Callable[[Path], None]) -> None:
    """Damages a file later than it was last used, by the clock of the file system, whose steps are milliseconds."""
    used_ns = path.stat().st_ctime_ns
    damage(path)
    while path.stat().st_ctime_ns == used_ns:
        os.utime(path)


DAMAGES = pytest.mark.parametrize("damage", [cut, zero, empty])


@DAMAGES
@pytest.mark.parametrize("is_restarted", [True, False])
def test_a_damaged_file_is_not_there_and_is_put_anew(
    tmp_path: Path, damage: Callable[[Path], None], is_restarted: bool
) -> None:
    cache = opened(tmp_path)
    path = cache.put(CONTENT)
    assert cache.has(SHA256)
    harm(path, damage)
    if is_restarted:
        cache = opened(tmp_path)
    assert not cache.has(SHA256)
    assert cache.put(CONTENT).read_bytes() == CONTENT
    assert cache.has(SHA256)


@DAMAGES
def test_a_file_that_was_fetched_takes_a_damaged_ones_place(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    damage(opened(tmp_path).put(CONTENT))
    cache = opened(tmp_path)
    part = cache.folder / ".fetched.part"
    part.write_bytes(CONTENT)
    cache.take_in(part, SHA256)
    assert cache.has(SHA256)
    assert [path.name for path in cache.folder.iterdir()] == [SHA256]


def test_files_are_read_once_and_again_after_they_were_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    is_whole = file_cache._is_whole

    def noted(path: Path) -> bool:
        read.append(path)
        return is_whole(path)

    monkeypatch.setattr(file_cache, "_is_whole", noted)
    first = opened(tmp_path)
    path = first.put(CONTENT)
    assert first.has(SHA256)
    assert read == []
    later = opened(tmp_path)
    assert [later.has(SHA256) for _ in range(3)] == [True] * 3
    assert read == [path]
    harm(path, lambda each: None)
    assert later.has(SHA256)
    assert read == [path] * 2


def test_what_a_file_holds_is_on_the_disk_before_its_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = opened(tmp_path)
    part = cache.folder / ".fetched.part"
    part.write_bytes(b"fetched")
    done: list[str] = []

    def noted(name: str, deed: Callable[..., Any]) -> Callable[..., Any]:
        def does(*given: Any) -> Any:
            done.append(name)
            return deed(*given)

        return does

    for name in ("fdatasync", "replace"):
        monkeypatch.setattr(os, name, noted(name, getattr(os, name)))
    cache.put(CONTENT)
    cache.take_in(part, hashlib.sha256(b"fetched").hexdigest())
    assert done == ["fdatasync", "replace"] * 2


@pytest.mark.parametrize("is_restarted", [True, False])
def test_damaged_graphs_and_references_are_made_again(
    state: StateDir, grant: Grant, running: Run, is_restarted: bool
) -> None:
    items = grant(3).items

    def damage(ready: dict[int, PreparedItem]) -> None:
        for how, path in ((cut, ready[1].artifact), (zero, ready[2].reference), (empty, ready[3].artifact)):
            harm(path, how)

    async def prepare_twice() -> Any:
        async with cache_in(state) as (cache, _):
            first, _ = await prepare(cache, items)
            damage(first)
            if not is_restarted:
                return first, await prepare(cache, items)
        async with cache_in(state) as (cache, _):
            return first, await prepare(cache, items)

    first, (second, failed) = running(prepare_twice())
    assert failed == []
    assert second == first
    for path in {path for item in second.values() for path in item.files}:
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name


@DAMAGES
def test_a_damaged_upload_is_fetched_again(
    state: StateDir, grant: Grant, running: Run, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    kept: dict[str, bytes] = {}

    def hand_out(call: Any) -> tuple[int, bytes]:
        return 200, kept[call.path.rpartition("/")[2]]

    async def prepare_twice() -> tuple[Any, ScriptedFarm]:
        async with scripted_farm(hand_out) as farm, cache_in(state, url=farm.url) as (cache, _):
            item = uploaded(cache, grant(1).items[0], product(TensorProto.FLOAT), tmp_path)
            assert item.file_sha256 is not None
            for sha256 in (item.file_sha256, item.reference_sha256):
                path = state.cache / "files" / str(sha256)
                kept[path.name] = path.read_bytes()
                harm(path, damage)
            return await prepare(cache, [item]), farm

    (ready, failed), farm = running(prepare_twice())
    assert failed == []
    assert sorted(farm.paths()) == sorted(kept)
    [item] = ready.values()
    assert [path.read_bytes() for path in item.files] == [kept[path.name] for path in item.files]
