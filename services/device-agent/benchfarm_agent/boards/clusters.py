"""The clocks of a Linux board as cpufreq shows them, grouped into clusters of equal cores."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from benchfarm_agent.boards.host_facts import TextOf
from benchfarm_core.operating_ranges import MAX_FREQUENCIES, OperatingRange
from benchfarm_core.platforms import MAX_CORES

CPU: Final = "/sys/devices/system/cpu"
CLOCK_PATTERNS: Final = (f"{CPU}/cpufreq/policy*/scaling_max_freq", f"{CPU}/cpu[0-9]*/cpufreq/scaling_max_freq")
"""Where clocks are set: kernels before 4.3 have no folder per policy, and a folder (or a link to one) per core."""
TURBO_STEP_KHZ: Final = 1000
"""acpi-cpufreq writes "as fast as it gets" as 1 MHz above the highest clock that it can keep."""
_CLOCK_FILES: Final = (
    "related_cpus",
    "affected_cpus",
    "scaling_available_frequencies",
    "scaling_available_governors",
    "scaling_driver",
    "base_frequency",
    "cpuinfo_min_freq",
    "cpuinfo_max_freq",
    "stats/time_in_state",
)
_HOST_DRIVERS: Final = frozenset({"intel_pstate", "intel_cpufreq", "amd-pstate", "amd-pstate-epp", "acpi-cpufreq"})


@dataclass(frozen=True)
class ClockPolicy:
    """One clock: the folder of its settings and the cores that share it, ascending.

    `freq_khz`: those it can keep, ascending; empty where the board does not say. `has_time_in_state`: the kernel
    counts how long it ran at each. `is_measured`: what is read as the current frequency was measured, and is exact
    for busy cores only.
    """

    folder: str
    cores: tuple[int, ...]
    freq_khz: tuple[int, ...]
    max_khz: int
    governors: tuple[str, ...]
    is_writable: bool
    has_time_in_state: bool
    is_measured: bool


@dataclass(frozen=True)
class Cluster:
    """Cores that are alike, ascending, with their clocks: one on most phones, one per core on most hosts."""

    cores: tuple[int, ...]
    policies: tuple[ClockPolicy, ...] = ()
    capacity: int | None = None

    @property
    def freq_khz(self) -> tuple[int, ...]:
        return self.policies[0].freq_khz if self.policies else ()

    @property
    def max_khz(self) -> int:
        return max((policy.max_khz for policy in self.policies), default=0)

    @property
    def is_pinnable(self) -> bool:
        return bool(self.freq_khz) and all(policy.is_writable for policy in self.policies)

    def describe(self) -> str:
        """``0-3 at 300 to 1804 MHz``."""
        steps = self.freq_khz
        top = self.max_khz
        clock = f"{steps[0] // 1000} to {top // 1000} MHz" if steps else f"up to {top // 1000} MHz" if top else "?"
        return f"{cores_text(self.cores)} at {clock}"


def clock_files(folders: Iterable[str], cores: Iterable[int]) -> list[str]:
    """All files that `read_clusters` looks at."""
    capacities = [f"{CPU}/cpu{core}/cpu_capacity" for core in cores]
    return [f"{folder}/{name}" for folder in folders for name in _CLOCK_FILES] + capacities


def clock_folders(found: Iterable[str]) -> list[str]:
    """The folders of settings among paths that match CLOCK_PATTERNS: by policy where the kernel has such folders."""
    folders = [path.rpartition("/")[0] for path in found if path.endswith("/scaling_max_freq")]
    by_policy = [folder for folder in folders if "/cpufreq/policy" in folder]
    return by_policy or folders


def read_clusters(
    text_of: TextOf, folders: Iterable[str], writable: frozenset[str], cores: Sequence[int]
) -> tuple[Cluster, ...]:
    """The clusters of a board with these `cores`, the lowest core first. `writable`: paths that can be written."""
    policies = _policies(text_of, folders, writable, cores)
    alike: dict[tuple[object, ...], list[ClockPolicy]] = {}
    for policy in policies:
        kind = (policy.freq_khz, policy.max_khz, policy.governors, _capacity(text_of, policy.cores[0]))
        alike.setdefault(kind, []).append(policy)
    clusters = [
        Cluster(
            cores=tuple(sorted(core for policy in group for core in policy.cores)),
            policies=tuple(group),
            capacity=_capacity(text_of, group[0].cores[0]),
        )
        for group in alike.values()
    ]
    clocked = {core for cluster in clusters for core in cluster.cores}
    return tuple(sorted([*clusters, *_clockless(text_of, set(cores) - clocked)], key=lambda one: one.cores))


def cluster_ranges(cluster: Cluster, physical_cores: Sequence[int]) -> tuple[OperatingRange, ...]:
    """What a cluster can be pinned to: nothing where its clock cannot be written or its steps are not told."""
    cores = tuple(core for core in cluster.cores if core in physical_cores)
    if not cluster.is_pinnable or not cores:
        return ()
    steps = cluster.freq_khz[-MAX_FREQUENCIES:]
    return (OperatingRange(mode="pinned", cores=cores, threads_max=len(cores), freq_khz=steps),)


def numbers(text: str | None) -> tuple[int, ...]:
    """The whole numbers in a text; whatever is none is left out."""
    return tuple(int(word) for word in (text or "").split() if word.isdecimal() and word.isascii())


def number(text: str | None) -> int | None:
    """The one whole number that a file holds, with its sign; None for anything else."""
    word = (text or "").strip()
    digits = word.removeprefix("-")
    return int(word) if digits.isdecimal() and digits.isascii() and len(digits) < 19 else None


def core_list(text: str | None) -> tuple[int, ...]:
    """The cores of ``0-3,6`` or ``0 1 2 3``, ascending; garbage gives none."""
    found: set[int] = set()
    for word in (text or "").replace(",", " ").split():
        first, _, last = word.partition("-")
        low, high = number(first), number(last or first)
        if low is not None and high is not None and 0 <= low <= high < MAX_CORES:
            found.update(range(low, high + 1))
    return tuple(sorted(found))


def cores_text(cores: Sequence[int]) -> str:
    """``0-3`` or ``0,2,4``."""
    first, last = cores[0], cores[-1]
    if len(cores) > 1 and tuple(cores) == tuple(range(first, last + 1)):
        return f"{first}-{last}"
    return ",".join(map(str, cores))


def time_in_state(text: str | None) -> dict[int, int]:
    """Ticks of 10 ms that a clock has spent at each frequency in kHz; empty for anything else."""
    counts: dict[int, int] = {}
    for line in (text or "").splitlines():
        pair = numbers(line)
        if len(pair) != 2 or len(line.split()) != 2:
            return {}
        counts[pair[0]] = pair[1]
    return counts


def _policies(
    text_of: TextOf, folders: Iterable[str], writable: frozenset[str], cores: Sequence[int]
) -> list[ClockPolicy]:
    policies: list[ClockPolicy] = []
    taken: set[int] = set()
    for folder in folders:
        texts = {name: text_of(f"{folder}/{name}") for name in _CLOCK_FILES}
        named = core_list(texts["related_cpus"]) or core_list(texts["affected_cpus"])
        shared = tuple(core for core in named if core in cores and core not in taken)
        if not shared:  # without cores of ours, or the same clock by another core's link
            continue
        taken.update(shared)
        policies.append(_policy(folder, shared, texts, writable))
    return policies


def _policy(folder: str, cores: tuple[int, ...], texts: dict[str, str], writable: frozenset[str]) -> ClockPolicy:
    counted = time_in_state(texts["stats/time_in_state"])
    is_host = texts["scaling_driver"].strip() in _HOST_DRIVERS
    steps = sorted(set(numbers(texts["scaling_available_frequencies"]) or counted))
    return ClockPolicy(
        folder=folder,
        cores=cores,
        freq_khz=_kept_up(steps, number(texts["base_frequency"]), is_host=is_host),
        max_khz=number(texts["cpuinfo_max_freq"]) or max(steps, default=0),
        governors=tuple(texts["scaling_available_governors"].split()),
        is_writable=f"{folder}/scaling_max_freq" in writable,
        has_time_in_state=bool(counted),
        is_measured=is_host,
    )


def _kept_up(steps: Sequence[int], base_khz: int | None, *, is_host: bool) -> tuple[int, ...]:
    """The steps that are no boost; of a host that lists none, the base clock alone."""
    kept = [step for step in steps if 0 < step < 2**31 and (not base_khz or step <= base_khz)]
    if is_host and len(kept) > 1 and kept[-1] - kept[-2] == TURBO_STEP_KHZ:
        kept.pop()
    if not steps and base_khz is not None and 0 < base_khz < 2**31:
        return (base_khz,)
    return tuple(kept)


def _capacity(text_of: TextOf, core: int) -> int | None:
    return number(text_of(f"{CPU}/cpu{core}/cpu_capacity"))


def _clockless(text_of: TextOf, cores: Iterable[int]) -> list[Cluster]:
    """Cores without a clock to set, by what the kernel thinks they can do."""
    alike: dict[int | None, list[int]] = {}
    for core in sorted(cores):
        alike.setdefault(_capacity(text_of, core), []).append(core)
    return [Cluster(cores=tuple(group), capacity=capacity) for capacity, group in alike.items()]
