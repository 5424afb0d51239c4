"""The starter pool: taken in once, paid for by the first account, and no reason not to start."""

import os
from pathlib import Path

import pytest

from benchfarm_core.pool_files import MAX_POOL_BYTES, read
from benchfarm_core.predictor_headers import read_header
from benchfarm_store import pool, pool_entries, starter_pool
from benchfarm_store.bootstrap import bootstrap
from benchfarm_store.starter_pool import NONE, SHIPPED, StarterPool, chosen_file, load
from tests.pool_rows import KEY as ELSEWHERE
from tests.pool_rows import made_file


@pytest.fixture
def first(farm, tmp_path):
    with farm.transaction() as tx:
        bootstrap(tx, admin_token_file=tmp_path / "admin", enrol_token_file=tmp_path / "enrol")
    return farm


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "made.pool"
    path.write_bytes(made_file())
    return path


def keys(farm):
    with farm.transaction() as tx:
        return [one.key for one in pool.list_members(tx) if not one.is_own]


def test_it_is_taken_in_once_and_what_is_deleted_stays_deleted(first, file):
    told = load(first.database, file, StarterPool(), read_header)
    assert (told.donors, told.why) == ((ELSEWHERE,), "")
    assert keys(first) == [ELSEWHERE]
    (entry,) = read(file.read_bytes()).manifest.entries
    assert told.entries == (entry.id,)
    assert load(first.database, file, told, read_header) == told
    with first.transaction() as tx:
        (member,) = pool_entries.list_entries(tx)
        assert member.author == f"admin/{starter_pool.AUTHOR}"
        pool_entries.delete_entry(tx, entry.id)
    assert load(first.database, file, told, read_header).donors == ()
    assert keys(first) == [], "an operator took it away"


def test_a_file_that_is_refused_is_told_and_keeps_no_farm_from_starting(first, tmp_path):
    broken = tmp_path / "broken.pool"
    broken.write_bytes(made_file()[:-1])
    told = load(first.database, broken, StarterPool(), read_header)
    assert (told.donors, told.sha256) == ((), "")
    assert "part" in told.why
    assert keys(first) == []


def test_what_is_no_ordinary_file_or_too_large_is_refused_before_it_is_read_whole(first, tmp_path):
    pipe, large = tmp_path / "pipe", tmp_path / "large.pool"
    os.mkfifo(pipe)
    with large.open("wb") as opened:
        opened.truncate(2**40)  # sparse: read whole, no machine would hold it
    for path in (Path("/dev/zero"), pipe, tmp_path):
        assert load(first.database, path, StarterPool(), read_header).why == "the starter pool is no ordinary file"
    assert str(MAX_POOL_BYTES) in load(first.database, large, StarterPool(), read_header).why
    missing = load(first.database, tmp_path / "missing", StarterPool(), read_header)
    assert (missing.why, keys(first)) == ("No such file or directory", [])


def test_the_file_is_the_shipped_one_another_one_or_none(file, tmp_path, monkeypatch):
    monkeypatch.setattr(starter_pool, "FILE", tmp_path / "shipped.pool")
    assert chosen_file(SHIPPED) is None, "none is shipped"
    (tmp_path / "shipped.pool").touch()
    assert chosen_file(SHIPPED) == tmp_path / "shipped.pool"
    assert chosen_file(NONE) is None
    assert chosen_file(str(file)) == file
    assert load(None, None, StarterPool(), read_header) == StarterPool()  # type: ignore[arg-type]
