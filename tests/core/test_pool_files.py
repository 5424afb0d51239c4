"""Pool files: the same bytes for the same entries, nothing believed that is read, and nothing taken that is wrong."""

import json
import random
import tracemalloc
import zlib
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchfarm_core import pool_files, pool_rows
from benchfarm_core.errors import InvalidRequest, TooLarge
from benchfarm_core.measurements import Purpose, Timing
from benchfarm_core.pool_files import (
    MAX_POOL_BYTES,
    MAX_ROWS_BYTES,
    PoolEntry,
    PoolManifest,
    check_entry,
    open_entries,
    packed_rows,
    part_hash,
    read,
    write,
)
from benchfarm_core.pool_rows import count_kernels, pack, unpack
from benchfarm_core.predictor_headers import Lineage
from benchfarm_core.predictors import KernelRow, TrainingRows
from benchfarm_core.summaries import Grade
from benchfarm_core.values import canonical_json
from benchfarm_workloads.kernels import CATALOGUE_VERSION, kernel_type
from benchfarm_workloads.own_kernels import OwnKernels
from tests.pool_rows import KEY, entry_of, made_file, made_rows, manifest_of, of_another_farm

ROWS = made_rows()
FILE = made_file(ROWS)
LINEAGE = Lineage(data_hash="d", rule_version=6, code_version="0.1.0")


def opened(data: bytes) -> list[Any]:
    return open_entries(data, OwnKernels(), CATALOGUE_VERSION)


def refused(data: bytes) -> str:
    with pytest.raises(InvalidRequest) as caught:
        opened(data)
    return f"{caught.value.code}: {caught.value.detail}"


def predictor_file(of: str = "model", platform: str = KEY, version: int = 1) -> bytes:
    """The beginning of a predictor file, which is all that a pool looks at."""
    header = {"kernel_type": of, "platform": platform, "lineage": LINEAGE.model_dump(mode="json")}
    text = canonical_json({"__metadata__": {"benchfarm": canonical_json({"format": version, "header": header})}})
    return len(text).to_bytes(8, "little") + text.encode() + b"arrays"


def with_predictor(file: bytes, **changes: Any) -> bytes:
    """A pool file of the rows with one predictor."""
    fields = {"subject": "model", "sha256": part_hash(file), "lineage": LINEAGE.model_dump()} | changes
    entry, part = entry_of(ROWS, predictors=(fields,))
    return write(manifest_of([entry]), [part, file])


def test_rows_come_back_as_they_were() -> None:
    (found,) = opened(FILE)
    assert found.rows == ROWS
    assert found.entry.rows.counts == {"alone": 42, "in_situ": 27, "models": 11}
    assert found.entry.rows.measured_at == max(row.measured_at for row in ROWS.kernels)
    assert found.entry.platform.key == KEY
    assert opened(made_file(TrainingRows(platform=KEY, kernels=(), models=(), rule_version=6, data_hash="x")))


def test_the_same_entries_are_the_same_bytes_and_have_the_same_id() -> None:
    assert made_file(made_rows()) == FILE
    entry, part = entry_of(ROWS)
    other, _ = entry_of(ROWS, source="somebody else")
    assert entry.id == read(FILE).manifest.entries[0].id != other.id
    shuffled = ROWS.model_copy(update={"kernels": tuple(random.Random(1).sample(ROWS.kernels, len(ROWS.kernels)))})
    assert entry_of(shuffled)[1] == part, "rows are packed in an order of their own"


def test_a_thousand_rows_take_few_bytes() -> None:
    """Ten megabytes hold some dozens of platforms."""
    many = made_rows(spread=0.3)
    part, size_bytes = pack(many, CATALOGUE_VERSION)
    assert len(part) < size_bytes / 2
    assert len(part) < 60 * (len(many.kernels) + len(many.models)) + 6000


def test_a_pool_file_is_a_safetensors_file() -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    arrays = safetensors.load(FILE)
    (entry,) = read(FILE).manifest.entries
    assert arrays[entry.rows.sha256].tobytes() == read(FILE).parts[entry.rows.sha256]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "pool_file_foreign"),
        (b"PK\x03\x04" + b"x" * 100, "pool_file_foreign"),
        (b"\x02" + b"\0" * 7 + b"[]", "pool_file_foreign"),
        (predictor_file(), "pool_file_foreign: this is no pool file of ours: it holds a predictor"),
        (FILE[:-1], "pool_file_damaged"),
        (FILE[: len(FILE) // 2], "pool_file_damaged"),
        (FILE[:-1] + b"\xff", "pool_file_damaged"),
    ],
)
def test_what_is_no_pool_file_or_not_whole_is_refused(data: bytes, code: str) -> None:
    assert refused(data).startswith(code)


