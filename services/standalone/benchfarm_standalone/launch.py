"""The last step before a child's own program: who it runs as, where it runs, and with whom it dies.

Run as a script, ``python -I -S launch.py PARENT_PID DEATH_SIGNAL IDENTITY CORES /PROGRAM [ARGUMENT ...]``, never
imported by the child. It stands in for a ``preexec_fn``, which would run Python between fork and exec, where another
thread of the supervisor may hold any lock. Standard library only.

IDENTITY is ``self`` (stay who we are), ``namespace`` (a user namespace in which root looks like 65534) or ``UID:GID``.
CORES is a comma-separated list of core numbers, or ``all``.
"""

import ctypes
import os
import sys

CLONE_NEWUSER = 0x10000000
PR_SET_PDEATHSIG = 1
NOBODY = 65534
EXIT_REFUSED = 126


def enter_user_namespace() -> None:
    """Make this process look like uid and gid 65534 to itself while the file system still sees who started it.

    PostgreSQL refuses to run as uid 0. In the namespace it finds 65534, and yet a data directory below a 0700 home of
    root stays reachable: no account is made and no mode is changed. Raises OSError where the kernel forbids it.
    """
    uid, gid = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWUSER) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    # A gid map may only be written by an unprivileged process after setgroups has been given up for good.
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{NOBODY} {uid} 1"),
        ("gid_map", f"{NOBODY} {gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)


def become(identity: str) -> None:
    """Take on the identity; see the module's text for the three forms."""
    if identity == "namespace":
        enter_user_namespace()
    elif identity != "self":
        uid, gid = (int(part) for part in identity.split(":"))
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)


def die_with_parent(parent_pid: int, death_signal: int) -> None:
    """Ask the kernel for ``death_signal`` when the supervisor dies, however it dies. Linux only.

    Must come after the change of identity, which clears the wish. Where the supervisor has died before the wish was
    made, nobody would ever send the signal: this process then ends at once.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, death_signal)
    if os.getppid() != parent_pid:
        sys.exit(EXIT_REFUSED)


def main(arguments: list[str]) -> None:
    """Prepare this process and become the program; does not return unless that fails."""
    parent_pid, death_signal, identity, cores, *argv = arguments
    try:
        if cores != "all":
            os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
        become(identity)
        die_with_parent(int(parent_pid), int(death_signal))
        # By full path: a search for the program would import more of a library that the identity may not reach.
        os.execv(argv[0], argv)  # noqa: S606 - becoming the program is what this script is for
    except OSError as error:
        print(f"launch: cannot run {argv[0]} as {identity}: {error}", file=sys.stderr)
        sys.exit(EXIT_REFUSED)


if __name__ == "__main__":
    main(sys.argv[1:])
