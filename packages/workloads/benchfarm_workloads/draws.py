"""Seeded draws of kernel configurations: realistic, distinct, and small enough to measure in milliseconds."""

import random
from typing import Final

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.workloads import KernelWorkload
from benchfarm_workloads.candidates import candidate
from benchfarm_workloads.columns import Config, Scalar
from benchfarm_workloads.kernels import KernelType, kernel_type, kernel_types

MAX_DRAW_FLOPS: Final = 300_000_000
"""About 5 ms on one desktop core."""

MAX_DRAW_BYTES: Final = 8_000_000
"""Kernels that only move data stay in the same range of time."""

MAX_DRAWS: Final = 100_000

_MISSES_BEFORE_GIVING_UP: Final = 2_000
"""So many candidates in a row that are too large or known already mean that the type has no more to give."""

MIXED_SHARES: Final[dict[str, int]] = {
    "conv-bn-act": 12,
    "dwconv-bn-act": 8,
    "fc": 4,
    "linear": 4,
    "add-act": 2,
    "se": 2,
    "act": 2,
    "concat": 2,
    "maxpool": 2,
    "avgpool": 2,
    "global-avgpool": 2,
    "matmul": 2,
    "attention": 2,
    "layernorm": 2,
}
"""How often a type comes in ``draw_mixed`` per round; types not listed come once. With the catalogue of 26 types
a round is 60 kernels: 22 convolutions of some kind, 22 other kernels on images, 16 on sequences."""


def draw(type_name: str, seed: int, n: int) -> list[Config]:
    """``n`` distinct valid configurations; the same for the same seed on every machine.

    Sizes are log-uniform; about a third of the channels, tokens and features are no multiple of 8, since engines
    slow down there. Batch is 1, except that a ``matmul`` of two inputs counts heads in it. Each stays within
    ``MAX_DRAW_FLOPS`` and ``MAX_DRAW_BYTES``.

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
        config = _small_candidate(kind, rng)
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


def _small_candidate(kind: KernelType, rng: random.Random) -> Config | None:
    """One valid configuration within the draw's limits, or None: the caller tries again."""
    try:
        config = kind.validate(candidate(kind, rng))
    except InvalidRequest:
        return None
    cost = kind.cost_rule(config)
    return config if cost.flops <= MAX_DRAW_FLOPS and cost.total_bytes <= MAX_DRAW_BYTES else None
