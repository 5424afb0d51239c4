"""The system-call half of ``confine``: a small filter that answers EPERM to sockets, programs, processes and signals.

It matters beside Landlock and the network namespace because neither of them stops a process from connecting
to a Unix socket by its path, which is how an embedded database listens. Signals are denied here too because
Landlock knows them from its interface 6 on only, and a runner may have the user of the agent that started it.
"""

import ctypes
import errno
import os
import struct
from dataclasses import dataclass
from typing import Final

_ABSENT: Final = -1

# Numbers by machine: x86_64 first, then aarch64.
_PROCESSES: Final = {
    "execve": (59, 221),
    "execveat": (322, 281),
    "fork": (57, _ABSENT),
    "vfork": (58, _ABSENT),
    "setsid": (112, 157),  # out of the group that the agent kills
    "setpgid": (109, 154),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
}
_SIGNALS: Final = {
    "kill": (62, 129),
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424),
}
_KERNEL: Final = {
    "setns": (308, 268),
    "unshare": (272, 97),
    "mount": (165, 40),
    "umount2": (166, 39),
    "io_uring_setup": (425, 425),  # a second door to sockets and files that no filter sees
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "userfaultfd": (323, 282),
    "open_by_handle_at": (304, 265),
    "init_module": (175, 105),
    "finit_module": (313, 273),
}
_SOCKETS: Final = {
    "socket": (41, 198),
    "socketpair": (53, 199),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
    "connect": (42, 203),
    "sendto": (44, 206),
}


# Calls that one argument decides, by machine as above.
_TGKILL: Final = (234, 131)  # how libc's abort, raise and pthread_kill signal their own process
_PRLIMIT64: Final = (302, 261)  # a CPU limit of 0 s on another process of the same user ends it
_FCNTL: Final = (72, 25)
_IOCTL: Final = (16, 29)
_F_SETOWN: Final = 8  # a file's owner gets a signal of the caller's choice when the file is ready
_F_SETOWN_EX: Final = 15
_FIOSETOWN: Final = 0x8901
_SIOCSPGRP: Final = 0x8902


@dataclass(frozen=True)
class _Machine:
    column: int
    audit_arch: int
    seccomp: int
    clone: int
    calls_end: int  # numbers from here on are another calling convention of the same machine


_MACHINES: Final = {
    "x86_64": _Machine(column=0, audit_arch=0xC000003E, seccomp=317, clone=56, calls_end=0x40000000),
    "aarch64": _Machine(column=1, audit_arch=0xC00000B7, seccomp=277, clone=220, calls_end=0xFFFFFFFF),
}

_CLONE3: Final = 435
_CLONE_THREAD: Final = 0x00010000
_SET_MODE_FILTER: Final = 1
# Without it older kernels slow the whole process down against speculation attacks, and with it every number.
_FLAG_SPEC_ALLOW: Final = 1 << 2

_ALLOW: Final = 0x7FFF0000
_KILL_PROCESS: Final = 0x80000000
_ERRNO: Final = 0x00050000

_LOAD: Final = 0x20
_JUMP_EQUAL: Final = 0x15
_JUMP_AT_LEAST: Final = 0x35
_JUMP_ANY_BIT: Final = 0x45
_RETURN: Final = 0x06
_OFFSET_NUMBER: Final = 0
_OFFSET_ARCH: Final = 4
_OFFSET_FIRST_ARGUMENT: Final = 16
_OFFSET_SECOND_ARGUMENT: Final = 24
_DENY: Final = _ERRNO | errno.EPERM

_Instruction = tuple[int, int, int, int]


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def deny_system_calls(*, network: bool) -> bool:
    """Installs the filter on this thread and all it starts; needs no_new_privs. False where it cannot.

    network: True leaves the socket calls allowed. The filter knows this process by its id and lets it signal
    itself alone, so it must be installed by the very process that it is for.
    """
    machine = _MACHINES.get(os.uname().machine)
    return machine is not None and _install(machine, _filter(machine, network=network))


def _install(machine: _Machine, instructions: list[_Instruction]) -> bool:
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)
    program = _Program(len(instructions), code)
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = (ctypes.c_uint(_SET_MODE_FILTER), ctypes.c_uint(_FLAG_SPEC_ALLOW), ctypes.byref(program))
    return int(libc.syscall(ctypes.c_long(machine.seccomp), *arguments)) == 0


def _filter(machine: _Machine, *, network: bool) -> list[_Instruction]:
    """Wrong architecture: killed. Denied calls: EPERM. New threads pass, new processes do not."""
    calls = {**_PROCESSES, **_SIGNALS, **_KERNEL, **({} if network else _SOCKETS)}
    denied = [numbers[machine.column] for numbers in calls.values()]
    program: list[_Instruction] = [
        (_LOAD, 0, 0, _OFFSET_ARCH),
        (_JUMP_EQUAL, 1, 0, machine.audit_arch),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _OFFSET_NUMBER),
        (_JUMP_AT_LEAST, 0, 1, machine.calls_end),
        (_RETURN, 0, 0, _KILL_PROCESS),
    ]
    for number in denied:
        if number == _ABSENT:
            continue
        program += [(_JUMP_EQUAL, 0, 1, number), (_RETURN, 0, 0, _DENY)]
    program += _by_argument(machine)
    # The flags of clone3 lie behind a pointer that a filter cannot follow: "not there" makes libc use clone.
    program += [(_JUMP_EQUAL, 0, 1, _CLONE3), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
    program += [
        (_JUMP_EQUAL, 0, 3, machine.clone),
        (_LOAD, 0, 0, _OFFSET_FIRST_ARGUMENT),
        (_JUMP_ANY_BIT, 1, 0, _CLONE_THREAD),
        (_RETURN, 0, 0, _DENY),
        (_RETURN, 0, 0, _ALLOW),
    ]
    return program


def _by_argument(machine: _Machine) -> list[_Instruction]:
    """Itself is the only process that it may signal or limit, and no file gets an owner to signal."""
    own, column = os.getpid(), machine.column
    first, second = _OFFSET_FIRST_ARGUMENT, _OFFSET_SECOND_ARGUMENT
    return [
        *_if_argument(_TGKILL[column], first, (own,), then=_ALLOW, otherwise=_DENY),
        *_if_argument(_PRLIMIT64[column], first, (0, own), then=_ALLOW, otherwise=_DENY),  # 0: the caller
        *_if_argument(_FCNTL[column], second, (_F_SETOWN, _F_SETOWN_EX), then=_DENY, otherwise=_ALLOW),
        *_if_argument(_IOCTL[column], second, (_FIOSETOWN, _SIOCSPGRP), then=_DENY, otherwise=_ALLOW),
    ]


def _if_argument(number: int, offset: int, values: tuple[int, ...], *, then: int, otherwise: int) -> list[_Instruction]:
    """Decides one call by the lower half of an argument, which is all that the kernel reads of these."""
    decide: list[_Instruction] = [(_LOAD, 0, 0, offset)]
    for value in values:
        decide += [(_JUMP_EQUAL, 0, 1, value), (_RETURN, 0, 0, then)]
    decide.append((_RETURN, 0, 0, otherwise))
    return [(_JUMP_EQUAL, 0, len(decide), number), *decide]
