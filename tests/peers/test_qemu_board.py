"""The QEMU board: what a real kernel does with clocks, heat, cores and reboots, over SSH and adb."""

import subprocess
import time

import pytest

from tests.peers.qemu_board import POLICIES
from tests.peers.waiting import wait_until

CPUS = "/sys/devices/system/cpu"
SMALL_KHZ = (600_000, 1_000_000, 1_400_000, 1_800_000)
LARGE_KHZ = (800_000, 1_300_000, 1_800_000, 2_400_000)
CLUSTERS = [("policy0", "0 1", SMALL_KHZ), ("policy2", "2 3", LARGE_KHZ)]
SOON_S = 10.0

pytestmark = pytest.mark.slow


def words(board, command: str) -> list[str]:
    """What a command says; it must succeed."""
    done = board.ssh_run(command)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().split()


@pytest.mark.parametrize(("policy", "cores", "table"), CLUSTERS)
def test_it_has_two_clusters_of_its_own(qemu_board, policy, cores, table):
    folder = f"{POLICIES}/{policy}"
    assert qemu_board.read(f"{folder}/related_cpus") == cores
    assert words(qemu_board, f"cat {folder}/scaling_available_frequencies") == [str(freq_khz) for freq_khz in table]
    assert {"performance", "powersave", "userspace"} <= set(
        words(qemu_board, f"cat {folder}/scaling_available_governors")
    )
    capacities = words(qemu_board, f"cat {CPUS}/cpu0/cpu_capacity {CPUS}/cpu2/cpu_capacity")
    assert int(capacities[0]) < int(capacities[1]) == 1024


@pytest.mark.parametrize(("policy", "cores", "table"), CLUSTERS)
def test_each_frequency_can_be_pinned_and_is_counted(qemu_board, policy, cores, table):
    folder = f"{POLICIES}/{policy}"
    words(qemu_board, f"echo userspace > {folder}/scaling_governor")
    for freq_khz in table:
        pin = f"echo {freq_khz} > {folder}/scaling_setspeed; cat {folder}/scaling_cur_freq"
        watch = f"cat {folder}/stats/time_in_state; sleep 0.3; echo; cat {folder}/stats/time_in_state"
        said, *counts = words(qemu_board, f"{pin}; {watch}")
        assert said == str(freq_khz)
        half = len(counts) // 2
        before, after = (
            dict(zip(part[::2], map(int, part[1::2]), strict=True)) for part in (counts[:half], counts[half:])
        )
        spent = {freq: after[freq] - before[freq] for freq in before}
        assert spent[str(freq_khz)] == sum(spent.values()) >= 20


@pytest.mark.parametrize(("policy", "cores", "table"), CLUSTERS)
def test_each_frequency_can_be_pinned_by_limits(qemu_board, policy, cores, table):
    folder = f"{POLICIES}/{policy}"
    for freq_khz in table:
        limits = f"echo {freq_khz} > {folder}/scaling_min_freq; echo {freq_khz} > {folder}/scaling_max_freq"
        again = f"echo {freq_khz} > {folder}/scaling_min_freq"
        words(qemu_board, f"{limits}; {again}")
        path = f"{folder}/scaling_cur_freq"
        wait_until(lambda path=path, khz=freq_khz: qemu_board.read(path) == str(khz), str(freq_khz), SOON_S)


def test_an_unknown_governor_is_refused_by_the_kernel(qemu_board):
    path = f"{POLICIES}/policy0/scaling_governor"
    before = qemu_board.read(path)
    refused = qemu_board.ssh_run(f"echo nosuch > {path}")
    assert refused.returncode != 0
    assert b"Invalid argument" in refused.stderr
    assert qemu_board.read(path) == before


