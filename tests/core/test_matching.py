"""Which platforms exist, and the one sentence that says why not."""

from datetime import datetime, timedelta, timezone

import pytest

from benchfarm_core.boards import BoardReport, BoardState, EngineOption, EngineReport, Health, board_id
from benchfarm_core.errors import InvalidRequest
from benchfarm_core.matching import (
    ItemsRest,
    is_too_large,
    may_exist,
    offered_platforms,
    why_board_not,
    why_board_unusable,
    why_not_offered,
    why_not_opened,
    why_platform,
    with_meant_options,
)
from benchfarm_core.messages import broker_url
from benchfarm_core.operating_ranges import OperatingRange
from benchfarm_core.platforms import ClockProof, OperatingPoint, Precision, parse_platform_key
from benchfarm_core.workloads import KernelWorkload, PairWorkload, UploadedWorkload, workload_id

REPORT = BoardReport(
    kind="local",
    serial="s",
    hardware_id="h",
    board_model="host-1",
    model_name="a host",
    generation="g",
    facts={},
    engines=(
        EngineReport(name="onnxruntime", available=True, version="1.31.1", precisions=(Precision.FP32,)),
        EngineReport(name="openvino", available=True, version="2026.4.1", precisions=(Precision.FP32, Precision.BF16)),
        EngineReport(name="ncnn", available=False, reason="not installed"),
    ),
    operating_points=(
        OperatingPoint(mode="free", cores=(1,), threads=1),
        OperatingPoint(mode="free", cores=(0, 1), threads=2),
    ),
    clock_proof=ClockProof.UNPINNED,
)


def test_a_board_offers_points_times_engines_times_precisions() -> None:
    offered = offered_platforms(REPORT)
    assert len(offered) == 6
    assert "host-1/c0-1.t2.free/openvino-2026.4.1/bf16" in {platform.key for platform in offered}


def test_what_nobody_offers_cannot_exist_and_the_nearest_is_named() -> None:
    offered = offered_platforms(REPORT)
    may_exist(offered[0], offered)
    with pytest.raises(InvalidRequest) as caught:
        may_exist(parse_platform_key("host-1/c1.t1.free/onnxruntime-9.9/fp32"), offered)
    assert caught.value.code == "platform_impossible"
    assert "onnxruntime-1.31.1" in caught.value.detail


def test_the_first_filter_that_removes_a_board_is_named() -> None:
    usable = {
        "state": BoardState.IDLE,
        "health": Health.GOOD,
        "reason": "",
        "agent_heard_s": 1.0,
        "clock_proof_ok": True,
    }
    assert why_board_not(**usable) is None  # type: ignore[arg-type]
    rests = {"state": BoardState.COOLING, "rests_after": "gate", "rest_detail": "load 4.2"}
    changes: list[tuple[str, str, dict[str, object]]] = [
        ("timing", "by difference", {"times_so": False, "clock_proof_ok": False}),
        ("clock_proof", "clock", {"clock_proof_ok": False}),
        ("health", "quarantined: hot", {"health": Health.QUARANTINED, "reason": "hot"}),
        ("agent", "for 61 s", {"agent_heard_s": 61.0}),
        ("state", "offline", {"state": BoardState.OFFLINE}),
        ("state", "measuring something else", {"state": BoardState.LEASED}),
        ("state", "cooling down: its conditions did not hold: load 4.2", {**rests}),
        ("state", "no launch began on it", {"state": BoardState.COOLING, "rests_after": "ailing"}),
        ("state", "its agent did not answer an offer", {"state": BoardState.COOLING, "rests_after": "unanswered"}),
    ]
    for removed_by, text, change in changes:
        removal = why_board_not(**(usable | change))  # type: ignore[arg-type]
        assert removal is not None
        assert removal.by == removed_by
        assert text in removal.reason


@pytest.mark.parametrize(
    ("key", "removed_by", "reason"),
    [
        ("host-1/c1.t1.free/mnn-1.0/fp32", "engine", "lacks mnn"),
        ("host-1/c1.t1.free/ncnn-1.0/fp32", "engine", "lacks ncnn: not installed"),
        ("host-1/c1.t1.free/onnxruntime-9.9/fp32", "engine", "has onnxruntime 1.31.1, not 9.9"),
        ("host-1/c1.t1.free/onnxruntime-1.31.1/bf16", "precision", "its onnxruntime does not run in bf16"),
        ("host-1/c1.t1.500/onnxruntime-1.31.1/fp32", "operating_point", "c1, 1 thread, at 100 or 200 kHz"),
        ("host-1/c1.t1.100/onnxruntime-1.31.1~a=1/fp32", "engine_options", "cannot be set to ~a=1"),
        ("host-1/c1.t1.free/onnxruntime-1.31.1~a=1/fp32", "engine_options", "cannot be set to ~a=1"),
    ],
)
def test_a_board_that_does_not_offer_a_platform_says_what_it_lacks(key: str, removed_by: str, reason: str) -> None:
    removal = why_not_offered(
        parse_platform_key(key),
        points=REPORT.operating_points,
        ranges=[OperatingRange(mode="pinned", cores=(1,), threads_max=1, freq_khz=(100, 200))],
        engines=REPORT.engines,
    )
    assert removal.by == removed_by
    assert reason in removal.reason