def test_a_file_of_another_format_is_foreign() -> None:
    assert refused(FILE.replace(b'\\"format\\":1', b'\\"format\\":2')).startswith("pool_file_foreign")


@pytest.mark.parametrize("written", [b"\\\\u0000", b"\\u005cu0000", b"\\\\ud800", b"\\\\u001b", b"\\\\u0085"])
def test_a_text_that_cannot_be_kept_or_shown_is_damage_however_it_is_written(written: bytes) -> None:
    """Only the decoded text says what it holds: whoever looks at bytes misses what is written otherwise."""
    file = with_predictor(predictor_file(), lineage=LINEAGE.model_dump() | {"donors": ("DONOR",)})
    spoilt_file = file.replace(b"DONOR", written.ljust(10, b"x"))
    length = int.from_bytes(file[:8], "little") + len(spoilt_file) - len(file)
    found = refused(length.to_bytes(8, "little") + spoilt_file[8:])
    assert found.startswith("pool_file_damaged")
    assert "no text holds" in found or "donors.0: String should match" in found


def test_a_file_above_the_limit_is_not_read() -> None:
    with pytest.raises(TooLarge):
        read(b"\0" * (MAX_POOL_BYTES + 1))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_no_byte_can_be_changed_unseen(data: st.DataObject) -> None:
    """A file either reads as it was or is refused; it never ends in another error."""
    at = data.draw(st.integers(0, len(FILE) - 1))
    changed = FILE[:at] + bytes([data.draw(st.integers(0, 255))]) + FILE[at + 1 :]
    try:
        (found,) = opened(changed)
    except (InvalidRequest, TooLarge):
        return
    assert found.rows == ROWS


def test_rows_that_unpack_to_more_than_is_said_are_not_unpacked() -> None:
    bomb = zlib.compress(b" " * 50_000_000, 9)
    packed = packed_rows(ROWS, bomb, 1000)
    entry = entry_of(ROWS)[0].model_copy(update={"rows": packed})
    assert refused(write(manifest_of([entry]), [bomb])).startswith(
        "pool_file_damaged: the pool file is damaged: its rows"
    )
    with pytest.raises(ValueError, match="are more than"):
        manifest_of(
            entry.model_copy(
                update={"source": str(n), "rows": packed.model_copy(update={"size_bytes": MAX_ROWS_BYTES})}
            )
            for n in range(2)
        )


def packed_with(**changes: Any) -> tuple[bytes, int]:
    """A part like that of the rows, with other JSON."""
    text = canonical_json(json.loads(zlib.decompress(pack(ROWS, CATALOGUE_VERSION)[0])) | changes).encode()
    return zlib.compress(text), len(text)


@pytest.mark.parametrize(
    "changes",
    [
        {"rule_version": 10**400},
        {"data_hash": "a\x1b[2J"},
        {"tables": [{"type": "fc", "columns": ["cin"], "configs": [[True]]}]},
        *(
            {"models": [["w_" + "0" * 32, space, [[0, 0, 1]], unknown, 1.0, "B", 0, "probe"]]}
            for space, unknown in (("s" * 41, []), ("a\x00", []), ("\ud800", []), (None, ["\x1b"]), (None, ["o" * 201]))
        ),
    ],
)
def test_names_and_numbers_of_rows_are_bounded(changes: dict[str, Any]) -> None:
    said = json.loads(zlib.decompress(pack(ROWS, CATALOGUE_VERSION)[0])) | changes
    text = json.dumps(said).encode()
    with pytest.raises(InvalidRequest) as caught:
        unpack(zlib.compress(text), len(text), CATALOGUE_VERSION)
    assert caught.value.code == "pool_file_damaged"


def test_an_entry_is_as_old_as_its_newest_row() -> None:
    for moment in ("0001-01-01T00:00:00Z", "9999-12-31T00:00:00Z", None):
        entry, part = entry_of(ROWS)
        other = PoolEntry.model_validate(
            entry.model_dump() | {"rows": entry.rows.model_dump() | {"measured_at": moment}}
        )
        assert "newer or older" in refused(write(manifest_of([other]), [part]))


