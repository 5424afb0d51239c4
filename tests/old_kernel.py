"""Makes a process of a test run as on a kernel without Landlock, namespaces and filters, as far as it can tell."""

OLD_KERNEL = """
import ctypes, os, sys
from benchfarm_core import seccomp
machine = seccomp._MACHINES[os.uname().machine]
unshare, create_ruleset = seccomp._KERNEL["unshare"][machine.column], 444
barred = [(seccomp._LOAD, 0, 0, seccomp._OFFSET_NUMBER)]
for number in (unshare, create_ruleset, machine.seccomp):
    barred += [(seccomp._JUMP_EQUAL, 0, 1, number), (seccomp._RETURN, 0, 0, seccomp._DENY)]
ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)
assert seccomp._install(machine, [*barred, (seccomp._RETURN, 0, 0, seccomp._ALLOW)])
"""
"""What such a process runs first; `benchfarm_core` must be on its path."""
