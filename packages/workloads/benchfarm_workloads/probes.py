"""The probe set: what is measured on every platform, so that platforms can be compared.

Fixed and versioned. Kernels of the types that take most of a network's time, of the sizes that the search spaces have
and, several in a row, around a step of the staircase that engines have in channels: such steps are what tells platforms
apart (LitePred, NSDI 2024, section 4.3). Some of them are wanted in situ too, and small networks of each convolutional
space. All of it is also learnt from. Another kernel, another network or another draw is another version: what was
measured of an older one stays as a measurement, and compares with nothing of the new one.
"""

from dataclasses import dataclass
from functools import cache
from typing import Final

from benchfarm_core.correctness import is_ungated
from benchfarm_core.measurements import Timing
from benchfarm_core.platforms import Platform, Precision
from benchfarm_core.predictors import WHOLE_MODEL
from benchfarm_core.profilers import InSituBy, in_situ_by
from benchfarm_core.values import digest
from benchfarm_core.workloads import ArchitectureWorkload, KernelWorkload, workload_id
from benchfarm_workloads.columns import Scalar
from benchfarm_workloads.kernels import kernel_type
from benchfarm_workloads.spaces import draws, space

PROBES_VERSION: Final = 1
LARGE_KERNELS: Final = ("conv-bn-act", "dwconv-bn-act", "linear")
"""The types with many configurations, which take most of a network's time."""
IN_SITU: Final = 9
"""Of each large type, the first so many kernels are measured in situ too: one may fail and eight are left."""

_CONVOLUTIONS: Final = (
    (112, 16, 64, 1, 1, "relu"),
    (56, 72, 24, 1, 1, "none"),
    (28, 40, 240, 1, 1, "hswish"),
    (14, 480, 112, 1, 1, "none"),
    (28, 64, 64, 3, 1, "relu"),
    (14, 128, 128, 3, 1, "relu"),
    (7, 160, 960, 1, 1, "hswish"),
    (28, 256, 64, 1, 1, "relu"),
    (56, 24, 144, 1, 1, "swish"),
    (224, 3, 16, 3, 2, "hswish"),
    (28, 64, 128, 3, 2, "relu"),
    (1, 960, 1280, 1, 1, "hswish"),
    (28, 64, 60, 1, 1, "relu6"),
    (28, 64, 64, 1, 1, "relu6"),
    (28, 64, 66, 1, 1, "relu6"),
    (28, 64, 72, 1, 1, "relu6"),
)
"""Height and width, channels in and out, window, stride, activation."""
_DEPTHWISE: Final = (
    (112, 16, 3, 1, "relu"),
    (112, 64, 3, 2, "relu"),
    (56, 72, 5, 2, "relu"),
    (28, 120, 5, 1, "hswish"),
    (28, 240, 3, 2, "hswish"),
    (14, 480, 3, 1, "hswish"),
    (14, 672, 5, 2, "hswish"),
    (7, 960, 7, 1, "relu6"),
    (28, 144, 7, 1, "relu6"),
    (14, 336, 5, 1, "swish"),
    (28, 188, 3, 1, "relu6"),
    (28, 192, 3, 1, "relu6"),
    (28, 194, 3, 1, "relu6"),
    (28, 200, 3, 1, "relu6"),
)
"""Height and width, channels, window, stride, activation."""
_LINEAR: Final = (
    (196, 192, 192, "none"),
    (196, 192, 768, "gelu"),
    (196, 768, 192, "none"),
    (196, 240, 240, "none"),
    (128, 128, 512, "gelu"),
    (128, 512, 128, "none"),
    (64, 384, 1536, "gelu"),
    (64, 1536, 384, "none"),
    (128, 256, 256, "none"),
    (196, 216, 188, "none"),
    (196, 216, 200, "none"),
    (196, 216, 204, "none"),
)
"""Tokens, features in and out, activation."""

