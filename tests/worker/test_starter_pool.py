"""The command that takes in the starter pool: every predictor in it is read whole, and it tells what came of it."""

from pathlib import Path

import pytest

from benchfarm_core.pool_files import part_hash, write
from benchfarm_core.predictor_headers import Lineage
from benchfarm_core.predictors import WHOLE_MODEL
from benchfarm_store.bootstrap import bootstrap
from benchfarm_store.starter_pool import NONE, StarterPool, read_told
from benchfarm_worker.__main__ import main
from tests.pool_rows import KEY as ELSEWHERE
from tests.pool_rows import entry_of, made_file, made_rows, manifest_of
from tests.store.conftest import Farm
from tests.store.predictor_bytes import LINEAGE, predictor_bytes


@pytest.fixture
def first(farm: Farm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Farm:
    with farm.transaction() as tx:
        bootstrap(tx, admin_token_file=tmp_path / "admin", enrol_token_file=tmp_path / "enrol")
    monkeypatch.setenv("DATABASE_URL", farm.url)
    return farm


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["benchfarm_worker", "starter-pool", *arguments])
    return main()


def named(data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "made.pool").write_bytes(data)
    monkeypatch.setenv("BENCHFARM_STARTER_POOL", str(tmp_path / "made.pool"))


def test_the_command_tells_what_came_of_it(
    first: Farm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = tmp_path / "told.json"
    named(made_file(), tmp_path, monkeypatch)
    assert run(monkeypatch, "--told", str(told)) == 0
    assert capsys.readouterr().out == f"starter pool: {ELSEWHERE}\n"
    assert read_told(told).donors == (ELSEWHERE,)
    monkeypatch.setenv("BENCHFARM_STARTER_POOL", NONE)
    assert run(monkeypatch) == 0
    assert capsys.readouterr().out == "starter pool: none\n"
    told.write_text("cut sh")
    assert read_told(told) == StarterPool()


def test_a_predictor_with_a_good_header_and_nothing_behind_it_is_refused(
    first: Farm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = predictor_bytes(ELSEWHERE, WHOLE_MODEL)
    packed = {"subject": WHOLE_MODEL, "sha256": part_hash(file), "lineage": Lineage.model_validate(LINEAGE)}
    entry, part = entry_of(made_rows(), predictors=(packed,))
    named(write(manifest_of([entry]), [part, file]), tmp_path, monkeypatch)
    assert run(monkeypatch) == 0, "it keeps no farm from starting"
    said = capsys.readouterr().out
    assert said.startswith("starter pool: none (")
    assert "damaged" in said
    assert first.scalar("SELECT count(*) FROM pool_entries") == 0


def test_a_database_that_is_away_is_no_fault_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    named(made_file(), tmp_path, monkeypatch)
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nowhere")
    told = tmp_path / "told.json"
    assert run(monkeypatch, "--told", str(told)) == 1
    said = capsys.readouterr()
    assert (said.out, told.exists()) == ("", False)
    assert said.err


def test_without_a_database_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    assert run(monkeypatch) == 2
    assert "DATABASE_URL" in capsys.readouterr().err
