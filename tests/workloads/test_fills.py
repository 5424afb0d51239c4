"""One definition of what fills an input, in two places: the server's reference and the board's runner.

The board side of the engines may import numpy and the engine alone, so it cannot import ours.
"""

import numpy as np
import pytest

from benchfarm_core.workloads import Dtype, Fill, InputSpec, IntsFill, NormalFill
from benchfarm_engines.inputs import make_inputs
from benchfarm_engines.launch_request import read_inputs
from benchfarm_workloads.fills import filled

FLOATS: list[Dtype] = ["float32", "float16", "float64"]
INTEGERS: list[Dtype] = ["int8", "uint8", "int32", "int64", "bool"]


@pytest.mark.parametrize(
    ("dtype", "fill"),
    [
        *[(dtype, NormalFill(seed=3)) for dtype in FLOATS],
        *[(dtype, IntsFill(below=2, seed=4)) for dtype in INTEGERS],
    ],
)
def test_the_runner_fills_with_the_same_numbers(dtype: Dtype, fill: Fill) -> None:
    spec = InputSpec(name="x", dtype=dtype, shape=(2, 3, 5), fill=fill)
    ours = filled(spec)
    theirs = make_inputs(read_inputs([spec.model_dump(mode="json")]))["x"]
    assert (ours.dtype, ours.shape) == (np.dtype(dtype), (2, 3, 5))
    assert theirs.dtype == ours.dtype
    np.testing.assert_array_equal(theirs, ours)
