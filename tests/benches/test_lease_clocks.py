"""Lease clocks: a clock that hangs on luck is seen in the table, and the farm's is not one."""

from bench import lease_clocks
from benchfarm_core.measurements import LaunchSamples
from benchfarm_core.summaries import Grade
from tests.core.test_quality import launch


def a_lease(fast: int) -> dict[int, list[LaunchSamples]]:
    """Ten kernels, three launches of each, all of one time; of 60 canary runs some in the processor's fast mode."""
    clocks_ns = [76_500] * fast + [83_000] * (30 - fast)
    made = [launch(number % 3, [1_000_000] * 10, canary_ns=ns) for number, ns in enumerate(clocks_ns)]
    return {kernel: made[3 * kernel : 3 * kernel + 3] for kernel in range(10)}


def test_what_a_twentieth_stays_below_is_a_lottery() -> None:
    rounds = [a_lease(2), a_lease(6)]
    assert lease_clocks.apart(rounds, "fastest") == {Grade.A: [0.0] * 10}
    assert lease_clocks.apart(rounds, "undivided") == {Grade.A: [0.0] * 10}
    assert min(lease_clocks.apart(rounds, "a twentieth")[Grade.A]) > 0.07, "a fast mode that is 8 % faster"
    row = lease_clocks.row_of("litert", [rounds], (Grade.A, Grade.B, Grade.C))
    assert row == {
        "engine": "litert", "grades": "ABC", "pairs": 10,
        "a twentieth": "7.83% / 7.83%", "fastest": "0.00% / 0.00%", "undivided": "0.00% / 0.00%",
    }  # fmt: skip
    assert lease_clocks.clocks_row("litert", rounds)["fastest"] == "76.5, 76.5"


def test_kernels_are_told_by_how_far_their_own_canaries_missed_the_clock_of_the_lease() -> None:
    bands = [row["pairs"] for row in lease_clocks.missed_rows([[a_lease(2), a_lease(6)]])]
    assert bands == [1, 0, 0, 9, 0], "the first kernel met the fast mode in both rounds, the others missed it by 8.5 %"
    assert lease_clocks.missed(a_lease(30)) == dict.fromkeys(range(10), 0.0)