def test_a_board_with_ranges_alone_is_registered_at_a_few_of_their_points() -> None:
    ranges = (OperatingRange(mode="pinned", cores=(0, 1), threads_max=2, freq_khz=(100, 200)),)
    report = REPORT.model_copy(update={"operating_points": (), "ranges": ranges})
    assert {one.operating_point.key for one in offered_platforms(report)} == {"c1.t1.200", "c0-1.t2.200"}
    both = REPORT.model_copy(update={"ranges": ranges})
    assert {one.operating_point.key for one in offered_platforms(both)} == {"c1.t1.free", "c0-1.t2.free"}


def test_a_waiting_platform_says_why() -> None:
    platform = parse_platform_key("host-1/c1.t1.free/ncnn-1.0/fp32")
    assert "no board with engine ncnn is online" in why_platform(
        platform, boards_offering=1, boards_online=0, boards_idle=0
    )


BROKEN = "is out of use: fan broken"


@pytest.mark.parametrize(
    ("offering", "online", "unusable", "resting", "sentence"),
    [
        (1, 0, [BROKEN], [], "its only board is out of use: fan broken"),
        (3, 0, [BROKEN] * 3, [], "none of its 3 boards can be used; one is out of use: fan broken"),
        (2, 1, [BROKEN], [], "its only usable board is in use"),
        (3, 2, [BROKEN], [], "all 2 usable boards of this platform are in use"),
        (2, 0, [BROKEN], [], "no usable board with engine ncnn is online"),
        (1, 1, [], [], "its only board is in use"),
        (1, 1, [], ["is cooling down"], "its only board is cooling down"),
        (2, 2, [], [], "all 2 boards of this platform are in use"),
        (2, 2, [], ["is cooling down"], "all 2 boards of this platform are in use or rest; one is cooling down"),
    ],
)
def test_only_boards_that_can_serve_are_counted_as_in_use(
    offering: int, online: int, unusable: list[str], resting: list[str], sentence: str
) -> None:
    platform = parse_platform_key("host-1/c1.t1.free/ncnn-1.0/fp32")
    why = why_platform(
        platform, boards_offering=offering, boards_online=online, boards_idle=0, unusable=unusable, resting=resting
    )
    assert why == sentence


UNTIL = datetime(2026, 11, 23, 14, 0, 5, tzinfo=timezone(timedelta(hours=2)))
REST = ItemsRest(items=2, until=UNTIL, ailment="disk_full")
RESTS = "2 rest, the first until 2026-11-23 12:00:05 UTC: no launch began on the board that tried last: disk_full"
LOUD = "3 were inconclusive and rest: their next try comes in another moment"


@pytest.mark.parametrize(
    ("again", "items_rest", "next_in_line", "sentence"),
    [
        (0, None, 5, "next in line"),
        (3, None, 2, LOUD),
        (0, REST, 0, RESTS),
        (0, REST._replace(items=1), 0, RESTS.replace("2 rest, the first", "1 rests")),
        (0, REST, 1, f"next in line; {RESTS}"),
        (3, REST, 0, f"{RESTS}; {LOUD}"),
    ],
)
def test_items_that_no_board_tries_yet_are_not_next_in_line(
    again: int, items_rest: ItemsRest | None, next_in_line: int, sentence: str
) -> None:
    for idle, expected in ((1, sentence), (0, "all 2 boards of this platform are in use")):
        why = why_platform(
            parse_platform_key("host-1/c1.t1.free/ncnn-1.0/fp32"),
            boards_offering=2,
            boards_online=2,
            boards_idle=idle,
            again=again,
            items_rest=items_rest,
            next_in_line=next_in_line,
        )
        assert why == expected


def test_a_board_that_cannot_serve_a_job_says_why() -> None:
    assert why_board_unusable(health=Health.SUSPECT, reason="odd", clock_proof_ok=True) is None
    assert why_board_unusable(health=Health.QUARANTINED, reason="fan broken", clock_proof_ok=True) == BROKEN
    assert why_board_unusable(health=Health.MAINTENANCE, reason="", clock_proof_ok=True) == "is out of use: maintenance"
    assert "clock" in (why_board_unusable(health=Health.GOOD, reason="", clock_proof_ok=False) or "")
    untimed = why_board_unusable(health=Health.GOOD, reason="", clock_proof_ok=True, times_so=False)
    assert "by difference" in (untimed or "")


def test_a_boards_identity_needs_the_farms_salt() -> None:
    assert board_id("one", REPORT) != board_id("two", REPORT)
    assert board_id("one", REPORT) != "s"


def test_broker_urls() -> None:
    assert broker_url("unix:///run/kv.sock?db=3") == "redis+socket:///run/kv.sock?virtual_host=3"
    assert broker_url("redis://cache:6379/0") == "redis://cache:6379/0"


