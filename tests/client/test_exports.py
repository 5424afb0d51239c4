"""`benchfarm export`, the SDK, and a table that answers with no farm in sight."""

import gc
import json
import resource
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from sqlalchemy import text

from benchfarm import Client, InvalidRequest, NotFound
from benchfarm.exit_codes import ExitCode
from benchfarm.offline import Table
from benchfarm.workload_text import parse_architecture
from benchfarm_core.exports import ExportView
from benchfarm_core.predictors import PredictorEvidence
from benchfarm_predictor.combined import Scaled
from benchfarm_predictor.predictor_file import Predictor, write
from benchfarm_store import platforms, predictors
from benchfarm_workloads.spaces import draws
from tests.predictor.predictors import PLATFORM
from tests.predictor.whole_predictors import whole_predictors

GENES = [one.genes for one in draws("bert", "client", 40)]
DAY_S = 86_400.0
ALONE = """
import json, sys
from benchfarm.offline import Table
table = Table.open(sys.argv[1], keys=json.loads(sys.argv[2]), max_age_s=3600)
print(json.dumps(table.latency(json.loads(sys.argv[3])).latency_ms.tolist()))
"""


@pytest.fixture(scope="module")
def whole() -> Predictor:
    return whole_predictors("bert", 40)["regional"]


def publish(farm: Any, predictor: Predictor) -> str:
    with farm.database.transaction() as tx:
        made = predictors.publish(
            tx,
            platform_id=platforms.find(tx, PLATFORM).id,
            subject="model",
            file=write(predictor),
            evidence=PredictorEvidence(),
            reason="made up",
            activate=True,
        )
    return made.id


def exported(farm: Any, predictor: Predictor) -> tuple[ExportView, bytes, dict[str, str]]:
    publish(farm, predictor)
    with farm.client() as sdk:
        made = sdk.exports.table(PLATFORM, "bert")
        data = sdk.exports.file(made.id)
        assert data is not None
        return made, data, {key.id: key.public_key for key in sdk.exports.keys().keys}


