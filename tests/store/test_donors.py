"""Whom a predictor may start from: by likeness in its own subject, and another version of the engine before all."""

import pytest

from benchfarm_core.access import Role
from benchfarm_core.adapting import DonorChoice
from benchfarm_core.errors import NotFound
from benchfarm_core.measurements import Timing
from benchfarm_core.platforms import parse_platform_key
from benchfarm_core.pool import Likeness
from benchfarm_core.pool_files import open_entries
from benchfarm_core.predictors import WHOLE_MODEL
from benchfarm_store import adaptation_donors, likenesses, pool, pool_entries
from benchfarm_store.adaptation_donors import find_donors, lent, told_donors
from benchfarm_store.training_rows import FoundRows
from benchfarm_workloads.kernels import CATALOGUE_VERSION
from benchfarm_workloads.own_kernels import OwnKernels
from tests.pool_rows import made_file, made_rows, of_another_farm
from tests.store.probing import CONV, KEY, Probing

NEAR, OTHER = "host-b/c0.t1.free/ncnn-1.0/fp32", "host-c/c0.t1.free/ncnn-1.0/fp32"
OLD = KEY.replace("1.31.1", "1.30.0")


@pytest.fixture
def lab(farm, ann, agent):
    """Entries of three platforms: `compare` says how far each is from the first own one, in a subject."""
    probing = Probing(farm, ann, agent)
    by = farm.account("lab", Role.OPERATOR)
    with farm.transaction() as tx:
        file = open_entries(
            made_file(*(made_rows(key, slower=at + 1) for at, key in enumerate((NEAR, OTHER, OLD)))),
            OwnKernels(),
            CATALOGUE_VERSION,
        )
        pool_entries.import_entries(tx, file, by=by)
        ids = {one.key: one.id for one in pool.list_members(tx) if not one.is_own}

    class Lab:
        def compare(self, **told):
            found = []
            for subject, far in told.items():
                for key, divergence in far.items():
                    fields = {"donor": ids[key], "target": probing.id_of(KEY), "timing": Timing.ALONE, "count": 12}
                    fields |= {"divergence": divergence, "low": 0.0, "high": 1.0, "spearman": None}
                    fields |= {"subject": CONV if subject == "conv" else WHOLE_MODEL, "log_ratio_variance": 0.0}
                    found.append(Likeness.model_validate(fields | {"is_near": divergence < 0.5}))
            with farm.transaction() as tx:
                likenesses.keep_entry(tx, ids[NEAR], found)

        def compare_as(self, id_, divergence):
            """One more entry, beside those that were compared."""
            fields = {"donor": id_, "target": probing.id_of(KEY), "timing": Timing.ALONE, "count": 12}
            fields |= {"divergence": divergence, "low": 0.0, "high": 1.0, "spearman": None, "is_near": True}
            one = Likeness.model_validate(fields | {"subject": WHOLE_MODEL, "log_ratio_variance": 0.0})
            with farm.transaction() as tx:
                likenesses.keep_entry(tx, id_, [one])

        def donors(self, subject, limit=9):
            with farm.transaction() as tx:
                own = parse_platform_key(KEY)
                found = find_donors(tx, probing.row_of(KEY), own, DonorChoice.ANY, limit, subject)
                return lent(tx, told_donors(found))

        def keys(self, subject, limit=9):
            return [one.platform for one in self.donors(subject, limit)]

    return Lab()


def test_a_kernel_type_has_donors_by_its_own_likeness(lab):
    lab.compare(model={NEAR: 0.1, OTHER: 0.2}, conv={NEAR: 0.9, OTHER: 0.1})
    assert lab.keys(WHOLE_MODEL) == [NEAR, OTHER]
    assert lab.keys(CONV) == [OTHER], "in these kernels the other one is far"
    (rows,) = lab.donors(CONV)
    assert {row.kernel_type for row in rows.kernels} == {CONV}
    assert rows.models == (), "what else it knows is not fitted"


def test_where_nothing_is_known_of_a_type_models_tell(lab):
    lab.compare(model={NEAR: 0.1, OTHER: 0.2})
    assert lab.keys("dwconv-bn-act") == [NEAR, OTHER]


def test_another_version_of_the_engine_comes_first(lab):
    lab.compare(model={NEAR: 0.1, OTHER: 0.2, OLD: 0.3})
    assert lab.keys(WHOLE_MODEL, limit=1) == [OLD]
    assert lab.keys(WHOLE_MODEL) == [OLD, NEAR, OTHER]


def test_a_donor_that_has_just_gone_lends_nothing(lab, monkeypatch):
    lab.compare(model={NEAR: 0.1, OTHER: 0.2})
    really = pool.find_donor_rows

    def vanishing(tx, donor, subject):
        rows = really(tx, donor, subject)
        if (rows.key if isinstance(rows, FoundRows) else rows.platform) == NEAR:
            raise NotFound("somebody has deleted it")
        return rows

    monkeypatch.setattr(pool, "find_donor_rows", vanishing)
    assert lab.keys(WHOLE_MODEL) == [OTHER]


def test_of_one_platform_the_newest_entry_lends(lab, farm):
    by = farm.account("lab-2", Role.OPERATOR)
    file = of_another_farm(made_file(made_rows(NEAR, slower=7)), "newer-0123456789ab")
    with farm.transaction() as tx:
        pool_entries.import_entries(tx, open_entries(file, OwnKernels(), CATALOGUE_VERSION), by=by)
        newer = next(one.id for one in pool.list_members(tx) if one.origin.startswith("newer"))
    lab.compare(model={NEAR: 0.1, OTHER: 0.2})
    older_ms = lab.donors(WHOLE_MODEL)[0].kernels[0].normalised_ms
    lab.compare_as(newer, 0.3)
    found = lab.donors(WHOLE_MODEL)
    assert [one.platform for one in found] == [OTHER, NEAR], "one of each, by the likeness of the one that lends"
    assert found[1].kernels[0].normalised_ms == pytest.approx(7 * older_ms)


def test_an_own_platform_lends_before_what_was_imported_of_it(lab, farm):
    lab.compare(model={NEAR: 0.1})
    with farm.transaction() as tx:
        entry = next(one.id for one in pool.list_members(tx) if one.key == NEAR)
        assert adaptation_donors.one_each(tx, {entry: parse_platform_key(NEAR), "p_z": parse_platform_key(NEAR)}) == [
            "p_z"
        ]
