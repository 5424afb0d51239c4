"""A protocol whose limits cannot all hold is refused where it is asked for."""

import pytest
from pydantic import ValidationError

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.protocols import (
    GOLDEN,
    PROTOCOLS,
    ProtocolRequest,
    changed_parameters,
    in_situ,
    longest_s,
    refuse_longer,
    resolve_protocol,
)
from benchfarm_core.refusals import refusal_of
from benchfarm_core.values import digest


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"launches_min": 9, "launches_max": 8}, "launches_max is below launches_min"),
        ({"blocks_min": 700, "blocks_max": 600}, "blocks_max is below blocks_min"),
        ({"visit_ms": 2000, "visit_timeout_s": 1}, "visit_ms is above visit_timeout_s"),
        ({"blocks_min": 100, "block_min_us": 1_000_000}, "its blocks alone take 100 s, visit_timeout_s is 60"),
        ({"visit_ms": 30_000, "warmup_min_ms": 9000, "visit_timeout_s": 38}, "39 s"),
        ({"visit_timeout_s": 3601}, "less than or equal to 3600"),
        ({"launches_max": 10**9}, "less than or equal to 40"),
        ({"visit_ms": 0}, "greater than or equal to 5"),
        ({"blocks_min": 3.5}, "blocks_min: Input should be a valid integer"),
        ({"half_width_target": 0}, "greater than 0"),
        ({"name": 1}, "no parameter"),
        ({"speed": 1}, "no parameter"),
    ],
)
def test_impossible_limits_are_named(parameters: dict[str, float], told: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        resolve_protocol(ProtocolRequest(name="kernel", parameters=parameters))
    assert (refused.value.code, refused.value.field) == ("protocol_impossible", "protocol.parameters")
    assert told in refused.value.detail


@pytest.mark.parametrize("name", ["compare", "memory", "profile"])
def test_what_has_no_canaries_between_its_blocks_waits_for_none(name: str) -> None:
    with pytest.raises(InvalidRequest, match="quiet_wait_ms waits for canaries between blocks") as refused:
        resolve_protocol(ProtocolRequest(name=name, parameters={"quiet_wait_ms": 20}))
    assert refused.value.field == "protocol.parameters"


def test_a_protocol_without_waits_is_the_one_of_before_there_were_waits() -> None:
    plain = PROTOCOLS["kernel"].model_copy(update={"version": 4, "quiet_wait_ms": None})
    before = {name: value for name, value in plain.model_dump(mode="json").items() if name != "quiet_wait_ms"}
    assert plain.id == "proto_" + digest(before, length=12)
    assert PROTOCOLS["kernel"].id != plain.id
    assert in_situ(PROTOCOLS["kernel"]).quiet_wait_ms is None


def test_a_protocol_is_told_from_its_names_own_by_what_differs() -> None:
    changed: dict[str, int | float] = {"visit_ms": 50, "half_width_target": 0.02}
    assert changed_parameters(resolve_protocol(ProtocolRequest(parameters=changed | {"blocks_min": 5}))) == changed
    assert all(changed_parameters(one) == {} for one in (*PROTOCOLS.values(), GOLDEN))


def test_of_an_unknown_version_every_parameter_is_told() -> None:
    older = PROTOCOLS["kernel"].model_copy(update={"version": 2})
    assert changed_parameters(older) == older.model_dump(exclude={"name", "version"})


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_every_protocol_of_the_farm_is_possible(name: str) -> None:
    assert resolve_protocol(ProtocolRequest(name=name)) == PROTOCOLS[name]


def test_a_protocol_just_within_its_time_is_taken() -> None:
    limits: dict[str, int | float] = {"blocks_min": 50, "block_min_us": 10**6, "warmup_min_ms": 10**4}
    assert resolve_protocol(ProtocolRequest(parameters=limits | {"visit_timeout_s": 60})).blocks_min == 50


@pytest.mark.parametrize("limits", [{"block_min_us": 100_000}, {"warmup_min_ms": 9000}])
def test_a_pair_takes_the_time_of_both_sides(limits: dict[str, int | float]) -> None:
    """400 blocks of 0.1 s are 40 s, of both sides 80 s; and both are warmed in every round."""
    asked = {"blocks_min": 400, "blocks_max": 800, "visit_timeout_s": 50, **limits}
    assert resolve_protocol(ProtocolRequest(name="standard", parameters=asked)).blocks_min == 400
    with pytest.raises(InvalidRequest) as refused:
        resolve_protocol(ProtocolRequest(name="compare", parameters=asked | {"visit_ms": 200}))
    assert refused.value.code == "protocol_impossible"


@pytest.mark.parametrize(
    ("limits", "launches"),
    [
        ({"launches_max": 2, "launches_min": 1}, 3),
        ({"launches_max": 2, "launches_min": 2, "blocks_min": 400}, 3),
        ({"launches_max": 3, "launches_min": 1, "blocks_max": 100}, 4),
        ({"launches_max": 7, "launches_min": 1, "blocks_max": 63}, 8),
        ({"launches_max": 7, "launches_min": 1, "blocks_max": 64}, 8),
    ],
)
def test_a_comparison_that_some_pair_could_never_answer_is_refused(
    limits: dict[str, int | float], launches: int
) -> None:
    """Its launches have three rounds of a long pair and so many of a short one as fit into `blocks_max`."""
    with pytest.raises(InvalidRequest) as refused:
        resolve_protocol(ProtocolRequest(name="compare", parameters=limits))
    assert (refused.value.code, refused.value.field) == ("protocol_impossible", "protocol.parameters")
    assert f"set launches_max, which is {limits['launches_max']}, to {launches} or more" in refused.value.detail
    enough = limits | {"launches_max": launches}
    assert resolve_protocol(ProtocolRequest(name="compare", parameters=enough)).launches_max == launches
    assert resolve_protocol(ProtocolRequest(name="standard", parameters=limits)).launches_max == limits["launches_max"]


@pytest.mark.parametrize("wrong", [True, False, "10", None, [10]])
def test_only_numbers_are_parameters(wrong: object) -> None:
    """`true` would be one millisecond, and text a number that somebody forgot to take out of its quotes."""
    with pytest.raises(ValidationError) as refused:
        ProtocolRequest.model_validate({"parameters": {"visit_ms": wrong}})
    refusal = refusal_of(refused.value.errors())
    assert (refusal.field, refusal.others) == ("parameters.visit_ms", 0)
    assert "valid integer, or: Input should be a valid number" in refusal.detail


def test_numbers_are_parameters_as_they_were() -> None:
    asked = ProtocolRequest.model_validate({"parameters": {"visit_ms": 10, "half_width_target": 0.5}})
    assert asked.parameters == {"visit_ms": 10, "half_width_target": 0.5}


@pytest.mark.parametrize(
    ("parameters", "limit_s", "told"),
    [
        ({"launches_max": 25}, 1200, "1500 s: 25 launches of up to 60 s; the limit is 1200 s"),
        ({"visit_timeout_s": 151}, 1200, "1208 s: 8 launches of up to 151 s; the limit is 1200 s"),
        ({"launches_max": 9}, 1, "540 s: 9 launches of up to 60 s; the limit is 480 s"),
    ],
)
def test_parameters_that_could_hold_a_board_for_too_long_are_refused(
    parameters: dict[str, int | float], limit_s: float, told: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        refuse_longer(ProtocolRequest(name="kernel", parameters=parameters), limit_s)
    assert (refused.value.code, refused.value.field) == ("protocol_too_long", "protocol.parameters")
    assert told in refused.value.detail
    assert "lower launches_max or visit_timeout_s" in refused.value.detail


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_what_a_protocol_may_take_by_itself_is_never_refused(name: str) -> None:
    refuse_longer(ProtocolRequest(name=name), 1)
    refuse_longer(ProtocolRequest(name=name, parameters={"visit_ms": 9}), 1)
    assert longest_s(PROTOCOLS[name]) <= 1200, "nor by the default limit, with other parameters"


def test_just_within_the_limit_is_taken() -> None:
    refuse_longer(ProtocolRequest(parameters={"visit_timeout_s": 150}), 1200)
    refuse_longer(None, 1)
