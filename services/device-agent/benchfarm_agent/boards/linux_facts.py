"""What a Linux board is (a phone is one too), read over its port in three round trips."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, TypedDict

from benchfarm_agent.boards.clusters import (
    CLOCK_PATTERNS,
    CPU,
    Cluster,
    clock_files,
    clock_folders,
    cluster_ranges,
    core_list,
    number,
    read_clusters,
)
from benchfarm_agent.boards.host_facts import (
    HostFacts,
    TextOf,
    first_processor,
    host_facts,
    host_files,
    host_model,
    machine_id_of,
    memory_text,
)
from benchfarm_agent.ports.interface import BoardUnreachable, Port
from benchfarm_core.boards import BoardMark, mark_prefix
from benchfarm_core.operating_ranges import OperatingRange, default_points
from benchfarm_core.platforms import ClockProof, OperatingPoint
from benchfarm_core.values import digest

FACTS_LIMIT_S: Final = 20.0
BOOT_ID: Final = "/proc/sys/kernel/random/boot_id"
FIXED_PERFORMANCE: Final = "set-fixed-performance-mode-enabled"
_DMI: Final = "/sys/class/dmi/id"
_ONLINE: Final = f"{CPU}/online"
_THERMAL: Final = "/sys/class/thermal"
_SUPPLIES: Final = "/sys/class/power_supply/"
_FOLDERS: Final = (f"{_THERMAL}/thermal_zone*", f"{_THERMAL}/cooling_device*", f"{_SUPPLIES}*")
SENSOR_PATTERNS: Final = (*_FOLDERS, "/sys/class/hwmon/hwmon*/temp1_input")
"""Where Linux keeps what tells heat, cooling and power."""
_CORES: Final = f"{CPU}/cpu[0-9]*"
_FIRMWARE_THROTTLE: Final = ("/sys/devices/platform/*/*firmware/get_throttled",)
_DEVICE_TREE: Final = "/proc/device-tree"
_FIND: Final = (
    'for pattern; do for path in $pattern; do if [ -w "$path" ]; then echo "w $path"; '
    'elif [ -e "$path" ]; then echo "r $path"; fi; done; done'
)
_TELL: Final = (
    "uname -r; uname -v; uname -m; id -u; "
    "if command -v getprop >/dev/null 2>&1; then getprop; "
    f"cmd power help 2>/dev/null | grep -o {FIXED_PERFORMANCE}; fi; true"
)
_PROPERTY: Final = re.compile(r"^\[([^\]]+)\]: \[(.*)\]$")
_NO_SERIAL: Final = frozenset(
    {
        *"unknown none null na n/a default 0123456789abcdef 1234567890abcdef 1234567890 0123456789".split(),
        *("default string", "to be filled by o.e.m.", "system serial number", "not specified"),
    }
)
_CPU_HEAT: Final = re.compile(r"cpu|soc|pkg|core|big|little|tsens|cluster|apc|gold|silver|k10temp|zenpower", re.ASCII)
_CPU_COOLING: Final = re.compile(r"cpu|^Processor$|powerclamp", re.ASCII)


class ReportParts(TypedDict):
    """What the facts give to a BoardReport; the kind and the engines are for whoever knows them."""

    serial: str
    hardware_id: str
    board_model: str
    model_name: str
    generation: str
    facts: dict[str, str | int | float]
    operating_points: tuple[OperatingPoint, ...]
    clock_proof: ClockProof
    ranges: tuple[OperatingRange, ...]
    marks: tuple[BoardMark, ...]


@dataclass(frozen=True)
class Sensors:
    """Where a board tells its conditions: paths of its files.

    `heats`: temperatures of the processor (of anything, where none is named so). `coolings`: folders of what slows
    the processor down. `supplies`: folders of batteries. `firmware_throttle`: a Raspberry Pi's throttle bits.
    """

    heats: tuple[str, ...] = ()
    coolings: tuple[str, ...] = ()
    supplies: tuple[str, ...] = ()
    firmware_throttle: str | None = None


@dataclass(frozen=True)
class BoardFacts:
    """What a board is. Everything that it does not tell is empty, 0 or None.

    `host`: processor, memory, kernel and system, as of any Linux host; of a phone its build fingerprint is the
    system's. `soc`: the chip's name. `abi`: as `uname -m` says. `is_host`: a machine that has no maker's model name of
    a board, so that only equal hardware shares results. `has_fixed_performance`: Android's mode by that name.
    """

    host: HostFacts
    maker: str
    model: str
    soc: str
    abi: str
    serial: str | None
    clusters: tuple[Cluster, ...]
    sensors: Sensors
    thermal_zones: tuple[str, ...]
    boot_id: str | None
    is_root: bool
    is_android: bool
    is_host: bool
    is_emulated: bool
    has_fixed_performance: bool

    @property
    def cores(self) -> tuple[int, ...]:
        return tuple(core for cluster in self.clusters for core in cluster.cores)

    @property
    def memory_bytes(self) -> int:
        return self.host.memory_bytes

    @property
    def name(self) -> str:
        """The board for people: ``Google Pixel 6``."""
        if self.is_host:
            return self.host.cpu_name
        starts_with_maker = self.model.lower().startswith(self.maker.lower())
        return self.model if starts_with_maker else f"{self.maker} {self.model}"

    def identity(self, label: str) -> tuple[str, str]:
        """Its serial, for which `label` stands where the board does not tell one, and its hardware id."""
        serial = (self.serial or label)[:200]
        parts = [self.host.hardware] if self.is_host else [self.maker, self.model, self.soc]
        return serial, digest([*parts, serial])

    def report_parts(self, label: str, marks: Iterable[BoardMark] = ()) -> ReportParts:
        """Its part of a BoardReport. `label` stands for a serial that the board does not tell."""
        serial, hardware_id = self.identity(label)
        own: set[BoardMark] = {"emulated"} if self.is_emulated else set()
        given: tuple[BoardMark, ...] = tuple(sorted({*marks, *own}))
        ranges = offered_ranges(self)
        return ReportParts(
            serial=serial,
            hardware_id=hardware_id,
            board_model=board_model(self, serial, given),
            model_name=f"{self.name}, {len(self.cores)} cores, {memory_text(self.memory_bytes)}"[:200],
            generation=self.host.generation,
            facts=self.describe(),
            operating_points=default_points(ranges),
            clock_proof=best_proof(self),
            ranges=ranges,
            marks=given,
        )

    def describe(self) -> dict[str, str | int | float]:
        """The facts for people."""
        governors = {name for cluster in self.clusters for policy in cluster.policies for name in policy.governors}
        return {
            **self.host.describe(),
            "soc": self.soc[:200],
            "abi": self.abi[:60],
            "cores": len(self.cores),
            "clusters": "; ".join(cluster.describe() for cluster in self.clusters)[:200],
            "governors": " ".join(sorted(governors))[:200],
            "thermal_zones": ", ".join(self.thermal_zones)[:200],
            "root": "yes" if self.is_root else "no",
        }


async def read_board_facts(port: Port) -> BoardFacts:
    """What the board behind the port is. Reads, changes nothing; whatever it does not tell stays empty.

    Raises BoardUnreachable.
    """
    found = await find_paths(port, [*CLOCK_PATTERNS, _CORES, *SENSOR_PATTERNS, *_FIRMWARE_THROTTLE])
    paths = list(found)
    folders = clock_folders(paths)
    present = _present_cores(paths)
    files = [*host_files(present), *clock_files(folders, present), *_single_files(), *_kind_files(paths)]
    texts = await port.read(list(dict.fromkeys(files)), timeout_s=FACTS_LIMIT_S)
    told = await _tell(port)

    def text_of(name: str) -> str:
        return texts.get(name) or ""

    is_host = not told.is_android and not text_of(f"{_DEVICE_TREE}/model")
    online = core_list(text_of(_ONLINE))
    cores = [core for core in present if core in online] if is_host and online else present
    writable = frozenset(path for path, can_write in found.items() if can_write)
    host = host_facts(text_of, cores or [0], kernel=f"{told.kernel_release} {told.kernel_version}")
    return _facts(
        told,
        _of_a_phone(host, told.properties) if told.is_android else host,
        text_of,
        clusters=read_clusters(text_of, folders, writable, cores or [0]),
        paths=paths,
        is_host=is_host,
    )


def offered_ranges(facts: BoardFacts) -> tuple[OperatingRange, ...]:
    """What the board can be set to: each cluster at each step of its clock, fixed performance, free."""
    physical = facts.host.physical_cores
    pinned = [one for cluster in facts.clusters for one in cluster_ranges(cluster, physical)]
    everything = tuple(sorted(core for core in facts.cores if core in physical))
    groups = [tuple(core for core in cluster.cores if core in physical) for cluster in facts.clusters]
    of_free = list(dict.fromkeys(group for group in [*groups, everything] if group))
    fixed = [
        OperatingRange(mode="fixed_performance", cores=group, threads_max=len(group))
        for group in (of_free if facts.has_fixed_performance else [])
    ]
    free = [OperatingRange(mode="free", cores=group, threads_max=len(group)) for group in of_free]
    return (*pinned, *fixed, *free)[-100:]


def best_proof(facts: BoardFacts) -> ClockProof:
    """The best proof that the board can give at a pinned point."""
    policies = [policy for cluster in facts.clusters if cluster.is_pinnable for policy in cluster.policies]
    if not policies:
        return ClockProof.UNPINNED
    counted = all(policy.has_time_in_state for policy in policies)
    return ClockProof.VERIFIED if counted else ClockProof.BOUNDED


def board_model(facts: BoardFacts, serial: str, marks: Iterable[BoardMark]) -> str:
    """Boards that may share results: a maker's model, or hosts with the same hardware; marked ones stand apart."""
    prefix = mark_prefix(marks)
    if facts.is_host:
        return prefix + host_model(facts.host, serial)
    revision_free = re.sub(r"\s+rev(ision)?\b.*$", "", facts.name, flags=re.IGNORECASE)
    slug = re.sub(r"[^a-z0-9]+", "-", revision_free.lower()).strip("-") or "board"
    if facts.is_emulated:  # what an emulator calls itself says nothing of the processor that it plays
        slug = f"{slug[:30].strip('-')}-{digest([facts.host.cpu, facts.cores, facts.memory_bytes], length=8)}"
    return (prefix + slug)[:60].rstrip("-.")