def test_at_eighty_degrees_it_throttles_and_recovers(qemu_board):
    for policy, _, _ in CLUSTERS:
        words(qemu_board, f"echo performance > {POLICIES}/{policy}/scaling_governor")
    highest = [str(table[-1]) for _, _, table in CLUSTERS]
    clocks = " ".join(f"{POLICIES}/{policy}/scaling_cur_freq" for policy, _, _ in CLUSTERS)
    states = "/sys/class/thermal/cooling_device*/cur_state"
    assert words(qemu_board, f"cat {clocks}") == highest
    qemu_board.heat(80)
    wait_until(lambda: set(words(qemu_board, f"cat {states}")) != {"0"}, "a cooling state", SOON_S)
    seen = words(qemu_board, f"cat {clocks}")
    assert all(int(now) < int(top) for now, top in zip(seen, highest, strict=True)), seen
    assert abs(int(qemu_board.read("/sys/class/thermal/thermal_zone0/temp")) - 80_000) < 600
    qemu_board.heat(42)
    wait_until(lambda: words(qemu_board, f"cat {clocks}") == highest, "cool again", SOON_S)


def test_a_core_can_be_taken_away(qemu_board):
    words(qemu_board, f"echo 0 > {CPUS}/cpu3/online")
    assert words(qemu_board, f"nproc; cat {CPUS}/online {POLICIES}/policy2/affected_cpus") == ["3", "0-2", "2"]
    words(qemu_board, f"echo 1 > {CPUS}/cpu3/online")
    assert words(qemu_board, "nproc") == ["4"]


def test_it_says_who_it_is(qemu_board):
    tree = "/proc/device-tree"
    said = qemu_board.ssh_run(f"cat {tree}/model {tree}/serial-number; uname -m").stdout
    assert said == b"Benchfarm QEMU Board\0BFQEMU0001\0aarch64\n"
    assert qemu_board.ssh_run("command -v getprop").returncode != 0


def test_files_arrive_by_cat_and_run(qemu_board):
    script = b"#!/bin/sh\necho $((6 * 7)); exit 3\n"
    assert qemu_board.ssh.run("cat > /tmp/pushed && chmod 700 /tmp/pushed", stdin=script).returncode == 0
    done = qemu_board.ssh_run("/tmp/pushed")
    assert (done.returncode, done.stdout) == (3, b"42\n")


def test_over_adb_it_is_the_same_board(qemu_board, peer_adb, tmp_path):
    serial = qemu_board.adb_address
    peer_adb.connect(serial)
    done = peer_adb.shell(serial, "uname -m; cat /proc/sys/kernel/random/boot_id; exit 5", 30)
    assert done.returncode == 5
    machine, boot_id = done.stdout.split()
    assert machine == "aarch64"
    assert boot_id == qemu_board.read("/proc/sys/kernel/random/boot_id")
    (tmp_path / "sent").write_bytes(b"x" * 100_000)
    device = peer_adb.device(serial)
    device.sync.push(str(tmp_path / "sent"), "/data/local/tmp/sent")
    device.sync.pull("/data/local/tmp/sent", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == b"x" * 100_000


def test_a_frozen_board_answers_nothing_and_goes_on(qemu_board):
    qemu_board.freeze()
    with pytest.raises(subprocess.TimeoutExpired):
        qemu_board.ssh_run("true", limit_s=1)
    qemu_board.thaw()
    assert words(qemu_board, "echo back") == ["back"]


def test_a_reboot_forgets_settings_and_keeps_the_board(qemu_board):
    path = "/proc/sys/kernel/random/boot_id"
    before, target = qemu_board.read(path), qemu_board.ssh
    words(qemu_board, f"echo powersave > {POLICIES}/policy0/scaling_governor; echo x > /tmp/x")
    qemu_board.ssh_run("reboot -f > /dev/null 2>&1 &")
    wait_until(lambda: boot_id_or_none(qemu_board) not in {before, None}, qemu_board.said, 60)
    assert target.run("true", limit_s=30).returncode == 0
    assert qemu_board.read(f"{POLICIES}/policy0/scaling_governor") != "powersave"
    assert qemu_board.ssh_run("test -e /tmp/x").returncode != 0


def boot_id_or_none(board) -> str | None:
    try:
        return board.ssh.run("cat /proc/sys/kernel/random/boot_id", limit_s=5).stdout.decode().strip() or None
    except subprocess.TimeoutExpired:
        return None


def test_without_power_it_is_gone_and_comes_back(qemu_board):
    qemu_board.cut_power()
    assert qemu_board.ssh_run("true").returncode == 255
    began_s = time.monotonic()
    qemu_board.power_on()
    print(f"power on to SSH and adb: {time.monotonic() - began_s:.1f} s")
    assert words(qemu_board, "echo back") == ["back"]
