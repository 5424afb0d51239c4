"""What boards show in /proc, /sys and /etc: a Raspberry Pi, a phone with two clusters, a PC and a virtual machine."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

CPU = "sys/devices/system/cpu"
BOOT_ID = "proc/sys/kernel/random/boot_id"
GOVERNORS = "conservative ondemand userspace powersave performance schedutil"
SMALL_KHZ = (300_000, 576_000, 1_197_000, 1_803_000)
LARGE_KHZ = (500_000, 1_106_000, 2_252_000, 2_802_000)
PI_KHZ = (600_000, 1_000_000, 1_500_000)
PI = f"{CPU}/cpufreq/policy0"


@dataclass(frozen=True)
class Tree:
    """Files and links by their path without the first slash; programs that the board has, by name, as shell text."""

    files: dict[str, str]
    links: dict[str, str] = field(default_factory=dict)
    programs: dict[str, str] = field(default_factory=dict)

    def with_files(self, changed: "Mapping[str, str | None]") -> "Tree":
        """The same with other files; None leaves one out."""
        files = {name: text for name, text in {**self.files, **changed}.items() if text is not None}
        return replace(self, files=files, links={name: to for name, to in self.links.items() if name not in changed})


def clock(
    folder: str, cores: str, khz: tuple[int, ...], *, governors: str = GOVERNORS, governor: str = "ondemand"
) -> dict[str, str]:
    """The files of one clock with a table of frequencies, at its widest limits."""
    return {
        f"{folder}/related_cpus": cores,
        f"{folder}/affected_cpus": cores,
        f"{folder}/scaling_available_frequencies": " ".join(map(str, khz)),
        f"{folder}/scaling_available_governors": governors,
        f"{folder}/scaling_driver": "cpufreq-dt",
        f"{folder}/cpuinfo_min_freq": str(khz[0]),
        f"{folder}/cpuinfo_max_freq": str(khz[-1]),
        f"{folder}/scaling_min_freq": str(khz[0]),
        f"{folder}/scaling_max_freq": str(khz[-1]),
        f"{folder}/scaling_governor": governor,
        f"{folder}/scaling_setspeed": "<unsupported>",
        f"{folder}/stats/time_in_state": "\n".join(f"{one} 1000" for one in khz),
    }


def _machine(kernel_files: dict[str, str], cores: int) -> dict[str, str]:
    topology = {
        f"{CPU}/cpu{core}/topology/{name}": text
        for core in range(cores)
        for name, text in (("core_id", str(core)), ("physical_package_id", "0"))
    }
    return {
        "proc/loadavg": "0.50 0.40 0.30 1/104 999\n",
        "proc/uptime": "1000.00 3900.00\n",
        "proc/meminfo": "MemTotal:        3884356 kB\nMemFree: 1 kB\n",
        "etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 12"\nVERSION_ID="12"\n',
        "etc/machine-id": "3d1219c7c4c5404aaa1f6d2a48adfda4\n",
        BOOT_ID: "0b1ae4f2-7d0c-4a2c-8f05-000000000001\n",
        f"{CPU}/online": f"0-{cores - 1}\n",
        **topology,
        **kernel_files,
    }


def _uname(abi: str, uid: int = 0) -> dict[str, str]:
    told = f"case $1 in -r) echo 6.12.1;; -v) echo '#1 SMP PREEMPT';; -m) echo {abi};; esac"
    return {"uname": told, "id": f"echo {uid}"}


ARM_CPUINFO = (
    "processor\t: 0\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd crc32\nCPU implementer\t: 0x41\nCPU part\t: 0xd08\n\n"
    "processor\t: 1\n\nHardware\t: BCM2835\nRevision\t: c03114\nSerial\t\t: 10000000abcdef01\nModel\t\t: Raspberry Pi\n"
)

RASPBERRY_PI = Tree(
    files=_machine(
        {
            "proc/cpuinfo": ARM_CPUINFO,
            "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0",
            "proc/device-tree/compatible": "raspberrypi,4-model-b\0brcm,bcm2711\0",
            "proc/device-tree/serial-number": "10000000abcdef01\0",
            **clock(PI, "0 1 2 3", PI_KHZ),
            f"{CPU}/cpufreq/ondemand/up_threshold": "95",
            f"{CPU}/cpufreq/ondemand/sampling_rate": "10000",
            "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
            "sys/class/thermal/thermal_zone0/temp": "48312",
            "sys/class/thermal/cooling_device0/type": "cpufreq-cpu0",
            "sys/class/thermal/cooling_device0/cur_state": "0",
            "sys/class/thermal/cooling_device1/type": "pwm-fan",
            "sys/class/thermal/cooling_device1/cur_state": "2",
            "sys/devices/platform/soc/soc:firmware/get_throttled": "0",
        },
        cores=4,
    ),
    links={f"{PI}/scaling_cur_freq": "scaling_setspeed"},  # a clock that does as it is told
    programs=_uname("aarch64"),
)

_PHONE_CLOCK = {"governors": "performance schedutil", "governor": "schedutil"}
PHONE_SMALL, PHONE_LARGE = f"{CPU}/cpufreq/policy0", f"{CPU}/cpufreq/policy4"
PHONE = Tree(
    files=_machine(
        {
            "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\nCPU part\t: 0xd05\n",
            **clock(PHONE_SMALL, "0 1 2 3", SMALL_KHZ, **_PHONE_CLOCK),
            **clock(PHONE_LARGE, "4 5 6 7", LARGE_KHZ, **_PHONE_CLOCK),
            **{f"{CPU}/cpu{core}/cpu_capacity": "160" if core < 4 else "1024" for core in range(8)},
            **{f"{CPU}/cpu{core}/online": "1" for core in range(1, 8)},
            "sys/class/thermal/thermal_zone0/type": "battery",
            "sys/class/thermal/thermal_zone0/temp": "31000",
            "sys/class/thermal/thermal_zone7/type": "cpu-1-3-usr",
            "sys/class/thermal/thermal_zone7/temp": "39000",
            "sys/class/thermal/cooling_device3/type": "thermal-cpufreq-0",
            "sys/class/thermal/cooling_device3/cur_state": "0",
            "sys/class/power_supply/battery/type": "Battery",
            "sys/class/power_supply/battery/capacity": "85",
            "sys/class/power_supply/battery/temp": "285",
            "sys/class/power_supply/battery/status": "Discharging",
            "sys/class/power_supply/usb/type": "USB",
            "dumps/fixed": "false",
            "dumps/text": "  mWakefulness=Asleep",
        },
        cores=8,
    ),
    links={f"{folder}/scaling_cur_freq": "scaling_max_freq" for folder in (PHONE_SMALL, PHONE_LARGE)},
    programs={
        **_uname("aarch64"),
        "getprop": """echo '[ro.serialno]: [1A2B3C4D]
