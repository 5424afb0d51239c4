"""Which rows of other people's tables are taken, and with which reason each other one is rejected."""

import json
import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from pydantic import ValidationError

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.measurement_sets import (
    MAX_SET_CHARS,
    MAX_SET_ROWS,
    REASONS,
    MeasurementSet,
    MeasurementSetUpload,
    naming,
    read_platform,
    read_tables,
)
from benchfarm_core.set_rows import coarse_step_ms, known_flops

RECORDED = Path(
    os.environ.get("BENCHFARM_MEASUREMENT_SETS", "")  # environment: where recorded sets lie
    or Path(__file__).parents[3] / "shared" / "data"
)
PLATFORM = {
    "board_model": "Tesla P4",
    "engine": "pytorch-2.1",
    "precision": "fp32",
    "operating_point": {"note": "not recorded"},
    "source": "somebody's repository",
    "licence": "MIT",
}
HEADER = "hw,cin,cout,k,s,latency_ms"
GOOD = "28,64,128,3,1,0.7512"


class Catalogue:
    """One kernel type, as the farm has them."""

    def names(self) -> Sequence[str]:
        return ["conv-bn-act", "fc"]

    def columns(self, type_name: str) -> Mapping[str, bool]:
        columns = {"hw": True, "cin": True, "cout": True, "k": True, "s": False, "act": False, "batch": False}
        return columns if type_name == "conv-bn-act" else {"cin": True, "cout": True, "batch": False}

    def why_not(self, type_name: str, config: Mapping[str, int | str]) -> str | None:
        return "hw is above 512" if int(config.get("hw", 0)) > 512 else None


def read(*lines: str, file: str = "conv.csv", **changes: object) -> MeasurementSet:
    return read_tables(json.dumps(PLATFORM | changes), {file: "\n".join(lines)}, names={})


def reasons(*lines: str) -> list[tuple[int, str]]:
    return [(row.line, row.reason_code) for row in read(*lines).rejected]


def test_rows_are_taken_as_they_stand() -> None:
    found = read("\ufeff" + HEADER, " 28, 64 ,128,3,1,0.7512", "", "14.0,64,128,3,1,1e-1\r")
    assert found.rejected == ()
    rows = found.kernels["conv"]
    assert (rows.type, rows.given_as, rows.columns) == ("conv", "conv", ("hw", "cin", "cout", "k", "s"))
    assert rows.configs == ((28, 64, 128, 3, 1), (14, 64, 128, 3, 1))
    assert rows.latency_ms == (0.7512, 0.1)
    assert rows.config(0) == {"hw": 28, "cin": 64, "cout": 128, "k": 3, "s": 1}
    assert found.platform.source == "somebody's repository"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("28,64,128,3,1,-1", "placeholder"),
        ("28,64,128,3,1,-1.0", "placeholder"),
        ("28,64,128,3,1,0", "not_positive"),
        ("28,64,128,3,1,-0.5", "not_positive"),
        ("28,64,128,3,1,fast", "not_a_number"),
        ("28,64,128,3,1,nan", "not_a_number"),
        ("28,64,128,3,1,inf", "not_a_number"),
        ("28,64,128,3,1,1_0", "not_a_number"),
        ("28,64,128,3,1,", "not_a_number"),
        ("28,64,128,3,1,٣", "not_a_number"),
        ("-28,64,128,3,1,1.5", "not_a_number"),
        ("28.5,64,128,3,1,1.5", "not_a_number"),
        ("28,64,128,3,relu,1.5", "not_a_number"),
        ("28,64,128,3,1,9e-6", "below_floor"),
        ("28,64,128,3,1,3600001", "above_ceiling"),
        ("28,64,128,3,1,1e400", "above_ceiling"),
        ("28,64,128,3,1,1e300", "above_ceiling"),
        ("224,512,512,3,1,0.01", "beyond_any_machine"),
        ("28,64,128,3,1", "cells_missing"),
        ("28,64,128,3,1,0.5,7", "cells_missing"),
    ],
)
def test_a_row_that_cannot_be_is_rejected_with_its_line(row: str, reason: str) -> None:
    found = read(HEADER, GOOD, row)
    assert [(one.file, one.line, one.reason_code) for one in found.rejected] == [("conv.csv", 3, reason)]
    assert found.rejected[0].detail
    assert found.rows == 1, "the others are taken"


