"""The pool in the store: entries once, whole, paid for and apart; donors by likeness; files that carry both away."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from benchfarm_core.access import Role
from benchfarm_core.accounts import Quotas
from benchfarm_core.adapting import DonorChoice
from benchfarm_core.errors import InvalidRequest, NotFound, QuotaExceeded, TooLarge
from benchfarm_core.jobs import JobRequest
from benchfarm_core.latency import LatencyRequest
from benchfarm_core.measurements import Timing
from benchfarm_core.platforms import parse_platform_key
from benchfarm_core.pool import Likeness, PoolExport
from benchfarm_core.pool_files import open_entries, part_hash, read, write
from benchfarm_core.predictor_headers import Lineage
from benchfarm_core.predictors import WHOLE_MODEL, PredictorEvidence
from benchfarm_core.quality import RULE_VERSION
from benchfarm_core.workloads import KernelRequest
from benchfarm_store import latency, likenesses, pool, pool_entries, predictors
from benchfarm_store.adaptation_donors import FoundDonor, find_donors, lent, told_donors
from benchfarm_store.training_rows import FoundRows, told
from benchfarm_workloads.kernels import CATALOGUE_VERSION
from benchfarm_workloads.own_kernels import OwnKernels
from benchfarm_workloads.probes import probe_set
from tests.pool_rows import KEY as ELSEWHERE
from tests.pool_rows import ORIGIN, entry_of, made_file, made_rows, manifest_of, of_another_farm
from tests.store.predictor_bytes import LINEAGE, predictor_bytes
from tests.store.probing import CONV, KEY, WIDE, Probing, alone_ms

OURS = ("farms", "boards", "platforms", "workloads", "measurements", "results", "jobs", "job_items", "predictors")
LICENCE = PoolExport(licence="MIT", source="this lab")


def opened(data: bytes):
    return open_entries(data, OwnKernels(), CATALOGUE_VERSION)


def with_predictor() -> bytes:
    """A pool file whose entry has a predictor of whole models."""
    file = predictor_bytes(ELSEWHERE, WHOLE_MODEL)
    packed = {"subject": WHOLE_MODEL, "sha256": part_hash(file), "lineage": Lineage.model_validate(LINEAGE)}
    entry, part = entry_of(made_rows(), predictors=(packed,))
    return write(manifest_of([entry]), [part, file])


@pytest.fixture
def lab(farm):
    class Lab:
        by = farm.account("lab", Role.OPERATOR)

        def bring(self, data: bytes):
            with farm.transaction() as tx:
                return pool_entries.import_entries(tx, opened(data), by=self.by)

        def members(self):
            with farm.transaction() as tx:
                return pool.list_members(tx)

        def export(self, **fields) -> bytes:
            with farm.transaction() as tx:
                gathered = pool.gather(tx, LICENCE.model_copy(update=fields))
            return pool.export(gathered)

        def stored_bytes(self) -> int:
            return int(farm.scalar("SELECT stored_bytes FROM accounts WHERE name = 'lab'"))

    return Lab()


@pytest.fixture
def probing(farm, ann, agent):
    return Probing(farm, ann, agent)


def publish(farm, probing, subject=WHOLE_MODEL):
    """A predictor that answers on the first platform."""
    file = predictor_bytes(KEY, subject)
    with farm.transaction() as tx:
        place = {"platform_id": probing.row_of(KEY), "subject": subject, "file": file}
        predictors.publish(tx, **place, evidence=PredictorEvidence(), reason="first", activate=True)
    return file


# entries


def entry_rows(tx, entry_id):
    """What an entry lends: its rows without what is a hold-out on this farm."""
    (rows,) = lent(tx, told_donors([FoundDonor(pool_entries.find_rows(tx, entry_id), WHOLE_MODEL)]))
    return rows


def own_rows(tx, platform_id, subject):
    """What a platform of this farm lends."""
    found = pool.find_donor_rows(tx, platform_id, subject)
    assert isinstance(found, FoundRows)
    return told(found)


def test_an_entry_is_taken_once_and_read_back_as_it_was(farm, lab):
    came = lab.bring(with_predictor())
    (entry_id,) = came.entries
    assert (came.repeated, came.own, came.left_out, came.rows) == ([], [], [], 80)
    paid = lab.stored_bytes()
    assert paid > 0
    again = lab.bring(with_predictor())
    assert (again.entries, again.repeated, again.rows) == ([], [entry_id], 0)
    assert (lab.stored_bytes(), farm.scalar("SELECT count(*) FROM pool_entries")) == (paid, 1)
    with farm.transaction() as tx:
        assert entry_rows(tx, entry_id) == made_rows()
        assert pool_entries.load_files(tx, entry_id) == {WHOLE_MODEL: predictor_bytes(ELSEWHERE, WHOLE_MODEL)}
        assert pool.donor_file(tx, entry_id, WHOLE_MODEL) == predictor_bytes(ELSEWHERE, WHOLE_MODEL)
        assert pool.donor_file(tx, entry_id, CONV) is None
    (member,) = lab.members()
    assert (member.id, member.key, member.is_own, member.origin) == (entry_id, ELSEWHERE, False, ORIGIN)
    assert (member.licence, member.source) == ("Apache-2.0", "a lab elsewhere")
    assert (member.probes, member.probes_of) == (80, probe_set().measurements)
    assert member.rows == {"alone": 42, "in_situ": 27, "models": 11}
    assert [(one.subject, one.version) for one in member.predictors] == [(WHOLE_MODEL, None)]


def test_what_this_farm_measured_itself_is_left_out(farm, lab):
    with farm.transaction() as tx:
        own = pool_entries.own_origin(tx)
        assert pool_entries.own_origin(tx) == own
        salt = tx.execute(text("SELECT salt FROM farms")).scalar_one()
    assert own.startswith("local-")
    assert salt[:8] not in own
    came = lab.bring(of_another_farm(made_file(), own))
    assert (came.entries, came.own, lab.members()) == ([], [ELSEWHERE], [])
    farm.run("UPDATE farms SET salt = 'another'")
    assert lab.bring(of_another_farm(made_file(), own)).own == []


def test_nothing_of_an_entry_stands_among_the_farms_own_and_none_answers(farm, lab, probing):
    before = {table: farm.scalar(f"SELECT count(*) FROM {table}") for table in OURS}
    lab.bring(made_file(made_rows(KEY)))
    assert {table: farm.scalar(f"SELECT count(*) FROM {table}") for table in OURS} == before
    kernel = probe_set().kernels[0]
    asked = LatencyRequest(platforms=(KEY,), items=(KernelRequest(type=kernel.type, config=kernel.config),))
    with farm.transaction() as tx:
        assert own_rows(tx, probing.id_of(KEY), CONV).kernels == ()
        pointing = tx.execute(
            text(
                "SELECT DISTINCT conrelid::regclass::text FROM pg_constraint WHERE contype = 'f'"
                " AND confrelid IN ('pool_entries'::regclass, 'pool_predictors'::regclass)"
            )
        ).scalars()
        assert list(pointing) == ["pool_predictors"]
        with pytest.raises(InvalidRequest):
            latency.ask(tx, asked.model_copy(update={"platforms": (ELSEWHERE,)}), probing.by)


def test_a_deleted_entry_is_gone_with_all_that_hung_on_it(farm, lab, probing):
    probing.measure()
    (entry_id,) = lab.bring(with_predictor()).entries
    with farm.transaction() as tx:
        likenesses.keep_entry(tx, entry_id, [likeness(entry_id, probing.id_of(KEY), 0.1)])
        assert [one.donor_id for one in likenesses.list_likenesses(tx).items] == [entry_id]
    with farm.transaction() as tx:
        assert pool_entries.delete_entry(tx, entry_id).key == ELSEWHERE
    with farm.transaction() as tx:
        for unknown in (pool_entries.delete_entry, pool_entries.find_rows, pool_entries.get_manifest):
            with pytest.raises(NotFound):
                unknown(tx, entry_id)
    for table in ("pool_entries", "pool_predictors", "likenesses"):
        assert farm.scalar(f"SELECT count(*) FROM {table}") == 0
    assert lab.stored_bytes() == 0
    assert lab.bring(with_predictor()).entries == [entry_id], "it can come again"


def test_entries_are_charged_and_a_full_quota_keeps_nothing(farm):
    poor = farm.account("poor", Role.OPERATOR, quotas=Quotas(stored_bytes=10))
    with pytest.raises(QuotaExceeded), farm.transaction() as tx:
        pool_entries.import_entries(tx, opened(made_file()), by=poor)
    assert farm.scalar("SELECT count(*) FROM pool_entries") == 0


def test_rows_of_the_future_are_not_taken(farm, lab):
    rows = made_rows()
    late = rows.kernels[0].model_copy(update={"measured_at": datetime.now(UTC) + timedelta(days=2)})
    with pytest.raises(InvalidRequest) as caught:
        lab.bring(made_file(rows.model_copy(update={"kernels": (late, *rows.kernels[1:])})))
    assert caught.value.code == "pool_file_damaged"
    assert farm.scalar("SELECT count(*) FROM pool_entries") == 0


def test_a_donor_does_not_know_what_is_a_hold_out_here(farm, lab, probing):
    (entry_id,) = lab.bring(made_file()).entries
    probing.measure()
    farm.run("UPDATE measurements SET purpose = 'holdout'")
    with farm.transaction() as tx:
        rows = entry_rows(tx, entry_id)
        again = entry_rows(tx, entry_id)
    assert {row.kernel_type for row in rows.kernels} == {"dwconv-bn-act", "linear"}
    assert len(rows.models) == 11
    assert again.data_hash == rows.data_hash != made_rows().data_hash, "whoever keeps what they taught sees the change"
    farm.run("UPDATE measurements SET purpose = 'train' WHERE id = (SELECT max(id) FROM measurements)")
    with farm.transaction() as tx:
        assert entry_rows(tx, entry_id).data_hash not in (rows.data_hash, made_rows().data_hash)


def test_an_entry_is_read_packed_and_lends_the_same_when_it_is_unpacked_outside(farm, lab, probing):
    (entry_id,) = lab.bring(made_file()).entries
    probing.measure()
    farm.run("UPDATE measurements SET purpose = 'holdout'")
    with farm.transaction() as tx:
        found = pool.find_donor_rows(tx, entry_id, WHOLE_MODEL)
        whole = entry_rows(tx, entry_id)
    assert isinstance(found, pool_entries.FoundEntry)
    known = told_donors([FoundDonor(found, WHOLE_MODEL), FoundDonor(found, CONV)])
    assert known[0].rows == made_rows(), "with what is a hold-out here"
    with farm.transaction() as tx:
        models, kernels = lent(tx, known)
    assert models == whole
    assert kernels.models == ()
    foreign = found._replace(part=b"what no catalogue has")
    with pytest.raises(InvalidRequest):
        foreign.unpacked()
    assert told_donors([FoundDonor(foreign, WHOLE_MODEL)]) == []


def test_times_of_other_rules_teach_nobody(farm, lab):
    """What this farm stores is derived anew under new rules; what others packed cannot be."""
    older = made_rows().model_copy(update={"rule_version": RULE_VERSION - 1})
    (entry_id,) = lab.bring(made_file(older)).entries
    with farm.transaction() as tx:
        found = pool.find_donor_rows(tx, entry_id, WHOLE_MODEL)
    assert isinstance(found, pool_entries.FoundEntry)
    assert found.unpacked() == older, "it can be read"
    assert told_donors([FoundDonor(found, WHOLE_MODEL), FoundDonor(found, CONV)]) == []


def test_what_was_cancelled_as_a_hold_out_lends_all_the_same(farm, lab, probing):
    (entry_id,) = lab.bring(made_file()).entries
    probing.ask()
    farm.run("UPDATE measurements SET purpose = 'holdout'")
    with farm.transaction() as tx:
        assert entry_rows(tx, entry_id).data_hash != made_rows().data_hash
    farm.run("UPDATE measurements SET state = 'cancelled'")
    with farm.transaction() as tx:
        assert entry_rows(tx, entry_id).data_hash == made_rows().data_hash, "none was measured"


def test_an_entry_from_before_the_present_probe_set_is_looked_at_again(farm, lab):
    (entry_id,) = lab.bring(made_file()).entries
    with farm.transaction() as tx:
        assert likenesses.due_members(tx) == [entry_id]
        likenesses.keep_entry(tx, entry_id, [])
        assert likenesses.due_members(tx) == []
    farm.run("UPDATE pool_entries SET probes_version = 0, probes = '{}'")
    (member,) = lab.members()
    assert member.probes == 0
    with farm.transaction() as tx:
        assert likenesses.due_members(tx) == [entry_id]
        assert likenesses.probed_entries(tx) == [], "whoever compares unpacks nothing"
        assert pool_entries.outdated(tx) == [entry_id]
        packed = pool_entries.find_rows(tx, entry_id)
    with farm.transaction() as tx:
        pool_entries.keep_probes(tx, pool_entries.FoundProbes.of(entry_id, packed))
    with farm.transaction() as tx:
        assert pool_entries.outdated(tx) == []
        (found,) = likenesses.probed_entries(tx)
        assert likenesses.due_members(tx) == [entry_id], "nobody has compared it yet"
    assert len(found.times) == 80
    (member,) = lab.members()
    assert member.probes == 80


# members and donors


def likeness(donor: str, target: str, divergence: float) -> Likeness:
    fields = {"donor": donor, "target": target, "subject": WHOLE_MODEL, "timing": Timing.ALONE, "count": 12}
    told = {"divergence": divergence, "low": 0.0, "high": 1.0, "spearman": None, "log_ratio_variance": 0.0}
    return Likeness.model_validate({**fields, **told, "is_near": divergence < 0.5})


def test_members_are_who_was_probed_or_has_a_predictor(farm, lab, probing):
    assert lab.members() == []
    publish(farm, probing)
    (member,) = lab.members()
    assert (member.key, member.is_own, member.probes, member.rows) == (KEY, True, 0, None)
    assert [(one.subject, one.version) for one in member.predictors] == [(WHOLE_MODEL, 1)]
    probing.measure(WIDE)
    with farm.transaction() as tx:
        (own,) = likenesses.probed_platforms(tx)
        likenesses.keep_platform(tx, own, [])
    lab.bring(made_file())
    assert [(one.key, one.probes) for one in lab.members()] == [(WIDE, 16), (KEY, 0), (ELSEWHERE, 80)]


def test_donors_come_by_likeness_and_what_is_no_real_board_lends_to_none(farm, lab, probing):
    real, emulated = lab.bring(made_file(made_rows(), made_rows("emu-a/c0.t1.free/ncnn-1.0/fp32"))).entries
    own, wide = probing.id_of(KEY), probing.id_of(WIDE)
    with farm.transaction() as tx:
        found = [likeness(emulated, own, 0.1), likeness(wide, own, 0.2), likeness(real, own, 0.7)]
        likenesses.keep_entry(tx, real, [*found, likeness("p_gone", own, 0.0)])
        donors = pool.donors(tx, probing.row_of(KEY), WHOLE_MODEL, Timing.ALONE)
        assert [(one.id, one.is_own, one.likeness.is_near) for one in donors] == [
            (wide, True, True),
            (real, False, False),
        ]
        assert [one.platform.key for one in donors] == [WIDE, ELSEWHERE]
        assert pool.donors(tx, probing.row_of(KEY), CONV, Timing.ALONE) == []
        with pytest.raises(NotFound):
            pool.donors(tx, 9999, WHOLE_MODEL, Timing.ALONE)
        with pytest.raises(NotFound):
            pool.find_donor_rows(tx, "p_nobody", WHOLE_MODEL)


# files


def test_what_is_exported_is_what_predictors_learn_from(farm, lab, probing):
    probing.measure()
    probing.set_times(KEY, alone_ms(made_rows()))
    file = publish(farm, probing)
    data = lab.export(names=(KEY,))
    (found,) = opened(data)
    with farm.transaction() as tx:
        rows = own_rows(tx, probing.id_of(KEY), WHOLE_MODEL)
        own = pool_entries.own_origin(tx)
        assert pool.donor_file(tx, probing.id_of(KEY), WHOLE_MODEL) == file
        assert pool.donor_file(tx, probing.id_of(KEY), CONV) is None
    assert [(row.workload_id, row.normalised_ms) for row in found.rows.kernels] == [
        (row.workload_id, row.normalised_ms) for row in rows.kernels
    ]
    assert (found.entry.origin, found.entry.licence, found.entry.source) == (own, "MIT", "this lab")
    assert (found.entry.platform.key, found.files) == (KEY, {WHOLE_MODEL: file})
    assert lab.export(names=(probing.id_of(KEY), KEY)) == data, "the same again, named twice, is the same"
    assert read(data).manifest.farm == own


def test_another_farm_takes_it_in_and_hands_it_on_as_it_came(farm, lab, probing):
    probing.measure()
    probing.set_times(KEY, alone_ms(made_rows()))
    publish(farm, probing)
    data = of_another_farm(lab.export(names=(KEY,)), "third-farm")
    (entry_id,) = lab.bring(data).entries
    handed_on = lab.export(names=(entry_id,), licence="another", source="us")
    assert read(handed_on).manifest.entries == read(data).manifest.entries
    assert lab.bring(handed_on).repeated == [entry_id]
    both = lab.export(names=(entry_id, KEY))
    assert {entry.origin for entry in read(both).manifest.entries} == {"third-farm", read(both).manifest.farm}


def test_without_names_real_boards_with_rows_are_exported(farm, lab, probing, report_of):
    with pytest.raises(InvalidRequest, match="no platform"):
        lab.export()
    publish(farm, probing)
    with pytest.raises(InvalidRequest, match="has a row"):
        lab.export()
    farm.run("UPDATE predictors SET state = 'superseded'")
    simulated = Probing(farm, probing.by, farm.agent(probing.by, report_of("s2", board_model="sim-a"), name="other"))
    marked = KEY.replace("host-a", "sim-a")
    simulated.measure(marked)
    compared(farm)
    with pytest.raises(InvalidRequest, match="are of simulated boards"):
        lab.export()
    probing.measure(WIDE)
    compared(farm)
    assert [entry.platform.key for entry in read(lab.export()).manifest.entries] == [WIDE]
    assert [entry.platform.key for entry in read(lab.export(names=(marked,))).manifest.entries] == [marked]


def compared(farm):
    with farm.transaction() as tx:
        for one in likenesses.probed_platforms(tx):
            likenesses.keep_platform(tx, one, [])


def test_more_platforms_than_a_file_holds_are_not_cut_unsaid(farm, lab, probing, monkeypatch):
    probing.measure()
    probing.measure(WIDE)
    compared(farm)
    monkeypatch.setattr(pool, "MAX_ENTRIES", 1)
    with pytest.raises(TooLarge, match="2 platforms are more than 1"):
        lab.export()


def test_uploads_and_hold_outs_never_leave_the_farm(farm, lab, probing):
    probing.measure()
    probing.set_times(KEY, alone_ms(made_rows()))
    first = "SELECT id FROM workloads ORDER BY id LIMIT 1"
    farm.run(f"UPDATE workloads SET kind = 'upload' WHERE id = ({first})")
    farm.run(f"UPDATE measurements SET purpose = 'holdout' WHERE workload_id = ({first} OFFSET 1)")
    (found,) = opened(lab.export(names=(KEY,)))
    assert found.entry.rows.alone == 14


@pytest.mark.parametrize(
    ("names", "error", "why"),
    [
        (("nowhere",), InvalidRequest, "no platform"),
        (("e_" + "0" * 32,), NotFound, "no such entry"),
        ((KEY,), InvalidRequest, "no row"),
    ],
)
def test_what_cannot_be_exported_is_told(lab, probing, names, error, why):
    assert probing.row_of(KEY)
    with pytest.raises(error, match=why):
        lab.export(names=names)


def test_a_platform_with_too_many_rows_is_refused(farm, lab, probing, monkeypatch):
    monkeypatch.setattr(pool, "MAX_ENTRY_ROWS", 15)
    probing.measure()
    with pytest.raises(TooLarge, match="16 rows"):
        lab.export(names=(KEY,))


def test_no_connection_is_held_while_a_file_is_made(farm, lab, probing):
    """What was read is all that it takes, also of imported entries."""
    probing.measure()
    ids = lab.bring(made_file()).entries
    with farm.transaction() as tx:
        gathered = pool.gather(tx, LICENCE.model_copy(update={"names": (KEY, *ids)}))
    with farm.statements() as sent:
        data = pool.export(gathered)
    assert (len(read(data).manifest.entries), sent) == (2, [])


def test_an_architecture_brings_its_kernels_along(farm, lab, probing, ann, agent):
    small = {"layers": 1, "hidden": 128, "seq": 64, "intermediate": 512, "heads": 2}
    fields = {"workloads": [{"kind": "architecture", "space": "bert", "genes": small}], "platforms": [KEY]}
    farm.submit_planned(ann, JobRequest.model_validate(fields))
    agent.measure_all()
    (found,) = opened(lab.export(names=(KEY,)))
    with farm.transaction() as tx:
        (model,) = own_rows(tx, probing.id_of(KEY), WHOLE_MODEL).models
    assert found.rows.models[0].kernels == model.kernels
    assert found.rows.models[0].space == "bert"


def test_an_adaptation_starts_from_what_is_near_of_entries_too(farm, lab, probing):
    """Own platforms need a predictor that answers; far ones are no donors, those that nobody compared come last."""
    kin = "host-a/c0.t1.free/onnxruntime-1.0/fp32"
    other, far = "host-b/c0.t1.free/ncnn-1.0/fp32", "host-c/c0.t1.free/ncnn-1.0/fp32"
    ids = lab.bring(made_file(*(made_rows(key, slower=n + 1) for n, key in enumerate((ELSEWHERE, kin, other, far)))))
    by_key = {one.key: one.id for one in lab.members() if one.id in ids.entries}
    own = probing.id_of(KEY)
    with farm.transaction() as tx:
        nearness = {by_key[kin]: 0.01, by_key[other]: 0.1, by_key[ELSEWHERE]: 0.2, by_key[far]: 0.9}
        likenesses.keep_entry(tx, by_key[kin], [likeness(id_, own, value) for id_, value in nearness.items()])

    def donors(choice: DonorChoice, limit: int = 9) -> list[str]:
        with farm.transaction() as tx:
            found = find_donors(tx, probing.row_of(KEY), parse_platform_key(KEY), choice, limit)
            rows = lent(tx, told_donors(found))
        return [one.platform for one in rows]

    assert donors(DonorChoice.ANY) == [kin, other, ELSEWHERE]
    assert donors(DonorChoice.ANY, limit=1) == [kin]
    assert kin not in donors(DonorChoice.OTHER_FAMILIES)
    assert donors(DonorChoice.NONE) == []
    file = predictor_bytes(WIDE, WHOLE_MODEL)
    with farm.transaction() as tx:
        place = {"platform_id": probing.row_of(WIDE), "subject": WHOLE_MODEL, "file": file}
        predictors.publish(tx, **place, evidence=PredictorEvidence(), reason="first", activate=True)
    assert donors(DonorChoice.ANY) == [kin, other, ELSEWHERE, WIDE]
