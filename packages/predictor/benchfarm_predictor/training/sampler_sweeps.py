"""Sweeps: configurations that differ in one column alone, where latency goes in steps.

Engines compute channels in blocks of 4 to 32: latency is a staircase, and its edges lie just above multiples of the
block. A sampler seldom draws both sides of an edge; a sweep does.
"""

from collections.abc import Sequence
from typing import Final

from benchfarm_core.errors import InvalidRequest
from benchfarm_predictor.training.sampler_encoding import valid_or_none
from benchfarm_workloads.columns import Config
from benchfarm_workloads.kernels import kernel_type

STAIR_STEPS: Final = (4, 8, 16, 32)
CONSECUTIVE: Final = 16
"""Values in a row that LitePred's probes enumerate (NSDI 2024, section 4.3)."""


def stairs(type_name: str, centre: Config, column: str, steps: Sequence[int] = STAIR_STEPS) -> list[Config]:
    """Around the edges next to the centre's own value: for each step the multiple below it and the one above, each with
    the values before and after. Distinct, valid and ascending in ``column``.

    Raises:
        InvalidRequest: the type has no such column of sizes.
    """
    own = _size(type_name, centre, column)
    edges = {multiple for step in steps for multiple in (own // step * step, (own // step + 1) * step)}
    return _varied(type_name, centre, column, {value + off for value in edges for off in (-1, 0, 1)})


def consecutive(type_name: str, centre: Config, column: str, count: int = CONSECUTIVE) -> list[Config]:
    """``count`` values in a row from the centre's own. Raises as ``stairs``."""
    own = _size(type_name, centre, column)
    return _varied(type_name, centre, column, set(range(own, own + count)))


def choices(type_name: str, centre: Config, column: str) -> list[Config]:
    """Every choice of a column that has choices, a window's say. Raises as ``stairs``."""
    found = next((one for one in kernel_type(type_name).columns if one.name == column), None)
    if found is None or not found.choices:
        raise InvalidRequest(f"{type_name} has no choices of {column!r}", field="column")
    return _valid(type_name, [{**centre, column: value} for value in found.choices])


def _size(type_name: str, centre: Config, column: str) -> int:
    found = next((one for one in kernel_type(type_name).columns if one.name == column), None)
    own = centre.get(column)
    if found is None or found.choices or not isinstance(own, int):
        raise InvalidRequest(f"{type_name} has no sizes of {column!r}", field="column")
    return own


def _varied(type_name: str, centre: Config, column: str, values: set[int]) -> list[Config]:
    return _valid(type_name, [{**centre, column: value} for value in sorted(values)])


def _valid(type_name: str, configs: Sequence[Config]) -> list[Config]:
    return [config for given in configs if (config := valid_or_none(type_name, given)) is not None]