@pytest.mark.parametrize(
    ("header", "reason", "told"),
    [
        ("hw,cin,latency_us", "unit_unclear", "milliseconds"),
        ("hw,cin,latency_s", "unit_unclear", "milliseconds"),
        ("hw,cin,latency", "unit_unclear", "milliseconds"),
        ("hw,cin,Latency_ms", "unit_unclear", "latency_ms"),
        ("hw,latency_us,latency_ms", "unit_unclear", "latency_us"),
        ("hw,cin,ms", "column_missing", "no column latency_ms"),
        ("latency_ms", "column_missing", "of the configuration"),
        ("hw;cin;latency_ms", "column_wrong", "name of a column"),
        ("hw,,latency_ms", "column_wrong", "name of a column"),
        ("hw,p90_ms,latency_ms", "column_wrong", "measured"),
        ("hw,energy_mj,latency_ms", "column_wrong", "measured"),
        ("hw,std,latency_ms", "column_wrong", "measured"),
        ("hw,hw,latency_ms", "column_wrong", "twice"),
        ("hw,latency_ms,latency_ms", "column_wrong", "twice"),
        ('hw,"latency_ms', "not_csv", "line"),
    ],
)
def test_a_header_that_is_unclear_rejects_its_table_and_says_what_to_do(header: str, reason: str, told: str) -> None:
    tables = {"bad.csv": f"{header}\n1,2,3", "conv.csv": f"{HEADER}\n{GOOD}"}
    found = read_tables(json.dumps(PLATFORM), tables, names={})
    assert [(one.file, one.line, one.reason_code) for one in found.rejected] == [("bad.csv", 1, reason)]
    assert told in found.rejected[0].detail
    assert list(found.kernels) == ["conv"]


def test_a_table_without_rows_is_empty() -> None:
    assert reasons("") == [(1, "empty")]
    assert reasons(HEADER) == [(1, "empty")]


def test_of_equal_duplicates_the_first_is_kept_and_of_contradicting_ones_none() -> None:
    found = read(HEADER, GOOD, "14,8,8,1,1,0.5", GOOD, "14,8,8,1,1,0.7", "7,8,8,1,1,0.1")
    assert [(one.line, one.reason_code) for one in found.rejected] == [
        (3, "contradicting"),
        (4, "duplicate"),
        (5, "contradicting"),
    ]
    assert "line 2" in found.rejected[1].detail
    assert "3, 5" in found.rejected[0].detail
    assert [config[0] for config in found.kernels["conv"].configs] == [28, 7]


def table_of(times_ms: Sequence[float]) -> list[str]:
    return [HEADER, *(f"28,64,{8 + n},3,1,{time_ms!r}" for n, time_ms in enumerate(times_ms))]


@pytest.mark.parametrize("step_ms", [1.0, 0.1, 10.0, 15.625])
def test_times_that_are_few_steps_of_their_clock_reject_the_table(step_ms: float) -> None:
    found = read(*table_of([step_ms * (1 + n % 7) for n in range(40)]))
    assert [(one.line, one.reason_code) for one in found.rejected] == [(1, "quantised")]
    assert f"{step_ms:g} ms" in found.rejected[0].detail
    assert found.kernels == {}


def test_where_most_times_are_many_steps_only_the_short_ones_are_rejected() -> None:
    found = read(*table_of([float(n) for n in range(15, 60)]))
    assert [(one.line, one.reason_code) for one in found.rejected] == [(2 + n, "quantised") for n in range(5)]
    assert min(found.kernels["conv"].latency_ms) == 20.0


def test_fine_clocks_and_small_tables_are_not_quantised() -> None:
    draw = random.Random(1)
    fine = [round(draw.uniform(0.2, 5), 4) for _ in range(200)]
    assert read(*table_of(fine)).rejected == ()
    assert coarse_step_ms([1.0, 2.0, 3.0]) is None
    assert coarse_step_ms([draw.uniform(1, 50) for _ in range(100)]) is None
    mostly = [float(1 + n % 9) for n in range(96)] + [0.37] * 4
    assert coarse_step_ms(mostly) == 1.0


def test_the_same_time_for_every_configuration_is_no_measurement() -> None:
    assert reasons(*table_of([3.71] * 5)) == [(1, "constant")]
    assert reasons(*table_of([3.71] * 4)) == []


