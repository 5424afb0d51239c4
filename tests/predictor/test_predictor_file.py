"""Predictor files: what is written is read, and whatever else is a typed error."""

import hashlib
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from benchfarm_core.errors import InvalidRequest, TooLarge
from benchfarm_predictor import predictor_file
from benchfarm_predictor.combined import Scaled, Stacked
from benchfarm_predictor.composition import KernelSum, fit_whole_model
from benchfarm_predictor.conformal import calibrate
from benchfarm_predictor.features import FEATURES_VERSION, kernel_features
from benchfarm_predictor.kernel_lists import KernelLists
from benchfarm_predictor.kernels import Kernels
from benchfarm_predictor.networks import Layer, Network
from benchfarm_predictor.predictor_file import FORMAT_VERSION, Header, Lineage, Predictor, read, write
from benchfarm_predictor.ridge import fit_ridge
from benchfarm_predictor.trained_range import TrainedRange
from benchfarm_predictor.trees import Forest, Tree, Trees
from tests.predictor.rows import architectures, drawn, roofline_ms, whole_ms

LINEAGE = Lineage(donors=("sim-a/c0.t1.free/ncnn-1/fp32",), data_hash="a" * 64, rule_version=3, code_version="0.1.0")
HEADER = Header(kernel_type="fc", platform="sim-b/c0.t1.free/ncnn-1/fp32", lineage=LINEAGE)
KERNELS = drawn("fc", 40)


def a_predictor() -> Predictor:
    """A stack of a ridge, a network and trees, with all that belongs to it."""
    features, latency_ms = kernel_features(KERNELS), roofline_ms(KERNELS)
    d = len(features.names)
    ridge = fit_ridge(features, KERNELS, latency_ms)
    layers = (
        Layer(np.linspace(-1, 1, 4 * d, dtype=np.float32).reshape(4, d), np.zeros(4, dtype=np.float32), "silu"),
        Layer(np.ones((1, 4), dtype=np.float32), np.zeros(1, dtype=np.float32)),
    )
    network = Network(features, layers, np.zeros(d), np.full(d, 20.0))
    tree = Tree(*map(np.array, ([0, -1, -1], [5.0, 0, 0], [1, 0, 0], [2, 0, 0], [0.0, -1.0, 1.0])))
    trees = Trees(features.select(("log2_cin",)), Forest.of([tree]))
    model = Stacked((ridge.model, network, Scaled(trees, 2.0)), (0.5, 0.2, 0.1), 0.0)
    return Predictor(HEADER, model, calibrate(ridge.left_out_ms, latency_ms), TrainedRange.of(KERNELS))


DATA = write(a_predictor())


def refusal(data: bytes, sha256: str | None = None) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        read(data, sha256)
    assert caught.value.code in ("predictor_file_damaged", "predictor_file_foreign")
    return caught.value


