"""What a Linux host is, read from /proc and /sys. `root` lets tests read the files of other machines."""

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchfarm_core.values import digest

_GIB = 1024**3
_QUARTER_GIB_KIB = 256 * 1024


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
    info = _first_processor(_text(root / "proc/cpuinfo"))
    usable = tuple(sorted(os.sched_getaffinity(0) if cores is None else cores))
    flags = (info.get("flags") or info.get("Features") or "").split()
    return HostFacts(
        cpu={name: info[name] for name in _CPU_IDENTITY if name in info},
        flags=tuple(sorted(flags)),
        cores=usable,
        physical_cores=_one_per_physical_core(root, usable),
        caches=_caches(root, usable[0]),
        memory_bytes=_memory_bytes(_text(root / "proc/meminfo")),
        hypervisor=_hypervisor(root, flags),
        microcode=info.get("microcode", ""),
        os_build=_os_build(_text(root / "etc/os-release")),
        kernel=f"{platform.release()} {platform.version()}",
        gpus=_gpus(root / "proc/driver/nvidia/gpus"),
        gpu_driver=_text(root / "proc/driver/nvidia/version").partition("\n")[0].strip(),
    )


def machine_id(root: Path = Path("/")) -> str | None:
    """The id that the system gave this installation, or None in the many containers that have none."""
    for name in ("etc/machine-id", "var/lib/dbus/machine-id"):
        text = _text(root / name).strip()
        if len(text) == 32:
            return text
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _first_processor(cpuinfo: str) -> dict[str, str]:
    lines = cpuinfo.split("\n\n", 1)[0].splitlines()
    pairs = (line.partition(":") for line in lines if ":" in line)
    return {name.strip(): value.strip() for name, _, value in pairs}


def _one_per_physical_core(root: Path, cores: tuple[int, ...]) -> tuple[int, ...]:
    """The lowest usable logical core of each physical one: two threads of one core do not measure like two cores."""
    lowest: dict[tuple[str, str], int] = {}
    for core in cores:
        topology = root / f"sys/devices/system/cpu/cpu{core}/topology"
        place = (_text(topology / "physical_package_id").strip(), _text(topology / "core_id").strip() or str(core))
        lowest.setdefault(place, core)
    return tuple(sorted(lowest.values()))


def _caches(root: Path, core: int) -> tuple[str, ...]:
    kinds = {"Data": "d", "Instruction": "i"}
    found = []
    for folder in sorted((root / f"sys/devices/system/cpu/cpu{core}/cache").glob("index*")):
        level, kind = _text(folder / "level").strip(), _text(folder / "type").strip()
        found.append(f"L{level}{kinds.get(kind, '')} {_text(folder / 'size').strip()}")
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


def _hypervisor(root: Path, flags: Sequence[str]) -> str | None:
    """The hypervisor's name, ``virtual`` when it keeps it to itself, None on bare metal."""
    named = _text(root / "sys/hypervisor/type").strip() or _text(root / "sys/class/dmi/id/sys_vendor").strip()
    if "hypervisor" not in flags and not _text(root / "sys/hypervisor/type"):
        return None
    return named or "virtual"


def _os_build(os_release: str) -> str:
    pairs = dict(line.split("=", 1) for line in os_release.splitlines() if "=" in line)
    names = (pairs.get(key, "").strip('"') for key in ("PRETTY_NAME", "VERSION_ID", "BUILD_ID"))
    return " ".join(name for name in names if name)


def memory_text(size_bytes: int) -> str:
    """``24 GiB``."""
    return f"{size_bytes / _GIB:g} GiB"
