"""What a board can be set to: which points lie in its ranges, and which it is registered with."""

import pytest
from pydantic import ValidationError

from benchfarm_core.boards import BoardReport, mark_prefix, provable
from benchfarm_core.operating_ranges import (
    OperatingRange,
    accepts,
    clusters,
    default_points,
    impossible_point,
    ranges_text,
)
from benchfarm_core.platforms import ClockProof, parse_platform_key

LITTLE = OperatingRange(mode="pinned", cores=(0, 1, 2, 3), threads_max=4, freq_khz=(300_000, 1_800_000))
BIG = OperatingRange(mode="pinned", cores=(4, 5, 6, 7), threads_max=4, freq_khz=(700_000, 2_400_000))
PRIME = OperatingRange(mode="pinned", cores=(8,), threads_max=1, freq_khz=(3_000_000,))
FIXED = OperatingRange(mode="fixed_performance", cores=(0, 1, 2, 3), threads_max=2)
FREE = OperatingRange(mode="free", cores=(0, 1, 2, 3), threads_max=4)


def platform(point: str):
    return parse_platform_key(f"rpi5/{point}/ncnn-1.0/fp32")


@pytest.mark.parametrize(
    ("point", "lies_within"),
    [
        ("c0-3.t1.1800000", True),
        ("c2.t1.300000", True),
        ("c4-7.t4.2400000", True),
        ("c0-3.t1.2400000", False),
        ("c3-4.t1.1800000", False),
        ("c0-3.t1.1800000_1800000", False),
        ("c0-3.t1.1800000.schedutil", False),
        ("c0-3.t4.free", True),
        ("c0-4.t4.free", False),
        ("c0-1.t2.fixed", True),
        ("c0-3.t3.fixed", False),
    ],
)
def test_points_of_a_range(point: str, lies_within: bool) -> None:
    assert accepts((LITTLE, BIG, FIXED, FREE), platform(point).operating_point) is lies_within


def test_a_board_is_registered_with_one_and_all_threads_of_its_largest_fastest_cluster() -> None:
    assert [point.key for point in default_points((FREE, LITTLE, BIG, PRIME))] == ["c7.t1.2400000", "c4-7.t4.2400000"]
    assert [point.key for point in default_points((PRIME,))] == ["c8.t1.3000000"]
    assert [point.key for point in default_points((FREE, FIXED))] == ["c3.t1.fixed", "c2-3.t2.fixed"]
    assert [point.key for point in default_points((FREE,))] == ["c3.t1.free", "c0-3.t4.free"]
    assert default_points(()) == ()


@pytest.mark.parametrize("ranges", [(LITTLE, BIG), (FIXED,), (FREE,)])
def test_what_a_board_is_registered_with_lies_in_its_ranges(ranges: tuple[OperatingRange, ...]) -> None:
    assert all(accepts(ranges, point) for point in default_points(ranges))


@pytest.mark.parametrize(
    "damage",
    [
        {"cores": ()},
        {"cores": (1, 0, 2, 3)},
        {"cores": (0, 0, 1)},
        {"threads_max": 5},
        {"threads_max": 0},
        {"freq_khz": ()},
        {"freq_khz": (2, 1)},
        {"mode": "free"},
    ],
)
def test_ranges_that_contradict_themselves(damage: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        OperatingRange.model_validate(LITTLE.model_dump() | damage)


def test_ranges_for_people() -> None:
    assert ranges_text((LITTLE, PRIME, FREE)) == (
        "c0-3, up to 4 threads, at 300000 or 1800000 kHz; c8, 1 thread, at 3000000 kHz; c0-3, up to 4 threads, free"
    )
    assert clusters((LITTLE, PRIME, FREE)) == [
        "c0-3: 300000 to 1800000 kHz in 2 steps",
        "c8: 3000000 to 3000000 kHz in 1 steps",
    ]


def test_a_point_that_no_board_has_is_refused_with_those_that_they_have() -> None:
    refusal = impossible_point(platform("c0-3.t1.999"), (LITTLE,))
    assert (refusal.code, refusal.field) == ("operating_point_impossible", "platforms")
    assert "c0-3.t1.999" in refusal.detail
    assert "300000 or 1800000 kHz" in refusal.detail
    many = OperatingRange(mode="pinned", cores=(0,), threads_max=1, freq_khz=tuple(range(10**8, 10**8 + 200)))
    assert len(impossible_point(platform("c0.t1.9"), (many,) * 100).detail) < 2000


def test_only_a_pinned_clock_can_be_proven() -> None:
    pinned, free = (platform(point).operating_point for point in ("c0.t1.300000", "c0.t1.free"))
    assert provable(pinned, ClockProof.VERIFIED) is ClockProof.VERIFIED
    assert provable(free, ClockProof.VERIFIED) is ClockProof.UNPINNED


REPORT = {
    "kind": "adb",
    "serial": "s",
    "hardware_id": "h",
    "board_model": "shared-emu-phone",
    "model_name": "",
    "generation": "g",
    "facts": {},
    "engines": (),
    "operating_points": (),
    "clock_proof": "unpinned",
    "marks": ("emulated", "shared_host"),
}


def test_a_marked_board_shares_no_model_with_a_real_one() -> None:
    assert mark_prefix(("emulated", "shared_host")) == "shared-emu-"
    assert BoardReport.model_validate(REPORT).marks == ("emulated", "shared_host")
    for model in ("phone", "emu-phone"):
        with pytest.raises(ValidationError, match="begins with shared-emu-"):
            BoardReport.model_validate({**REPORT, "board_model": model})
    BoardReport.model_validate({**REPORT, "board_model": "phone", "marks": ()})
