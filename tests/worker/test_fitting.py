"""Donors that are kept between fits: made once, and never of what judges now."""

from benchfarm_core.predictors import TrainingRows
from benchfarm_predictor.training.model_donors import PlatformDonor
from benchfarm_worker.fitting import Known
from tests.predictor.training.farm_rows import MOBILE, Platform, kernel_rows, model_rows, training_rows

TYPE = "linear"
OWN = training_rows(Platform(1))
LENT = training_rows(Platform(2), [], kernel_rows(Platform(2), TYPE, 14))


def lender(rows: TrainingRows, *held: str) -> PlatformDonor:
    (found,) = Known.of(OWN, held, [rows]).donors
    return found


def times_ms(donor: PlatformDonor) -> set[float]:
    return set(donor.alone[TYPE].measured.latency_ms.round(9).tolist())


def test_a_donor_that_is_kept_does_not_know_what_judges_the_next_time() -> None:
    """The rows of other farms say the same hash of themselves, whatever is a hold-out here."""
    for row in LENT.kernels[:2]:
        known = times_ms(lender(LENT, row.workload_id))
        assert len(known) == 13
        assert round(row.normalised_ms, 9) not in known
    assert len(times_ms(lender(LENT))) == 14


def test_a_donor_is_made_once_for_the_same_rows() -> None:
    first = lender(LENT, LENT.kernels[0].workload_id)
    assert lender(LENT, LENT.kernels[0].workload_id, "w_of_nothing_here") is first
    assert lender(LENT, LENT.kernels[1].workload_id) is not first


def test_rows_that_name_the_same_hash_are_not_taken_for_each_other() -> None:
    slower = tuple(row.model_copy(update={"normalised_ms": 2 * row.normalised_ms}) for row in LENT.kernels)
    other = LENT.model_copy(update={"kernels": slower})
    assert min(times_ms(lender(other))) > 1.5 * min(times_ms(lender(LENT)))


def test_architectures_of_an_unseen_space_teach_nobody() -> None:
    """Neither the platform that measured them nor those that its donors lend."""
    own, lent = (
        training_rows(
            one, [*model_rows(one, MOBILE, 14), *model_rows(one, "proxylessnas", 14)], kernel_rows(one, TYPE, 14)
        )
        for one in (Platform(1), Platform(2))
    )
    for unseen, taught in (((), {MOBILE, "proxylessnas"}), ((MOBILE,), {"proxylessnas"})):
        known = Known.of(own, (), [lent], unseen)
        (donor,) = known.donors
        assert donor.models is not None
        assert set(known.rows.models.spaces) == set(donor.models.spaces) == taught
        assert len(known.rows.alone[TYPE]) == 14, "its kernels do"
