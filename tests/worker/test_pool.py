"""What the process that trains does for the pool: members compared over their probes, both ways, and kept once."""

import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchfarm_core import pool_rows
from benchfarm_core.access import Role
from benchfarm_core.measurements import Timing
from benchfarm_core.messages import TaskMessage
from benchfarm_core.pool_files import open_entries
from benchfarm_core.predictors import WHOLE_MODEL, KernelRow, TrainingRows
from benchfarm_store import likenesses, pool_entries
from benchfarm_store.database import Database, Transaction
from benchfarm_store.likenesses import Probed
from benchfarm_worker.likening import EVERY_S, Likening
from benchfarm_worker.pool import compare, step
from benchfarm_workloads.kernels import CATALOGUE_VERSION
from benchfarm_workloads.own_kernels import OwnKernels
from benchfarm_workloads.probes import LARGE_KERNELS, probe_set
from tests.pool_rows import made_file, made_rows
from tests.store.conftest import Farm, kernel_job
from tests.store.probing import CONV, KEY, WIDE, Probing, alone_ms

SUBJECTS = {(name, timing) for name in LARGE_KERNELS for timing in Timing} | {(WHOLE_MODEL, Timing.ALONE)}


def probed(name: str, rows: TrainingRows, model: str = "host-a") -> Probed:
    """A member with the rows' times."""
    times = {
        (row.workload_id, row.timing if isinstance(row, KernelRow) else Timing.ALONE): row.normalised_ms
        for row in rows.every
    }
    return Probed(name, model, times)


def stranger(rows: TrainingRows) -> TrainingRows:
    """The same times, dealt out anew."""
    times = [row.normalised_ms for row in rows.kernels]
    random.Random(3).shuffle(times)
    dealt = (row.model_copy(update={"normalised_ms": ms}) for row, ms in zip(rows.kernels, times, strict=True))
    return rows.model_copy(update={"kernels": tuple(dealt)})


TARGET = made_rows()


def test_every_subject_is_compared_and_the_nearest_has_the_least_divergence() -> None:
    donors = [
        probed("cousin", made_rows(spread=0.3, seed=1)),
        probed("slow twin", made_rows(slower=7)),
        probed("stranger", stranger(TARGET)),
    ]
    found = compare([probed("target", TARGET)], donors)
    assert {(one.subject, one.timing) for one in found} == SUBJECTS
    of_conv = [one for one in found if (one.subject, one.timing) == (CONV, Timing.ALONE)]
    assert [one.donor for one in of_conv] == ["slow twin", "cousin", "stranger"]
    assert [one.is_near for one in of_conv] == [True, True, False]
    assert of_conv[0].divergence == pytest.approx(0, abs=1e-12), "speed does not count"
    assert of_conv[0].spearman == pytest.approx(1)
    assert (of_conv[0].target, of_conv[0].count) == ("target", 16)


def test_marked_boards_lend_to_those_alone_that_have_their_marks() -> None:
    members = [probed("real", TARGET), probed("made up", TARGET, "sim-a"), probed("both", TARGET, "emu-sim-a")]
    pairs = {(one.donor, one.target) for one in compare(members, members) if one.donor != one.target}
    assert pairs == {("real", "made up"), ("real", "both"), ("made up", "both")}


def test_with_few_probes_in_common_nothing_is_said() -> None:
    """Eight are enough, seven are not; what only one of both has does not count."""
    convs = [row for row in TARGET.kernels if (row.kernel_type, row.timing) == (CONV, Timing.ALONE)]
    for count, donors in ((8, ["partly"]), (7, [])):
        partly = probed("partly", TARGET.model_copy(update={"kernels": tuple(convs[:count]), "models": ()}))
        assert [one.donor for one in compare([probed("target", TARGET)], [partly])] == donors
    (turned,) = compare([probed("t", TARGET.model_copy(update={"kernels": tuple(convs[:9])}))], [probed("d", TARGET)])[
        :1
    ]
    assert (turned.subject, turned.count) == (CONV, 9)


