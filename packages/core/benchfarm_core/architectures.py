"""Architectures: what a search space draws, named by its genes. Which there are, `benchfarm_workloads.spaces` says."""

from collections.abc import Collection
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, ValidatorFunctionWrapHandler, WithJsonSchema, WrapValidator

from benchfarm_core.values import Value, at_most

GENE_MAX: Final = 2**31 - 1
MAX_NAME: Final = 40
"""Characters of a gene's name."""
MAX_GENES: Final = 50
"""Of one architecture; no space has that many."""
MAX_PLACES: Final = 200
"""Integers of one gene: one for each block, and no network has that many."""

GeneValues = int | tuple[int, ...]


def _gene_values(given: Any) -> GeneValues:
    if _is_integer(given):
        return int(given)
    if isinstance(given, list | tuple) and len(given) <= MAX_PLACES and _are_integers(given):
        return tuple(given)
    raise ValueError(f"a gene is an integer of at most {GENE_MAX}, or a list of at most {MAX_PLACES} of them")


def _is_integer(given: Any) -> bool:
    """A truth value is none, nor is a number beyond any size."""
    return type(given) is int and -GENE_MAX <= given <= GENE_MAX


def _are_integers(given: Collection[Any]) -> bool:
    """As `_is_integer` of each, in a third of the time: a question has a hundred thousand."""
    return not given or ({*map(type, given)} == {int} and min(given) >= -GENE_MAX and max(given) <= GENE_MAX)


def _at_once(given: Any, one_by_one: ValidatorFunctionWrapHandler) -> Any:
    """What is right at first sight is taken as it is: to go through genes one by one takes most of a question's
    reading. Everything else is looked at as always, so that it is refused in the same words."""
    if type(given) is not dict or len(given) > MAX_GENES:
        return one_by_one(given)
    found: dict[str, GeneValues] = {}
    for name, values in given.items():
        if type(name) is not str or len(name) > MAX_NAME or not name.isascii():
            return one_by_one(given)
        if type(values) is list and len(values) <= MAX_PLACES and _are_integers(values):
            found[name] = tuple(values)
        elif _is_integer(values):
            found[name] = values
        else:
            return one_by_one(given)
    return found


_INTEGER: Final = {"type": "integer", "minimum": -GENE_MAX, "maximum": GENE_MAX}
_SCHEMA: Final[dict[str, Any]] = {"anyOf": [_INTEGER, {"type": "array", "items": _INTEGER, "maxItems": MAX_PLACES}]}

Genes = Annotated[
    dict[
        Annotated[str, Field(max_length=MAX_NAME)],
        Annotated[GeneValues, BeforeValidator(_gene_values), WithJsonSchema(_SCHEMA)],
    ],
    Field(max_length=MAX_GENES),
    at_most(MAX_GENES),
    WrapValidator(_at_once),
]
"""By name: one integer, or one for each block or stage."""


class Architecture(Value):
    """One network of a search space. `genes` are canonical: all that the space has, in its order.

    Two architectures with the same genes are the same network, weights included. A space whose genes or networks
    change their meaning gets another version.
    """

    space: str = Field(max_length=40)
    space_version: int = Field(ge=1)
    genes: Genes


def genes_text(genes: Genes) -> str:
    """For people, and as the command takes them: ``hw=160 depth=2,3,4``."""
    return " ".join(f"{name}={_values_text(values)}" for name, values in genes.items())


def _values_text(values: GeneValues) -> str:
    if isinstance(values, int):
        return str(values)
    return ",".join(map(str, values)) + ("," if len(values) == 1 else "")