@pytest.mark.parametrize(
    "schema",
    [
        {"kind": "switch", "default": "on"},
        {"kind": "number", "default": 1},
        {"kind": "number", "default": 9, "low": 0, "high": 8},
        {"kind": "choice", "default": "a", "choices": ["b"]},
        {"kind": "choice", "default": "a", "choices": ["a", "../x"]},
        {"kind": "path", "default": "a"},
        {"kind": "number", "default": 1, "low": 0, "high": 2**53},
        {"kind": "switch", "default": False, "more": 1},
    ],
)
def test_an_option_that_contradicts_itself_is_no_option(schema):
    with pytest.raises(ValueError, match="validation error"):
        EngineOption.model_validate(schema)


def test_a_report_s_options_are_bounded():
    switch = {"kind": "switch", "default": False}
    fields = {"name": "e", "available": True, "version": "1"}
    assert EngineReport.model_validate({**fields, "options": {f"o{n}": switch for n in range(40)}}).options
    for options in ({f"o{n}": switch for n in range(41)}, {"A": switch}, {"a b": switch}):
        with pytest.raises(ValueError, match="validation error"):
            EngineReport.model_validate({**fields, "options": options})


def test_options_at_their_default_are_left_out():
    known = {
        "one": EngineOption(kind="choice", default="1", choices=("1", "true")),
        "two": EngineOption(kind="number", default=3, low=-5, high=5),
    }
    base = "m/c0.t1.free/e-1{}/fp32"
    for given, meant in (("~one=1~two=3", ""), ("~one=true", "~one=true"), ("~two=-5", "~two=-5"), ("", "")):
        platform = with_meant_options(parse_platform_key(base.format(given)), known)
        assert platform.key == base.format(meant)
        assert parse_platform_key(platform.key).key == platform.key


def test_how_int8_is_made_is_without_effect_elsewhere_whatever_a_board_tells():
    edges = EngineOption(kind="choice", default="int8", choices=("int8", "fp32"))
    known = {
        "edges": edges,
        "calibration_seed": EngineOption(kind="number", default=0, low=0, high=9),
        "graph": EngineOption(kind="choice", default="all", choices=("all", "none")),
    }
    text = "m/c0.t1.free/e-1~calibration_seed=3~edges=fp32~graph=none/{}"
    for precision in ("fp32", "fp16", "bf16"):
        meant = with_meant_options(parse_platform_key(text.format(precision)), known)
        assert meant.key == f"m/c0.t1.free/e-1~graph=none/{precision}"
    assert with_meant_options(parse_platform_key(text.format("int8")), known).key == text.format("int8")


def test_too_large_is_said_only_when_it_is_certain():
    gib = 2**30
    assert is_too_large(gib, gib)
    assert not is_too_large(gib * 3 // 4, gib)
    assert not is_too_large(None, gib)
    assert not is_too_large(gib, None)


KERNEL = KernelWorkload(catalogue_version=1, type="fc", config={"cin": 8})
ONNX = UploadedWorkload(sha256="a" * 64, dims={}, inputs=())
TFLITE = UploadedWorkload(sha256="a" * 64, format="tflite", dims={}, inputs=())


@pytest.mark.parametrize(
    ("workload", "where", "opened"),
    [
        (TFLITE, "litert-2.3.0/as_given", True),
        (TFLITE, "litert-2.3.0~delegate=none/as_given", True),
        (TFLITE, "litert-2.3.0/fp32", False),
        (TFLITE, "onnxruntime-1.31.1/fp32", False),
        (TFLITE, "onnxruntime-1.31.1/as_given", False),
        (ONNX, "litert-2.3.0/fp32", True),
        (ONNX, "litert-2.3.0/as_given", False),
        (KERNEL, "litert-2.3.0/int8", True),
        (KERNEL, "litert-2.3.0/as_given", False),
        (KERNEL, "litert_benchmark_model-01ab/int8", True),
        (TFLITE, "litert_benchmark_model-01ab/fp32", False),
        (ONNX, "litert_benchmark_model-01ab/fp32", False),
        (PairWorkload(a=KERNEL, b=KERNEL), "litert_benchmark_model-01ab/fp32", False),
        (PairWorkload(a=TFLITE, b=TFLITE), "litert-2.3.0/as_given", True),
        (PairWorkload(a=TFLITE, b=KERNEL), "litert-2.3.0/as_given", False),
        (PairWorkload(a=TFLITE, b=KERNEL, b_precision=Precision.FP32), "litert-2.3.0/as_given", True),
        (PairWorkload(a=KERNEL, b=TFLITE, b_precision=Precision.AS_GIVEN), "litert-2.3.0/fp32", True),
    ],
)
def test_as_given_is_for_files_that_run_as_they_are(
    workload: KernelWorkload | UploadedWorkload | PairWorkload, where: str, opened: bool
) -> None:
    assert (why_not_opened(workload, parse_platform_key(f"host-1/c1.t1.free/{where}")) is None) is opened


def test_an_onnx_upload_keeps_the_id_that_it_had() -> None:
    assert workload_id(ONNX) == "w_1f0a3acd7f38f386099850ca9e31c810"
