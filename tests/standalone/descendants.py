"""The whole tree below a process, to see afterwards that nothing of it is left."""

from benchfarm_standalone.processes import parents


def descendants_of(pid: int) -> set[int]:
    """All processes below ``pid``, children and further, zombies among them."""
    parent_by_pid = parents()
    found: set[int] = set()
    front = {pid}
    while front:
        front = {child for child, parent in parent_by_pid.items() if parent in front} - found
        found |= front
    return found