def cooling_states(texts: Mapping[str, str | None], sensors: Sensors) -> dict[str, int]:
    """How far each cooling device slows the processor down, 0 for not at all, from files read as `cooling_files`."""
    states = ((folder, number(texts.get(f"{folder}/cur_state"))) for folder in sensors.coolings)
    return {folder: max(state, 0) for folder, state in states if state is not None}  # intel_powerclamp rests at -1


@dataclass(frozen=True)
class _Told:
    """What the board says when asked: kernel, user and, on Android, its properties."""

    kernel_release: str
    kernel_version: str
    abi: str
    uid: str
    properties: dict[str, str]
    has_fixed_performance: bool

    @property
    def is_android(self) -> bool:
        return any(name in self.properties for name in ("ro.build.fingerprint", "ro.product.model", "ro.serialno"))


async def find_paths(port: Port, patterns: Iterable[str]) -> dict[str, bool]:
    """The paths on the board that match, and whether each can be written."""
    ran = await port.run(["sh", "-c", _FIND, "sh", *patterns], timeout_s=FACTS_LIMIT_S)
    lines = ran.stdout.decode(errors="replace").splitlines()
    return {line[2:]: line.startswith("w ") for line in lines if line[:2] in ("w ", "r ")}


async def _tell(port: Port) -> _Told:
    ran = await port.run(["sh", "-c", _TELL], timeout_s=FACTS_LIMIT_S)
    lines = ran.stdout.decode(errors="replace").splitlines()
    if len(lines) < 4:
        raise BoardUnreachable(f"{port.name} does not say what it is: {ran.stderr.decode(errors='replace')[-200:]}")
    release, version, abi, uid, *rest = (line.strip() for line in lines)
    return _Told(
        kernel_release=release,
        kernel_version=version,
        abi=abi,
        uid=uid,
        properties={match[1]: match[2] for line in rest if (match := _PROPERTY.match(line))},
        has_fixed_performance=FIXED_PERFORMANCE in rest,
    )


