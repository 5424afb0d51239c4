"""Architectures at the ends of their spaces, and small ones, for tests."""

from collections.abc import Callable

from benchfarm_core.architectures import Architecture, GeneValues
from benchfarm_workloads.spaces import Space, draws, spaces

NAMES = [one.name for one in spaces()]


def extreme(of: Space, pick: Callable[[tuple[int, ...]], int]) -> Architecture:
    """Every gene at the choice that ``pick`` takes: min or max."""
    known: dict[str, GeneValues] = {}
    for gene in of.genes:
        values = tuple(pick(choices) for choices in gene.places(known))
        known[gene.name] = values if gene.is_list else values[0]
    return of.validate(known)


def light(of: Space, seed: str = "light") -> Architecture:
    """Of a few drawn ones that with the fewest parameters."""
    return min(draws(of.name, seed, 8), key=lambda drawn: of.cost(drawn).parameters)
