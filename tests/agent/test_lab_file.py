"""The lab's file: what it says is taken exactly, and what it cannot mean is refused with the line and the reason."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from benchfarm_agent.boards.sensors import GateLimits
from benchfarm_agent.lab_file import LabFile, read_lab_file
from benchfarm_agent.lab_gate import LabGate, gate_limits
from benchfarm_agent.settings import Settings
from benchfarm_agent.toml_file import line_of
from benchfarm_core.errors import InvalidRequest

WHOLE = """\
local = false
adb = ["R58M*", "10.0.0.7:5555"]
shared_host = ["pi-*"]

[[ssh]]
name = "pi5"
host = "10.0.0.5"
user = "farm"
key_file = "pi5.key"

[[ssh]]
name = "pi-4"
host = "10.0.0.4"
port = 2222
user = "farm"
key_file = "pi5.key"
runner = "native"
note = "shelf 3"

[[power]]
board = "pi5"
cycle = ["uhubctl", "-a", "cycle"]
after_s = 30

[[benchmark_model]]
abi = "aarch64"
binary = "pi5.key"
boards = ["pi*"]
"""


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    for name in ("pi5.key", "benchmark_model"):
        (tmp_path / name).write_text("a key")
    return tmp_path / "boards.toml"


def refusal(lab: Path, text: str) -> str:
    lab.write_text(text)
    with pytest.raises(InvalidRequest) as refused:
        read_lab_file(lab)
    assert refused.value.field == "boards"
    return refused.value.detail.removeprefix(f"{lab}, ")


def test_without_a_file_the_agent_drives_its_own_machine() -> None:
    lab = read_lab_file(None)
    assert (lab.local, lab.adb, lab.ssh) == (True, False, ())


def test_a_whole_file_is_taken(lab: Path) -> None:
    lab.write_text(WHOLE)
    found = read_lab_file(lab)
    assert not found.local
    assert [found.wants_adb(serial) for serial in ("R58M123", "10.0.0.7:5555", "other")] == [True, True, False]
    assert found.adb_addresses == ("10.0.0.7:5555",)
    first, second = found.ssh
    assert first.key_file == lab.parent / "pi5.key"
    assert first.known_hosts_file == lab.parent / "known_hosts"
    assert (first.port, first.runner, second.port, second.runner) == (22, "python", 2222, "native")
    assert (found.marks("pi5"), found.marks("pi-4")) == ((), ("shared_host",))
    assert found.power[0].after_s == 30
    boards = (("pi5", "aarch64"), ("pi5", "x86_64"), ("pc", "aarch64"))
    assert [found.find_benchmark_model(*board) for board in boards] == [lab.parent / "pi5.key", None, None]


GATES = """\
[gate]
charging = "required"
min_battery_percent = 60
cool_over_idle_c = 2
wait_s = 90

[[board_gate]]
boards = ["pi*", "local"]
charging = "any"
max_temperature_c = 70
cool_to_c = 50.5

