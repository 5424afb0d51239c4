"""`benchfarm pool`: files from and for other farms, and what is known of who could lend to whom."""

import os
from pathlib import Path
from typing import Any

import pytest

from benchfarm import InvalidRequest
from benchfarm.exit_codes import ExitCode
from benchfarm_core.errors import TooLarge
from benchfarm_core.measurements import Timing
from benchfarm_core.pool import Likeness
from benchfarm_core.pool_files import MAX_POOL_BYTES, read
from benchfarm_store import likenesses
from tests.client.conftest import ServedFarm
from tests.pool_rows import KEY, ORIGIN, made_file, made_rows, of_another_farm


@pytest.fixture
def platform(logged_in: Any) -> str:
    """The platform of the lab's board."""
    (found,) = logged_in("platforms", "list", "--json").document
    return str(found["key"])


@pytest.fixture
def measured(farm: ServedFarm, logged_in: Any, platform: str) -> str:
    """The same with three results."""
    workloads = [part for kernel in farm.kernels for part in ("--kernel", kernel)]
    job = logged_in("jobs", "submit", *workloads, "--json").document
    farm.measure(job["id"])
    return platform


def test_a_farms_rows_are_exported_and_taken_in_elsewhere(measured: str, logged_in: Any, tmp_path: Path) -> None:
    out = tmp_path / "pool.safetensors"
    arguments = ("pool", "export", "--out", out, "--licence", "MIT", "--source", "our lab", "--platform", measured)
    done = logged_in(*arguments)
    assert done.code == 0, done.err
    assert "pool import" in done.out
    (entry,) = read(out.read_bytes()).manifest.entries
    assert (entry.platform.key, entry.licence, entry.source) == (measured, "MIT", "our lab")
    again = logged_in(*arguments)
    assert (again.code, "there already" in again.err) == (ExitCode.USAGE, True)
    own = logged_in("pool", "import", out, "--json").document
    assert (own["entries"], own["own"]) == ([], [measured])
    out.write_bytes(of_another_farm(out.read_bytes(), "another-farm"))
    came = logged_in("pool", "import", out)
    assert came.code == 0, came.err
    assert "1 entries with" in came.out
    assert "1 were there already" in logged_in("pool", "import", out).out
    (listed,) = [one for one in logged_in("pool", "list", "--json").document if one["origin"] == "another-farm"]
    assert "another-farm" in logged_in("pool", "list").out
    gone = logged_in("pool", "delete", listed["id"])
    assert (gone.code, measured in gone.out) == (0, True)
    assert logged_in("pool", "delete", listed["id"]).code == ExitCode.NOT_FOUND


def test_the_matrix_shows_who_is_near(farm: ServedFarm, platform: str, logged_in: Any, tmp_path: Path) -> None:
    assert "nothing is compared yet" in logged_in("pool", "matrix").out
    path = tmp_path / "elsewhere"
    path.write_bytes(made_file(made_rows()))
    (entry_id,) = logged_in("pool", "import", path, "--json").document["entries"]
    (target,) = [one["id"] for one in logged_in("platforms", "list", "--json").document if one["key"] == platform]
    told = {"divergence": 0.03125, "low": 0.01, "high": 0.0625, "spearman": None, "log_ratio_variance": 0.1}
    place = {"donor": entry_id, "target": target, "subject": "model", "timing": Timing.ALONE, "count": 12}
    with farm.database.transaction() as tx:
        likenesses.keep_entry(tx, entry_id, [Likeness.model_validate({**told, **place, "is_near": True})])
    shown = logged_in("pool", "matrix", platform, "--subject", "model").out
    for word in (KEY, entry_id, "0.0312", "yes"):
        assert word in shown
    assert logged_in("pool", "matrix", "--timing", "in_situ", "--json").document == []
    assert ORIGIN in logged_in("pool", "list").out
    entry = logged_in("pool", "show", entry_id)
    assert (entry.code, KEY in entry.out, "without predictors" in entry.out) == (0, True, True)
    assert logged_in("pool", "show", entry_id, "--json").document["taught"] == []
    assert logged_in("pool", "show", "e_none").code == ExitCode.NOT_FOUND
    assert logged_in("pool", "delete", entry_id).code == 0


def test_what_is_no_pool_file_is_refused_before_anything_is_sent(farm: ServedFarm, tmp_path: Path) -> None:
    path = tmp_path / "file"
    with farm.client("operator") as client:
        for data, code in ((b"PK", "pool_file_foreign"), (made_file()[:-1], "pool_file_damaged")):
            path.write_bytes(data)
            with pytest.raises(InvalidRequest) as caught:
                client.pool.import_file(path)
            assert (caught.value.code, caught.value.request_id) == (code, None)
        with path.open("wb") as file:
            file.truncate(MAX_POOL_BYTES + 1)
        with pytest.raises(TooLarge):
            client.pool.import_file(path)
        path.unlink()
        with pytest.raises(InvalidRequest, match="cannot read"):
            client.pool.import_file(path)
        os.mkfifo(path)
        with pytest.raises(InvalidRequest, match="no regular file"):
            client.pool.import_file(path)


def test_exporting_and_importing_are_for_operators(command: Any, farm: ServedFarm, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(farm.token("client"))
    assert command("login", farm.url, "--token-file", token).code == 0
    refused = command("pool", "export", "--out", tmp_path / "x", "--licence", "MIT")
    assert (refused.code, (tmp_path / "x").exists()) == (ExitCode.NOT_AUTHORISED, False)
    (tmp_path / "file").write_bytes(made_file())
    assert command("pool", "import", tmp_path / "file").code == ExitCode.NOT_AUTHORISED
    assert command("pool", "list").code == 0
