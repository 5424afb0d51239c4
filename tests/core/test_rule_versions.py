"""Every change of a rule is a new version: what the rules make of fixed raw data is pinned to their number."""

import random
from hashlib import sha256

import pytest

from benchfarm_core.comparing import COMPARISON_RULE_VERSION
from benchfarm_core.failures import FailureCode
from benchfarm_core.measurements import LaunchSamples
from benchfarm_core.platforms import ClockProof
from benchfarm_core.protocols import PROTOCOLS
from benchfarm_core.quality import RULE_VERSION, CanaryGolden, summarise, wants_more_launches
from tests.core.test_comparing import answer
from tests.core.test_differences import doubled
from tests.core.test_quality import launch
from tests.core.test_quiet_blocks import pointed

# A rule that gives other numbers, or words, for these launches: raise its version and pin what it gives now.
SUMMARIES = {11: "63df9f4098a31dd1"}
DIFFERENCES = {11: "16b8a9ca925ad1d5"}
PROFILES = {11: "bc31932f18a6c7a7"}
COMPARISONS = {3: "037b1ab3ac449e7d"}

GOLDEN = CanaryGolden(sgemm_ns=100_000, mobilenet_ns=500_000)


def drawn(seed: int) -> list[LaunchSamples]:
    """Launches with luck, waits, loud neighbours and a wandering clock."""
    rng = random.Random(seed)
    found = []
    for number in range(rng.randint(2, 8)):
        loud, count = rng.random() < 0.3, rng.randint(4, 60)
        slow = 1 + 0.1 * rng.random() + 0.4 * loud
        blocks = [round(300_000 * slow * (1 + 0.02 * rng.random())) for _ in range(count)]
        switches = [int(rng.random() < (0.5 if loud else 0.05)) for _ in range(count)]
        made = launch(number, blocks, switches=switches, canary_ns=round(100_000 * (1 + 0.05 * rng.random())))
        mobilenet = round(500_000 * (1 + 0.2 * loud + 0.02 * rng.random()))
        delays = tuple(20_000 * 3 * one + rng.randint(0, 19_000) for one in switches)
        canaries = {**made.canaries, "mobilenet": ((0, mobilenet), (count, mobilenet))}
        found.append(made.model_copy(update={"delays_ns": delays, "canaries": canaries}))
    return found


def drawn_pointed(seed: int) -> list[LaunchSamples]:
    """Launches with the clock's canary between their blocks, which met a fast mode, the usual one and slow ones. Of
    every other seed blocks waited wherever it was slow."""
    rng = random.Random(seed)
    modes = ((76_000, 82_000, 82_500, 110_000), (82_000, 82_000, 90_000, 99_000), (110_000, 82_000, 150_000))[seed % 3]
    found = [
        pointed(number, [rng.choice(modes) for _ in range(9)], kernel_share=0.3 * (seed % 4), seed=seed)
        for number in range(rng.randint(1, 6))
    ]
    return [waited(one) for one in found] if seed % 2 else found


def waited(one: LaunchSamples) -> LaunchSamples:
    """The launch with a quiet run behind each slow one."""
    runs = [
        (place, ns) for place, slow in one.canaries["sgemm"] for ns in ((slow, 82_000) if slow > 99_000 else (slow,))
    ]
    return one.model_copy(update={"canaries": {**one.canaries, "sgemm": tuple(runs)}})


def digest_of(lines: list[str]) -> str:
    return sha256("\n".join(lines).encode()).hexdigest()[:16]


def drawn_doubled(seed: int) -> list[LaunchSamples]:
    """Launches by difference of a kernel that is nothing, unclear, small or large, some beside a loud canary."""
    found = [
        doubled(n, (0, 1_200, 4_000, 40_000)[seed % 4], luck=0.01, noise=0.01, seed=seed) for n in range(2 + seed % 7)
    ]
    loud = {"sgemm": ((0, 101_000),), "mobilenet": ((0, 600_000),)}
    return [one.model_copy(update={"canaries": loud}) if n % 4 == 3 else one for n, one in enumerate(found)]


def told(launches: list[LaunchSamples], seed: int, name: str | None = None) -> str:
    protocol = PROTOCOLS[name or ("kernel", "standard", "quick")[seed % 3]]
    found = summarise(launches, protocol=protocol, golden=GOLDEN, clock_proof=list(ClockProof)[seed % 3])
    numbers = {} if isinstance(found, FailureCode) else found.model_dump(mode="json", exclude={"rule_version", "noisy"})
    rounded = {name: f"{one:.9g}" if isinstance(one, float) else one for name, one in numbers.items()}
    return f"{found if isinstance(found, FailureCode) else rounded} {wants_more_launches(launches, protocol)}"


@pytest.mark.parametrize("rule", ["summaries", "differences", "profiles", "comparisons"])
def test_what_a_rule_gives_is_pinned_to_its_version(rule: str) -> None:
    if rule == "summaries":
        lines = [told(drawn(seed), seed) for seed in range(60)]
        lines += [told(drawn_pointed(seed), seed) for seed in range(60)]
        assert len({line.split()[0] for line in lines}) > 1  # numbers, and reasons for none
        assert {RULE_VERSION: digest_of(lines)} == SUMMARIES
    elif rule == "differences":
        lines = [told(drawn_doubled(seed), seed) for seed in range(40)]
        assert len({line.split()[0] for line in lines}) > 1
        assert {RULE_VERSION: digest_of(lines)} == DIFFERENCES
    elif rule == "profiles":
        lines = [told(drawn(seed), seed, "profile") for seed in range(40)]
        assert len({line.split()[0] for line in lines}) > 1
        assert {RULE_VERSION: digest_of(lines)} == PROFILES
    else:
        changes = [answer(seed, shift=0.01 * (seed % 3 - 1), luck=0.007) for seed in range(12)]
        numbers = [f"{one.verdict} {one.change_percent:.6g} {one.low_percent:.6g} {one.launches}" for one in changes]
        assert {COMPARISON_RULE_VERSION: digest_of(numbers)} == COMPARISONS
