"""What a board's marks mean for what is measured on it."""

from itertools import permutations

import pytest

from benchfarm_core.boards import (
    MARK_PREFIXES,
    SINGLE_USE,
    SINGLE_USE_PREFIXES,
    BoardMark,
    is_single_use,
    is_witness_enforced,
    mark_prefix,
    marks_of,
    refuse_single_use,
    why_single_use,
)
from benchfarm_core.errors import InvalidRequest

POINT = "c0.t1.free/ncnn-1.0/fp32"
EVERY: list[tuple[BoardMark, ...]] = [marks for n in range(4) for marks in permutations(MARK_PREFIXES, n)]


@pytest.mark.parametrize("marks", EVERY)
def test_a_models_name_tells_its_marks_and_so_does_a_platforms_key(marks: tuple[BoardMark, ...]) -> None:
    model = f"{mark_prefix(marks)}host-a"
    assert marks_of(model) == marks_of(f"{model}/{POINT}") == set(marks)
    is_single = not SINGLE_USE.keys().isdisjoint(marks)
    assert is_single_use(model) == is_single_use(f"{model}/{POINT}") == is_single
    assert f"{model}/{POINT}".startswith(SINGLE_USE_PREFIXES) == is_single, "SQL looks at the beginning alone"
    assert is_witness_enforced(model) == ("shared_host" not in marks)


def test_which_boards_results_are_used_once() -> None:
    models = ["rpi5", "sim-a", "emu-a", "shared-a", "shared-sim-a", "emulator", "sim-emu-a"]
    assert [model for model in models if is_single_use(model)] == ["emu-a", "shared-a", "shared-sim-a"]


def test_a_refusal_says_why_and_what_to_do() -> None:
    assert why_single_use("rpi5") is None
    refuse_single_use(f"sim-a/{POINT}")
    with pytest.raises(InvalidRequest, match=r"emu-a are emulated.*submit a job") as refused:
        refuse_single_use(f"emu-a/{POINT}", field="names")
    assert (refused.value.code, refused.value.field) == ("platform_single_use", "names")
    assert "share a host's cores with others and are emulated" in str(why_single_use("shared-emu-a"))