def _present_cores(paths: Iterable[str]) -> list[int]:
    names = (path.removeprefix(f"{CPU}/cpu") for path in paths if path.startswith(f"{CPU}/cpu"))
    return sorted({int(name) for name in names if name.isdecimal() and len(name) <= 4})


def _single_files() -> list[str]:
    tree = [f"{_DEVICE_TREE}/{name}" for name in ("model", "compatible", "serial-number")]
    return [BOOT_ID, _ONLINE, *tree, f"{_DMI}/product_uuid", f"{_DMI}/product_serial"]


def _kind_files(paths: Iterable[str]) -> list[str]:
    """What each zone, cooling device and supply is called, and each chip with a temperature."""
    kinds = [f"{path}/type" for path in paths if path.startswith(tuple(one.rstrip("*") for one in _FOLDERS))]
    kinds += [f"{path}/scope" for path in paths if path.startswith(_SUPPLIES)]
    return kinds + [path.replace("temp1_input", "name") for path in paths if path.endswith("/temp1_input")]


def _facts(
    told: _Told, host: HostFacts, text_of: TextOf, *, clusters: tuple[Cluster, ...], paths: list[str], is_host: bool
) -> BoardFacts:
    maker, model, soc = _what(told, text_of)
    sensors = sensors_of(paths, text_of)
    zones = [text_of(f"{path}/type") for path in paths if path.startswith(f"{_THERMAL}/thermal_zone")]
    return BoardFacts(
        host=host,
        maker=maker,
        model=model,
        soc=soc,
        abi=told.abi,
        serial=_serial(told, text_of, is_host=is_host),
        clusters=clusters,
        sensors=sensors,
        thermal_zones=tuple(dict.fromkeys(zone for zone in zones if zone)),
        boot_id=text_of(BOOT_ID) or None,
        is_root=told.uid == "0",
        is_android=told.is_android,
        is_host=is_host,
        is_emulated=_is_emulated(told, host, text_of),
        has_fixed_performance=told.has_fixed_performance,
    )


