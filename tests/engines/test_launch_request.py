"""The launch request is checked before anything acts on it."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchfarm_engines.launch_request import BadRequest, read_launch_request

INPUT = {"name": "x", "dtype": "float32", "shape": [1, 4], "fill": {"kind": "normal", "seed": 0}}
GOOD: dict[str, Any] = {
    "contract": 2,
    "engine": "onnxruntime",
    "precision": "fp32",
    "threads": 2,
    "cores": [0, 1],
    "options": {},
    "limits": {
        "memory_bytes": 1,
        "cpu_s": 1,
        "readable": ["/a"],
        "writable": [],
        "network": False,
        "uid": 65533,
        "gid": None,
    },
    "protocol": {
        "block_min_us": 200,
        "visit_ms": 60,
        "blocks_min": 10,
        "blocks_max": 600,
        "warmup_min_runs": 3,
        "warmup_min_ms": 0,
        "canary_every_ms": 20,
        "visit_timeout_s": 60,
    },
    "canaries": {"sgemm": {"n": 192, "seed": 1}, "mobilenet": {"artifact": "/c", "inputs": [INPUT]}},
    "visits": [
        {
            "visit": 3,
            "artifact": "/a",
            "format": "onnx",
            "inputs": [INPUT],
            "gates": [{"reference": "/r", "max_relative_l2": 1e-3}],
        }
    ],
}


def read(document: object) -> Any:
    return read_launch_request(json.dumps(document).encode())


def test_a_whole_request() -> None:
    request = read(GOOD)
    assert request.cores == (0, 1)
    assert request.limits.readable == ("/a",)
    assert (request.limits.uid, request.limits.gid) == (65533, None)
    assert not request.limits.strict
    assert read({**GOOD, "limits": {**GOOD["limits"], "strict": True}}).limits.strict
    assert request.visits[0].inputs[0].shape == (1, 4)
    assert request.cache is None
    assert read({**GOOD, "cache": "/k"}).cache == "/k"
    assert not request.asks_precision
    assert read({**GOOD, "asks_precision": True}).asks_precision


def test_later_additions_are_let_through() -> None:
    assert read({**GOOD, "something_new": 1}).engine == "onnxruntime"


PLACES: list[tuple[tuple[str | int, ...], object]] = [
    (("contract",), 9),
    (("contract",), None),
    (("engine",), ""),
    (("threads",), True),
    (("cores",), [-1]),
    (("cores",), "0"),
    (("options",), []),
    (("limits", "memory_bytes"), 0),
    (("limits", "readable"), [1]),
    (("limits", "uid"), -1),
    (("limits", "strict"), "yes"),
    (("asks_precision",), "yes"),
    (("protocol", "visit_ms"), 1.5),
    (("protocol", "visit_timeout_s"), 0),
    (("canaries", "mobilenet"), None),
    (("visits",), {}),
    (("visits", 0, "gates"), []),
    (("visits", 0, "gates", 0, "max_relative_l2"), float("nan")),
    (("visits", 0, "gates", 0, "reference"), None),
    (("visits", 0, "edges"), {"inputs": []}),
    (("visits", 0, "edges"), {"inputs": [], "outputs": [{"name": "y", "dtype": "void", "axes": [], "shape": []}]}),
    (("visits", 0, "inputs", 0, "dtype"), "complex64"),
    (("visits", 0, "inputs", 0, "shape"), [1] * 9),
    (("visits", 0, "inputs", 0, "fill"), {"kind": "zeros"}),
    (("visits", 0, "inputs", 0, "fill"), {"kind": "ints", "seed": 0, "below": 0}),
    (("visits", 0, "inputs", 0, "fill"), {"kind": "file", "seed": 0, "path": "/etc/passwd"}),
]


@pytest.mark.parametrize(("path", "value"), PLACES)
def test_every_wrong_field_is_named(path: tuple[Any, ...], value: object) -> None:
    document = copy.deepcopy(GOOD)
    place: Any = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(BadRequest) as caught:
        read(document)
    if path != ("contract",):
        assert str([key for key in path if isinstance(key, str)][-1]) in str(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(sorted(GOOD)), inner, max_size=4),
    max_leaves=8,
)


@given(st.binary(max_size=40) | JSON.map(lambda value: json.dumps(value).encode()))
def test_anything_else_is_a_bad_request(text: bytes) -> None:
    with pytest.raises(BadRequest):
        read_launch_request(text)
