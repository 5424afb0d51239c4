"""What a Linux host is, read from /proc and /sys. `root` lets tests read the files of other machines.

The rules take the files' texts, not the files: a board elsewhere is read over its port (`linux_facts.py`).
"""

import os
import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchfarm_core.values import digest

TextOf = Callable[[str], str]
"""The text of a file by its absolute path; empty where there is none."""

_GIB = 1024**3
_QUARTER_GIB_KIB = 256 * 1024
_CACHES_MAX: Final = 8
_CPU: Final = "/sys/devices/system/cpu"
_MACHINE_IDS: Final = ("/etc/machine-id", "/var/lib/dbus/machine-id")
_TOPOLOGY: Final = ("physical_package_id", "cluster_id", "core_id")
"""Where a core is, outermost first: kernels number the cores of each cluster of a phone from 0."""


@dataclass(frozen=True)
class HostFacts:
    """Identity of a host's processor, memory and system software.

    `cores`: usable logical cores. `physical_cores`: one logical core of each physical one. `caches`: as
    ``L1d 32K``. `memory_bytes` is rounded to a quarter GiB, because kernels keep a varying part for themselves.
    `gpus`: the models of NVIDIA GPUs, by bus address; `gpu_driver` is "" without one.
    """

    cpu: dict[str, str]
    flags: tuple[str, ...]
    cores: tuple[int, ...]
    physical_cores: tuple[int, ...]
    caches: tuple[str, ...]
    memory_bytes: int
    hypervisor: str | None
    microcode: str
    os_build: str
    kernel: str
    gpus: tuple[str, ...] = ()
    gpu_driver: str = ""

    @property
    def cpu_name(self) -> str:
        return self.cpu.get("model name") or self.cpu.get("CPU part") or "unknown CPU"

    @property
    def hardware(self) -> str:
        """Hash of everything that says whether two hosts may share results."""
        parts = [self.cpu, self.flags, self.cores, self.physical_cores, self.caches, self.memory_bytes]
        return digest([*parts, self.hypervisor, *self.gpus], length=16)

    @property
    def generation(self) -> str:
        """Hash of the software below the engine: a change makes older results stale."""
        drivers = [self.gpu_driver] if self.gpus else []
        return digest([self.kernel, self.microcode, self.os_build, *drivers], length=16)

    def describe(self) -> dict[str, str | int | float]:
        """The facts for people."""
        return {
            "cpu": self.cpu_name[:200],
            "cores": len(self.cores),
            "physical_cores": len(self.physical_cores),
            "caches": ", ".join(self.caches)[:200],
            "memory_bytes": self.memory_bytes,
            "hypervisor": self.hypervisor or "none",
            "microcode": self.microcode[:100],
            "os": self.os_build[:200],
            "kernel": self.kernel[:200],
            **({"gpus": ", ".join(self.gpus)[:200], "gpu_driver": self.gpu_driver[:200]} if self.gpus else {}),
        }


_CPU_IDENTITY = (
    "vendor_id",
    "cpu family",
    "model",
    "model name",
    "stepping",
    "CPU implementer",
    "CPU part",
    "CPU variant",
    "CPU revision",
)


def read_host_facts(root: Path = Path("/"), cores: Sequence[int] | None = None) -> HostFacts:
    """The facts of this host; `cores` are the usable ones, by default those this process may run on."""
    return host_facts(
        _texts_below(root),
        os.sched_getaffinity(0) if cores is None else cores,
        kernel=f"{platform.release()} {platform.version()}",
        gpus=_gpus(root / "proc/driver/nvidia/gpus"),
    )


def host_facts(text_of: TextOf, cores: Iterable[int], *, kernel: str, gpus: tuple[str, ...] = ()) -> HostFacts:
    """The facts of the host whose files these are; `cores` are the usable ones."""
    info = first_processor(text_of("/proc/cpuinfo"))
    usable = tuple(sorted(cores))
    flags = (info.get("flags") or info.get("Features") or "").split()
    return HostFacts(
        cpu={name: info[name] for name in _CPU_IDENTITY if name in info},
        flags=tuple(sorted(flags)),
        cores=usable,
        physical_cores=_one_per_physical_core(text_of, usable),
        caches=_caches(text_of, usable[0]),
        memory_bytes=_memory_bytes(text_of("/proc/meminfo")),
        hypervisor=_hypervisor(text_of, flags),
        microcode=info.get("microcode", ""),
        os_build=_os_build(text_of("/etc/os-release")),
        kernel=kernel,
        gpus=gpus,
        gpu_driver=text_of("/proc/driver/nvidia/version").partition("\n")[0].strip(),
    )


