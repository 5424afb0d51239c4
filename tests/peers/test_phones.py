"""The phones against the real adb server: what a lab's agent will meet on the wire."""

import contextlib
import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import adbutils
import pytest

from tests.peers.phone_files import LARGE_KHZ, SMALL_KHZ, TRIP_C
from tests.peers.phones import Phone
from tests.peers.private_adb import PrivateAdb
from tests.peers.waiting import wait_until

SOON_S = 3.0

# adbutils leaves its socket to the collector where the server refuses
LEFT_OPEN = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
pytestmark = [pytest.mark.root, LEFT_OPEN]


@pytest.fixture
def serial(phone: Phone, peer_adb: PrivateAdb) -> str:
    peer_adb.connect(phone.address)
    return phone.address


def state(adb: PrivateAdb, serial: str) -> str:
    return adb.states().get(serial, "absent")


def becomes(adb: PrivateAdb, serial: str, wanted: set[str], limit_s: float = SOON_S) -> None:
    wait_until(lambda: state(adb, serial) in wanted, lambda: f"{serial} {wanted}: {adb.states()}", limit_s)


def test_six_are_listed_within_three_seconds_and_work_at_once(phones, peer_adb):
    began_s = time.monotonic()
    for phone in phones:
        phone.announce(peer_adb.port)
    wait_until(lambda: set(peer_adb.states().values()) == {"device"} and len(peer_adb.states()) == 6, "six", SOON_S)
    assert time.monotonic() - began_s < SOON_S
    with ThreadPoolExecutor(6) as at_once:
        began_s = time.monotonic()
        said = list(at_once.map(lambda phone: peer_adb.shell(phone.usb_serial, "sleep 1; getprop ro.serialno"), phones))
        assert time.monotonic() - began_s < SOON_S
    assert [answer.stdout.strip() for answer in said] == [phone.serial for phone in phones]


def test_exit_code_and_both_streams_come_back_apart(peer_adb, serial):
    done = peer_adb.shell(serial, "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")


def test_a_program_is_pushed_run_and_its_file_pulled(peer_adb, serial, tmp_path):
    device = peer_adb.device(serial)
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nhead -c 100000 /dev/zero | tee out | sha256sum; exit 3\n")
    device.sync.push(str(program), "/data/local/tmp/program", mode=0o755)
    done = peer_adb.shell(serial, "cd /data/local/tmp && ./program")
    assert done.returncode == 3
    device.sync.pull("/data/local/tmp/out", str(tmp_path / "out"))
    pulled = (tmp_path / "out").read_bytes()
    assert len(pulled) == 100_000
    assert hashlib.sha256(pulled).hexdigest() == done.stdout.split()[0]


def test_five_million_bytes_arrive_whole(peer_adb, serial, tmp_path):
    sent = tmp_path / "sent"
    sent.write_bytes(bytes(range(256)) * 20_000)
    peer_adb.device(serial).sync.push(str(sent), "/data/local/tmp/sent")
    said = peer_adb.shell(serial, "sha256sum /data/local/tmp/sent").stdout.split()[0]
    assert said == hashlib.sha256(sent.read_bytes()).hexdigest()


def test_an_unplugged_phone_is_gone_and_comes_back(phone, peer_adb, serial):
    phone.relay.unplug()
    becomes(peer_adb, serial, {"absent", "offline"})
    with pytest.raises(adbutils.AdbError):
        peer_adb.shell(serial, "true", 2)
    phone.relay.plug()
    peer_adb.client.disconnect(serial)
    peer_adb.connect(phone.address)
    assert peer_adb.shell(serial, "true").returncode == 0


def test_an_announced_phone_leaves_the_list_when_it_is_unplugged(phone, peer_adb):
    phone.announce(peer_adb.port)
    becomes(peer_adb, phone.usb_serial, {"device"})
    phone.relay.unplug()
    becomes(peer_adb, phone.usb_serial, {"absent"})
    phone.relay.plug()
    phone.announce(peer_adb.port)
    becomes(peer_adb, phone.usb_serial, {"device"})


def test_a_hanging_phone_answers_nothing_until_it_flows_again(phone, peer_adb, serial):
    phone.relay.hang()
    with pytest.raises((adbutils.AdbTimeout, TimeoutError)):
        peer_adb.shell(serial, "true", 0.5)
    assert state(peer_adb, serial) == "device"
    phone.relay.flow()
    assert peer_adb.shell(serial, "echo back").stdout == "back\n"


