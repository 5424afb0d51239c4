"""Seeded draws of kernel configurations: realistic, distinct, and small enough to measure in milliseconds."""

import math
import random
from collections.abc import Mapping, Sequence
from typing import Final

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.workloads import KernelWorkload
from benchfarm_workloads.columns import Column, Config, Scalar
from benchfarm_workloads.kernels import KernelType, kernel_type, kernel_types

MAX_DRAW_FLOPS: Final = 300_000_000
"""About 5 ms on one desktop core."""

MAX_DRAW_BYTES: Final = 8_000_000
"""Kernels that only move data stay in the same range of time."""

MAX_DRAWS: Final = 100_000

_MISSES_BEFORE_GIVING_UP: Final = 2_000
"""So many candidates in a row that are too large or known already mean that the type has no more to give."""

MIXED_SHARES: Final[dict[str, int]] = {"conv-bn-act": 6, "dwconv-bn-act": 4, "fc": 2}
"""How often a type comes in ``draw_mixed`` per round; types not listed come once."""

_CHANNELS: Final = (8, 960)
_HW: Final = (7, 112)
_FEATURES: Final = (16, 2048)
_WINDOWS: Final[dict[Scalar, int]] = {1: 6, 2: 3, 3: 6, 5: 3, 7: 2}
_DEPTHWISE_WINDOWS: Final[dict[Scalar, int]] = {3: 3, 5: 2, 7: 1}
_STRIDES: Final[dict[Scalar, int]] = {1: 3, 2: 1}
_ACTIVATIONS: Final[dict[Scalar, int]] = {"none": 2, "relu": 4, "relu6": 3, "hswish": 3, "sigmoid": 1, "swish": 2}


def draw(type_name: str, seed: int, n: int) -> list[Config]:
    """``n`` distinct valid configurations; the same for the same seed on every machine. Batch is 1.

    Sizes are log-uniform; about a third of the channels are no multiple of 8, since engines slow down there.
    Each stays within ``MAX_DRAW_FLOPS`` and ``MAX_DRAW_BYTES``.

    Raises:
        InvalidRequest: unknown type, or n below 0, above ``MAX_DRAWS`` or above what the type can give.
    """
    kind = kernel_type(type_name)
    if not 0 <= n <= MAX_DRAWS:
        raise InvalidRequest(f"n={n} must be from 0 to {MAX_DRAWS}", field="n")
    rng = random.Random(f"{kind.name}/{seed}")
    found: dict[tuple[Scalar, ...], Config] = {}
    misses = 0
    while len(found) < n and misses < _MISSES_BEFORE_GIVING_UP:
        config = _candidate(kind, rng)
        if config is None or tuple(config.values()) in found:
            misses += 1
        else:
            found[tuple(config.values())] = config
            misses = 0
    if len(found) < n:
        raise InvalidRequest(f"{kind.name} gives only {len(found)} distinct draws, not {n}", field="n")
    return list(found.values())


def draw_mixed(seed: int, n: int) -> list[KernelWorkload]:
    """``n`` distinct kernels over all types in the shares of ``MIXED_SHARES``, in catalogue order."""
    counts = _mixed_counts(n)
    return [kind.workload(config) for kind in kernel_types() for config in draw(kind.name, seed, counts[kind.name])]


def _mixed_counts(n: int) -> dict[str, int]:
    """Largest-remainder shares, so that the counts add up to n for every n."""
    shares = {kind.name: MIXED_SHARES.get(kind.name, 1) for kind in kernel_types()}
    whole = sum(shares.values())
    counts = {name: n * share // whole for name, share in shares.items()}
    by_remainder = sorted(shares, key=lambda name: -(n * shares[name] % whole))
    for name in by_remainder[: n - sum(counts.values())]:
        counts[name] += 1
    return counts


def _candidate(kind: KernelType, rng: random.Random) -> Config | None:
    """One valid configuration within the draw's limits, or None: the caller tries again."""
    raw: dict[str, object] = {column.name: _value(column, kind, rng) for column in kind.columns}
    if kind.name == "se":
        raw["cmid"] = _squeezed(raw, rng)
    if raw.get("cin3") == 0:
        raw["cin4"] = 0
    try:
        config = kind.validate(raw)
    except InvalidRequest:
        return None
    cost = kind.cost_rule(config)
    return config if cost.flops <= MAX_DRAW_FLOPS and cost.total_bytes <= MAX_DRAW_BYTES else None


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
    return _channels(rng, *(_FEATURES if kind.name == "fc" else _CHANNELS))


def _weighted(rng: random.Random, weights: Mapping[Scalar, int], choices: Sequence[Scalar]) -> Scalar:
    return rng.choices(choices, [weights.get(choice, 0) for choice in choices])[0]


def _squeezed(raw: dict[str, object], rng: random.Random) -> int:
    cin = raw["cin"]
    assert isinstance(cin, int)
    return max(1, cin // rng.choice((2, 4, 8, 16)))


def _channels(rng: random.Random, low: int, high: int) -> int:
    value = _log_uniform(rng, low, high)
    if value >= 8 and rng.random() < 0.7:
        return max(8, round(value / 8) * 8)
    return value


def _log_uniform(rng: random.Random, low: int, high: int) -> int:
    return min(high, int(math.exp(rng.uniform(math.log(low), math.log(high + 1)))))
