"""The machinery shared by the transition tables: one mapping per noun, one function that moves."""

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar

from benchfarm_core.errors import Conflict

S = TypeVar("S", bound=StrEnum)


def advance(table: Mapping[S, frozenset[S]], current: S, to: S) -> S:
    """Return ``to`` when the table allows the move, else raise Conflict naming both states."""
    if to not in table[current]:
        raise Conflict(f"{type(current).__name__} cannot go from {current} to {to}")
    return to


def final_states(table: Mapping[S, frozenset[S]]) -> frozenset[S]:
    """States that nothing leaves."""
    return frozenset(state for state, nexts in table.items() if not nexts)