@pytest.fixture
def probing(farm: Farm) -> Probing:
    """Two platforms; the second one takes other times, but of like shape."""
    ann = farm.account("ann", Role.OPERATOR)
    found = Probing(farm, ann, farm.agent(ann))
    found.measure(KEY, WIDE)
    found.set_times(KEY, alone_ms(made_rows()))
    found.set_times(WIDE, {id_: 3 * ms for id_, ms in alone_ms(made_rows(spread=0.1, seed=2)).items()})
    return found


def matrix(farm: Farm) -> dict[tuple[str, str], float]:
    with farm.transaction() as tx:
        return {(one.donor, one.target): one.divergence for one in likenesses.list_likenesses(tx).items}


def due(farm: Farm) -> list[str]:
    with farm.transaction() as tx:
        return likenesses.due_members(tx)


def take(farm: Farm, member_id: str) -> None:
    step(farm.database, member_id, "boot", 1.0)


def test_a_platform_is_compared_both_ways_and_twice_changes_nothing(farm: Farm, probing: Probing) -> None:
    take(farm, probing.id_of(KEY))
    found = matrix(farm)
    assert set(found) == {(WIDE, KEY), (KEY, WIDE)}
    assert all(0 < divergence < 0.05 for divergence in found.values())
    assert due(farm) == [probing.id_of(WIDE)]
    take(farm, probing.id_of(KEY))
    assert matrix(farm) == found
    take(farm, probing.id_of(WIDE))
    assert matrix(farm) == found, "the same rows say the same, whoever is compared"
    assert due(farm) == []


def test_new_results_change_what_they_are_about(farm: Farm, probing: Probing) -> None:
    for key in (KEY, WIDE):
        take(farm, probing.id_of(key))
    before = matrix(farm)
    probing.measure(WIDE)
    assert due(farm) == [probing.id_of(WIDE)]
    take(farm, probing.id_of(WIDE))
    after = matrix(farm)
    assert after.keys() == before.keys()
    assert min(after.values()) > max(before.values()), "everything takes a millisecond there now"


def test_an_entry_is_a_donor_of_every_platform_and_of_those_that_come(farm: Farm, probing: Probing) -> None:
    opened = open_entries(made_file(made_rows(spread=0.2, seed=9)), OwnKernels(), CATALOGUE_VERSION)
    with farm.transaction() as tx:
        (entry_id,) = pool_entries.import_entries(tx, opened, by=probing.by).entries
    take(farm, entry_id)
    elsewhere = opened[0].rows.platform
    assert set(matrix(farm)) == {(elsewhere, KEY), (elsewhere, WIDE)}
    assert due(farm) == sorted([probing.id_of(KEY), probing.id_of(WIDE)])
    take(farm, probing.id_of(KEY))
    assert set(matrix(farm)) == {(elsewhere, KEY), (elsewhere, WIDE), (KEY, WIDE), (WIDE, KEY)}


def test_a_platform_that_lost_its_probes_is_like_nobody(farm: Farm, probing: Probing) -> None:
    take(farm, probing.id_of(KEY))
    farm.run("UPDATE summaries SET grade = 'D'")
    take(farm, probing.id_of(KEY))
    take(farm, "p_nobody")
    take(farm, "e_" + "0" * 32)
    assert (matrix(farm), due(farm)) == ({}, [])