[[board_gate]]
boards = ["pi5", "R58M*"]
screen_off = false
over_idle_c = 5
foreign_threads = 0.5
"""


def test_a_lab_says_when_its_boards_take_no_launch(lab: Path) -> None:
    lab.write_text(GATES)
    found = read_lab_file(lab)
    settings = Settings(url="http://127.0.0.1:1", state_dir=lab.parent, max_temperature_c=80)

    def limits(label: str) -> GateLimits:
        return gate_limits(settings, 4, gate=found.gate_of(label))

    charged = GateLimits(
        is_charging=True, min_battery_percent=60, cool_over_idle_c=2, wait_s=90, max_temperature_c=80, foreign_threads=4
    )
    assert limits("10.0.0.7:5555") == charged
    cooled = replace(charged, is_charging=None, max_temperature_c=70, cool_to_c=50.5, cool_over_idle_c=4)
    assert limits("pi5") == limits("local") == cooled, "the first that names it, before [gate], and one way to cool"
    assert limits("R58M1") == replace(charged, may_screen_be_on=True, over_idle_c=5, foreign_threads=0.5)


def test_what_a_lab_does_not_say_is_as_the_code_has_it() -> None:
    settings = Settings(url="http://127.0.0.1:1", state_dir=Path("/nowhere"))
    assert gate_limits(settings, 1, gate=LabFile().gate_of("any")) == GateLimits()


def test_the_documents_table_of_gates_has_all_entries_and_their_defaults() -> None:
    text = (Path(__file__).parents[2] / "docs" / "board-health.md").read_text()
    rows = re.findall(
        r"^\| `(\w+)` \| ([^|]+) \|", text.partition("## The gate")[2].partition("\n## ")[0], re.MULTILINE
    )
    told = {name: default.strip() for name, default in rows}
    assert set(told) == set(LabGate.model_fields)
    shown = {
        name: f"{getattr(GateLimits(), name):g}"
        for name in told
        if isinstance(getattr(GateLimits(), name, None), float)
    }
    del shown["foreign_threads"]  # as many as the board has cores
    assert {name: told[name] for name in shown} == shown
    settings = Settings(url="http://127.0.0.1:1", state_dir=Path("/nowhere"))
    assert told["wait_s"] == f"{settings.gate_wait_s:g}"
    assert (told["charging"], told["screen_off"], told["cool_to_c"]) == ('`"any"`', "`true`", "none")


def test_all_phones_or_none() -> None:
    assert LabFile(adb=True).wants_adb("anything")
    assert not LabFile(adb=False).wants_adb("anything")


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("local = true\nadb = [", 2, "this is no TOML"),
        ("local = true\nlocal = false", 2, "this is no TOML"),
        ('local = "yes"', 1, "local: "),
        ("local = true\nwifi = true", 2, "wifi: there is no such entry"),
        ("\nadb = 3", 2, "adb: is true, false or a list of serials"),
        ('adb = ["ok", 7]', 1, "adb: is true, false or a list of serials"),
        (WHOLE.replace("port = 2222", "port = 0"), 14, "ssh.2.port: "),
        (WHOLE.replace("port = 2222", "port = 2222.5"), 14, "ssh.2.port: "),
        (WHOLE.replace('runner = "native"', 'runner = "rust"'), 17, "ssh.2.runner: "),
        (WHOLE.replace('host = "10.0.0.4"\n', ""), 11, "ssh.2.host: is missing"),
        (WHOLE.replace('name = "pi-4"', 'name = "Pi 4"'), 12, "ssh.2.name: "),
        (WHOLE.replace('name = "pi-4"', 'name = "pi5"'), 1, "the name pi5 is given twice"),
        (WHOLE.replace('"10.0.0.4"\nport = 2222', '"10.0.0.5"'), 1, "the address 10.0.0.5:22 is given twice"),
        (WHOLE.replace("cycle = [", "cycles = ["), 20, "power.1.cycle: is missing"),
        (WHOLE.replace("after_s = 30", "after_s = 30\nshell = true"), 24, "power.1.shell: there is no such entry"),
        (WHOLE.replace("pi5.key", "none.key", 1), 9, "ssh.1.key_file: cannot read"),
        (WHOLE.replace('binary = "pi5.key"', 'binary = "none"'), 27, "benchmark_model.1.binary: cannot read"),
        (WHOLE.replace('abi = "aarch64"', 'abi = "mips"'), 26, "benchmark_model.1.abi: "),
        (GATES.replace('"required"', "true"), 2, "gate.charging: Input should be 'any', 'required' or 'refused'"),
        (GATES.replace("= 60", '= "60"'), 3, "gate.min_battery_percent: "),
        (GATES.replace("= 60", "= 101"), 3, "gate.min_battery_percent: "),
        (GATES.replace("wait_s = 90", "wait_m = 2"), 5, "gate.wait_m: there is no such entry"),
        (GATES.replace("wait_s = 90", "cool_to_c = 50"), 1, "gate: cool_to_c is degrees, the others are above idle"),
        (
            GATES.replace("cool_over_idle_c = 2", "cool_over_idle_c = 9"),
            1,
            "gate: cool_over_idle_c, 9, is above over_idle_c, 8",
        ),
        (
            GATES.replace("over_idle_c = 5", "over_idle_c = 1"),
            13,
            "board_gate.2: cool_over_idle_c, 2, is above over_idle_c, 1",
        ),
        (GATES.replace("50.5", "71"), 7, "board_gate.1: cool_to_c, 71, is above max_temperature_c, 70"),
        (
            GATES.replace("50.5", "86").replace("max_temperature_c = 70\n", ""),
            7,
            "board_gate.1: cool_to_c, 86, is above max_temperature_c, 85 (left out; BENCHFARM_AGENT_MAX_TEMPERATURE_C)",
        ),
        ("[gate]\ncool_to_c = 90", 1, "gate: cool_to_c, 90, is above max_temperature_c, 85 (left out; "),
        (GATES.replace("50.5", "nan"), 11, "board_gate.1.cool_to_c: "),
        (GATES.replace('boards = ["pi*", "local"]\n', ""), 7, "board_gate.1.boards: is missing"),
        (GATES.replace("[gate]", "[[gate]]"), 1, "gate: "),
    ],
)
def test_an_error_names_its_line_and_what_to_do(lab: Path, text: str, line: int, reason: str) -> None:
    said = refusal(lab, text)
    assert said.startswith(f"line {line}: {reason}"), said
    assert len(said) > len(f"line {line}: {reason}")


def test_the_agents_own_limit_holds_where_a_lab_names_none(lab: Path) -> None:
    lab.write_text("[gate]\ncool_to_c = 70\n")
    assert read_lab_file(lab, max_temperature_c=70).gate.cool_to_c == 70
    with pytest.raises(InvalidRequest, match=r"line 1: gate: cool_to_c, 70, is above max_temperature_c, 69\.5 "):
        read_lab_file(lab, max_temperature_c=69.5)


def test_what_is_no_text_is_refused(lab: Path) -> None:
    lab.write_bytes(b"local = true\n\xff\xfe")
    with pytest.raises(InvalidRequest, match="line 2: this is no UTF-8"):
        read_lab_file(lab)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"cannot read .* name another --boards"):
        read_lab_file(tmp_path / "none.toml")


def test_the_example_of_the_module_is_a_lab_file(lab: Path) -> None:
    from benchfarm_agent import lab_file

    example = (lab_file.__doc__ or "").partition("\n\n")[2]
    lab.write_text("\n".join(line.removeprefix("    ") for line in example.splitlines()))
    found = read_lab_file(lab)
    assert [host.name for host in found.ssh] == ["pi5"]
    assert (found.gate_of("pi5").cool_to_c, found.gate_of("pi5").charging) == (55, "required")


def test_the_line_of_an_entry_in_an_inline_table_is_that_of_the_table() -> None:
    assert line_of('local = true\nssh = [{name = "a"}]', ("ssh", 0, "host")) == 2