def a_model(counted: list[list[int]]) -> list[Any]:
    return ["w_" + "0" * 32, None, counted, [], 1.0, "B", 0, "probe"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"kernels": [[]] * 8001}, "lists"),
        ({"models": [a_model([[0, 0, 1]] * 5001)]}, "too many"),
        ({"tables": [{"type": "fc", "columns": ["a"] * 50, "configs": [[1] * 50] * 200}]}, "too many"),
        ({"models": [a_model([[0, 0, 10**30]])]}, "models"),
        ({"kernels": "9" * 5000}, "kernels"),
    ],
    ids=["lists", "counted", "cells", "count", "text"],
)
def test_few_bytes_do_not_become_many(monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], why: str) -> None:
    """Half a megabyte would unpack to gigabytes of kernels; bounds are a hundredth here, and so is the memory."""
    for name in ("MAX_LISTS", "MAX_COUNTED", "MAX_CELLS"):
        monkeypatch.setattr(pool_rows, name, getattr(pool_rows, name) // 100)
    part, size_bytes = packed_with(**changes)
    tracemalloc.start()
    with pytest.raises(InvalidRequest, match=why) as caught:
        unpack(part, size_bytes, CATALOGUE_VERSION)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.code == "pool_file_damaged"
    assert peak_bytes < 2 * 2**20


def test_models_share_the_kernels_that_they_have_in_common() -> None:
    """A model's kernels are a few bytes each, however large the kernel is that they name."""
    models = [a_model([[0, 0, 1], [0, 1, 1]]) for _ in range(2)]
    found = unpack(*packed_with(models=models), CATALOGUE_VERSION).models
    assert found[0].kernels == found[1].kernels
    assert all(one is other for one, other in zip(found[0].kernels, found[1].kernels, strict=True))


def test_the_models_of_all_entries_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    both = made_file(made_rows(), made_rows(KEY.replace("c0.t1", "c1.t1")))
    each = count_kernels(ROWS)
    monkeypatch.setattr(pool_files, "MAX_COUNTED", 2 * each)
    assert len(opened(both)) == 2
    monkeypatch.setattr(pool_files, "MAX_COUNTED", 2 * each - 1)
    assert "kernels" in refused(both)


def test_kernels_of_another_catalogue_are_foreign() -> None:
    part, size_bytes = pack(ROWS, CATALOGUE_VERSION + 1)
    with pytest.raises(InvalidRequest) as caught:
        unpack(part, size_bytes, CATALOGUE_VERSION)
    assert caught.value.code == "pool_file_foreign"


def spoilt(spoil: Callable[[TrainingRows], TrainingRows]) -> str:
    return refused(made_file(spoil(ROWS)))


def first(**changes: Any) -> Callable[[TrainingRows], TrainingRows]:
    """The rows with another first kernel."""

    def spoil(rows: TrainingRows) -> TrainingRows:
        row, *others = rows.kernels
        return rows.model_copy(update={"kernels": (row.model_copy(update=changes), *others)})

    return spoil


def heaviest(**changes: Any) -> Callable[[TrainingRows], TrainingRows]:
    """The rows with another convolution of the most operations; what is no field of a row is a column of it."""

    def spoil(rows: TrainingRows) -> TrainingRows:
        convolutions = [row for row in rows.kernels if row.kernel_type == "conv-bn-act"]
        row = max(convolutions, key=lambda one: kernel_type("conv-bn-act").cost(one.config).flops)
        fields = {name: value for name, value in changes.items() if name in KernelRow.model_fields}
        columns = {name: value for name, value in changes.items() if name not in fields}
        other = row.model_copy(update={**fields, "config": row.config | columns})
        return rows.model_copy(update={"kernels": (other, *(one for one in rows.kernels if one is not row))})

    return spoil


def many(rows: TrainingRows) -> TrainingRows:
    """The rows with a first model that has its first kernel a million times."""
    row, *others = rows.models
    (name, config, _), *rest = row.kernels
    counted = row.model_copy(update={"kernels": ((name, config, 1_000_000), *rest)})
    return rows.model_copy(update={"models": (counted, *others)})


def heavy(rows: TrainingRows) -> TrainingRows:
    """The rows with a first model of some convolutions, none of which is too much for its time by itself."""
    row, *others = rows.models
    size = {"hw": 56, "cin": 256, "cout": 256, "k": 3, "s": 1, "batch": 1, "act": "relu"}
    counted = row.model_copy(update={"kernels": (("conv-bn-act", size, 100),), "normalised_ms": 0.01})
    return rows.model_copy(update={"models": (counted, *others)})


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (many, "no machine runs 1000"),
        (heavy, "operations in"),
        (first(grade=Grade.D), "grade D"),
        (first(purpose=Purpose.HOLDOUT), "hold-out"),
        (first(normalised_ms=1e-9), "no workload takes"),
        (first(normalised_ms=1e12), "no workload takes"),
        (first(normalised_ms=0.0), "damaged"),
        (heaviest(normalised_ms=2e-5, cin=512, cout=512), "operations in"),
        (heaviest(k=4), "must be one of"),
        (heaviest(cin=0), "must be an integer"),
        (heaviest(batch=65), "must be an integer"),
        (lambda rows: rows.model_copy(update={"kernels": rows.kernels + rows.kernels[:1]}), "there twice"),
        (lambda rows: rows.model_copy(update={"models": rows.models + rows.models[:1]}), "there twice"),
        (
            lambda rows: rows.model_copy(
                update={"kernels": tuple(row.model_copy(update={"normalised_ms": 9.0}) for row in rows.kernels)}
            ),
            "are the same",
        ),
        (
            lambda rows: rows.model_copy(
                update={"models": tuple(row.model_copy(update={"workload_id": "x\x00"}) for row in rows.models[:1])}
            ),
            "no workload's id",
        ),
    ],
)
def test_a_row_that_cannot_have_been_measured_refuses_the_file(
    spoil: Callable[[TrainingRows], TrainingRows], why: str
) -> None:
    found = spoilt(spoil)
    assert found.startswith("pool_file_damaged")
    assert why in found