def _of_a_phone(host: HostFacts, properties: Mapping[str, str]) -> HostFacts:
    build = properties.get("ro.build.fingerprint") or properties.get("ro.build.display.id", "")
    return replace(host, os_build=build, microcode=properties.get("ro.bootloader", ""))


def _what(told: _Told, text_of: TextOf) -> tuple[str, str, str]:
    """Maker, model and chip, by the first that names them: Android, the device tree, /proc/cpuinfo."""
    props, info = told.properties, _last_fields(text_of("/proc/cpuinfo"))
    soc = " ".join(filter(None, (props.get("ro.soc.manufacturer"), props.get("ro.soc.model"))))
    chip = text_of(f"{_DEVICE_TREE}/compatible").split()[-1:]  # the most general name stands last: the chip's
    soc = soc or props.get("ro.board.platform", "") or "".join(chip) or info.get("Hardware", "")
    model = props.get("ro.product.model") or text_of(f"{_DEVICE_TREE}/model") or info.get("Model", "")
    return props.get("ro.product.manufacturer", ""), model, soc


def _last_fields(cpuinfo: str) -> dict[str, str]:
    """ARM kernels tell of the board after the last core."""
    return first_processor(cpuinfo.strip().rpartition("\n\n")[2])


def _serial(told: _Told, text_of: TextOf, *, is_host: bool) -> str | None:
    """The first serial that is one: makers leave placeholders that thousands of boards share."""
    props = told.properties
    of_board = [props.get("ro.serialno"), props.get("ro.boot.serialno"), text_of(f"{_DEVICE_TREE}/serial-number")]
    of_board.append(_last_fields(text_of("/proc/cpuinfo")).get("Serial"))
    of_host = [machine_id_of(text_of), text_of(f"{_DMI}/product_uuid"), text_of(f"{_DMI}/product_serial")]
    for text in [*of_host, *of_board] if is_host else [*of_board, *of_host]:
        serial = (text or "").strip()
        if serial.strip("0-. ") and serial.lower() not in _NO_SERIAL and serial.isprintable():
            return serial
    return None


def _is_emulated(told: _Told, host: HostFacts, text_of: TextOf) -> bool:
    props = told.properties
    return (
        "1" in (props.get("ro.kernel.qemu"), props.get("ro.boot.qemu"))
        or props.get("ro.hardware") in ("goldfish", "ranchu")
        or "dummy-virt" in text_of(f"{_DEVICE_TREE}/compatible")
        or "QEMU" in host.cpu_name
    )


def sensors_of(paths: list[str], text_of: TextOf) -> Sensors:
    """What of the paths of `SENSOR_PATTERNS` belongs to the processor and the board's own battery: a mouse has one too.

    `text_of` knows what they are called (`type`, `scope`, a chip's `name`).
    """

    def named(beginning: str) -> list[tuple[str, str]]:
        return [(path, text_of(f"{path}/type")) for path in paths if path.startswith(beginning)]

    heats = [(f"{path}/temp", kind) for path, kind in named(f"{_THERMAL}/thermal_zone")]
    chips = [path for path in paths if path.endswith("/temp1_input")]
    heats += [(path, text_of(path.replace("temp1_input", "name"))) for path in chips]
    of_cpu = [path for path, kind in heats if _CPU_HEAT.search(kind.lower())]
    return Sensors(
        heats=tuple(of_cpu or [path for path, _ in heats]),
        coolings=tuple(path for path, kind in named(f"{_THERMAL}/cooling_device") if _CPU_COOLING.search(kind)),
        supplies=tuple(
            path
            for path, kind in named(_SUPPLIES)
            if kind == "Battery" and text_of(f"{path}/scope").strip() != "Device"
        ),
        firmware_throttle=next((path for path in paths if path.endswith("/get_throttled")), None),
    )
