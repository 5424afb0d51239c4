"""What an adaptation asks boards for: hold-outs, probes, architectures of its spaces, kernels as the spaces have them.
Where architectures were given, these alone.

Everything is drawn from texts, so that a step that is taken twice asks for the same.
"""

import random
from collections.abc import Sequence
from itertools import chain, zip_longest
from math import log
from typing import Final, TypeVar

from benchfarm_core.adapting import AdaptationRequest, Mix
from benchfarm_core.measurements import Timing
from benchfarm_core.platforms import Platform
from benchfarm_core.workloads import ArchitectureWorkload, KernelWorkload, workload_id
from benchfarm_store.adaptation_items import Ask
from benchfarm_workloads.draws import MAX_DRAW_BYTES, MAX_DRAW_FLOPS
from benchfarm_workloads.fusing import FusionRules
from benchfarm_workloads.kernel_frequencies import KernelFrequencies, frequencies_of_spaces, latency_heavy
from benchfarm_workloads.kernels import kernel_type
from benchfarm_workloads.probes import LARGE_KERNELS, probe_set
from benchfarm_workloads.spaces import draws, space, spaces

T = TypeVar("T")

HOLDOUT_KERNELS: Final = 8
"""Of each large kernel type, timed alone."""
SPARE: Final = 3
"""So many times as many are drawn as are declared: some were learnt from before."""
NETWORKS: Final = 12
"""Architectures of each space whose kernels are counted."""
MAX_ROUND: Final = 160
"""Of one kind in one round."""
LEAST_S: Final = 0.05
"""No measurement takes less of a board: it bounds how many are drawn for some seconds."""


def judged_spaces(request: AdaptationRequest) -> tuple[str, ...]:
    """The spaces that are judged on: those that were named, or all."""
    return _named(request) or tuple(one.name for one in spaces())


def _named(request: AdaptationRequest) -> tuple[str, ...]:
    return request.spaces + request.unseen_spaces


def holdout_architectures(request: AdaptationRequest) -> list[tuple[list[ArchitectureWorkload], int]]:
    """Of each space, architectures that may judge, and how many do; without named spaces they share the count. Where
    architectures were given, some of them and no other."""
    if request.architectures:
        judging = _given(request)[request.judging]
        return [(judging, len(judging))]
    names = judged_spaces(request)
    count = request.holdouts if _named(request) else -(-request.holdouts // len(names))
    return [(_drawn(name, f"holdout/{request.seed}", SPARE * count), count) for name in names]


def _given(request: AdaptationRequest) -> list[ArchitectureWorkload]:
    return [space(one.space).workload(one.genes) for one in request.architectures]


def holdout_kernels(request: AdaptationRequest) -> list[tuple[list[KernelWorkload], int]]:
    """Of each large kernel type, kernels that may judge and how many of them do; none where architectures were given,
    which make no predictor of kernels."""
    if request.architectures:
        return []
    found = _frequencies(judged_spaces(request), f"holdout/{request.seed}", FusionRules())
    return [
        (_ordered([found[name]], f"holdout/{request.seed}", SPARE * HOLDOUT_KERNELS), HOLDOUT_KERNELS)
        for name in LARGE_KERNELS
        if name in found
    ]


def probes(platform: Platform, request: AdaptationRequest) -> list[Ask]:
    """The probe set, what is learnt from most first: networks, of none of the unseen spaces, then kernels in situ, then
    alone. None where architectures were given."""
    if request.architectures:
        return []
    unseen = request.unseen_spaces
    wanted = probe_set().wanted_on(platform)
    alone = sorted(wanted.get(Timing.ALONE, ()), key=lambda one: isinstance(one, KernelWorkload))
    networks = [Ask(one) for one in alone if isinstance(one, ArchitectureWorkload) and one.space not in unseen]
    kernels = [Ask(one) for one in alone if isinstance(one, KernelWorkload)]
    in_situ = [Ask(one, Timing.IN_SITU) for one in wanted.get(Timing.IN_SITU, ())]
    return [*networks, *_alternating([in_situ, kernels])]


def next_asks(
    request: AdaptationRequest, mix: Mix, round_no: int, limit_s: float, rules: FusionRules
) -> list[tuple[list[Ask], float]]:
    """What a round may measure, the best first, each kind with the seconds that it may take."""
    if request.architectures:
        return [([Ask(one) for one in _given(request)], limit_s)]
    seed = f"train/{request.seed}/{round_no}"
    asks: list[tuple[list[Ask], float]] = []
    if mix.architectures and request.spaces:
        count = _bounded(mix.architectures * limit_s)
        drawn = [_drawn(name, seed, -(-count // len(request.spaces))) for name in request.spaces]
        asks.append(([Ask(one) for one in _alternating(drawn)], mix.architectures * limit_s))
    if mix.in_situ or mix.alone:
        frequencies = list(_frequencies(judged_spaces(request), seed, rules).values())
        for timing, share in ((Timing.IN_SITU, mix.in_situ), (Timing.ALONE, mix.alone)):
            if share:
                kernels = _ordered(frequencies, f"{seed}/{timing}", _bounded(share * limit_s))
                asks.append(([Ask(one, timing) for one in kernels], share * limit_s))
    return asks


def _bounded(limit_s: float) -> int:
    return max(4, min(MAX_ROUND, round(limit_s / LEAST_S)))


def _drawn(name: str, seed: str, count: int) -> list[ArchitectureWorkload]:
    """Different architectures of a space, none of the probe set."""
    probed = set(probe_set().workload_ids)
    found = [space(name).workload(one.genes) for one in draws(name, seed, count)]
    return [one for one in found if workload_id(one) not in probed]


def _frequencies(names: Sequence[str], seed: str, rules: FusionRules) -> dict[str, KernelFrequencies]:
    return frequencies_of_spaces(names, seed=seed, architectures=NETWORKS, rules=rules)


def _ordered(found: Sequence[KernelFrequencies], seed: str, count: int) -> list[KernelWorkload]:
    """Kernels drawn without repetition, those that take much of networks' time sooner (Efraimidis and Spirakis 2006).

    None is larger than what is drawn elsewhere, nor of the probe set.
    """
    rng = random.Random(seed)
    keyed: list[tuple[float, KernelWorkload]] = []
    for frequencies in found:
        kind, heavy = kernel_type(frequencies.type), latency_heavy(frequencies)
        for config, share in zip(heavy.configs, heavy.shares, strict=True):
            key = -log(1 - rng.random()) / max(share * len(heavy.configs), 1e-9)
            cost = kind.cost_rule(config)
            if cost.flops <= MAX_DRAW_FLOPS and cost.total_bytes <= MAX_DRAW_BYTES:
                keyed.append((key, kind.workload(config)))
    probed = set(probe_set().workload_ids)
    ordered = (one for _, one in sorted(keyed, key=lambda pair: pair[0]))
    return [one for one in ordered if workload_id(one) not in probed][:count]


def _alternating(lists: Sequence[Sequence[T]]) -> list[T]:
    """The first of each, then the second of each, and so on."""
    return [one for one in chain.from_iterable(zip_longest(*lists)) if one is not None]
