"""Imported measurement sets in the store: once, whole, paid for, and apart from all that the farm measured."""

import json
import random
from typing import Any

import pytest
from sqlalchemy import text

from benchfarm_core.access import Role
from benchfarm_core.accounts import Quotas
from benchfarm_core.errors import InvalidRequest, NotFound, QuotaExceeded
from benchfarm_core.measurement_sets import MeasurementSet, read_tables
from benchfarm_store import measurement_sets
from benchfarm_store.set_codec import pack, unpack
from benchfarm_workloads.own_kernels import OwnKernels

PLATFORM = {
    "board_model": "host-a",
    "engine": "onnxruntime-1.31.1",
    "precision": "fp32",
    "operating_point": {"note": "not recorded"},
    "source": "somebody's repository",
    "licence": "MIT",
}
OURS = ("farms", "boards", "platforms", "workloads", "measurements", "results", "jobs", "job_items")


def set_of(rows: int = 3, **changes: Any) -> MeasurementSet:
    table = ["hw,cin,cout,k,s,latency_ms", *(f"28,64,{8 * n + 8},3,1,{0.5 + n / 7:.5f}" for n in range(rows))]
    tables = {"conv.csv": "\n".join([*table, "7,8,8,1,1,-1"]), "fc.csv": "cin,cout,latency_ms\n64,10,0.01"}
    names = {"conv": "conv-bn-act:act=relu"}
    return read_tables(json.dumps(PLATFORM | changes), tables, names=names, catalogue=OwnKernels())


@pytest.fixture
def lab(farm):
    class Lab:
        by = farm.account("lab", Role.OPERATOR)

        def bring(self, found: MeasurementSet, **options: Any):
            with farm.transaction() as tx:
                return measurement_sets.import_set(tx, found, by=self.by, **options)

        def stored_bytes(self) -> int:
            return int(farm.scalar("SELECT stored_bytes FROM accounts WHERE name = 'lab'"))

    return Lab()


def test_a_set_is_taken_once_and_read_back_as_it_was(farm, lab):
    found = set_of()
    came = lab.bring(found)
    assert (came.repeated, came.rows, came.rejected_by_reason) == (False, 4, {"placeholder": 1})
    assert [(row.file, row.line, row.reason_code) for row in came.rejected] == [("conv.csv", 5, "placeholder")]
    paid = lab.stored_bytes()
    assert paid > 0
    again = lab.bring(found)
    assert (again.id, again.repeated) == (came.id, True)
    assert (lab.stored_bytes(), farm.scalar("SELECT count(*) FROM measurement_sets")) == (paid, 1)
    with farm.transaction() as tx:
        loaded = measurement_sets.load_set(tx, came.id)
        (listed,) = measurement_sets.list_sets(tx).items
        assert measurement_sets.get_set(tx, came.id) == listed
    assert (loaded.platform, loaded.kernels) == (found.platform, found.kernels)
    assert loaded.content_hash == found.content_hash
    assert (listed.origin, listed.platform.licence, listed.author.split("/")[0]) == ("imported", "MIT", "lab")
    assert [(k.type, k.given_as, k.rows, k.fixed) for k in listed.kernels] == [
        ("conv-bn-act", "conv", 3, {"act": "relu"}),
        ("fc", "fc", 1, {}),
    ]


def test_the_same_measurements_are_charged_once_however_they_are_written(farm, lab):
    came, paid = lab.bring(set_of()), lab.stored_bytes()
    tables = {"conv.csv": "latency_ms,s,k,cout,cin,hw", "fc.csv": "latency_ms,cout,cin\n0.01,10,64"}
    for n in (2, 0, 1):
        tables["conv.csv"] += f"\n{0.5 + n / 7:.5f},1,3,{8 * n + 8},64,28"
    platform = PLATFORM | {"source": "somebody's other repository"}
    found = read_tables(json.dumps(platform), tables, names={"conv": "conv-bn-act:act=relu"}, catalogue=OwnKernels())
    again = lab.bring(found)
    assert (again.id, again.repeated, lab.stored_bytes()) == (came.id, True, paid)


def test_a_set_that_came_long_ago_is_known_by_its_former_name(farm, lab):
    """Its id followed from the order of lines then: the same file is neither kept nor charged a second time."""
    lab.bring(set_of())
    paid, former = lab.stored_bytes(), "s_" + set_of().former_hash
    farm.run("UPDATE measurement_sets SET public_id = :former", former=former)
    for options in ({}, {"dry_run": True}):
        again = lab.bring(set_of(), **options)
        assert (again.id, again.repeated, lab.stored_bytes()) == (former, True, paid)
    assert farm.scalar("SELECT count(*) FROM measurement_sets") == 1


