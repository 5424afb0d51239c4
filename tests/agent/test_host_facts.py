"""A host's identity from files of other machines: which hosts may share results, and what makes results stale."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from benchfarm_agent.boards.host_facts import HostFacts, host_model, machine_id, read_host_facts
from benchfarm_agent.boards.local import operating_points
from benchfarm_agent.conditions import HostSensors, read_conditions, temperature_c, why_busy
from tests.agent.tree_port import laid_out
from tests.agent.trees import PC, PHONE

CPUINFO = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 17
model name\t: AMD EPYC
stepping\t: 1
microcode\t: 0x1000065
flags\t\t: fpu avx2 {more}

processor\t: 1
vendor_id\t: AuthenticAMD
"""
ARM_CPUINFO = """processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd
CPU implementer\t: 0x41
CPU part\t: 0xd0b

processor\t: 1
"""

MakeHost = Callable[..., Path]


@pytest.fixture
def host(tmp_path: Path) -> MakeHost:
    """Makes a root folder that looks like a host with 4 logical cores on 2 physical ones."""

    def make(cpuinfo: str = CPUINFO.format(more="hypervisor"), memory_kib: int = 24_641_928) -> Path:
        files = {
            "proc/cpuinfo": cpuinfo,
            "proc/meminfo": f"MemTotal:       {memory_kib} kB\nMemFree: 1 kB\n",
            "proc/loadavg": "0.50 0.40 0.30 1/104 999\n",
            "etc/os-release": 'PRETTY_NAME="Debian 12"\nVERSION_ID="12"\n',
            "etc/machine-id": "3d1219c7c4c5404aaa1f6d2a48adfda4\n",
            "sys/devices/system/cpu/cpu0/cache/index0/level": "1",
            "sys/devices/system/cpu/cpu0/cache/index0/type": "Data",
            "sys/devices/system/cpu/cpu0/cache/index0/size": "32K",
        }
        for core in range(4):
            files[f"sys/devices/system/cpu/cpu{core}/topology/core_id"] = str(core % 2)
            files[f"sys/devices/system/cpu/cpu{core}/topology/physical_package_id"] = "0"
        for name, content in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(content)
        return tmp_path

    return make


def facts(root: Path) -> HostFacts:
    return read_host_facts(root, cores=range(4))


def test_what_a_host_says(host: MakeHost) -> None:
    found = facts(host())
    assert found.cpu_name == "AMD EPYC"
    assert found.physical_cores == (0, 1)
    assert found.caches == ("L1d 32K",)
    assert found.memory_bytes == 23.5 * 1024**3
    assert found.hypervisor == "virtual"
    assert found.microcode == "0x1000065"
    assert found.os_build == "Debian 12 12"
    assert len(found.describe()) == 9


def test_a_gpu_makes_another_model_and_its_driver_another_generation(host: MakeHost) -> None:
    root = host(CPUINFO.format(more=""))
    before = facts(root)
    listed = {"0000:01:00.0": "NVIDIA H100 80GB HBM3", "0000:02:00.0": "NVIDIA L4"}
    for address, model in listed.items():
        folder = root / "proc/driver/nvidia/gpus" / address
        folder.mkdir(parents=True)
        (folder / "information").write_text(f"Model: \t\t {model}\nIRQ:   \t\t 11\n")
    (root / "proc/driver/nvidia/version").write_text("NVRM version: NVIDIA UNIX 570.86\nGCC version: 12\n")
    found = facts(root)
    assert found.gpus == tuple(listed.values())
    assert found.describe()["gpus"] == "NVIDIA H100 80GB HBM3, NVIDIA L4"
    assert host_model(found, "") != host_model(before, "")
    assert replace(found, gpu_driver="NVRM version: NVIDIA UNIX 575").generation != found.generation
    assert replace(before, gpu_driver="a driver without a GPU").generation == before.generation


def test_an_arm_host_has_an_identity_too(host: MakeHost) -> None:
    found = facts(host(ARM_CPUINFO))
    assert found.cpu == {"CPU implementer": "0x41", "CPU part": "0xd0b"}
    assert found.flags == ("asimd", "fp")
    assert found.hypervisor is None


