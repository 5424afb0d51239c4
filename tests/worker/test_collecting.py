"""Stored files that nobody needs, real ones, against a real database."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchfarm_core.access import Role
from benchfarm_core.accounts import AccountRequest, TokenRequest
from benchfarm_core.workloads import InputSpec, NormalFill
from benchfarm_store import accounts, models, tokens
from benchfarm_store.database import Database
from benchfarm_store.files import Files
from benchfarm_worker.collecting import EVERY_S, FOLDERS, FOLDERS_A_STEP, Collector

OLD_S = 7200.0


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url, pool_size=2)
    yield database
    database.dispose()


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def kept(files: Files, content: bytes, age_s: float = OLD_S) -> Path:
    path = files.keep(files.receive(iter([content]), 1000))
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def round_at(collector: Collector, now_s: float) -> int:
    return sum(collector.step(now_s) for _ in range(FOLDERS // FOLDERS_A_STEP))


def model_of(model: Path, reference: Path) -> models.NewModel:
    return models.NewModel(
        name="net",
        sha256=model.name,
        size_bytes=10,
        opset=17,
        dims={},
        inputs=(InputSpec(name="x", dtype="float32", shape=(1, 3), fill=NormalFill()),),
        graph={},
        flops=1,
        parameters=1,
        reference_sha256=reference.name,
    )


def test_only_what_is_old_and_nobody_needs_is_deleted(files: Files, database: Database) -> None:
    model, reference = kept(files, b"model"), kept(files, b"reference")
    with database.transaction() as tx:
        accounts.create_account(tx, AccountRequest(name="ann"))
        token = tokens.create_token(tx, TokenRequest(account="ann", role=Role.CLIENT)).token
        ann = tokens.authenticate(tx, token)
        mine = models.add(tx, model_of(model, reference), by=ann)
    stray = [kept(files, f"stray {number}".encode()) for number in range(20)]
    young = kept(files, b"young", age_s=60)
    collector = Collector(files, database)
    now_s = time.time()
    assert round_at(collector, now_s) == len(stray)
    assert not any(path.exists() for path in stray)
    assert all(path.exists() for path in (model, reference, young))
    with database.transaction() as tx:
        models.delete_model(tx, mine.id, ann)
    assert round_at(collector, now_s + 1) == 0, "the next round is an hour later"
    assert round_at(collector, now_s + EVERY_S + 1) == 3
    assert not any(path.exists() for path in (model, reference, young))


def test_a_file_that_is_adopted_while_the_collector_decides_is_kept(files: Files, database: Database) -> None:
    path = kept(files, b"model")
    assert files.aged(int(path.name[:2], 16), 3600, time.time()) == [path.name]
    with database.transaction(read_only=True) as tx:
        assert models.unneeded_files(tx, [path.name]) == [path.name]
    files.keep(files.receive(iter([b"model"]), 1000))
    assert not files.remove_aged(path.name, 3600, time.time())
    assert path.read_bytes() == b"model"
