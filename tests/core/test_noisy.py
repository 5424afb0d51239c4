"""Measurements that never met the machine that their lease is divided by: launches agree, and all are slow."""

import pytest

from benchfarm_core.protocols import PROTOCOLS
from benchfarm_core.quality import CanaryGolden, is_noisy
from tests.core.test_quality import beside_canary, launch

KERNEL = PROTOCOLS["kernel"]
LEASE = CanaryGolden(sgemm_ns=100_000, mobilenet_ns=500_000)
UNKNOWN = CanaryGolden()


def seen(*canaries_ns: tuple[int, int], switches: int = 0):
    """Launches beside SGEMM and MobileNet at these times; `switches` in each block."""
    made = [launch(n, [1_000_000] * 10, canary_ns=sgemm, switches=[switches] * 10) for n, (sgemm, _) in
            enumerate(canaries_ns)]  # fmt: skip
    return [beside_canary(one, mobilenet) for one, (_, mobilenet) in zip(made, canaries_ns, strict=True)]


@pytest.mark.parametrize(
    ("mobilenet_ns", "noisy"),
    [
        ((500_000, 700_000, 700_000), False),
        ((574_000, 700_000, 700_000), False),  # one moment was enough; a few percent are another mode, not a neighbour
        ((580_000, 580_000, 580_000), True),
        ((700_000, 700_000, 700_000), True),
    ],
)
@pytest.mark.parametrize("sgemm_ns", [100_000, 150_000])
@pytest.mark.parametrize("switches", [0, 1])
def test_some_launch_came_near_to_what_its_lease_saw(
    mobilenet_ns: tuple[int, ...], sgemm_ns: int, switches: int, noisy: bool
) -> None:
    """However slow the clock was then, and whoever the witness saw: the lease's clock divides it."""
    launches = seen(*((sgemm_ns, ns) for ns in mobilenet_ns), switches=switches)
    assert is_noisy(launches, KERNEL, UNKNOWN, LEASE) is noisy


def test_a_lease_that_is_slow_as_a_whole_is_held_to_quiet_ones_by_its_own_clock() -> None:
    quiet = CanaryGolden(sgemm_ns=100_000, mobilenet_ns=500_000)
    crowded = seen(*[(100_000, 600_000)] * 3, switches=1)
    assert is_noisy(crowded, KERNEL, quiet, CanaryGolden(sgemm_ns=100_000, mobilenet_ns=600_000))
    slower_clock = CanaryGolden(sgemm_ns=120_000, mobilenet_ns=600_000)
    assert not is_noisy(seen(*[(120_000, 600_000)] * 3, switches=1), KERNEL, quiet, slower_clock)


def test_without_a_canary_in_the_lease_nobody_knows() -> None:
    launches = seen(*[(100_000, 900_000)] * 3)
    assert is_noisy(launches, KERNEL, UNKNOWN, CanaryGolden(sgemm_ns=100_000)) is False
    bare = [one.model_copy(update={"canaries": {}}) for one in launches]
    assert is_noisy(bare, KERNEL, UNKNOWN, LEASE) is False
