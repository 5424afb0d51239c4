"""What one draw of a kernel type may look like, before its limits are checked: sizes as networks have them.

The ten types that were first in the catalogue are drawn column by column, the others each by a rule of its own. A
changed rule changes what a seed means: jobs name seeds.
"""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from benchfarm_workloads.columns import Column, Scalar
from benchfarm_workloads.kernels import KernelType

Raw = dict[str, object]

_CHANNELS: Final = (8, 960)
_HW: Final = (7, 112)
_SMALL_HW: Final = (4, 56)
"""Of types that make images larger."""

_FEATURES: Final = (16, 2048)
_SEQ: Final = (16, 256)
_DIM: Final = (64, 1024)
_WINDOWS: Final[dict[Scalar, int]] = {1: 6, 2: 3, 3: 6, 5: 3, 7: 2}
_DEPTHWISE_WINDOWS: Final[dict[Scalar, int]] = {3: 3, 5: 2, 7: 1}
_GROUPED_WINDOWS: Final[dict[Scalar, int]] = {1: 3, 3: 5, 5: 1}
_STRIDES: Final[dict[Scalar, int]] = {1: 3, 2: 1}
_ACTIVATIONS: Final[dict[Scalar, int]] = {"none": 2, "relu": 4, "relu6": 3, "hswish": 3, "sigmoid": 1, "swish": 2}
_LINEAR_ACTIVATIONS: Final[dict[Scalar, int]] = {"none": 4, "gelu": 2, "relu": 1}
_GROUPS: Final[dict[Scalar, int]] = {2: 3, 3: 1, 4: 3, 8: 2, 16: 1, 32: 2}
_SHUFFLED_GROUPS: Final[dict[Scalar, int]] = {2: 4, 3: 2, 4: 2, 8: 1}
_PARTS: Final[dict[Scalar, int]] = {2: 4, 3: 1, 4: 2}
_SCALES: Final[dict[Scalar, int]] = {2: 5, 3: 1, 4: 2}
_PATCHES: Final[dict[Scalar, int]] = {4: 2, 8: 1, 14: 1, 16: 4, 32: 1}
_DECONV_WINDOWS: Final = ((2, 2), (2, 2), (2, 2), (4, 2), (4, 2), (4, 2), (3, 1), (5, 1), (6, 2), (3, 3), (4, 4))
"""Window and stride of a transposed convolution."""


def candidate(kind: KernelType, rng: random.Random) -> Raw:
    """A configuration that may still be too large, or break a rule that ties columns."""
    rule = _RULES.get(kind.name)
    return rule(rng) if rule else _by_column(kind, rng)


def _by_column(kind: KernelType, rng: random.Random) -> Raw:
    raw: Raw = {column.name: _value(column, kind, rng) for column in kind.columns}
    if kind.name == "se":
        raw["cmid"] = _squeezed(raw, rng)
    if raw.get("cin3") == 0:
        raw["cin4"] = 0
    return raw


def _value(column: Column, kind: KernelType, rng: random.Random) -> Scalar:
    """One column's value; a column that is not named here holds channels."""
    match column.name:
        case "hw":
            return _log_uniform(rng, *_HW)
        case "batch":
            return 1
        case "s":
            return _weighted(rng, _STRIDES, tuple(_STRIDES))
        case "gate":
            return rng.choice(column.choices)
        case "act":
            return _weighted(rng, _ACTIVATIONS, column.choices)
        case "k":
            depthwise = kind.name == "dwconv-bn-act"
            return _weighted(rng, _DEPTHWISE_WINDOWS if depthwise else _WINDOWS, column.choices)
        case "cin3" | "cin4" if rng.random() < 0.5:
            return 0
    return _rounded(rng, *(_FEATURES if kind.name == "fc" else _CHANNELS))