_COLUMNS: Final[dict[str, tuple[tuple[str, ...], tuple[tuple[Scalar, ...], ...]]]] = {
    "conv-bn-act": (("hw", "cin", "cout", "k", "s", "act"), _CONVOLUTIONS),
    "dwconv-bn-act": (("hw", "cin", "k", "s", "act"), _DEPTHWISE),
    "linear": (("seq", "cin", "cout", "act"), _LINEAR),
}
_NETWORKS: Final = {"ofa_mobilenet_v3": 3, "proxylessnas": 3, "ofa_resnet": 1, "bignas": 2, "fbnet_v3": 2}
"""How many of each convolutional space; large ones would cost more than all the rest."""
_DRAWN: Final = 40
"""Of so many that are drawn, every other one of the cheapest is taken."""

Subject = tuple[str, Timing]
"""A kernel type or `WHOLE_MODEL`, and how it is timed: what platforms are compared in."""


@dataclass(frozen=True, slots=True)
class ProbeSet:
    """One version of the probe set. ``in_situ`` are the kernels that are measured in situ as well."""

    version: int
    kernels: tuple[KernelWorkload, ...]
    in_situ: tuple[KernelWorkload, ...]
    architectures: tuple[ArchitectureWorkload, ...]

    @property
    def subjects(self) -> dict[Subject, tuple[str, ...]]:
        """By what is compared, the ids of its workloads in their order."""
        found: dict[Subject, list[str]] = {}
        for timing, kernels in ((Timing.ALONE, self.kernels), (Timing.IN_SITU, self.in_situ)):
            for kernel in kernels:
                found.setdefault((kernel.type, timing), []).append(workload_id(kernel))
        found[WHOLE_MODEL, Timing.ALONE] = [workload_id(one) for one in self.architectures]
        return {subject: tuple(ids) for subject, ids in found.items()}

    @property
    def workload_ids(self) -> tuple[str, ...]:
        """Every workload of the set, each once."""
        return tuple(dict.fromkeys(id_ for ids in self.subjects.values() for id_ in ids))

    @property
    def measurements(self) -> int:
        """How many measurements the whole set is: a kernel in situ and alone is two."""
        return sum(map(len, self.subjects.values()))

    @property
    def content_hash(self) -> str:
        """Names the set's contents."""
        return digest([[subject, timing, list(ids)] for (subject, timing), ids in self.subjects.items()])

    def wanted_on(self, platform: Platform) -> dict[Timing, tuple[KernelWorkload | ArchitectureWorkload, ...]]:
        """What to measure on a platform, by timing; nothing where it has no normalised times of generated workloads.

        By difference a time in situ costs ten times one by a profiler: convolutions alone are worth it.
        """
        if platform.precision == Precision.AS_GIVEN or is_ungated(platform.engine.name):
            return {}
        found: dict[Timing, tuple[KernelWorkload | ArchitectureWorkload, ...]] = {
            Timing.ALONE: (*self.kernels, *self.architectures)
        }
        in_situ = self._in_situ_by(in_situ_by(platform.engine.name, platform.precision))
        if in_situ:
            found[Timing.IN_SITU] = in_situ
        return found

    def _in_situ_by(self, way: InSituBy | None) -> tuple[KernelWorkload, ...]:
        if way is None:
            return ()
        return tuple(kernel for kernel in self.in_situ if way == "profiler" or kernel.type == LARGE_KERNELS[0])


@cache
def probe_set() -> ProbeSet:
    """The probe set of ``PROBES_VERSION``."""
    by_type = {name: _kernels(name) for name in LARGE_KERNELS}
    return ProbeSet(
        version=PROBES_VERSION,
        kernels=tuple(kernel for kernels in by_type.values() for kernel in kernels),
        in_situ=tuple(kernel for kernels in by_type.values() for kernel in kernels[:IN_SITU]),
        architectures=tuple(one for name, count in _NETWORKS.items() for one in _cheap(name, count)),
    )


def _kernels(type_name: str) -> list[KernelWorkload]:
    names, rows = _COLUMNS[type_name]
    kind = kernel_type(type_name)
    configs: list[dict[str, Scalar]] = [dict(zip(names, row, strict=True)) for row in rows]
    return [kind.workload(config) for config in configs]


def _cheap(name: str, count: int) -> list[ArchitectureWorkload]:
    """Different architectures of a space, among the cheapest of those drawn."""
    drawing = space(name)
    drawn = sorted(draws(name, f"probes/{PROBES_VERSION}", _DRAWN), key=lambda one: drawing.cost(one).flops)
    return [drawing.workload(one.genes) for one in drawn[: 2 * count : 2]]
