"""Makes a process of a test run as on a kernel that lacks what confines, as far as it can tell."""

_BAR = """
import ctypes, os, sys
from benchfarm_core import seccomp
machine = seccomp._MACHINES[os.uname().machine]
unshare, create_ruleset = seccomp._KERNEL["unshare"][machine.column], 444
barred = [(seccomp._LOAD, 0, 0, seccomp._OFFSET_NUMBER)]
for number in ({lacking}):
    barred += [(seccomp._JUMP_EQUAL, 0, 1, number), (seccomp._RETURN, 0, 0, seccomp._DENY)]
ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)
assert seccomp._install(machine, [*barred, (seccomp._RETURN, 0, 0, seccomp._ALLOW)])
"""

OLD_KERNEL = _BAR.format(lacking="unshare, create_ruleset, machine.seccomp")
"""What a process runs first to have no Landlock, namespaces or filters; `benchfarm_core` must be on its path."""

NO_FILTER = _BAR.format(lacking="machine.seccomp,")
"""The same where only filters of system calls are lacking, as on a machine whose calls nobody has numbered."""