def _squeezed(raw: Raw, rng: random.Random) -> int:
    cin = raw["cin"]
    assert isinstance(cin, int)
    return max(1, cin // rng.choice((2, 4, 8, 16)))


def _group_conv(rng: random.Random) -> Raw:
    """Groups of 2 to 64 channels; mostly as many channels out as in."""
    groups = _weighted_count(rng, _GROUPS)
    width = _rounded(rng, 2, 64)
    widening = rng.choice((1, 1, 2))
    return {
        "hw": _log_uniform(rng, *_HW),
        "cin": groups * width,
        "cout": groups * width * widening,
        "k": _weighted_count(rng, _GROUPED_WINDOWS),
        "s": _weighted_count(rng, _STRIDES),
        "groups": groups,
        "act": _weighted(rng, _ACTIVATIONS, tuple(_ACTIVATIONS)),
    }


def _deconv(rng: random.Random) -> Raw:
    k, s = rng.choice(_DECONV_WINDOWS)
    return {
        "hw": _log_uniform(rng, *_SMALL_HW),
        "cin": _rounded(rng, 8, 512),
        "cout": _rounded(rng, 8, 512),
        "k": k,
        "s": s,
        "act": _weighted(rng, _ACTIVATIONS, tuple(_ACTIVATIONS)),
    }


def _mul(rng: random.Random) -> Raw:
    return {
        "hw": _log_uniform(rng, *_HW),
        "cin": _rounded(rng, *_CHANNELS),
        "form": rng.choice(("image", "channel")),
    }


def _split(rng: random.Random) -> Raw:
    parts = _weighted_count(rng, _PARTS)
    return {"hw": _log_uniform(rng, *_HW), "cin": parts * _rounded(rng, 8, 480), "parts": parts}


def _channel_shuffle(rng: random.Random) -> Raw:
    groups = _weighted_count(rng, _SHUFFLED_GROUPS)
    return {"hw": _log_uniform(rng, *_HW), "cin": groups * _rounded(rng, 8, 480), "groups": groups}


def _resize(rng: random.Random) -> Raw:
    return {
        "hw": _log_uniform(rng, *_SMALL_HW),
        "cin": _rounded(rng, 8, 512),
        "scale": _weighted_count(rng, _SCALES),
        "mode": rng.choice(("nearest", "bilinear")),
    }


def _linear(rng: random.Random) -> Raw:
    """Projections as wide as the token, and the wider layers between."""
    cin, widening = _rounded(rng, *_DIM), rng.choice((1, 1, 3, 4))
    inner = cin * widening if rng.random() < 0.7 else _rounded(rng, *_DIM)
    cin, cout = (inner, cin) if rng.random() < 0.3 else (cin, inner)
    act = _weighted(rng, _LINEAR_ACTIVATIONS, tuple(_LINEAR_ACTIVATIONS))
    return {"seq": _rounded(rng, *_SEQ), "cin": cin, "cout": cout, "act": act}


def _matmul(rng: random.Random) -> Raw:
    """A product with a weight, or in each head the scores (seq x seq) or the sums (seq x head_dim)."""
    seq, head_dim = _rounded(rng, *_SEQ), _rounded(rng, 16, 128)
    match rng.randrange(4):
        case 0:
            return {"m": seq, "k": head_dim, "n": seq, "form": "input", "batch": rng.randint(1, 16)}
        case 1:
            return {"m": seq, "k": seq, "n": head_dim, "form": "input", "batch": rng.randint(1, 16)}
    return {"m": seq, "k": _rounded(rng, *_DIM), "n": _rounded(rng, *_DIM), "form": "weight"}


def _attention(rng: random.Random) -> Raw:
    """1 to 16 heads that together hold at most 1024 features."""
    heads = rng.randint(1, 16)
    return {"seq": _rounded(rng, *_SEQ), "heads": heads, "head_dim": _rounded(rng, 16, min(128, 1024 // heads))}


def _tokens(rng: random.Random) -> Raw:
    return {"seq": _rounded(rng, *_SEQ), "dim": _rounded(rng, *_DIM)}


def _gelu(rng: random.Random) -> Raw:
    """Between the wider layers of a transformer."""
    return {"seq": _rounded(rng, *_SEQ), "dim": _rounded(rng, 64, 4096)}


def _softmax(rng: random.Random) -> Raw:
    """Mostly as many rows as all heads have tokens; else keys of another length."""
    dim = _rounded(rng, *_SEQ)
    if rng.random() < 0.3:
        return {"seq": _rounded(rng, 16, 2048), "dim": _rounded(rng, 16, 512)}
    return {"seq": dim * rng.randint(1, 16), "dim": dim}


def _patch_embed(rng: random.Random) -> Raw:
    k = _weighted_count(rng, _PATCHES)
    return {"hw": k * rng.randint(3, 16), "cin": rng.choice((3, 3, 3, 1, 4)), "dim": _rounded(rng, *_DIM), "k": k}


_RULES: Final[dict[str, Callable[[random.Random], Raw]]] = {
    "group-conv": _group_conv,
    "deconv-bn-act": _deconv,
    "mul": _mul,
    "split": _split,
    "channel-shuffle": _channel_shuffle,
    "resize": _resize,
    "linear": _linear,
    "matmul": _matmul,
    "attention": _attention,
    "layernorm": _tokens,
    "gelu": _gelu,
    "softmax": _softmax,
    "token-add": _tokens,
    "pos-embed": _tokens,
    "reduce-mean": _tokens,
    "patch-embed": _patch_embed,
}
"""Every type that is not drawn column by column. Batch is 1 where it is not named."""


def _weighted(rng: random.Random, weights: Mapping[Scalar, int], choices: Sequence[Scalar]) -> Scalar:
    return rng.choices(choices, [weights.get(choice, 0) for choice in choices])[0]


def _weighted_count(rng: random.Random, weights: Mapping[Scalar, int]) -> int:
    value = _weighted(rng, weights, tuple(weights))
    assert isinstance(value, int)
    return value


def _rounded(rng: random.Random, low: int, high: int) -> int:
    """Log-uniform, from 8 on mostly rounded to a multiple of 8."""
    value = _log_uniform(rng, low, high)
    if value >= 8 and rng.random() < 0.7:
        return max(8, round(value / 8) * 8)
    return value


def _log_uniform(rng: random.Random, low: int, high: int) -> int:
    return min(high, int(math.exp(rng.uniform(math.log(low), math.log(high + 1)))))