def test_a_dry_run_changes_nothing(farm, lab):
    came = lab.bring(set_of(), dry_run=True)
    assert (came.id, came.dry_run, came.repeated, came.rows) == (None, True, False, 4)
    assert (lab.stored_bytes(), farm.scalar("SELECT count(*) FROM measurement_sets")) == (0, 0)
    taken = lab.bring(set_of())
    again = lab.bring(set_of(), dry_run=True)
    assert (again.id, again.repeated) == (taken.id, True)


def test_a_set_of_which_nothing_can_be_taken_is_refused(farm, lab):
    nothing = read_tables(json.dumps(PLATFORM), {"conv.csv": "hw,latency_us\n1,2"}, names={})
    with pytest.raises(InvalidRequest, match="1 unit_unclear") as error:
        lab.bring(nothing)
    assert error.value.code == "measurement_set_empty"
    assert lab.bring(nothing, dry_run=True).rejected_by_reason == {"unit_unclear": 1}
    assert farm.scalar("SELECT count(*) FROM measurement_sets") == 0


def test_nothing_of_a_set_stands_among_the_farms_own(farm, lab):
    before = {table: farm.scalar(f"SELECT count(*) FROM {table}") for table in OURS}
    lab.bring(set_of())
    assert {table: farm.scalar(f"SELECT count(*) FROM {table}") for table in OURS} == before
    with farm.transaction() as tx:
        pointing = tx.execute(
            text(
                "SELECT conrelid::regclass::text AS source FROM pg_constraint WHERE contype = 'f'"
                " AND confrelid IN ('measurement_sets'::regclass, 'measurement_set_kernels'::regclass)"
            )
        ).scalars()
        assert list(pointing) == ["measurement_set_kernels"]


def test_a_deleted_set_is_gone_with_its_rows_and_gives_its_bytes_back(farm, lab):
    came, other = lab.bring(set_of()), lab.bring(set_of(board_model="another"))
    with farm.transaction() as tx:
        assert measurement_sets.delete_set(tx, came.id).rows == 4
    with farm.transaction() as tx, pytest.raises(NotFound):
        measurement_sets.delete_set(tx, came.id)
    assert farm.scalar("SELECT count(*) FROM measurement_set_kernels") == 2
    with farm.transaction() as tx:
        measurement_sets.delete_set(tx, other.id)
        for unknown in (measurement_sets.get_set, measurement_sets.load_set):
            with pytest.raises(NotFound):
                unknown(tx, "s_none")
    assert (lab.stored_bytes(), farm.scalar("SELECT count(*) FROM measurement_set_kernels")) == (0, 0)
    assert not lab.bring(set_of()).repeated, "it can come again"


def test_sets_are_charged_to_the_accounts_quota(farm):
    poor = farm.account("poor", Role.OPERATOR, quotas=Quotas(stored_bytes=10))
    with farm.transaction() as tx, pytest.raises(QuotaExceeded):
        measurement_sets.import_set(tx, set_of(), by=poor)
    assert farm.scalar("SELECT count(*) FROM measurement_sets") == 0


def test_the_list_has_pages(farm, lab):
    ids = [lab.bring(set_of(board_model=f"host {number}")).id for number in range(3)]
    with farm.transaction() as tx:
        first = measurement_sets.list_sets(tx, limit=2)
        second = measurement_sets.list_sets(tx, cursor=first.next_cursor, limit=2)
    assert [one.id for one in (*first.items, *second.items)] == ids[::-1]
    assert second.next_cursor is None
    with farm.transaction() as tx, pytest.raises(InvalidRequest):
        measurement_sets.list_sets(tx, cursor="nonsense")


def test_rows_are_packed_without_loss():
    draw = random.Random(3)
    configs = tuple(tuple(draw.randrange(2**31 - 1) for _ in range(7)) for _ in range(500))
    times = tuple(draw.uniform(1e-5, 4e6) for _ in configs)
    assert unpack(pack(configs, times), 500, 7) == (configs, times)
    assert len(pack([(28, 64, n) for n in range(1000)], [1.5] * 1000)) < 4000
    with pytest.raises(ValueError, match="not"):
        unpack(pack(configs, times), 499, 7)
