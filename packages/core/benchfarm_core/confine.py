"""Puts the calling process in a cage before it touches anything that a stranger wrote.

The runner and the upload inspection call ``confine`` first, while they are still one thread and have
imported nothing heavy; afterwards they can compute, start threads, read what they were given and write to
their scratch folder. They can open no socket, start no program and no process, read no token and signal
nobody. Standard library only, Linux only; where the kernel lacks a mechanism the answer leaves it out and
the caller decides whether what is left is enough.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchfarm_core import seccomp

CONFINED_ID: Final = 65_533
"""The user and group that a confined process of root becomes. Not 65534: services that find nobody better to be
(an embedded PostgreSQL, NFS) are that one, and could be signalled and traced by their equal. No distribution gives
65533 to anyone."""


class ConfinementIncomplete(Exception):
    """The kernel lacks what a strict confinement needs; the text says what would stay open."""


@dataclass(frozen=True)
class Limits:
    """What a confined process may use.

    memory_bytes: address space, libraries and thread stacks included; with devices only what can be written to, for
    a GPU's driver reserves more addresses than a machine has memory.
    cpu_s: processor time over all threads, then the kernel ends the process.
    readable, writable: files or folders beyond the interpreter and the system's libraries.
    devices: device files to read, write and control.
    network: True leaves sockets alone.
    uid, gid: taken when the process is root and they can read everything it needs.
    file_size_bytes: largest file it can write. open_files: descriptors.
    processes: tasks that its user may have in all, None for no limit.
    strict: what runs is a stranger's, so rather not at all than with files or the network open.
    """

    memory_bytes: int
    cpu_s: int
    readable: tuple[str, ...] = ()
    writable: tuple[str, ...] = ()
    network: bool = False
    uid: int | None = None
    gid: int | None = None
    file_size_bytes: int = 256 * 1024**2
    open_files: int = 1024
    processes: int | None = None
    strict: bool = False
    devices: tuple[str, ...] = ()


def confine(limits: Limits) -> tuple[str, ...]:
    """Applies the limits to this process for good and returns the mechanisms that hold.

    The names are ``rlimits no_new_privs netns uid landlock no_capabilities seccomp``. Raises RuntimeError
    when another thread runs already (it would stay free), OSError when the limits cannot be set, and
    ConfinementIncomplete when the limits are strict and ``left_open`` names something.
    """
    if len(os.listdir("/proc/self/task")) != 1:
        raise RuntimeError("confine() must run before any thread is started")
    dies_with_parent, parent = _parent_death_signal(), os.getppid()
    _set_rlimits(limits)
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl(PR_SET_NO_NEW_PRIVS)")
    steps: tuple[tuple[str, Callable[[Limits], bool]], ...] = (
        ("netns", _leave_network),  # needs the capabilities that a later step drops
        ("uid", _change_user),
        ("landlock", _restrict_files),
        ("no_capabilities", _drop_capabilities),
        ("seccomp", lambda wanted: seccomp.deny_system_calls(network=wanted.network)),
    )
    held = ("rlimits", "no_new_privs", *(name for name, step in steps if step(limits)))
    _die_with_parent(dies_with_parent, parent)
    if limits.strict and (open_to := left_open(held)):
        raise ConfinementIncomplete(f"this host cannot confine a stranger's file: {' and '.join(open_to)} stay open")
    return held


def left_open(held: Collection[str]) -> tuple[str, ...]:
    """What the mechanisms that hold leave to a stranger: ``files``, ``network``, both or nothing.

    Files need Landlock or another user; the network needs the filter of system calls, or a namespace *and* another
    user: in a namespace alone a Unix socket can still be reached by its path, and an embedded database trusts whoever
    has its user. Landlock is not enough for the network: it knows TCP alone.
    """
    return tuple(what for what, ways in _CLOSED_BY.items() if not any(way.issubset(held) for way in ways))


_CLOSED_BY: Final = {
    "files": ({"landlock"}, {"uid"}),
    "network": ({"seccomp"}, {"netns", "uid"}),
}
"""What each is closed by: one of the ways, which are the mechanisms that must hold together."""


_libc = ctypes.CDLL(None, use_errno=True)

_PR_SET_PDEATHSIG: Final = 1
_PR_GET_PDEATHSIG: Final = 2
_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38
_CLONE_NEWUSER: Final = 0x10000000
_CLONE_NEWNET: Final = 0x40000000
_CAPABILITY_VERSION_3: Final = 0x20080522
_CAPABILITIES: Final = 64


def _check(result: int, call: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")


def _parent_death_signal() -> int:
    number = ctypes.c_int(0)
    _libc.prctl(_PR_GET_PDEATHSIG, ctypes.byref(number))
    return number.value


def _die_with_parent(number: int, parent: int) -> None:
    """Asks again for the signal at the parent's death that the starter had asked for: a change of user clears it."""
    if number == 0:
        return
    _check(_libc.prctl(_PR_SET_PDEATHSIG, number), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it died in between, so the signal will never come
        os._exit(1)


def _set_rlimits(limits: Limits) -> None:
    memory = resource.RLIMIT_DATA if limits.devices else resource.RLIMIT_AS
    wanted = [
        (memory, limits.memory_bytes, limits.memory_bytes),
        (resource.RLIMIT_CPU, limits.cpu_s, limits.cpu_s + 1),
        (resource.RLIMIT_FSIZE, limits.file_size_bytes, limits.file_size_bytes),
        (resource.RLIMIT_NOFILE, limits.open_files, limits.open_files),
        (resource.RLIMIT_CORE, 0, 0),
    ]
    if limits.processes is not None:
        wanted.append((resource.RLIMIT_NPROC, limits.processes, limits.processes))
    for what, soft, hard in wanted:
        inherited = resource.getrlimit(what)[1]  # which an ordinary user cannot raise
        ceiling = hard if inherited == resource.RLIM_INFINITY else min(hard, inherited)
        resource.setrlimit(what, (min(soft, ceiling), ceiling))


def _leave_network(limits: Limits) -> bool:
    """Moves to a network namespace of its own, whose loopback is down."""
    if limits.network:
        return False
    if _libc.unshare(_CLONE_NEWNET) == 0:
        return True
    uid, gid = os.getuid(), os.getgid()
    if _libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        return False
    try:  # keep the same numbers inside; without a map the process would see itself as "nobody"
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    except OSError:
        pass  # only a matter of how it looks: files are checked against the numbers outside
    return True


def _change_user(limits: Limits) -> bool:
    if limits.uid is None or limits.gid is None or os.geteuid() != 0:
        return False
    if not _reachable_by(limits.uid, limits.gid, limits):
        return False
    os.setgroups([])
    os.setresgid(limits.gid, limits.gid, limits.gid)
    os.setresuid(limits.uid, limits.uid, limits.uid)
    return True


def _reachable_by(uid: int, gid: int, limits: Limits) -> bool:
    """Whether that user can read the interpreter and the inputs, tried as that user.

    False where, for example, the interpreter lies below a home folder that is closed to others.
    """
    readable = [*_interpreter_folders(), *limits.readable]
    os.setegid(gid)
    os.seteuid(uid)
    try:
        return all(os.access(path, os.R_OK, effective_ids=True) for path in readable) and all(
            os.access(path, os.W_OK, effective_ids=True) for path in limits.writable
        )
    finally:
        os.seteuid(0)
        os.setegid(0)


def _interpreter_folders() -> list[str]:
    """Where imports come from: prefixes, search path and this package itself."""
    candidates = [sys.prefix, sys.base_prefix, *sys.path, str(Path(__file__).resolve().parent)]
    return [path for path in dict.fromkeys(candidates) if path not in ("", "/") and os.path.exists(path)]


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapabilitySets(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def _drop_capabilities(_: Limits) -> bool:
    """Gives up every capability, which also takes root's right to ignore file modes."""
    for capability in range(_CAPABILITIES):
        _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)  # refused without privilege: then there is none to drop
    header = _CapabilityHeader(_CAPABILITY_VERSION_3, 0)
    return int(_libc.capset(ctypes.byref(header), ctypes.byref((_CapabilitySets * 2)()))) == 0


# --- Landlock: which paths the process can open at all (https://docs.kernel.org/userspace-api/landlock.html)

_CREATE_RULESET: Final = 444  # the same numbers on every architecture
_ADD_RULE: Final = 445
_RESTRICT_SELF: Final = 446
_RULE_PATH_BENEATH: Final = 1
_VERSION_FLAG: Final = 1

_WRITE_FILE: Final = 1 << 1
_READ_FILE: Final = 1 << 2
_READ_DIR: Final = 1 << 3
_REMOVE: Final = 1 << 4 | 1 << 5
_MAKE_DIR: Final = 1 << 7
_MAKE_FILE: Final = 1 << 8
_TRUNCATE: Final = 1 << 14
_CONTROL_DEVICE: Final = 1 << 15
_ON_FILES: Final = _WRITE_FILE | _READ_FILE | _TRUNCATE | _CONTROL_DEVICE
_READ: Final = _READ_FILE | _READ_DIR
_WRITE: Final = _READ | _WRITE_FILE | _REMOVE | _MAKE_DIR | _MAKE_FILE | _TRUNCATE

_SYSTEM_READABLE: Final = (
    "/usr",
    "/lib",
    "/lib64",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/sys/vm",
    "/sys/bus/pci",
    "/sys/devices",
    "/dev/random",
    "/dev/urandom",
    "/dev/zero",
)

_pinned_descriptors: list[int] = []
"""A rule names an inode; /proc makes a new one when the old entry was dropped, so its entry is kept open."""


class _RulesetAttributes(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathRule(ctypes.Structure):
    # The kernel's struct is packed to 12 bytes; the 4 that ctypes adds lie behind what it reads.
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def _restrict_files(limits: Limits) -> bool:
    """Allows reading and writing below the given paths and nothing else; no program can be started.

    From interface 4 on TCP is denied too, from 6 on signals and abstract sockets to the outside.
    """
    abi = int(_libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION_FLAG)))
    if abi < 1:
        return False
    attributes = _RulesetAttributes(
        files=_handled_file_rights(abi),
        network=0b11 if abi >= 4 and not limits.network else 0,
        scoped=0b11 if abi >= 6 else 0,
    )
    size = ctypes.c_size_t(8 if abi < 4 else 16 if abi < 6 else 24)
    ruleset = int(_libc.syscall(_CREATE_RULESET, ctypes.byref(attributes), size, ctypes.c_uint32(0)))
    if ruleset < 0:
        return False
    try:
        handled = int(attributes.files)
        _allow(ruleset, [*_SYSTEM_READABLE, *_interpreter_folders(), *limits.readable], _READ & handled)
        _allow(ruleset, limits.writable, _WRITE & handled)
        _allow(ruleset, ["/dev/null"], (_READ_FILE | _WRITE_FILE) & handled)
        _allow(ruleset, limits.devices, (_READ_FILE | _WRITE_FILE | _CONTROL_DEVICE) & handled)
        _pinned_descriptors.extend(_allow(ruleset, ["/proc/self"], _READ & handled, keep_open=True))
        return int(_libc.syscall(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))) == 0
    finally:
        os.close(ruleset)


def _handled_file_rights(abi: int) -> int:
    """Every right that this interface version knows: 13 at first, then refer, truncate, device control."""
    bits = {1: 13, 2: 14, 3: 15, 4: 15}.get(abi, 16)
    return (1 << bits) - 1


def _allow(ruleset: int, paths: Iterable[str], rights: int, *, keep_open: bool = False) -> list[int]:
    """Adds a rule per existing path; returns the descriptors that were asked to stay open."""
    kept: list[int] = []
    for path in paths:
        try:
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue  # absent here: nothing to allow
        on_path = rights if os.path.isdir(path) else rights & _ON_FILES
        rule = _PathRule(allowed=on_path, parent=descriptor)
        arguments = (
            ctypes.c_int(ruleset),
            ctypes.c_int(_RULE_PATH_BENEATH),
            ctypes.byref(rule),
            ctypes.c_uint32(0),
        )
        _check(int(_libc.syscall(_ADD_RULE, *arguments)), f"landlock_add_rule({path})")
        if keep_open:
            kept.append(descriptor)
        else:
            os.close(descriptor)
    return kept
