"""What a phone's file system says about it: properties, commands of Android's, and a tree of plain files in /sys."""

import io
import os
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass

GOVERNORS = ("performance", "powersave", "userspace", "schedutil")
DEFAULT_GOVERNOR = "schedutil"
UNSUPPORTED = "<unsupported>"  # what the kernel says in scaling_setspeed unless the governor is userspace
TRIP_C = 75.0
IDLE_C = 34.0
CPUS = "sys/devices/system/cpu"
THERMAL = "sys/class/thermal"
BATTERY = "sys/class/power_supply/battery"

SMALL_KHZ = (600_000, 1_000_000, 1_400_000, 1_800_000)
LARGE_KHZ = (800_000, 1_400_000, 2_000_000, 2_600_000)


@dataclass(frozen=True)
class Cluster:
    """Cores that share a clock. `capacity` is relative to the fastest core's 1024."""

    cores: tuple[int, ...]
    freq_khz: tuple[int, ...]
    capacity: int

    @property
    def policy(self) -> str:
        """The folder of its clock below the phone's root."""
        return f"{CPUS}/cpufreq/policy{self.cores[0]}"


@dataclass(frozen=True)
class PhoneModel:
    """What a phone is. `has_time_in_state`: its kernel counts the time spent at each frequency."""

    name: str
    soc: str
    clusters: tuple[Cluster, ...]
    is_rooted: bool = True
    has_time_in_state: bool = True
    storage_bytes: int = 192 << 20


def one_cluster(name: str, soc: str, **more: bool) -> PhoneModel:
    """A model whose cores are this host's, all alike."""
    return PhoneModel(name, soc, (Cluster(_cores(), LARGE_KHZ, 1024),), **more)


def two_clusters(name: str, soc: str, **more: bool) -> PhoneModel:
    """A model with a small and a large cluster, each half of this host's cores; one cluster where there is one core."""
    cores = _cores()
    if len(cores) == 1:
        return one_cluster(name, soc, **more)
    half = len(cores) // 2
    small, large = Cluster(cores[:half], SMALL_KHZ, 512), Cluster(cores[half:], LARGE_KHZ, 1024)
    return PhoneModel(name, soc, (small, large), **more)


def _cores() -> tuple[int, ...]:
    """Cores of this host that a phone may run on, eight at most."""
    return tuple(sorted(os.sched_getaffinity(0)))[:8]


def properties(model: PhoneModel, serial: str, abi: str) -> dict[str, str]:
    """What getprop answers."""
    return {
        "ro.serialno": serial,
        "ro.product.manufacturer": "Benchfarm",
        "ro.product.brand": "benchfarm",
        "ro.product.model": model.name,
        "ro.product.device": model.name.lower().replace(" ", "_"),
        "ro.product.cpu.abi": abi,
        "ro.soc.manufacturer": "Benchfarm",
        "ro.soc.model": model.soc,
        "ro.hardware": model.soc.lower(),
        "ro.build.version.release": "15",
        "ro.build.version.sdk": "35",
        "ro.build.type": "userdebug" if model.is_rooted else "user",
        "ro.build.fingerprint": f"benchfarm/{model.soc.lower()}/phone:15/AP4A.250105.002/1:user/release-keys",
        "ro.bootloader": "bench-1.0",
        "sys.boot_completed": "1",
        "ro.benchfarm.shared_host": "1",
    }


# Stand-ins for Android's own commands: just enough of them for what an agent asks.
COMMANDS = {
    "getprop": """#!/bin/sh
if [ $# = 0 ]; then sed -n 's/^\\([^=]*\\)=\\(.*\\)$/[\\1]: [\\2]/p' /system/build.prop
else sed -n "s/^$1=//p" /system/build.prop; fi
""",
    "dumpsys": """#!/bin/sh
[ -r "/system/dumpsys/$1" ] || { echo "Can't find service: $1" >&2; exit 0; }
cat "/system/dumpsys/$1"
""",
    "cmd": """#!/bin/sh
if [ "$1 $2" = "power set-fixed-performance-mode-enabled" ]; then echo "$3" > /data/fixed_performance; exit; fi
if [ "$1 $2" = "power help" ]; then echo "  set-fixed-performance-mode-enabled [true|false]"; exit; fi
echo "cmd: Can't find service: $1" >&2; exit 20
""",
    "reboot": "#!/bin/sh\nkill -9 -1\n",
}


def dumpsys_battery(percent: int, celsius: float, is_charging: bool) -> str:
    """The text of `dumpsys battery`; its temperature is in tenths of a degree."""
    return (
        "Current Battery Service state:\n"
        "  AC powered: false\n"
        f"  USB powered: {str(is_charging).lower()}\n"
        f"  status: {2 if is_charging else 3}\n"
        "  health: 2\n  present: true\n"
        f"  level: {percent}\n  scale: 100\n  voltage: 4100\n"
        f"  temperature: {celsius * 10:.0f}\n  technology: Li-ion\n"
    )


