"""The one input generator: fixed numbers, aligned buffers."""

import numpy as np
import pytest

from benchfarm_core.workloads import InputSpec as UploadInputSpec
from benchfarm_core.workloads import IntsFill, NormalFill
from benchfarm_engines.inputs import make_inputs
from benchfarm_engines.launch_request import InputSpec
from benchfarm_workloads.fills import filled

KNOWN = [1.117622, -1.3871249, -0.4265716, -0.8035873]


def one(dtype: str, shape: tuple[int, ...], fill: dict[str, object]) -> np.ndarray:
    return make_inputs([InputSpec("x", dtype, shape, fill)])["x"]


def test_the_numbers_never_change() -> None:
    found = one("float32", (4,), {"kind": "normal", "seed": 0})
    assert found.tolist() == pytest.approx(KNOWN, rel=1e-6)


def test_every_dtype_and_fill() -> None:
    for dtype in ("float32", "float16", "float64", "int8", "uint8", "int32", "int64", "bool"):
        for fill in ({"kind": "normal", "seed": 1}, {"kind": "ints", "below": 2, "seed": 1}):
            array = one(dtype, (3, 0, 2), fill), one(dtype, (), fill), one(dtype, (5,), fill)
            assert [each.shape for each in array] == [(3, 0, 2), (), (5,)]
            assert {each.dtype for each in array} == {np.dtype(dtype)}


def test_ints_stay_below() -> None:
    array = one("int64", (1000,), {"kind": "ints", "below": 7, "seed": 3})
    assert set(array.tolist()) == set(range(7))


@pytest.mark.parametrize("shape", [(1,), (3, 5), (1, 3, 224, 224)])
def test_buffers_begin_on_a_cache_line(shape: tuple[int, ...]) -> None:
    array = one("float32", shape, {"kind": "normal", "seed": 0})
    assert array.ctypes.data % 64 == 0
    assert array.flags.c_contiguous


def test_the_upload_inspection_fills_inputs_alike() -> None:
    """The board cannot import its module (it needs pydantic), so the two are held together here."""
    for dtype in ("float32", "float16", "float64", "int8", "uint8", "int32", "int64", "bool"):
        for fill in (NormalFill(seed=4), IntsFill(below=2, seed=4)):
            theirs = filled(UploadInputSpec(name="x", dtype=dtype, shape=(3, 5), fill=fill))
            ours = one(dtype, (3, 5), fill.model_dump())
            assert theirs.dtype == ours.dtype
            assert theirs.tobytes() == ours.tobytes()
