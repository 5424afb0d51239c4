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
    said: str = done.stdout.decode()
    return said.split()


def test_it_has_two_clusters_of_its_own(qemu_board):
    for policy, cores, table in CLUSTERS:
        folder = f"{POLICIES}/{policy}"
        seen = qemu_board.ssh_run(f"cd {folder}; cat related_cpus scaling_available_frequencies").stdout.decode()
        assert [line.split() for line in seen.splitlines()] == [cores.split(), [str(freq_khz) for freq_khz in table]]
    governors = words(qemu_board, f"cat {POLICIES}/policy2/scaling_available_governors")
    assert {"performance", "powersave", "userspace"} <= set(governors)
    small, large = words(qemu_board, f"cat {CPUS}/cpu0/cpu_capacity {CPUS}/cpu2/cpu_capacity")
    assert int(small) < int(large) == 1024


def spent(before: list[str], after: list[str]) -> dict[str, int]:
    """Ticks at each frequency between two readings of time_in_state."""
    then = dict(zip(before[::2], before[1::2], strict=True))
    return {freq: int(ticks) - int(then[freq]) for freq, ticks in zip(after[::2], after[1::2], strict=True)}


@pytest.mark.parametrize(("policy", "cores", "table"), CLUSTERS)
def test_each_frequency_can_be_pinned_and_is_counted(qemu_board, policy, cores, table):
    each = f"""cd {POLICIES}/{policy}; echo userspace > scaling_governor
    for khz in {" ".join(map(str, table))}; do
        echo $khz > scaling_setspeed
        echo $(cat scaling_cur_freq stats/time_in_state); sleep 0.3; echo $(cat stats/time_in_state)
    done"""
    lines = qemu_board.ssh_run(each).stdout.decode().splitlines()
    for freq_khz, first, after in zip(table, lines[::2], lines[1::2], strict=True):
        said, *before = first.split()
        assert said == str(freq_khz)
        ticks = spent(before, after.split())
        assert ticks[str(freq_khz)] == sum(ticks.values()) >= 20


@pytest.mark.parametrize(("policy", "cores", "table"), CLUSTERS)
def test_each_frequency_can_be_pinned_by_limits(qemu_board, policy, cores, table):
    each = f"""cd {POLICIES}/{policy}
    for khz in {" ".join(map(str, table))}; do
        echo $khz > scaling_min_freq; echo $khz > scaling_max_freq; echo $khz > scaling_min_freq
        until [ "$(cat scaling_cur_freq)" = $khz ]; do sleep 0.1; done; echo $khz
    done"""
    assert words(qemu_board, each) == [str(freq_khz) for freq_khz in table]


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
    wait_until(lambda: not qemu_board.greets(), qemu_board.said, SOON_S)
    qemu_board.wait_up()
    assert target.run(f"cat {path}", limit_s=30).stdout.decode().strip() not in {before, ""}
    assert qemu_board.read(f"{POLICIES}/policy0/scaling_governor") != "powersave"
    assert qemu_board.ssh_run("test -e /tmp/x").returncode != 0


def test_without_power_it_is_gone_and_comes_back(qemu_board):
    qemu_board.cut_power()
    assert qemu_board.ssh_run("true").returncode == 255
    began_s = time.monotonic()
    qemu_board.power_on()
    print(f"power on to SSH and adb: {time.monotonic() - began_s:.1f} s")
    assert words(qemu_board, "echo back") == ["back"]