def test_a_silent_phone_is_offline(phone, peer_adb):
    phone.relay.go_silent()
    with pytest.raises(adbutils.AdbTimeout):  # the server itself would wait for ten seconds
        peer_adb.client.connect(phone.address, timeout=0.5)
    assert state(peer_adb, phone.address) == "offline"
    phone.relay.answer()
    peer_adb.client.disconnect(phone.address)
    peer_adb.connect(phone.address)


def test_a_slow_link_takes_its_time(phone, peer_adb, serial, tmp_path):
    sent = tmp_path / "sent"
    sent.write_bytes(b"x" * 200_000)
    phone.relay.slow(delay_s=0.02, bytes_per_s=400_000)
    began_s = time.monotonic()
    peer_adb.device(serial).sync.push(str(sent), "/data/local/tmp/sent")
    assert peer_adb.shell(serial, "wc -c < /data/local/tmp/sent").stdout.strip() == "200000"
    assert time.monotonic() - began_s > 0.4


def test_a_full_storage_refuses_a_push(phone, peer_adb, serial, tmp_path):
    sent = tmp_path / "sent"
    sent.write_bytes(b"x" * 1_000_000)
    phone.fill_storage()
    with pytest.raises(adbutils.AdbError):
        peer_adb.device(serial).sync.push(str(sent), "/data/local/tmp/sent")
    full = peer_adb.shell(serial, "head -c 100000 /dev/zero > /data/local/tmp/more")
    assert full.returncode != 0
    phone.free_storage()
    peer_adb.device(serial).sync.push(str(sent), "/data/local/tmp/sent")
    assert peer_adb.shell(serial, "wc -c < /data/local/tmp/sent").stdout.strip() == "1000000"


def test_a_phone_at_another_address_is_the_same_phone(phone, peer_adb, serial):
    phone.relay.move()
    assert phone.address != serial
    peer_adb.connect(phone.address)
    assert peer_adb.shell(phone.address, "getprop ro.serialno").stdout.strip() == phone.serial


@pytest.mark.parametrize("from_the_phone", [True, False])
def test_a_reboot_keeps_files_and_forgets_settings(phone, peer_adb, serial, from_the_phone):
    before = phone.boot_id()
    policy = f"/{phone.model.clusters[0].policy}"
    said = peer_adb.shell(serial, f"echo kept > /data/local/tmp/kept; echo performance > {policy}/scaling_governor")
    assert said.returncode == 0
    if from_the_phone:
        with contextlib.suppress(adbutils.AdbError, EOFError):
            peer_adb.shell(serial, "/system/bin/reboot", 5)
        wait_until(lambda: phone.boot_id() not in {before, ""}, "boot id", SOON_S)
    else:
        phone.reboot()
    peer_adb.client.disconnect(serial)
    peer_adb.connect(phone.address)
    command = f"cat /proc/sys/kernel/random/boot_id /data/local/tmp/kept {policy}/scaling_governor"
    boot_id, kept, governor = peer_adb.shell(serial, command).stdout.split()
    assert (kept, governor) == ("kept", "schedutil")
    assert boot_id != before


def test_it_says_who_it_is(phone, peer_adb, serial):
    said = peer_adb.shell(serial, "getprop").stdout
    assert f"[ro.serialno]: [{phone.serial}]" in said
    assert "[ro.product.model]: [Bench One]" in said
    assert peer_adb.shell(serial, "getprop ro.nothing").stdout.strip() == ""
    phone.battery(17, 41.5, is_charging=True)
    battery = peer_adb.shell(serial, "dumpsys battery; cat /sys/class/power_supply/battery/capacity").stdout
    assert "level: 17" in battery
    assert "temperature: 415" in battery
    assert battery.endswith("17\n")
    assert peer_adb.shell(serial, "cmd power set-fixed-performance-mode-enabled true").returncode == 0
    assert phone.read("data/fixed_performance") == "true"


def reads(phone: Phone, path: str, number: int) -> bool:
    return phone.read(path) == str(number)


