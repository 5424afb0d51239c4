"""What fills the inputs of an uploaded model, whatever its format, and how much they may be."""

import math
from collections.abc import Mapping, Sequence
from typing import Final

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.workloads import Dtype, Fill, InputSpec, IntsFill, NormalFill
from benchfarm_workloads.verdicts import shown

MAX_INPUTS: Final = 64

_DEFAULT_BELOW: Final[dict[Dtype, int]] = {"int8": 128, "uint8": 256, "int32": 2, "int64": 2, "bool": 2}
"""Bytes are likely pixels; wider integers are likely indices, and 0 and 1 are inside almost any table."""

_ITEM_BYTES: Final[dict[Dtype, int]] = {"float64": 8, "int64": 8, "float32": 4, "int32": 4, "float16": 2}


def fill_of(name: str, dtype: Dtype, index: int, fills: Mapping[str, Fill]) -> Fill:
    """What fills one input: as asked for, else seeded normal numbers or small integers. Raises InvalidRequest."""
    fill = fills.get(name) or _default_fill(dtype, index)
    _refuse_fill(name, dtype, fill)
    return fill


def default_fill_reasons(specs: Sequence[InputSpec], fills: Mapping[str, Fill]) -> tuple[str, ...]:
    """A note for each integer input whose fill was chosen here, because the choice may not be typical."""
    return tuple(
        f"input {shown(spec.name)} is filled with integers below {spec.fill.below}; give its fill if the model "
        "sees others"
        for spec in specs
        if isinstance(spec.fill, IntsFill) and spec.name not in fills
    )


def refuse_large(specs: Sequence[InputSpec], max_bytes: int) -> None:
    """Raises InvalidRequest ``model_too_large_for_inspection`` for inputs beyond a limit together."""
    size_bytes = sum(math.prod(spec.shape) * _ITEM_BYTES.get(spec.dtype, 1) for spec in specs)
    if size_bytes > max_bytes:
        raise InvalidRequest(
            f"the inputs take {size_bytes} bytes, the limit is {max_bytes}; bind smaller dimensions",
            code="model_too_large_for_inspection",
        )


def refuse_leftovers(field: str, noun: str, unknown: set[str], known: list[str]) -> None:
    """Raises InvalidRequest for what was given and fits no part of the model."""
    if unknown:
        names = ", ".join(shown(name) for name in dict.fromkeys(known[:10])) or "none"
        raise InvalidRequest(f"no {noun} {shown(min(unknown))} to bind; the model has {names}", field=field)


def _default_fill(dtype: Dtype, seed: int) -> Fill:
    below = _DEFAULT_BELOW.get(dtype)
    return NormalFill(seed=seed) if below is None else IntsFill(below=below, seed=seed)


def _refuse_fill(name: str, dtype: Dtype, fill: Fill) -> None:
    if isinstance(fill, NormalFill) and dtype in _DEFAULT_BELOW:
        raise InvalidRequest(f"input {shown(name)} is {dtype}: fill it with ints, not normal", field="fills")
    highest = {"int8": 128, "uint8": 256, "bool": 2}.get(dtype)
    if isinstance(fill, IntsFill) and highest is not None and fill.below > highest:
        raise InvalidRequest(f"input {shown(name)} is {dtype}: below={fill.below} is above {highest}", field="fills")
