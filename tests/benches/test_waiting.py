"""Leases with and without waits: what the table makes of them."""

from bench.waiting import KERNEL, Outcome, outcome, row, waiting
from tests.core.test_quiet_blocks import pointed, quiet


def test_a_wait_of_nothing_is_the_protocol_without_waits() -> None:
    assert waiting(0).quiet_wait_ms is None
    assert waiting(80).quiet_wait_ms == 80
    assert waiting(KERNEL.quiet_wait_ms or 0) == KERNEL


def test_a_lease_tells_what_was_quiet_and_what_was_not() -> None:
    loud = [pointed(number, [80_000, *[130_000] * 7]) for number in range(3)]
    lease = outcome({0: [quiet(number) for number in range(3)], 1: loud}, 4.0, KERNEL)
    assert (lease.visits, lease.wall_s, lease.noisy) == (6, 4.0, 1)
    assert lease.times[0] is not None
    assert lease.times[1] is None


def test_pairs_of_leases_are_counted_where_both_tell() -> None:
    leases = [Outcome(6, 0.2, 0.02, 0, (1.0, 2.0)), Outcome(10, 0.4, 0.04, 1, (1.01, None))]
    found = row(leases)
    assert found["visits of a kernel"] == "4.00"
    assert found["board ms of a kernel"] == "150"
    assert found["noisy"] == "1 of 4"
    assert found["pairs told"] == "1 of 2"
    assert found["apart, median"] == "0.99%"
    assert found["apart, p90"] == ""
