"""The lab's file: what it says is taken exactly, and what it cannot mean is refused with the line and the reason."""

from pathlib import Path

import pytest

from benchfarm_agent.lab_file import LabFile, read_lab_file
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
    ],
)
def test_an_error_names_its_line_and_what_to_do(lab: Path, text: str, line: int, reason: str) -> None:
    said = refusal(lab, text)
    assert said.startswith(f"line {line}: {reason}"), said
    assert len(said) > len(f"line {line}: {reason}")


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
    assert [host.name for host in read_lab_file(lab).ssh] == ["pi5"]


def test_the_line_of_an_entry_in_an_inline_table_is_that_of_the_table() -> None:
    assert line_of('local = true\nssh = [{name = "a"}]', ("ssh", 0, "host")) == 2
