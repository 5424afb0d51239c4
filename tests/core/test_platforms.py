"""Platform keys can be read back, and say exactly what a platform is."""

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.platforms import (
    EngineSpec,
    OperatingPoint,
    Platform,
    PlatformFilter,
    Precision,
    matches,
    parse_platform_key,
)

names = st.from_regex(r"[a-z0-9][a-z0-9_]{0,20}", fullmatch=True)
option_values = st.one_of(st.booleans(), st.integers(0, 10**6), st.from_regex(r"[a-z][a-z_]{1,8}", fullmatch=True))


@st.composite
def operating_points(draw: st.DrawFn) -> OperatingPoint:
    cores = tuple(sorted(draw(st.sets(st.integers(0, 63), min_size=1, max_size=8))))
    mode: Literal["pinned", "fixed_performance", "free"] = draw(
        st.sampled_from(["pinned", "fixed_performance", "free"])
    )
    frequencies = tuple(draw(st.lists(st.integers(1, 10**7), min_size=1, max_size=3))) if mode == "pinned" else ()
    return OperatingPoint(mode=mode, cores=cores, threads=draw(st.integers(1, len(cores))), freq_khz=frequencies)


@st.composite
def platforms(draw: st.DrawFn) -> Platform:
    options = draw(st.dictionaries(names.filter(lambda n: n not in ("true", "false")), option_values, max_size=3))
    options = {k: v for k, v in options.items() if v not in ("true", "false")}
    engine = EngineSpec(
        name=draw(names), version=draw(st.from_regex("[0-9]{1,4}[.][0-9]{1,2}", fullmatch=True)), options=options
    )
    return Platform(
        board_model=draw(names),
        operating_point=draw(operating_points()),
        engine=engine,
        precision=draw(st.sampled_from(Precision)),
    )


@given(platforms())
def test_a_key_can_be_read_back(platform: Platform) -> None:
    again = parse_platform_key(platform.key)
    assert again.key == platform.key
    assert again.id == platform.id


def test_the_designs_example_is_a_key() -> None:
    platform = parse_platform_key("rpi5/c0-3.t1.2400000/onnxruntime-1.31.1/fp32")
    assert platform.operating_point.cores == (0, 1, 2, 3)
    assert platform.operating_point.freq_khz == (2_400_000,)
    assert platform.engine.version == "1.31.1"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "rpi5",
        "a/b/c/d",
        "rpi5/c0-3.t9.free/onnxruntime-1/fp32",
        "rpi5/c3-0.t1.free/ort-1/fp32",
        "x" * 5000,
        "rpi5/c0-99999999.t1.free/ort-1/fp32",
        "rpi5/c0.t1.free/ort-1/fp99",
        "rpi5/c0.t1.free/ort/fp32",
    ],
)
def test_what_is_no_key_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_platform_key(text)
    assert caught.value.code == "platform_unknown"
    assert "board-model/" in caught.value.detail


def test_a_key_that_names_an_option_twice_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="edges is named twice") as caught:
        parse_platform_key("rpi5/c0.t1.free/ort-1~edges=fp32~edges=int8/int8")
    assert (caught.value.code, caught.value.field) == ("engine_option_repeated", "platforms")


def test_options_stand_in_the_order_of_their_names() -> None:
    platform = parse_platform_key("rpi5/c0.t1.free/ort-1~winograd=false~edges=fp32/int8")
    assert platform.key == "rpi5/c0.t1.free/ort-1~edges=fp32~winograd=false/int8"


@given(platforms())
def test_filters(platform: Platform) -> None:
    assert matches(platform, PlatformFilter())
    assert matches(platform, PlatformFilter(engine=(platform.engine.name, "other")))
    assert not matches(platform, PlatformFilter(engine=(platform.engine.name + "x",)))
    assert not matches(platform, PlatformFilter(threads=(platform.operating_point.threads + 1,)))