[ro.product.manufacturer]: [Google]
[ro.product.model]: [Pixel 6]
[ro.soc.manufacturer]: [Google]
[ro.soc.model]: [Tensor]
[ro.build.fingerprint]: [google/oriole/oriole:14/UQ1A/1:user/release-keys]
[ro.bootloader]: [slider-1.3]'""",
        "cmd": """[ "$2" = help ] && echo "  set-fixed-performance-mode-enabled [true|false]" && exit
[ -w "$TREE/dumps/fixed" ] || { echo "Failed to set FIXED_PERFORMANCE mode" >&2; exit 255; }
printf %s "$3" > "$TREE/dumps/fixed" """,
        "dumpsys": 'cat "$TREE/dumps/text"',
    },
)


def _pc_clock(core: int) -> dict[str, str]:
    folder = f"{CPU}/cpufreq/policy{core}"
    return {
        f"{folder}/related_cpus": str(core),
        f"{folder}/scaling_available_governors": "performance powersave",
        f"{folder}/scaling_driver": "intel_pstate",
        f"{folder}/base_frequency": "2400000",
        f"{folder}/cpuinfo_min_freq": "400000",
        f"{folder}/cpuinfo_max_freq": "4200000",
        f"{folder}/scaling_min_freq": "400000",
        f"{folder}/scaling_max_freq": "4200000",
        f"{folder}/scaling_governor": "powersave",
        f"{folder}/scaling_setspeed": "<unsupported>",
        f"{folder}/scaling_cur_freq": "812345",
        f"{CPU}/cpu{core}/thermal_throttle/core_throttle_count": "7",
        f"{CPU}/cpu{core}/thermal_throttle/package_throttle_count": "9",
    }


PC_CPUINFO = (
    "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 142\nmodel name\t: Intel Core i5-8250U\n"
    "stepping\t: 10\nmicrocode\t: 0xf4\nflags\t\t: fpu sse avx2{more}\n\nprocessor\t: 1\n"
)
PC = Tree(
    files={
        **_machine({"proc/cpuinfo": PC_CPUINFO.format(more="")}, cores=4),
        **{name: text for core in range(4) for name, text in _pc_clock(core).items()},
        **{f"{CPU}/cpu{core}/topology/core_id": str(core % 2) for core in range(4)},
        "sys/class/dmi/id/sys_vendor": "LENOVO",
        "sys/class/dmi/id/product_uuid": "To be filled by O.E.M.",
        "sys/class/thermal/thermal_zone0/type": "acpitz",
        "sys/class/thermal/thermal_zone0/temp": "99000",
        "sys/class/thermal/thermal_zone1/type": "x86_pkg_temp",
        "sys/class/thermal/thermal_zone1/temp": "51000",
        "sys/class/hwmon/hwmon2/name": "coretemp",
        "sys/class/hwmon/hwmon2/temp1_input": "52000",
        "sys/class/thermal/cooling_device0/type": "Processor",
        "sys/class/thermal/cooling_device0/cur_state": "0",
        "sys/class/thermal/cooling_device4/type": "intel_powerclamp",
        "sys/class/thermal/cooling_device4/cur_state": "-1",
    },
    programs=_uname("x86_64", uid=1000),
)

VIRTUAL_MACHINE = Tree(
    files={
        **_machine({"proc/cpuinfo": PC_CPUINFO.format(more=" hypervisor")}, cores=2),
        "sys/class/dmi/id/sys_vendor": "Amazon EC2",
    },
    programs=_uname("x86_64"),
)