def battery_files(percent: int, celsius: float, is_charging: bool) -> dict[str, str]:
    """A battery's state in /sys and in dumpsys."""
    return {
        f"{BATTERY}/capacity": str(percent),
        f"{BATTERY}/temp": f"{celsius * 10:.0f}",
        f"{BATTERY}/status": "Charging" if is_charging else "Discharging",
        f"{BATTERY}/type": "Battery",
        f"{BATTERY}/present": "1",
        f"{THERMAL}/thermal_zone1/type": "battery",
        f"{THERMAL}/thermal_zone1/temp": f"{celsius * 1000:.0f}",
        "system/dumpsys/battery": dumpsys_battery(percent, celsius, is_charging).rstrip(),
    }


def _state_files(model: PhoneModel) -> dict[str, str]:
    """What changes while a phone runs."""
    files = battery_files(80, 28.0, is_charging=False)
    files["system/dumpsys/power"] = "Display Power: state=OFF\n  mWakefulness=Asleep"
    files[f"{THERMAL}/thermal_zone0/temp"] = f"{IDLE_C * 1000:.0f}"
    files[f"{THERMAL}/cooling_device0/cur_state"] = "0"
    for cluster in model.clusters:
        files |= _clock_files(cluster)
    return files


def _clock_files(cluster: Cluster) -> dict[str, str]:
    lowest, highest = str(cluster.freq_khz[0]), str(cluster.freq_khz[-1])
    return {
        f"{cluster.policy}/scaling_governor": DEFAULT_GOVERNOR,
        f"{cluster.policy}/scaling_setspeed": UNSUPPORTED,
        f"{cluster.policy}/scaling_min_freq": lowest,
        f"{cluster.policy}/scaling_max_freq": highest,
        f"{cluster.policy}/scaling_cur_freq": highest,
        f"{cluster.policy}/cpuinfo_cur_freq": highest,
    }


def _fixed_files(model: PhoneModel) -> dict[str, str]:
    cores = sorted(core for cluster in model.clusters for core in cluster.cores)
    files = {f"{CPUS}/{name}": _as_list(cores) for name in ("possible", "present", "online")}
    files |= {
        f"{THERMAL}/thermal_zone0/type": "cpu-thermal",
        f"{THERMAL}/thermal_zone0/trip_point_0_temp": f"{TRIP_C * 1000:.0f}",
        f"{THERMAL}/thermal_zone0/trip_point_0_type": "passive",
        f"{THERMAL}/cooling_device0/type": "cpufreq-cpu0",
        f"{THERMAL}/cooling_device0/max_state": "3",
    }
    for cluster in model.clusters:
        files |= {
            f"{cluster.policy}/related_cpus": " ".join(map(str, cluster.cores)),
            f"{cluster.policy}/affected_cpus": " ".join(map(str, cluster.cores)),
            f"{cluster.policy}/scaling_available_frequencies": " ".join(map(str, cluster.freq_khz)),
            f"{cluster.policy}/scaling_available_governors": " ".join(GOVERNORS),
            f"{cluster.policy}/scaling_driver": "benchfarm-files",
            f"{cluster.policy}/cpuinfo_min_freq": str(cluster.freq_khz[0]),
            f"{cluster.policy}/cpuinfo_max_freq": str(cluster.freq_khz[-1]),
        }
        for core in cluster.cores:
            files[f"{CPUS}/cpu{core}/online"] = "1"
            files[f"{CPUS}/cpu{core}/cpu_capacity"] = str(cluster.capacity)
    return files


def _as_list(cores: list[int]) -> str:
    """Core numbers as the kernel lists them: 0-3 or 0,2."""
    if cores == list(range(cores[0], cores[-1] + 1)) and len(cores) > 1:
        return f"{cores[0]}-{cores[-1]}"
    return ",".join(map(str, cores))


def phone_files(model: PhoneModel, serial: str, abi: str) -> dict[str, str]:
    """Every text file of a phone as it is after a boot: path below its root to text."""
    said = "\n".join(f"{name}={value}" for name, value in properties(model, serial, abi).items())
    return {"system/build.prop": said, **_fixed_files(model), **_state_files(model)}


def boot_archive(model: PhoneModel, texts: Mapping[str, str]) -> bytes:
    """A tar of what a boot lays out in the phone's root."""
    links = {
        f"{CPUS}/cpu{core}/cpufreq": f"../cpufreq/{cluster.policy.rsplit('/', 1)[-1]}"
        for cluster in model.clusters
        for core in cluster.cores
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in sorted(_folders(texts)):
            archive.addfile(_member(path, tarfile.DIRTYPE, 0o755))
        for path, text in texts.items():
            _add(archive, path, f"{text}\n", 0o644)
        for name, script in COMMANDS.items():
            _add(archive, f"system/bin/{name}", script, 0o755)
        for path, target in links.items():
            link = _member(path, tarfile.SYMTYPE, 0o777)
            link.linkname = target
            archive.addfile(link)
    return buffer.getvalue()


def _folders(texts: Mapping[str, str]) -> set[str]:
    """Every folder that a file needs, but those that the phone's launch makes."""
    found = {"system/bin"}
    for path in texts:
        parts = path.split("/")[:-1]
        found |= {"/".join(parts[: count + 1]) for count in range(len(parts))}
    return found - {"sys", "system"}


def _add(archive: tarfile.TarFile, path: str, text: str, mode: int) -> None:
    member = _member(path, tarfile.REGTYPE, mode)
    member.size = len(text.encode())
    archive.addfile(member, io.BytesIO(text.encode()))


def _member(path: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(path)
    member.type, member.mode = kind, mode
    return member