def host_files(cores: Sequence[int]) -> list[str]:
    """All files that `host_facts` and `machine_id_of` look at, for a host with these cores."""
    caches = [f"{_CPU}/cpu{min(cores, default=0)}/cache/index{index}" for index in range(_CACHES_MAX)]
    return [
        *("/proc/cpuinfo", "/proc/meminfo", "/proc/driver/nvidia/version", "/etc/os-release", *_MACHINE_IDS),
        *("/sys/hypervisor/type", "/sys/class/dmi/id/sys_vendor"),
        *(f"{_CPU}/cpu{core}/topology/{name}" for core in cores for name in _TOPOLOGY),
        *(f"{cache}/{name}" for cache in caches for name in ("level", "type", "size")),
    ]


def host_model(facts: HostFacts, serial: str) -> str:
    """The model of a host: bare machines with the same hardware share it, a virtual one never does."""
    own = serial if facts.hypervisor is not None else None
    return "host-" + digest([facts.hardware, own], length=12)


def boot_id(root: Path = Path("/")) -> str:
    """What the kernel calls its present run; empty where it does not say."""
    try:
        return (root / "proc/sys/kernel/random/boot_id").read_text().strip()[:60]
    except OSError:
        return ""


def machine_id(root: Path = Path("/")) -> str | None:
    """The id that the system gave this installation, or None in the many containers that have none."""
    return machine_id_of(_texts_below(root))


def machine_id_of(text_of: TextOf) -> str | None:
    """The same, of the host whose files these are."""
    texts = (text_of(name).strip() for name in _MACHINE_IDS)
    return next((text for text in texts if len(text) == 32), None)


def _texts_below(root: Path) -> TextOf:
    return lambda name: _text(root / name.removeprefix("/"))


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def first_processor(cpuinfo: str) -> dict[str, str]:
    """The fields of the first processor of /proc/cpuinfo."""
    lines = cpuinfo.split("\n\n", 1)[0].splitlines()
    pairs = (line.partition(":") for line in lines if ":" in line)
    return {name.strip(): value.strip() for name, _, value in pairs}


def _one_per_physical_core(text_of: TextOf, cores: tuple[int, ...]) -> tuple[int, ...]:
    """The lowest usable logical core of each physical one: two threads of one core do not measure like two cores."""
    lowest: dict[tuple[str, ...], int] = {}
    for core in cores:
        *above, own = (text_of(f"{_CPU}/cpu{core}/topology/{name}").strip() for name in _TOPOLOGY)
        lowest.setdefault((*above, own or str(core)), core)
    return tuple(sorted(lowest.values()))


def _caches(text_of: TextOf, core: int) -> tuple[str, ...]:
    kinds = {"Data": "d", "Instruction": "i"}
    found = []
    for index in range(_CACHES_MAX):
        level, kind, size = (
            text_of(f"{_CPU}/cpu{core}/cache/index{index}/{name}").strip() for name in ("level", "type", "size")
        )
        if level:
            found.append(f"L{level}{kinds.get(kind, '')} {size}")
    return tuple(found)


def _gpus(folder: Path) -> tuple[str, ...]:
    """As NVIDIA's kernel module lists them."""
    texts = [_text(gpu / "information") for gpu in sorted(folder.glob("*"))]
    return tuple(
        line.partition(":")[2].strip() for text in texts for line in text.splitlines() if line.startswith("Model:")
    )


def _memory_bytes(meminfo: str) -> int:
    for line in meminfo.splitlines():
        if line.startswith("MemTotal:"):
            return round(int(line.split()[1]) / _QUARTER_GIB_KIB) * _QUARTER_GIB_KIB * 1024
    return 0


def _hypervisor(text_of: TextOf, flags: Sequence[str]) -> str | None:
    """The hypervisor's name, ``virtual`` when it keeps it to itself, None on bare metal."""
    kind = text_of("/sys/hypervisor/type").strip()
    if "hypervisor" not in flags and not kind:
        return None
    return kind or text_of("/sys/class/dmi/id/sys_vendor").strip() or "virtual"


def _os_build(os_release: str) -> str:
    pairs = dict(line.split("=", 1) for line in os_release.splitlines() if "=" in line)
    names = (pairs.get(key, "").strip('"') for key in ("PRETTY_NAME", "VERSION_ID", "BUILD_ID"))
    return " ".join(name for name in names if name)


def memory_text(size_bytes: int) -> str:
    """``24 GiB``."""
    return f"{size_bytes / _GIB:g} GiB"
