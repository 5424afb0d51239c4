"""A confined child, run for real: what it must not reach, and that it can still work."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import benchfarm_core
from benchfarm_core.confine import CONFINED_ID, left_open
from tests.old_kernel import NO_FILTER

CORE = str(Path(benchfarm_core.__file__).parent.parent)

HEAD = """
import sys
sys.path.append({core!r})
import json, os, socket
from benchfarm_core.confine import Limits, confine
held = confine(Limits(memory_bytes={memory}, cpu_s={cpu_s}, readable={readable!r}, writable=({scratch!r},),
                      network={network}, uid={user}, gid={user}, file_size_bytes=1000, devices={devices!r}))
def attempt(action):
    try:
        return str(action())
    except (OSError, MemoryError) as error:
        return type(error).__name__
"""


def confined(
    scratch: Path,
    code: str,
    *,
    memory: int = 3 * 1024**3,
    cpu_s: int = 20,
    readable: tuple[str, ...] = (),
    network: bool = False,
    devices: tuple[str, ...] = (),
    python: str = sys.executable,
) -> subprocess.CompletedProcess[str]:
    scratch.mkdir(exist_ok=True)
    head = HEAD.format(
        core=CORE,
        memory=memory,
        cpu_s=cpu_s,
        readable=readable,
        scratch=str(scratch),
        network=network,
        devices=devices,
        user=CONFINED_ID,
    )
    return subprocess.run(
        [python, "-I", "-c", head + code],
        env={"HOME": str(scratch), "ORT_DISABLE_TELEMETRY": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )


def attempts(scratch: Path, expressions: list[str], **options: object) -> list[str]:
    code = "print(json.dumps([" + ",".join(f"attempt(lambda: {each})" for each in expressions) + "]))"
    done = confined(scratch, code, **options)  # type: ignore[arg-type]
    assert done.returncode == 0, done.stderr
    answers: list[str] = json.loads(done.stdout)
    return answers


def test_every_mechanism_that_this_kernel_has_is_named(tmp_path: Path) -> None:
    held = json.loads(confined(tmp_path / "s", "print(json.dumps(held))").stdout)
    assert held[:2] == ["rlimits", "no_new_privs"]
    assert set(held) <= {"rlimits", "no_new_privs", "netns", "uid", "landlock", "no_capabilities", "seccomp"}
    assert {"landlock", "seccomp"} & set(held), "neither Landlock nor seccomp: nothing would carry the rest"


def test_a_token_file_outside_cannot_be_read_even_by_root(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret")
    token.chmod(0o600)
    answers = attempts(tmp_path / "s", [f"open({str(token)!r}).read()", f"os.listdir({str(tmp_path)!r})"])
    assert answers == ["PermissionError"] * 2


def test_no_socket_reaches_anything(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "u"))
        unix.listen()
        port = tcp.getsockname()[1]
        answers = attempts(
            tmp_path / "s",
            [
                f"socket.create_connection(('127.0.0.1', {port}))",
                f"socket.socket(socket.AF_UNIX).connect({str(tmp_path / 'u')!r})",
                "socket.create_server(('127.0.0.1', 0))",
            ],
        )
    assert not [answer for answer in answers if not answer.endswith("Error")]


def test_network_true_leaves_sockets_alone(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as tcp:
        port = tcp.getsockname()[1]
        reached = attempts(
            tmp_path / "s",
            [f"socket.create_connection(('127.0.0.1', {port})).getpeername()[1]"],
            network=True,
        )
    assert reached == [str(port)]


def test_no_program_no_process_no_signal_no_look_at_the_parent(tmp_path: Path) -> None:
    answers = attempts(
        tmp_path / "s",
        [
            "os.execv('/bin/true', ['true'])",
            "os.fork()",
            "os.setsid()",
            "os.kill(os.getppid(), 0)",
            "open(f'/proc/{os.getppid()}/environ').read()",
        ],
    )
    assert answers == ["PermissionError"] * 5


FILTER_ALONE = """
import sys
sys.path.append({core!r})
import ctypes, fcntl, json, os, resource, signal, threading
from benchfarm_core import seccomp
parent, pidfd = os.getppid(), os.pidfd_open(os.getppid())
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(38, 1, 0, 0, 0)
assert seccomp.deny_system_calls(network=False)
column = seccomp._MACHINES[os.uname().machine].column
def call(numbers, *arguments):
    if libc.syscall(ctypes.c_long(numbers[column]), *arguments) != 0:
        raise OSError(ctypes.get_errno(), "refused")
    return "done"
