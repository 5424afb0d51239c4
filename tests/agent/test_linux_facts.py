"""What boards say of themselves over a port: a Raspberry Pi, a phone, a PC, a virtual machine, and much garbage."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from benchfarm_agent.boards.clusters import core_list, cores_text, number, numbers, time_in_state
from benchfarm_agent.boards.host_facts import host_model, read_host_facts
from benchfarm_agent.boards.linux_facts import BoardFacts, best_proof, offered_ranges, read_board_facts
from benchfarm_core.boards import BoardReport
from benchfarm_core.operating_ranges import range_text
from benchfarm_core.platforms import ClockProof
from tests.agent.conftest import run
from tests.agent.tree_port import TreePort, laid_out
from tests.agent.trees import (
    CPU,
    LARGE_KHZ,
    PC,
    PC_CPUINFO,
    PHONE,
    PHONE_LARGE,
    PI,
    PI_KHZ,
    RASPBERRY_PI,
    SMALL_KHZ,
    VIRTUAL_MACHINE,
    Tree,
)

FactsOf = Callable[[Tree], BoardFacts]


@pytest.fixture
def facts_of(folders: Callable[[Tree], Path]) -> FactsOf:
    return lambda tree: run(read_board_facts(TreePort(folders(tree))))


@pytest.fixture
def folders() -> Iterator[Callable[[Tree], Path]]:
    """Lays trees out."""
    with ExitStack() as stack:
        yield lambda tree: stack.enter_context(laid_out(tree))


def ranges_of(facts: BoardFacts) -> list[str]:
    return [range_text(one) for one in offered_ranges(facts)]


def report_of(facts: BoardFacts, label: str = "lab-1") -> BoardReport:
    return BoardReport(kind="ssh", engines=(), **facts.report_parts(label))


def test_a_raspberry_pi(facts_of: FactsOf) -> None:
    facts = facts_of(RASPBERRY_PI)
    assert (facts.name, facts.serial, facts.soc) == (
        "Raspberry Pi 4 Model B Rev 1.4",
        "10000000abcdef01",
        "brcm,bcm2711",
    )
    assert (facts.abi, facts.is_root, facts.is_android, facts.is_host) == ("aarch64", True, False, False)
    assert facts.memory_bytes == 3.75 * 1024**3
    assert [cluster.describe() for cluster in facts.clusters] == ["0-3 at 600 to 1500 MHz"]
    assert ranges_of(facts) == [
        "c0-3, up to 4 threads, at 600000, 1000000 or 1500000 kHz",
        "c0-3, up to 4 threads, free",
    ]
    assert best_proof(facts) is ClockProof.VERIFIED
    assert facts.thermal_zones == ("cpu-thermal",)
    assert facts.sensors.coolings == ("/sys/class/thermal/cooling_device0",), "a fan slows nothing down"
    assert facts.sensors.firmware_throttle is not None
    report = report_of(facts)
    assert report.board_model == "raspberry-pi-4-model-b"
    assert report.serial == "10000000abcdef01"
    assert [point.key for point in report.operating_points] == ["c3.t1.1500000", "c0-3.t4.1500000"]


def test_a_phone_with_two_clusters(facts_of: FactsOf) -> None:
    facts = facts_of(PHONE)
    assert (facts.name, facts.serial, facts.soc) == ("Google Pixel 6", "1A2B3C4D", "Google Tensor")
    assert facts.is_android
    assert facts.has_fixed_performance
    assert facts.host.os_build.startswith("google/oriole")
    assert [cluster.cores for cluster in facts.clusters] == [(0, 1, 2, 3), (4, 5, 6, 7)]
    assert [cluster.freq_khz for cluster in facts.clusters] == [SMALL_KHZ, LARGE_KHZ]
    assert [cluster.capacity for cluster in facts.clusters] == [160, 1024]
    assert ranges_of(facts)[2:] == [
        *(f"c{cores}, up to {count} threads, fixed" for cores, count in (("0-3", 4), ("4-7", 4), ("0-7", 8))),
        *(f"c{cores}, up to {count} threads, free" for cores, count in (("0-3", 4), ("4-7", 4), ("0-7", 8))),
    ]
    report = report_of(facts)
    assert report.board_model == "google-pixel-6"
    assert [point.key for point in report.operating_points] == ["c7.t1.2802000", "c4-7.t4.2802000"]
    assert facts.sensors.heats == ("/sys/class/thermal/thermal_zone7/temp",), "a battery is no processor"
    assert facts.sensors.supplies == ("/sys/class/power_supply/battery",), "a charger is no battery"


def test_a_phone_that_does_not_let_us_set_its_clock_offers_what_is_left(facts_of: FactsOf) -> None:
    locked = PHONE.with_files(
        {f"{folder}/scaling_max_freq": None for folder in (PHONE_LARGE, f"{CPU}/cpufreq/policy0")}
    )
    facts = facts_of(locked)
    assert {one.mode for one in offered_ranges(facts)} == {"fixed_performance", "free"}
    assert best_proof(facts) is ClockProof.UNPINNED
    assert report_of(facts).operating_points[0].mode == "fixed_performance"


def test_a_clock_that_may_not_be_written_is_not_offered(folders: Callable[[Tree], Path]) -> None:
    root = folders(RASPBERRY_PI)
    (root / PI / "scaling_max_freq").chmod(0o444)
    facts = run(read_board_facts(TreePort(root)))
    assert {one.mode for one in offered_ranges(facts)} == {"free"}


def test_a_pc_offers_its_base_clock_and_no_boost(facts_of: FactsOf) -> None:
    facts = facts_of(PC)
    assert facts.is_host
    assert not facts.is_root
    assert [(cluster.cores, len(cluster.policies)) for cluster in facts.clusters] == [((0, 1, 2, 3), 4)]
    assert ranges_of(facts) == ["c0-1, up to 2 threads, at 2400000 kHz", "c0-1, up to 2 threads, free"]
    assert best_proof(facts) is ClockProof.BOUNDED, "its kernel does not count time in state"
    assert facts.serial == "3d1219c7c4c5404aaa1f6d2a48adfda4", "a placeholder is no serial"
    assert report_of(facts).board_model.startswith("host-")


def test_an_acpi_table_ends_in_a_step_that_is_a_boost(facts_of: FactsOf) -> None:
    khz = (1_600_000, 2_400_000, 2_401_000)
    changed: dict[str, str | None] = {
        f"{CPU}/cpufreq/policy{core}/{name}": text
        for core in range(4)
        for name, text in (
            ("scaling_driver", "acpi-cpufreq"),
            ("scaling_available_frequencies", " ".join(map(str, reversed(khz)))),
            ("base_frequency", None),
        )
    }
    assert facts_of(PC.with_files(changed)).clusters[0].freq_khz == khz[:2]


def test_a_pc_is_the_same_model_over_a_port_as_on_itself(folders: Callable[[Tree], Path]) -> None:
    root = folders(PC)
    over_port = run(read_board_facts(TreePort(root)))
    itself = read_host_facts(root, cores=range(4))
    assert over_port.host == replace(itself, kernel="6.12.1 #1 SMP PREEMPT")
    assert report_of(over_port).board_model == host_model(itself, "any")


def test_a_virtual_machine_without_clocks(facts_of: FactsOf) -> None:
    facts = facts_of(VIRTUAL_MACHINE)
    assert facts.host.hypervisor == "Amazon EC2"
    assert [(cluster.cores, cluster.policies) for cluster in facts.clusters] == [((0, 1), ())]
    assert ranges_of(facts) == ["c0-1, up to 2 threads, free"]
    assert facts.sensors.heats == ()
    unlike = facts_of(VIRTUAL_MACHINE.with_files({"etc/machine-id": "4" * 32}))
    assert report_of(unlike).board_model != report_of(facts).board_model, "every virtual machine is a model of its own"


@pytest.mark.parametrize(
    "changed",
    [
        {"proc/device-tree/compatible": "benchfarm,board\0linux,dummy-virt\0"},
        {"proc/cpuinfo": PC_CPUINFO.format(more="").replace("Intel Core i5-8250U", "QEMU Virtual CPU version 2.5+")},
    ],
)
def test_an_emulated_board_is_marked(facts_of: FactsOf, changed: dict[str, str | None]) -> None:
    report = report_of(facts_of(RASPBERRY_PI.with_files(changed)))
    assert report.marks == ("emulated",)
    assert report.board_model.startswith("emu-")
    other_processor = {**changed, "proc/meminfo": "MemTotal: 1000000 kB\n"}
    assert report_of(facts_of(RASPBERRY_PI.with_files(other_processor))).board_model != report.board_model


def test_marks_come_from_the_lab_too(facts_of: FactsOf) -> None:
    parts = facts_of(RASPBERRY_PI).report_parts("lab", ["shared_host"])
    assert parts["marks"] == ("shared_host",)
    assert parts["board_model"] == "shared-raspberry-pi-4-model-b"


@pytest.mark.parametrize("serial", ["0123456789ABCDEF", "unknown", "0000000000000000", "", "\x07"])
def test_a_serial_that_thousands_share_is_none(facts_of: FactsOf, serial: str) -> None:
    without: dict[str, str | None] = {"proc/cpuinfo": "processor: 0\n", "etc/machine-id": None}
    facts = facts_of(RASPBERRY_PI.with_files({**without, "proc/device-tree/serial-number": serial}))
    assert facts.serial is None
    assert report_of(facts, "pi5").serial == "pi5"


def test_a_generation_is_kernel_and_build(facts_of: FactsOf) -> None:
    before = report_of(facts_of(PHONE))
    properties = PHONE.programs["getprop"]
    updated = {**PHONE.programs, "getprop": properties.replace("oriole:14/UQ1A", "oriole:15/AP3A")}
    after = report_of(facts_of(replace(PHONE, programs=updated)))
    assert after.generation != before.generation
    assert (after.hardware_id, after.board_model) == (before.hardware_id, before.board_model)


def test_an_older_kernel_keeps_its_clocks_by_core(facts_of: FactsOf) -> None:
    moved = {name.replace("cpufreq/policy0", "cpu0/cpufreq"): text for name, text in RASPBERRY_PI.files.items()}
    links = {f"{CPU}/cpu{core}/cpufreq": "../cpu0/cpufreq" for core in (1, 2, 3)}
    facts = facts_of(Tree(files=moved, links=links, programs=RASPBERRY_PI.programs))
    assert [policy.folder for policy in facts.clusters[0].policies] == [f"/{CPU}/cpu0/cpufreq"]
    assert facts.clusters[0].cores == (0, 1, 2, 3)


def test_a_phone_with_a_core_switched_off_has_it_still(facts_of: FactsOf) -> None:
    off: dict[str, str | None] = {f"{CPU}/online": "0-6", f"{CPU}/cpu7/online": "0"}
    off |= {f"{CPU}/cpu7/topology/{name}": None for name in ("core_id", "physical_package_id")}
    off |= {f"{PHONE_LARGE}/affected_cpus": "4 5 6"}
    assert facts_of(PHONE.with_files(off)).cores == tuple(range(8))


def test_frequencies_are_those_that_are_counted_where_they_are_not_listed(facts_of: FactsOf) -> None:
    facts = facts_of(RASPBERRY_PI.with_files({f"{PI}/scaling_available_frequencies": None}))
    assert facts.clusters[0].freq_khz == PI_KHZ


def test_cores_of_two_clusters_with_the_same_numbers_are_as_many(facts_of: FactsOf) -> None:
    numbered = {f"{CPU}/cpu{core}/topology/core_id": str(core % 4) for core in range(8)}
    clusters = {f"{CPU}/cpu{core}/topology/cluster_id": str(core // 4) for core in range(8)}
    facts = facts_of(PHONE.with_files({**numbered, **clusters}))
    assert facts.host.physical_cores == tuple(range(8))


GARBAGE = ("", "garbage", "-1", "9" * 40, "\x00\x01\xff", "600000 x 99999999999999999999", "\u0661\u0662", "0-99999999")


@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_in_every_file_gives_a_board_with_less(facts_of: FactsOf, garbage: str) -> None:
    known = {f"{CPU}/online", "proc/device-tree/model"}
    files = {name: text if name in known else garbage for name, text in RASPBERRY_PI.files.items()}
    facts = facts_of(replace(RASPBERRY_PI, files=files, links={}))
    report = report_of(facts)
    assert facts.cores == (0, 1, 2, 3)
    assert all(one.mode == "free" for one in report.ranges)
    assert report.serial


def test_numbers_of_a_kernel() -> None:
    assert core_list("0-3,6") == core_list("0 1 2 3 6") == (0, 1, 2, 3, 6)
    assert core_list("3-0") == core_list("a-b") == core_list(None) == core_list("99999") == ()
    assert (cores_text((0, 1, 2)), cores_text((0, 2)), cores_text((5,))) == ("0-2", "0,2", "5")
    assert numbers("<unsupported>") == ()
    assert [number(text) for text in ("12", "-3", " 4 ", "x", "", None, "1.5")] == [12, -3, 4, None, None, None, None]
    assert time_in_state("600000 12\n1000000 0") == {600_000: 12, 1_000_000: 0}
    assert time_in_state("600000 12 7") == time_in_state("cpu0 12") == {}