def test_the_clock_follows_what_is_written_over_adb(phone, peer_adb, serial):
    policy = f"/{phone.model.clusters[0].policy}"
    peer_adb.shell(serial, f"echo userspace > {policy}/scaling_governor")
    for freq_khz in LARGE_KHZ:
        peer_adb.shell(serial, f"echo {freq_khz} > {policy}/scaling_setspeed")
        wait_until(partial(reads, phone, f"{policy}/scaling_cur_freq", freq_khz), str(freq_khz), SOON_S)
    peer_adb.shell(serial, f"echo nosuch > {policy}/scaling_governor")
    wait_until(lambda: phone.read(f"{policy}/scaling_governor") == "userspace", "the old governor", SOON_S)


def spent_ticks(phone: Phone, freq_khz: int) -> int:
    lines = phone.read(f"{phone.model.clusters[0].policy}/stats/time_in_state").splitlines()
    return {int(freq): int(ticks) for freq, ticks in (line.split() for line in lines)}[freq_khz]


def test_time_in_state_counts_at_the_clock_of_now(phone):
    policy = phone.model.clusters[0].policy
    phone.put(f"{policy}/scaling_governor", "powersave")
    wait_until(lambda: phone.read(f"{policy}/scaling_cur_freq") == str(LARGE_KHZ[0]), "powersave", SOON_S)
    low, high = spent_ticks(phone, LARGE_KHZ[0]), spent_ticks(phone, LARGE_KHZ[-1])
    wait_until(lambda: spent_ticks(phone, LARGE_KHZ[0]) >= low + 50, "half a second", SOON_S)
    assert spent_ticks(phone, LARGE_KHZ[-1]) == high


def test_a_hot_phone_throttles_and_a_liar_lies(phone):
    policy = phone.model.clusters[0].policy
    phone.heat(TRIP_C + 15)
    assert phone.read(f"{policy}/scaling_cur_freq") == str(LARGE_KHZ[1])
    assert phone.read("sys/class/thermal/cooling_device0/cur_state") == "2"
    phone.heat(30)
    assert phone.read(f"{policy}/scaling_cur_freq") == str(LARGE_KHZ[-1])
    phone.lie(123_000)
    assert phone.read(f"{policy}/scaling_cur_freq") == "123000"
    phone.lie(None)
    phone.clocks.stick(LARGE_KHZ[0])
    assert phone.read(f"{policy}/scaling_cur_freq") == str(LARGE_KHZ[0])


def test_a_phone_that_is_not_rooted_refuses(phones, peer_adb):
    locked = phones[5]
    peer_adb.connect(locked.address)
    policy = f"/{locked.model.clusters[0].policy}"
    refused = peer_adb.shell(locked.address, f"id -u; echo performance > {policy}/scaling_governor")
    assert refused.stdout == "2000\n"
    assert refused.returncode != 0
    assert locked.read(f"{policy}/scaling_governor") == "schedutil"
    assert peer_adb.shell(locked.address, "echo x > /data/local/tmp/x").returncode == 0


def test_models_differ(phones):
    assert {phone.model.name for phone in phones} == {"Bench One", "Bench One Lite", "Bench Duo", "Bench Locked"}
    lite = phones[2]
    assert not (lite.root / lite.model.clusters[0].policy / "stats").exists()
    duo = phones[3].model.clusters
    if len(duo) == 2:
        assert [cluster.freq_khz for cluster in duo] == [SMALL_KHZ, LARGE_KHZ]


def test_a_reset_leaves_nothing(phone, peer_adb, serial):
    left = "setsid sleep 1000 > /dev/null 2>&1 < /dev/null & echo x > /data/local/tmp/x; echo $!"
    assert peer_adb.shell(serial, left).returncode == 0
    phone.put("sys/class/thermal/thermal_zone9/temp", "garbage")
    phone.put("sys/class/thermal/thermal_zone0/temp", "garbage")
    phone.relay.hang()
    phone.reset()
    assert list((phone.root / "data").rglob("*")) == [phone.root / "data/local", phone.root / "data/local/tmp"]
    assert phone.read("sys/class/thermal/thermal_zone0/temp") == "34000"
    assert not (phone.root / "sys/class/thermal/thermal_zone9/temp").exists()
    peer_adb.client.disconnect(serial)
    peer_adb.connect(phone.address)
    assert "sleep 1000" not in peer_adb.shell(serial, "ps").stdout