def attempt(action):
    try:
        return action()
    except OSError as error:
        return type(error).__name__
"""


def filtered(code: str) -> subprocess.CompletedProcess[str]:
    """Runs code behind the system-call filter and nothing else."""
    return subprocess.run(
        [sys.executable, "-I", "-c", FILTER_ALONE.format(core=CORE) + code], capture_output=True, text=True, timeout=60
    )


def test_the_filter_alone_keeps_signals_from_the_parent() -> None:
    expressions = [
        "os.kill(parent, 0)",
        "os.kill(-1, 0)",
        "signal.pidfd_send_signal(pidfd, 0)",
        "call(seccomp._SIGNALS['tkill'], parent, 0)",
        "call(seccomp._SIGNALS['rt_sigqueueinfo'], parent, 0, ctypes.create_string_buffer(128))",
        "call(seccomp._SIGNALS['rt_tgsigqueueinfo'], parent, parent, 0, ctypes.create_string_buffer(128))",
        "call(seccomp._TGKILL, parent, parent, 0)",
        "fcntl.fcntl(1, fcntl.F_SETOWN, parent)",
        "fcntl.ioctl(1, 0x8901, parent.to_bytes(4, 'little'))",
        "resource.prlimit(parent, resource.RLIMIT_CORE)",
    ]
    done = filtered("print(json.dumps([" + ",".join(f"attempt(lambda: {each})" for each in expressions) + "]))")
    assert json.loads(done.stdout) == ["PermissionError"] * len(expressions), done.stderr


def test_behind_the_filter_a_process_can_signal_and_limit_itself() -> None:
    code = (
        "heard = []; signal.signal(signal.SIGUSR1, lambda number, _: heard.append(number))\n"
        "signal.raise_signal(signal.SIGUSR1); signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)\n"
        "resource.prlimit(os.getpid(), resource.RLIMIT_CORE); resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n"
        "fcntl.fcntl(1, fcntl.F_GETFL); print(len(heard), flush=True); os.abort()"
    )
    done = filtered(code)
    assert done.stdout == "2\n", done.stderr
    assert done.returncode == -signal.SIGABRT


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        (("rlimits", "landlock", "seccomp"), ()),
        (("uid", "netns"), ()),
        (("landlock", "netns", "no_capabilities"), ("network",)),
        (("landlock", "uid"), ("network",)),
        (("netns",), ("files", "network")),
        (("landlock", "no_capabilities"), ("network",)),
        (("seccomp",), ("files",)),
        ((), ("files", "network")),
    ],
)
def test_what_the_mechanisms_that_hold_leave_open(held: tuple[str, ...], expected: tuple[str, ...]) -> None:
    assert left_open(held) == expected


WITHOUT_FILTER = """
import sys
sys.path.append({core!r})
{bars}
import socket
from benchfarm_core.confine import ConfinementIncomplete, Limits, confine, left_open
strict = sys.argv[2] == "strict"
try:
    held = confine(Limits(memory_bytes=3 * 1024**3, cpu_s=20, readable=(sys.argv[1],), strict=strict))
except ConfinementIncomplete as error:
    sys.exit(str(error))