def test_every_virtual_machine_is_a_model_of_its_own(host: MakeHost) -> None:
    virtual = facts(host())
    bare = facts(host(CPUINFO.format(more="")))
    assert host_model(virtual, "one") != host_model(virtual, "two")
    assert host_model(bare, "one") == host_model(bare, "two")
    assert host_model(bare, "one").startswith("host-")


def test_other_hardware_is_another_model_and_a_few_pages_are_not(host: MakeHost) -> None:
    bare = facts(host(CPUINFO.format(more="")))
    assert host_model(bare, "") == host_model(facts(host(CPUINFO.format(more=""), memory_kib=24_641_000)), "")
    for other in (
        replace(bare, flags=("avx2",)),
        replace(bare, memory_bytes=1),
        replace(bare, caches=()),
        replace(bare, cores=(0,)),
        replace(bare, cpu={**bare.cpu, "stepping": "2"}),
    ):
        assert host_model(other, "") != host_model(bare, "")


def test_a_generation_is_kernel_microcode_and_system(host: MakeHost) -> None:
    found = facts(host())
    assert found.generation == replace(found, flags=()).generation
    for other in (replace(found, kernel="7.0"), replace(found, microcode="2"), replace(found, os_build="13")):
        assert other.generation != found.generation
        assert other.hardware == found.hardware


def test_a_host_without_an_id_says_so(host: MakeHost, tmp_path: Path) -> None:
    assert machine_id(host()) == "3d1219c7c4c5404aaa1f6d2a48adfda4"
    (tmp_path / "etc/machine-id").write_text("")
    assert machine_id(tmp_path) is None


@pytest.mark.parametrize(
    ("cores", "keys"),
    [
        ((0,), ["c0.t1.free"]),
        ((0, 1), ["c1.t1.free", "c0-1.t2.free"]),
        ((0, 2, 4, 6), ["c6.t1.free", "c4+6.t2.free", "c0+2+4+6.t4.free"]),
        (tuple(range(6)), ["c5.t1.free", "c4-5.t2.free", "c2-5.t4.free"]),
    ],
)
def test_threads_go_to_the_last_cores(cores: tuple[int, ...], keys: list[str]) -> None:
    assert [point.key for point in operating_points(cores)] == keys


def test_a_busy_host_is_gated(host: MakeHost, running: Callable[..., str | None]) -> None:
    root = host()
    assert running(why_busy(2, root)) is None
    (root / "proc/loadavg").write_text("9 9 9 6/104 1\n")
    assert "5.0 other threads" in str(running(why_busy(2, root)))
    assert running(why_busy(5, root)) is None


def test_sensors_are_read_where_there_are_some(host: MakeHost) -> None:
    root = host()
    assert temperature_c(root) is None
    assert read_conditions([0, 1], root).freq_khz == ()
    for name, content in {
        "sys/class/thermal/thermal_zone0/temp": "41000",
        "sys/class/thermal/thermal_zone1/temp": "63500",
        "sys/class/thermal/thermal_zone2/temp": "-273000",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "2400000",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n",
        "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "3",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    found = read_conditions([0, 1], root)
    assert found.temperature_c == 63.5
    assert found.freq_khz == (2_400_000,)
    assert found.governor == "performance"
    assert found.throttle_count == 3


def test_its_sensors_are_read_as_any_board_s() -> None:
    with laid_out(PC) as root:
        found = HostSensors(root).read()
        assert (found.temperature_c, found.cooling_state, found.battery_percent) == (52.0, 0, None)
        (root / "sys/class/hwmon/hwmon2/temp1_input").write_bytes(b"\xff\xfe")
        assert temperature_c(root) == 51.0, "what is no text says nothing"
    with laid_out(PHONE) as root:
        found = HostSensors(root).read()
        assert (found.battery_percent, found.battery_c, found.is_charging) == (85, 28.5, False)