def test_operations_are_known_where_columns_say_them() -> None:
    conv = {"hw": 28, "cin": 64, "cout": 128, "k": 3, "s": 2}
    assert known_flops("conv", conv) == 2 * 14 * 14 * 64 * 128 * 9
    assert known_flops("conv", {**conv, "batch": 4}) == 8 * 14 * 14 * 64 * 128 * 9
    assert known_flops("conv", {**conv, "groups": 4}) == 2 * 14 * 14 * 64 * 32 * 9
    assert known_flops("dwconv", {**conv, "cout": 64}) == 2 * 14 * 14 * 64 * 9
    assert known_flops("x", {"HW": 7, "CIN": 8, "K": 3}) == 2 * 7 * 7 * 8 * 9
    assert known_flops("fc", {"cin": 10, "cout": 20}) == 400
    assert known_flops("se", {"hw": 7, "cin": 8, "cmid": 2}) is None
    assert known_flops("layernorm", {"seq": 7, "dim": 8}) is None


def ours(text: str, **names: str) -> MeasurementSet:
    table = {"conv-bn-relu.csv": text}
    return read_tables(
        json.dumps(PLATFORM), table, names={n.replace("_", "-"): t for n, t in names.items()}, catalogue=Catalogue()
    )


def test_a_foreign_name_needs_to_be_told_which_type_is_meant() -> None:
    found = ours(f"{HEADER}\n{GOOD}")
    assert [(one.line, one.reason_code) for one in found.rejected] == [(1, "kernel_unknown")]
    assert "conv-bn-act, fc" in found.rejected[0].detail
    rows = ours(f"{HEADER}\n{GOOD}", conv_bn_relu="conv-bn-act:act=relu").kernels["conv-bn-act"]
    assert (rows.given_as, rows.fixed) == ("conv-bn-relu", {"act": "relu"})
    assert rows.config(0)["act"] == "relu"
    assert ours(f"{HEADER}\n{GOOD}", conv_bn_relu="convolution").rejected[0].reason_code == "kernel_unknown"


def test_columns_are_those_of_the_type() -> None:
    extra = "hw,cin,cout,k,s,fused,latency_ms\n28,64,128,3,1,0,0.7\n28,64,128,3,1,1,0.8"
    found = ours(extra, conv_bn_relu="conv-bn-act")
    assert found.rejected[0].reason_code == "column_wrong"
    assert "'fused'" in found.rejected[0].detail
    held = ours(extra, conv_bn_relu="conv-bn-act:fused=1:s=1")
    assert [(one.line, one.reason_code) for one in held.rejected] == [(2, "other_value")]
    rows = held.kernels["conv-bn-act"]
    assert (rows.columns, rows.configs, rows.fixed) == (("hw", "cin", "cout", "k"), ((28, 64, 128, 3),), {"s": 1})
    missing = ours("hw,cin,k,latency_ms\n28,64,3,0.7", conv_bn_relu="conv-bn-act")
    assert (missing.rejected[0].reason_code, "'cout'" in missing.rejected[0].detail) == ("column_missing", True)
    beyond = ours(f"{HEADER}\n{GOOD}\n600,64,128,3,1,9.5", conv_bn_relu="conv-bn-act")
    assert [(one.line, one.reason_code) for one in beyond.rejected] == [(3, "out_of_range")]
    nothing = ours("hw,latency_ms\n28,0.7", conv_bn_relu="conv-bn-act:hw=28")
    assert nothing.rejected[0].reason_code == "column_missing"


def test_two_tables_of_one_type_are_not_mixed() -> None:
    tables = {"a.csv": f"{HEADER}\n{GOOD}", "b.csv": f"{HEADER}\n{GOOD}"}
    found = read_tables(json.dumps(PLATFORM), tables, names={"a": "conv-bn-act", "b": "conv-bn-act"})
    assert [(one.file, one.reason_code) for one in found.rejected] == [("b.csv", "kernel_repeated")]


def test_the_batch_of_a_platform_holds_for_tables_without_that_column() -> None:
    assert read(HEADER, GOOD, batch=8).kernels["conv"].fixed == {"batch": 8}
    assert read("batch,hw,latency_ms", "4,7,0.5", batch=8).kernels["conv"].fixed == {}