def test_a_kernel_type_that_this_farm_has_not_is_foreign() -> None:
    found = spoilt(first(kernel_type="conv-of-tomorrow"))
    assert found.startswith("pool_file_foreign")
    assert "conv-of-tomorrow" in found


def test_rows_must_be_those_of_the_entry() -> None:
    entry, _ = entry_of(ROWS)
    with pytest.raises(InvalidRequest, match="stand in the entry"):
        check_entry(entry, made_rows("other/c0.t1.free/ncnn-1.0/fp32"), OwnKernels())
    with pytest.raises(InvalidRequest, match="other rows than it says"):
        check_entry(entry, ROWS.model_copy(update={"models": ()}), OwnKernels())


def test_a_place_that_no_table_has_is_damage() -> None:
    part, _ = pack(ROWS, CATALOGUE_VERSION)
    said = json.loads(zlib.decompress(part))
    for spoil in ({"tables": said["tables"][:1]}, {"tables": [{**one, "configs": []} for one in said["tables"]]}):
        text = canonical_json(said | spoil).encode()
        with pytest.raises(InvalidRequest, match="names no kernel"):
            unpack(zlib.compress(text), len(text), CATALOGUE_VERSION)


def test_predictors_lie_beside_their_rows() -> None:
    file = predictor_file()
    (found,) = opened(with_predictor(file))
    assert (found.files, found.left_out) == ({"model": file}, ())
    assert "is of something else" in refused(with_predictor(predictor_file(platform="other")))
    assert "is of something else" in refused(with_predictor(file, subject="linear"))
    assert "is of something else" in refused(with_predictor(file, lineage=LINEAGE.model_dump() | {"rule_version": 1}))
    assert "damaged" in refused(with_predictor(b"\x09" + b"\0" * 7 + b"no header"))


def test_whoever_takes_files_in_looks_at_all_of_a_predictor() -> None:
    def look(file: bytes) -> None:
        raise InvalidRequest(f"an array of {len(file)} bytes is missing", code=code)

    data = with_predictor(predictor_file())
    code = "predictor_file_damaged"
    with pytest.raises(InvalidRequest, match="is missing") as caught:
        open_entries(data, OwnKernels(), CATALOGUE_VERSION, look)
    assert caught.value.code == "pool_file_damaged"
    code = "predictor_file_foreign"
    (found,) = open_entries(data, OwnKernels(), CATALOGUE_VERSION, look)
    assert (dict(found.files), len(found.left_out)) == ({}, 1)


def test_a_predictor_of_another_version_is_left_out_and_its_rows_stay() -> None:
    (found,) = opened(with_predictor(predictor_file(version=9)))
    assert (found.files, found.rows) == ({}, ROWS)
    assert "version 9" in found.left_out[0]


def test_an_entry_has_one_predictor_of_a_subject_and_comes_once() -> None:
    entry, part = entry_of(ROWS)
    twice = {"subject": "model", "sha256": part_hash(b"x"), "lineage": LINEAGE}
    with pytest.raises(ValueError, match="two predictors"):
        PoolEntry.model_validate(dict(entry) | {"predictors": (twice, twice)})
    with pytest.raises(ValueError, match="twice"):
        manifest_of([entry, entry])
    with pytest.raises(ValueError, match="entries"):
        PoolManifest.model_validate(dict(manifest_of([entry])) | {"entries": ()})
    assert read(of_another_farm(write(manifest_of([entry]), [part]), "third")).manifest.entries[0].origin == "third"


def test_moments_are_kept_to_the_second() -> None:
    late = ROWS.kernels[0].measured_at + timedelta(microseconds=700_000)
    rows = ROWS.model_copy(
        update={"kernels": (ROWS.kernels[0].model_copy(update={"measured_at": late}),), "models": ()}
    )
    part, size_bytes = pack(rows, CATALOGUE_VERSION)
    (found,) = unpack(part, size_bytes, CATALOGUE_VERSION).kernels
    assert (found.measured_at, found.timing) == (ROWS.kernels[0].measured_at, Timing(ROWS.kernels[0].timing))