def parts(data: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The JSON and the arrays."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["benchfarm"]), load(data)


def rewritten(change: dict[str, Any], arrays: dict[str, np.ndarray | None] | None = None) -> bytes:
    content, found = parts(DATA)
    kept = {name: each for name, each in {**found, **(arrays or {})}.items() if each is not None}
    return save(kept, {"benchfarm": json.dumps({**content, **change})})


def test_what_is_written_is_read() -> None:
    predictor, found = a_predictor(), read(DATA, hashlib.sha256(DATA).hexdigest())
    fresh = drawn("fc", 50, seed=9)
    assert found.header == HEADER
    assert found.model.predict(fresh) == pytest.approx(predictor.model.predict(fresh), rel=1e-6)
    assert found.intervals is not None
    assert predictor.intervals is not None
    assert found.intervals.bounds(np.ones(1)) == predictor.intervals.bounds(np.ones(1))
    assert (found.intervals.level, found.intervals.coverage) == (0.9, predictor.intervals.coverage)
    assert found.trained is not None
    assert predictor.trained is not None
    assert found.trained.octaves_outside(fresh).tolist() == predictor.trained.octaves_outside(fresh).tolist()


def test_the_same_predictor_gives_the_same_bytes() -> None:
    assert write(a_predictor()) == DATA
    assert write(read(DATA)) == DATA


def test_intervals_and_range_may_be_missing() -> None:
    found = read(write(Predictor(HEADER, a_predictor().model)))
    assert (found.intervals, found.trained) == (None, None)


def test_predictors_of_whole_models_and_of_foreign_kernels_are_files_too() -> None:
    lists = KernelLists.of(architectures(20))
    foreign = Kernels.of_rows("their-conv", ["a", "b"], [(3, 4), (5, 6), (7, 9)])
    fit = fit_ridge(kernel_features(foreign, "quadratic"), foreign, np.array([1.0, 2.0, 3.0]))
    whole = fit_whole_model(lists, whole_ms(lists)).model
    for model, batch in ((whole, lists), (fit.model, foreign), (KernelSum({"their-conv": fit.model}, None), lists)):
        found = read(write(Predictor(HEADER, model, None, TrainedRange.of(batch))))
        assert found.model.predict(batch).tolist() == model.predict(batch).tolist()
        assert found.trained is not None
        assert not found.trained.octaves_outside(batch).any()


def test_another_hash_is_damage() -> None:
    assert refusal(DATA, "0" * 64).code == "predictor_file_damaged"
    at = len(DATA) - 1
    changed = DATA[:at] + bytes([DATA[at] ^ 1])
    assert refusal(changed, hashlib.sha256(DATA).hexdigest()).code == "predictor_file_damaged"


@pytest.mark.parametrize("length", [0, 7, 8, 100, len(DATA) // 2, len(DATA) - 1])
def test_a_file_that_ends_early_is_damaged(length: int) -> None:
    assert refusal(DATA[:length]).code == "predictor_file_damaged"


def test_more_bytes_than_a_predictor_has_are_refused() -> None:
    assert refusal(DATA + b"\0").code == "predictor_file_damaged"
    assert "bytes" in refusal(b"\0" * (predictor_file.MAX_FILE_BYTES + 1)).detail


def test_a_file_of_something_else_is_foreign() -> None:
    for metadata in (None, {"format": "pt"}, {"benchfarm": "{}"}):
        data = save({"weights": np.zeros(3)}, metadata)
        assert refusal(data).code == "predictor_file_foreign"


@pytest.mark.parametrize(
    "header", [b"", b"{", b"[]", b"null", b"[" * 100_000, b"\xff\xfe", b'{"__metadata__":{"benchfarm":"["}}']
)
def test_a_header_that_is_none_is_damaged(header: bytes) -> None:
    refusal(len(header).to_bytes(8, "little") + header)


def test_another_version_of_the_format_is_foreign() -> None:
    for version in (FORMAT_VERSION + 1, 0, None, "1", True, 1.0):
        assert refusal(rewritten({"format": version})).code == "predictor_file_foreign"


def test_files_of_the_version_before_are_read() -> None:
    assert FORMAT_VERSION == 2
    before, now = read(rewritten({"format": 1})), read(DATA)
    assert write(before) == write(now) == DATA


def test_another_version_of_the_features_is_foreign() -> None:
    content, _ = parts(DATA)
    text = json.dumps(content["model"])
    for before, after in (
        (f'"version": {FEATURES_VERSION}', f'"version": {FEATURES_VERSION + 1}'),
        ("log2_cin", "log2_sin"),
        ('"view": "full"', '"view": "fuller"'),
        ('"type": "fc"', '"type": "linear"'),
    ):
        assert before in text
        refused = refusal(rewritten({"model": json.loads(text.replace(before, after))}))
        assert refused.code in ("predictor_file_foreign", "predictor_file_damaged")


@pytest.mark.parametrize(
    "change",
    [
        {"model": {}},
        {"model": {"kind": "oracle"}},
        {"model": None},
        {"header": {}},
        {"header": {**HEADER.model_dump(mode="json"), "platform": ""}},
        {"header": {**HEADER.model_dump(mode="json"), "extra": 1}},
        {"intervals": {"level": "high"}},
        {"intervals": 3},
        {"trained": [{"type": "fc", "columns": ["cin"]}]},
        {"trained": [{"type": "fc", "columns": []}] * 2},
        {"more": 1},
    ],
)
def test_json_that_does_not_fit_is_damaged(change: dict[str, Any]) -> None:
    assert refusal(rewritten(change)).code == "predictor_file_damaged"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model/0/weights", None),
        ("model/0/weights", np.zeros(3)),
        ("model/0/weights", np.zeros((2, 2))),
        ("model/0/centre", np.full_like(parts(DATA)[1]["model/0/centre"], np.nan)),
        ("model/2/0/feature", np.array([9, -1, -1], dtype=np.int16)),
        ("model/2/0/left", np.array([0, 1, 2], dtype=np.int32)),
        ("model/2/0/roots", np.array([0], dtype=np.int64)),
        ("intervals/widths", np.array([0.5])),
        ("intervals/widths", np.zeros(0)),
        ("intervals/widths", np.array([1.5, 1.5])),
        ("intervals/edges_ms", np.array([1.0])),
        ("trained/0/low", None),
        ("trained/0/high", np.zeros(3)),
    ],
)
def test_arrays_that_do_not_fit_are_damaged(name: str, value: np.ndarray | None) -> None:
    assert name in parts(DATA)[1]
    assert refusal(rewritten({}, {name: value})).code == "predictor_file_damaged"


def outcome(data: bytes) -> str:
    """What reading ends in: `read`, or the code of the error."""
    try:
        found = read(data)
    except InvalidRequest as error:
        return error.code
    return "read" if np.isfinite(found.model.predict(KERNELS)).all() else "not finite"


@settings(max_examples=200)
@given(st.integers(0, len(DATA) - 1), st.integers(0, 255))
def test_any_changed_byte_is_read_or_refused(at: int, value: int) -> None:
    """Without a hash, a changed number inside an array cannot be seen; nothing else may break out."""
    changed = DATA[:at] + bytes([value]) + DATA[at + 1 :]
    assert outcome(changed) in ("read", "predictor_file_damaged", "predictor_file_foreign")


def test_a_predictor_that_is_too_large_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictor_file, "MAX_FILE_BYTES", len(DATA) - 1)
    with pytest.raises(TooLarge):
        write(a_predictor())