@pytest.mark.parametrize(
    ("platform", "field"),
    [
        ("{", "platform_json"),
        ("[]", "platform_json"),
        (json.dumps({**PLATFORM, "source": ""}), "platform_json.source"),
        (json.dumps({**PLATFORM, "board_model": "a\u0000"}), "platform_json.board_model"),
        (json.dumps({name: value for name, value in PLATFORM.items() if name != "licence"}), "platform_json.licence"),
        (json.dumps({**PLATFORM, "speed": 3}), "platform_json.speed"),
        (json.dumps(PLATFORM).replace('"not recorded"', "NaN"), "platform_json.operating_point"),
        ("[" * 100_000, "platform_json"),
    ],
)
def test_a_platform_that_is_not_whole_is_refused(platform: str, field: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        read_tables(platform, {"conv.csv": f"{HEADER}\n{GOOD}"}, names={})
    assert str(error.value.field).startswith(field)
    assert "constrained" not in f"{error.value.field} {error.value.detail}", "which type was tried is nobody's word"


@pytest.mark.parametrize("text", ["", "conv act", "conv-bn-act:", "conv-bn-act:act", "conv-bn-act:act=a=b", "Conv"])
def test_a_naming_has_one_form(text: str) -> None:
    with pytest.raises(InvalidRequest):
        naming(text)
    assert naming("conv-bn-act:act=relu:fused=0").held == {"act": "relu", "fused": 0}


def test_the_name_of_a_set_is_that_of_its_contents() -> None:
    first, second = read(HEADER, GOOD), read(HEADER, GOOD, GOOD, "1,2,3,1,1,-1")
    assert first.content_hash == second.content_hash, "what is rejected is no part of it"
    others = [
        read(HEADER, GOOD, board_model="Tesla P100"),
        read(HEADER, GOOD, operating_point={}),
        read(HEADER, GOOD, file="c.csv"),
        read(HEADER, GOOD.replace("12", "13")),
        read(HEADER, GOOD.replace("128", "64")),
    ]
    assert len({first.content_hash, *(other.content_hash for other in others)}) == 6


def test_the_same_measurements_are_one_set_however_they_are_written() -> None:
    first = read("batch," + HEADER, "4," + GOOD, "4,14,8,8,1,1,0.5")
    same = [
        read("batch," + HEADER, "4,14,8,8,1,1,0.5", "4," + GOOD),
        read("cout,batch,latency_ms,hw,s,k,cin", "128,4,0.7512,28,1,3,64", "8,4,0.5,14,1,1,8"),
        read(HEADER, GOOD, "14,8,8,1,1,0.5", batch=4),
        read("batch," + HEADER, "4," + GOOD, "4,14,8,8,1,1,0.5", source="somebody's repository!", licence="none"),
    ]
    assert {other.content_hash for other in same} == {first.content_hash}
    assert ours(f"{HEADER}\n{GOOD}", conv_bn_relu="conv-bn-act").content_hash != first.content_hash


def test_an_upload_is_bounded_and_names_its_own_tables() -> None:
    fields = {"platform_json": json.dumps(PLATFORM), "tables": {"conv.csv": "x"}}
    assert MeasurementSetUpload.model_validate(fields).dry_run is False
    refused: list[dict[str, object]] = [
        {"tables": {}},
        {"tables": {"conv.csv": "x" * (MAX_SET_CHARS + 1)}},
        {"tables": {"conv.csv": "\n" * (MAX_SET_ROWS + 100)}},
        {"tables": {"conv.csv": "1,1\r" * (MAX_SET_ROWS + 100)}},
        {"tables": {"../conv.csv": "x"}},
        {"names": {"dwconv": "dwconv-bn-act"}},
        {"names": {"conv": "conv bn"}},
    ]
    for wrong in refused:
        with pytest.raises(ValidationError):
            MeasurementSetUpload.model_validate({**fields, **wrong})


def test_every_reason_stands_in_the_document_as_it_is_told() -> None:
    document = (Path(__file__).parents[2] / "docs" / "measurement-sets.md").read_text()
    assert [code for code, text in REASONS.items() if f"| `{code}` | {text} |" not in document] == []


@pytest.mark.skipif(not (RECORDED / "kernels").is_dir(), reason=f"no recorded measurement sets at {RECORDED}")
@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("neusight-p4", 4996),
        ("neusight-p100", 4952),
        ("neusight-v100", 4958),
        ("tophub-bcm2837", 220),
        ("tophub-ultra96", 4),
        ("v100-tensorrt-fp16", 26301 + 3074),
    ],
)
def test_recorded_sets_are_taken_whole(name: str, rows: int) -> None:
    folder = RECORDED / "kernels" / name
    tables = {path.name: path.read_text() for path in folder.glob("*.csv")}
    found = read_tables((folder / "platform.json").read_text(), tables, names={})
    assert (found.rows, found.rejected) == (rows, ())


def test_a_platform_may_begin_with_a_mark_of_its_encoding_as_a_table_may() -> None:
    assert read_platform("\ufeff" + json.dumps(PLATFORM)) == read_platform(json.dumps(PLATFORM))
