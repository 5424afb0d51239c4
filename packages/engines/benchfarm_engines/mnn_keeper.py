"""Keepers: operators that converted files carry so that MNN leaves their inputs alone (see ``mnn_convert``)."""

from typing import Final

_PREFIX: Final = "benchfarm_keeper_"


def keeper_name(number: int) -> str:
    """The name of the keeper of an input, by its number."""
    return f"{_PREFIX}{number}"


def is_keeper(operator: str) -> bool:
    """Whether an operator that MNN executes is there for its input's sake alone."""
    return operator.startswith(_PREFIX)
