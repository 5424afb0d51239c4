"""The probe set: fixed, valid, cheap, and of a kind that platforms can be compared in."""

from collections import Counter

import pytest

from benchfarm_core.measurements import Timing
from benchfarm_core.planning import expected_s
from benchfarm_core.platforms import Platform, parse_platform_key
from benchfarm_core.predictors import WHOLE_MODEL
from benchfarm_core.profilers import in_situ_by
from benchfarm_core.protocols import PROTOCOLS
from benchfarm_core.workloads import ArchitectureWorkload, KernelWorkload, workload_id
from benchfarm_workloads.doubled_carriers import why_not_doubled
from benchfarm_workloads.kernels import kernel_type
from benchfarm_workloads.probes import LARGE_KERNELS, PROBES_VERSION, probe_set
from benchfarm_workloads.spaces import space

CONTENTS = {1: "8449447818e03ca9d8f6e8fb19cb9216"}
"""By version. What platforms were compared by must not change under its number."""
BOARD_S = {"onnxruntime": 15.0, "ncnn": 18.0}
"""By difference a kernel in situ costs ten times as much."""
COMMON = 8
"""Fewer configurations in common say nothing of a likeness (`benchfarm_predictor.similarity.LEAST_COMMON`)."""


def on(engine: str, precision: str = "fp32") -> Platform:
    return parse_platform_key(f"host-a/c0.t1.free/{engine}-1.0/{precision}")


def test_a_version_never_changes() -> None:
    assert probe_set().version == PROBES_VERSION
    assert probe_set().content_hash == CONTENTS[PROBES_VERSION]


def test_every_probe_is_distinct_and_in_its_catalogue() -> None:
    probes = probe_set()
    every: tuple[KernelWorkload | ArchitectureWorkload, ...] = (*probes.kernels, *probes.architectures)
    assert len({workload_id(one) for one in every}) == len(every) == len(probes.workload_ids)
    assert [kernel_type(one.type).workload(one.config) for one in probes.kernels] == list(probes.kernels)
    assert [space(one.space).workload(one.genes) for one in probes.architectures] == list(probes.architectures)
    assert all(one in probes.kernels for one in probes.in_situ)
    assert probes.measurements == len(every) + len(probes.in_situ)


def test_every_subject_has_more_than_what_a_likeness_needs() -> None:
    counts = {subject: len(ids) for subject, ids in probe_set().subjects.items()}
    wanted = {(name, timing) for name in LARGE_KERNELS for timing in Timing} | {(WHOLE_MODEL, Timing.ALONE)}
    assert counts.keys() == wanted
    assert min(counts.values()) > COMMON
    spaces = Counter(one.space for one in probe_set().architectures)
    assert set(spaces) == {"ofa_mobilenet_v3", "proxylessnas", "ofa_resnet", "bignas", "fbnet_v3"}


def test_steps_of_channels_lie_side_by_side() -> None:
    """Of each large type there are kernels that differ in one column alone, on both sides of a multiple of 8."""
    for name, column in (("conv-bn-act", "cout"), ("dwconv-bn-act", "cin"), ("linear", "cout")):
        rest: dict[tuple[object, ...], list[int]] = {}
        for kernel in probe_set().kernels:
            if kernel.type == name:
                others = tuple(value for key, value in kernel.config.items() if key != column)
                rest.setdefault(others, []).append(int(kernel.config[column]))
        widest = max(rest.values(), key=len)
        assert {size % 8 == 0 for size in widest} == {True, False}, (name, widest)


def test_what_is_wanted_depends_on_how_the_engine_times() -> None:
    probes = probe_set()
    assert probes.wanted_on(on("onnxruntime"))[Timing.IN_SITU] == probes.in_situ
    by_difference = probes.wanted_on(on("ncnn"))[Timing.IN_SITU]
    assert {one.type for one in by_difference if isinstance(one, KernelWorkload)} == {"conv-bn-act"}
    assert len(by_difference) > COMMON
    for one in by_difference:
        assert isinstance(one, KernelWorkload)
        assert why_not_doubled(one.type, kernel_type(one.type).validate(one.config)) is None
    assert set(probes.wanted_on(on("ncnn", "int8"))) == {Timing.ALONE}
    assert probes.wanted_on(on("litert", "as_given")) == {}
    assert probes.wanted_on(on("litert_benchmark_model")) == {}


@pytest.mark.parametrize("engine", BOARD_S)
def test_a_platform_is_probed_within_seconds(engine: str) -> None:
    """By the farm's own estimate, which takes a core for slower than those of hosts are."""
    platform, protocol = on(engine), PROTOCOLS["kernel"]
    doubled = in_situ_by(platform.engine.name, platform.precision) == "difference"
    spent_s = 0.0
    for timing, workloads in probe_set().wanted_on(platform).items():
        for one in workloads:
            cost = (
                space(one.space).cost(one)
                if isinstance(one, ArchitectureWorkload)
                else kernel_type(one.type).cost(one.config)
            )
            spent_s += expected_s(protocol, cost, None, timing, by_difference=doubled and timing == Timing.IN_SITU)
    assert spent_s <= BOARD_S[engine]