def behind_a_proxy(made: ExportView, data: bytes, tag: str | None) -> Client:
    """What reaches the farm through something that makes its own of answers."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.url.path.endswith("/file"):
            return httpx2.Response(200, content=data, headers={} if tag is None else {"ETag": tag})
        return httpx2.Response(200, text=made.model_dump_json(), headers={"Content-Type": "application/json"})

    return Client("https://farm", "t", transport=httpx2.MockTransport(answer))


def refused(data: bytes, keys: dict[str, str], **limits: Any) -> tuple[str, str | None]:
    with pytest.raises(InvalidRequest) as error:
        Table.read(data, keys=keys, **limits)
    return error.value.code, error.value.field


def test_the_command_writes_a_table_that_answers_as_the_farm(
    farm: Any, logged_in: Any, whole: Predictor, tmp_path: Path
) -> None:
    publish(farm, whole)
    out = tmp_path / "bert.table"
    ended = logged_in("export", "table", PLATFORM, "bert", "--out", out, "--json")
    assert ended.code == 0, ended.err
    with farm.client() as sdk:
        own = Table.open(out, keys=sdk.exports.keys(), max_age_s=DAY_S, predictor_id=ended.document["predictor_id"])
        items = [{"kind": "architecture", "space": "bert", "genes": genes} for genes in GENES]
        farms = sdk.latency(items, [PLATFORM])
    found = own.latency(own.encode(GENES))
    assert found.latency_ms.tolist() == [each.median_ms for each in farms]
    assert found.low_ms.tolist() == [each.low_ms for each in farms]
    assert found.high_ms.tolist() == [each.high_ms for each in farms]
    assert (own.head.platform, own.head.space) == (PLATFORM, "bert")
    shown = logged_in("export", "show", ended.document["id"])
    assert (shown.code, PLATFORM in shown.out) == (0, True)
    assert ended.document["key_id"] in logged_in("export", "keys").out
    assert logged_in("export", "show", "ex_none").code == ExitCode.NOT_FOUND
    assert logged_in("export", "table", PLATFORM, "bert", "--gene", "hw").code == ExitCode.USAGE


def test_a_full_disk_leaves_the_table_that_was_there(
    logged_in: Any, farm: Any, whole: Predictor, tmp_path: Path
) -> None:
    publish(farm, whole)
    out = tmp_path / "bert.table"
    out.write_bytes(b"an older table")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
    try:
        ended = logged_in("export", "table", PLATFORM, "bert", "--out", out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (ended.code, "cannot write" in ended.err) == (ExitCode.USAGE, True)
    assert (out.read_bytes(), [*tmp_path.glob(".*table*")]) == (b"an older table", [])
    link = tmp_path / "link"
    link.symlink_to(out)
    assert logged_in("export", "table", PLATFORM, "bert", "--out", link).code == 0
    assert (link.is_symlink(), len(out.read_bytes()) > 5000) == (True, True)


def test_a_process_without_any_farm_says_the_same(farm: Any, whole: Predictor, tmp_path: Path) -> None:
    _, data, keys = exported(farm, whole)
    path = tmp_path / "t"
    path.write_bytes(data)
    genes = json.dumps(GENES)
    argv = [sys.executable, "-c", ALONE, str(path), json.dumps(keys), genes]
    ended = subprocess.run(argv, capture_output=True, text=True, check=True, env={"PATH": "/usr/bin"})
    assert json.loads(ended.stdout) == Table.read(data, keys=keys).latency(GENES).latency_ms.tolist()


def test_stale_tables_are_refused(farm: Any, whole: Predictor) -> None:
    made, data, keys = exported(farm, whole)
    now_unix_s = made.created_at.timestamp()
    assert Table.read(data, keys=keys, max_age_s=10, now_unix_s=now_unix_s + 9).head.export_id == made.id
    for limits in ({"max_age_s": 10, "now_unix_s": now_unix_s + 11}, {"max_age_s": float("nan")}):
        assert refused(data, keys, **limits) == ("table_stale", "max_age_s")
    assert refused(data, keys, predictor_id="pr_0") == ("table_stale", "predictor_id")
    before_unix_s = now_unix_s - 3500
    assert Table.read(data, keys=keys, max_age_s=10, now_unix_s=before_unix_s).head.export_id == made.id
    assert refused(data, keys, max_age_s=10, now_unix_s=0.0) == ("table_stale", "max_age_s")  # no clock at all
    assert Table.read(data, keys=keys, now_unix_s=0.0).head.export_id == made.id


def test_a_stale_table_is_exported_again(farm: Any, logged_in: Any, whole: Predictor, tmp_path: Path) -> None:
    """The predictor is the same, so that nothing but its age changes."""
    made, data, keys = exported(farm, whole)
    out = tmp_path / "t"
    with farm.database.transaction() as tx:
        tx.execute(text("UPDATE exports SET created_at = created_at - interval '2 days'"))
    old = logged_in("export", "table", PLATFORM, "bert", "--out", out, "--max-age", "3d", "--json").document
    assert (old["id"], old["sha256"]) == (made.id, made.sha256)
    new = logged_in("export", "table", PLATFORM, "bert", "--out", out, "--max-age", "1d", "--json").document
    assert (new["id"], new["predictor_id"]) == (made.id, made.predictor_id)
    assert new["sha256"] != made.sha256
    own = Table.open(out, keys=keys, max_age_s=DAY_S)
    assert own.head.made_at > made.created_at
    assert own.latency(GENES).latency_ms.tolist() == Table.read(data, keys=keys).latency(GENES).latency_ms.tolist()
    with farm.client() as sdk:
        assert sdk.exports.file(made.id, known_sha256=made.sha256) == out.read_bytes()
        assert sdk.exports.table(PLATFORM, "bert").sha256 == new["sha256"]


def test_tampered_tables_and_strange_keys_are_refused(farm: Any, whole: Predictor, tmp_path: Path) -> None:
    _, data, keys = exported(farm, whole)
    changed = bytearray(data)
    changed[-20] ^= 1
    assert refused(bytes(changed), keys)[0] == "table_tampered"
    assert refused(data, dict.fromkeys(keys, "0" * 64))[0] == "table_tampered"
    assert refused(data, {"other": "0" * 64})[0] == "table_foreign"
    assert refused(data, {"other": "no key"}) == ("invalid_request", "keys")
    with pytest.raises(InvalidRequest, match="cannot read"):
        Table.open(tmp_path / "missing", keys=keys)


def test_a_file_is_not_sent_twice_and_a_wrong_one_is_noticed(farm: Any, whole: Predictor) -> None:
    made, data, _ = exported(farm, whole)
    with farm.client() as sdk:
        assert sdk.exports.file(made.id, known_sha256=made.sha256) is None
        assert sdk.exports.file(made.id, known_sha256="0" * 64) == data
        with pytest.raises(NotFound):
            sdk.exports.file("ex_none")

    with behind_a_proxy(made, data[:-1], f'"{made.sha256}"') as sdk, pytest.raises(InvalidRequest) as error:
        sdk.exports.file(made.id)
    assert error.value.code == "table_tampered"


@pytest.mark.parametrize("tag", ['W/"{}"', '"{}-gzip"', None])
def test_a_proxy_that_changes_tags_or_takes_them_away_changes_no_file(
    farm: Any, whole: Predictor, tag: str | None
) -> None:
    made, data, _ = exported(farm, whole)
    sent = tag and tag.format(made.sha256)
    with behind_a_proxy(made, data, sent) as sdk:
        assert sdk.exports.file(made.id) == data
    with behind_a_proxy(made, data[:-1], sent) as sdk, pytest.raises(InvalidRequest, match="other bytes"):
        sdk.exports.file(made.id)


def test_a_client_that_reads_a_table_again_and_again_does_not_grow(farm: Any, whole: Predictor) -> None:
    """A device that looks for a newer table every hour: what it keeps of twenty is less than one."""
    made, data, keys = exported(farm, whole)
    fresh = iter(draws("bert", "again and again", 25 * 30))
    with farm.client() as sdk:

        def read_and_ask() -> None:
            got = sdk.exports.file(made.id)
            own = Table.read(got, keys=keys)
            assert not own.latency([next(fresh).genes for _ in range(30)]).missing.any()

        for _ in range(5):
            read_and_ask()
        tracemalloc.start()
        try:
            held_bytes = []
            for _ in range(20):
                read_and_ask()
                gc.collect()
                held_bytes.append(tracemalloc.get_traced_memory()[0])
        finally:
            tracemalloc.stop()
    assert held_bytes[-1] - held_bytes[0] < len(data) / 2, held_bytes


def test_what_lies_outside_is_listed_and_told_back(farm: Any, logged_in: Any, whole: Predictor, tmp_path: Path) -> None:
    publish(farm, replace(whole, model=Scaled(whole.model, 1.5)))
    with farm.client() as sdk:
        made = sdk.exports.table(PLATFORM, "bert", genes={"seq": [64]})
        data = sdk.exports.file(made.id)
        assert data is not None
        own = Table.read(data, keys=sdk.exports.keys())
        found = own.latency([*GENES, None, {**GENES[0], "heads": 77}])  # type: ignore[list-item]
        lacks = np.array([genes["seq"] != 64 for genes in GENES] + [True, True])
        np.testing.assert_array_equal(found.missing, lacks)
        np.testing.assert_array_equal(np.isnan(found.latency_ms), lacks)
        assert {each.code for each in found.misses} == {"not_in_table", "architecture_out_of_range"}
        assert "seq in [64]" in found.misses[0].detail
        assert "is a mapping" in found.misses[-2].detail
        assert "heads=77" in found.misses[-1].detail
        lacked = [GENES[each.row] for each in found.misses if each.code == "not_in_table"]
        assert sdk.exports.report_misses(made.id, lacked).new == len(lacked)
        assert sdk.exports.get(made.id).misses == len(lacked)
    file = tmp_path / "misses.json"
    file.write_text(json.dumps([lacked[0]]))
    told = logged_in("export", "misses", made.id, "--report", file, "--json").document["misses"]
    assert [each["reports"] for each in told][:2] == [2, 1]
    file.write_text("{}")
    assert logged_in("export", "misses", made.id, "--report", file).code == ExitCode.USAGE


def test_encoded_architectures_are_asked_again_without_their_genes(farm: Any, whole: Predictor) -> None:
    _, data, keys = exported(farm, whole)
    own = Table.read(data, keys=keys)
    codes = own.encode(GENES)
    every = own.latency(GENES).latency_ms
    np.testing.assert_array_equal(own.latency(codes).latency_ms, every)
    np.testing.assert_array_equal(own.latency(codes.take(slice(5, 20, 3))).latency_ms, every[5:20:3])
    with_wrong = own.encode([GENES[0], {"heads": 1}, GENES[1]]).take(np.array([1, 2]))
    assert [each.row for each in own.latency(with_wrong).misses] == [0]
    assert "layers is missing" in own.latency(with_wrong).misses[0].detail
    with pytest.raises(InvalidRequest, match="encoded for another table"):
        own.latency(replace(codes, export_id="ex_other"))
    beyond = replace(codes, codes=codes.codes + 10_000)
    assert own.latency(beyond).missing.all()
    spelt = parse_architecture("bert layers=1 hidden=128 seq=64 intermediate=512 heads=2")
    assert own.latency([spelt.genes]).latency_ms[0] > 0
    assert len(own.latency([]).latency_ms) == 0
