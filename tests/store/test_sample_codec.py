from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from benchfarm_core.measurements import LaunchSamples, SideSamples
from benchfarm_store.sample_codec import RESOLUTION_BITS, decode, encode, pack

NS = st.integers(min_value=0, max_value=2**53 - 1)
RUN_NS = st.integers(min_value=1, max_value=2**53 - 1)
MS = st.integers(min_value=0, max_value=10**15).map(lambda ns: ns / 1e6)


@st.composite
def launches(draw):
    numbers = draw(st.lists(st.integers(0, 63), min_size=1, max_size=4, unique=True))
    return [draw(_launch(number)) for number in numbers]


@st.composite
def _launch(draw, number):
    blocks = draw(st.lists(RUN_NS, min_size=1, max_size=30))
    pairs = st.lists(st.tuples(st.integers(0, 2000), RUN_NS), max_size=4).map(tuple)
    return LaunchSamples(
        launch_no=number,
        iterations=draw(st.integers(1, 10_000_000)),
        blocks_ns=tuple(blocks),
        delays_ns=tuple(draw(NS) for _ in blocks),
        switches=tuple(draw(st.integers(0, 2**31 - 1)) for _ in blocks),
        canaries=draw(st.dictionaries(st.sampled_from(["sgemm", "mobilenet"]), pairs)),
        open_ms=draw(MS),
        first_ms=draw(MS),
        warmup_runs=draw(st.integers(0, 2**31 - 1)),
        gate_relative_l2=draw(st.none() | st.floats(0, 1)),
        timed_ms=draw(MS),
        canary_ms=draw(MS),
        beside=draw(st.none() | _beside(len(blocks))),
    )


@st.composite
def _beside(draw, pairs):
    first = draw(st.integers(1, pairs))
    return SideSamples(
        iterations=draw(st.integers(1, 10_000_000)),
        blocks_ns=tuple(draw(RUN_NS) for _ in range(pairs)),
        delays_ns=tuple(draw(NS) for _ in range(pairs)),
        switches=tuple(draw(st.integers(0, 2**31 - 1)) for _ in range(pairs)),
        open_ms=draw(MS),
        first_ms=draw(MS),
        warmup_runs=draw(st.integers(0, 2**31 - 1)),
        gate_relative_l2=draw(st.none() | st.floats(0, 1)),
        timed_ms=draw(MS),
        threads=draw(st.integers(1, 4096)),
        rounds=(first,) if first == pairs else (first, pairs - first),
    )


@given(launches())
def test_what_was_packed_is_known_without_unpacking_it(sent):
    packed = pack(sent)
    assert packed.data == encode(sent)
    assert [one.model_dump() for one in packed.launches] == [one.model_dump() for one in decode(packed.data)]


@given(launches())
def test_samples_come_back_in_launch_order_at_their_resolution(sent):
    got = decode(encode(sent))
    step = max(1, min(min(one.blocks_ns) for one in sent) >> RESOLUTION_BITS)
    in_order = sorted(sent, key=lambda one: one.launch_no)
    for was, now in zip(in_order, got, strict=True):
        apart: Any = {"blocks_ns": True, "beside": {"blocks_ns"}}
        assert now.model_dump(exclude=apart) == was.model_dump(exclude=apart)
        assert len(now.blocks_ns) == len(was.blocks_ns)
        for a, b in zip(was.blocks_ns, now.blocks_ns, strict=True):
            assert abs(a - b) * 2 <= step
    sides = [(was.beside, now.beside) for was, now in zip(in_order, got, strict=True) if was.beside and now.beside]
    fastest = min((min(was.blocks_ns) for was, _ in sides), default=1)
    for sent_side, got_side in sides:
        for a, b in zip(sent_side.blocks_ns, got_side.blocks_ns, strict=True):
            assert abs(a - b) * 2 <= max(1, fastest >> RESOLUTION_BITS)


@given(launches())
def test_what_was_read_back_packs_to_the_same_samples(sent):
    once = decode(encode(sent))
    assert decode(encode(once)) == once