socket.socket(socket.AF_UNIX).connect(sys.argv[1])
print(*left_open(held))
"""


def test_a_socket_is_reached_by_its_path_without_the_filter_so_strict_refuses(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    code = WITHOUT_FILTER.format(core=CORE, bars=NO_FILTER)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        loose, strict = (
            subprocess.run([sys.executable, "-I", "-c", code, path, how], capture_output=True, text=True, timeout=60)
            for how in ("loose", "strict")
        )
    assert "network" in loose.stdout.split(), loose.stderr
    assert strict.returncode == 1
    assert "network stay open" in strict.stderr


def test_it_reads_what_it_was_given_and_writes_only_to_its_scratch(tmp_path: Path) -> None:
    given = tmp_path / "given.txt"
    given.write_text("42")
    scratch = tmp_path / "s"
    answers = attempts(
        scratch,
        [
            f"open({str(given)!r}).read()",
            f"open({str(given)!r}, 'a')",
            f"open({str(scratch / 'out')!r}, 'w').write('x')",
            f"os.write(os.open({str(scratch / 'big')!r}, os.O_CREAT | os.O_WRONLY), bytes(2000))",
            f"open({str(tmp_path / 'new')!r}, 'w')",
        ],
        readable=(str(given),),
    )
    assert answers == ["42", "PermissionError", "1", "1000", "PermissionError"]


def test_a_device_that_was_given_can_be_controlled_and_no_other(tmp_path: Path) -> None:
    number_of_terminal = "__import__('fcntl').ioctl(os.open('/dev/ptmx', os.O_RDWR), 0x80045430, bytes(4)) != b''"
    assert attempts(tmp_path / "s", [number_of_terminal]) == ["PermissionError"]
    given = attempts(tmp_path / "s", [number_of_terminal, "open('/dev/tty0')"], devices=("/dev/ptmx",))
    assert given[0] == "True"
    assert given[1] in ("PermissionError", "FileNotFoundError")


def test_with_a_device_addresses_can_be_reserved_and_memory_still_ends(tmp_path: Path) -> None:
    reserve = "len(__import__('mmap').mmap(-1, 64 * 1024**3, flags=0x22 | 0x4000, prot=0))"
    expressions = [reserve, "len(bytearray(2 * 1024**3))"]
    assert attempts(tmp_path / "s", expressions, memory=1024**3) == ["OSError", "MemoryError"]
    given = attempts(tmp_path / "s", expressions, memory=1024**3, devices=("/dev/ptmx",))
    assert given == [str(64 * 1024**3), "MemoryError"]


def test_memory_ends_in_memory_error_and_cpu_time_in_a_kill(tmp_path: Path) -> None:
    answers = attempts(tmp_path / "s", ["len(bytearray(2 * 1024**3))"], memory=1024**3)
    assert answers == ["MemoryError"]
    assert confined(tmp_path / "s", "while True: pass", cpu_s=1).returncode == -24  # SIGXCPU


def test_numpy_and_onnxruntime_still_work_with_their_threads(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    code = (
        "import numpy, onnxruntime, threading\n"
        "thread = threading.Thread(target=print, args=('thread',)); thread.start(); thread.join()\n"
        "print(onnxruntime.get_available_providers()[-1], int((numpy.ones((64, 64)) @ numpy.ones((64, 64))).sum()))"
    )
    done = confined(tmp_path / "s", code)
    assert done.stdout.split() == ["thread", "CPUExecutionProvider", "262144"], done.stderr


def test_a_second_thread_is_refused(tmp_path: Path) -> None:
    code = (
        "import threading\n"
        "done = threading.Event(); threading.Thread(target=done.wait, daemon=True).start()\n"
        "try:\n    confine(Limits(memory_bytes=3 * 1024**3, cpu_s=9))\n"
        "except RuntimeError as error:\n    print(error)\n"
        "done.set()"
    )
    assert "before any thread" in confined(tmp_path / "s", code).stdout


@pytest.mark.root
def test_root_becomes_another_user_where_that_user_can_read_the_interpreter(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    if sys.version_info[:2] != (3, 11) or not _readable_by_nobody("/usr/bin/python3"):
        pytest.skip("no second interpreter that an ordinary user can read")
    for folder in (tmp_path, *tmp_path.parents):
        if folder == Path(tempfile.gettempdir()):
            break
        folder.chmod(0o755)
    scratch = tmp_path / "s"
    scratch.mkdir()
    os.chown(scratch, CONFINED_ID, CONFINED_ID)
    done = confined(scratch, "print(held, os.getuid(), os.getgroups())", python="/usr/bin/python3")
    assert "'uid'" in done.stdout, done.stderr
    assert done.stdout.rstrip().endswith(f"{CONFINED_ID} []")


def _readable_by_nobody(python: str) -> bool:
    probe = "import sys; sys.exit(sys.version_info[:2] < (3, 11))"
    found = os.path.exists(python) and subprocess.run([python, "-I", "-c", probe]).returncode == 0
    return found and os.stat(CORE).st_mode & 0o005 == 0o005