def test_entries_of_another_probe_set_are_unpacked_outside_of_transactions(
    farm: Farm, probing: Probing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each takes up to a second, and whoever compares holds a lock."""
    opened = open_entries(made_file(made_rows(spread=0.2, seed=9)), OwnKernels(), CATALOGUE_VERSION)
    with farm.transaction() as tx:
        (entry_id,) = pool_entries.import_entries(tx, opened, by=probing.by).entries
    farm.run("UPDATE pool_entries SET probes_version = 0, probes = '{}'")
    really, begin, transactions = pool_rows.unpack, Database.transaction, list[None]()
    unpacked: list[int] = []

    @contextmanager
    def transaction(database: Database, **fields: Any) -> Iterator[Transaction]:
        with begin(database, **fields) as tx:
            transactions.append(None)
            try:
                yield tx
            finally:
                transactions.pop()

    def unpack(*arguments: Any) -> Any:
        unpacked.append(len(transactions))
        return really(*arguments)

    monkeypatch.setattr(Database, "transaction", transaction)
    monkeypatch.setattr("benchfarm_store.pool_entries.unpack", unpack)
    take(farm, entry_id)
    assert unpacked == [0]
    elsewhere = opened[0].rows.platform
    assert set(matrix(farm)) == {(elsewhere, KEY), (elsewhere, WIDE)}
    take(farm, entry_id)
    assert unpacked == [0], "once for all"


def test_while_another_compares_a_step_leaves_it(farm: Farm, probing: Probing) -> None:
    with farm.transaction() as tx:
        assert likenesses.hold(tx)
        take(farm, probing.id_of(KEY))
    assert matrix(farm) == {}
    assert probing.id_of(KEY) in due(farm)


def test_a_comparison_waits_for_leases_on_its_own_host_but_not_for_ever(
    farm: Farm, probing: Probing, monkeypatch: pytest.MonkeyPatch
) -> None:
    farm.run("""UPDATE boards SET facts = facts || '{"boot_id": "boot"}'""")
    farm.submit_planned(probing.by, kernel_job(2, seed=77))
    grant = probing.agent.must_take()
    own = probing.id_of(KEY)
    take(farm, own)
    assert matrix(farm) == {}
    step(farm.database, own, "another host", 1.0)
    assert len(matrix(farm)) == 2
    farm.run("DELETE FROM likenesses")
    farm.run("DELETE FROM probed_platforms")
    take(farm, own)
    assert matrix(farm) == {}
    now_s = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now_s + 1.5)
    take(farm, own)
    assert len(matrix(farm)) == 2
    probing.agent.release(grant)


def test_what_is_due_is_looked_for_once_a_minute(farm: Farm, probing: Probing) -> None:
    likening = Likening(farm.database)
    farm.messages.clear()
    assert likening.step(1000.0) == 2
    asked = {message.args[1] for message in farm.messages if isinstance(message, TaskMessage)}
    assert asked == {probing.id_of(KEY), probing.id_of(WIDE)}
    assert likening.step(1000.0 + EVERY_S / 2) == 0
    assert likening.step(1000.0 + EVERY_S) == 2, "nobody has compared them"


def test_what_one_new_platform_is_compared_with() -> None:
    """It is a target of all others, and a donor of each."""
    others = [probed(f"p{number}", made_rows(spread=0.2, seed=number)) for number in range(8)] * 4
    own = probed("own", TARGET)
    found = [*compare([own], others), *compare(others, [own])]
    assert len(found) == (8 + len(others)) * len(SUBJECTS), "donors of one name are one"
    assert all(math.isfinite(one.high) for one in found)
    assert len(probe_set().subjects) == len(SUBJECTS)


@contextmanager
def worker(environment: dict[str, str], log: Path, *arguments: str) -> Iterator[None]:
    """`python -m benchfarm_worker run` until the block ends."""
    argv = [sys.executable, "-m", "benchfarm_worker", "run", *arguments]
    with log.open("ab") as lines:
        process = subprocess.Popen(argv, env=environment, stdout=lines, stderr=lines, start_new_session=True)
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)


@pytest.mark.slow
def test_the_sweep_finds_and_the_process_that_trains_compares(
    farm: Farm, probing: Probing, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    """Nobody is told: the rows say what is due."""
    told = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "BENCHFARM_SWEEP_S": "1"}
    log = tmp_path / "worker.log"
    with ExitStack() as running:
        running.enter_context(worker(os.environ | told, log))
        running.enter_context(worker(os.environ | told, log, "--queues", "train"))
        until_s = time.monotonic() + 90
        while len(matrix(farm)) < 2 or due(farm):
            assert time.monotonic() < until_s, log.read_text()[-3000:]
            time.sleep(0.1)
    assert set(matrix(farm)) == {(WIDE, KEY), (KEY, WIDE)}
