"""The genes of a search space: what each may be, given the genes before it; how it is checked and drawn."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import contains

from benchfarm_core.architecture_columns import GeneColumn
from benchfarm_core.architectures import GeneValues

Choices = tuple[int, ...]
Known = Mapping[str, GeneValues]
"""Genes by name: those that stand before another, or all."""


class Misfit(Exception):
    """What a gene holds is not allowed; the text says what is."""


@dataclass(frozen=True, slots=True)
class Count:
    """How many places a list has: ``more``, and as many as the gene ``of`` adds up to."""

    of: str | None
    more: int

    def __call__(self, known: Known) -> int:
        return self.more + (0 if self.of is None else sum(integers(known, self.of)))

    def differing(self, lengths: Sequence[int], genes: Mapping[str, GeneColumn]) -> Sequence[int]:
        """The rows that have another number of places. genes: those of all rows that stand before."""
        if self.of is None and {*lengths} == {self.more}:
            return ()
        wanted = [self.more] * len(lengths)
        if self.of is not None:
            if genes[self.of].lengths is None:
                return range(len(lengths))
            wanted = [self.more + added for added in map(sum, genes[self.of].given)]
        if lengths == wanted:
            return ()
        return [row for row, (has, must) in enumerate(zip(lengths, wanted, strict=True)) if has != must]


@dataclass(frozen=True, slots=True)
class Gene:
    """One gene: an integer, or a list with one for each stage or block.

    places: the choices of each place, ascending, given the genes before. ``allowed``: all of that as a text for people.
    alike: the choices, where every place has the same ones, whatever the genes before are. count: how many places there
    are, where it follows from one gene at the most.
    """

    name: str
    unit: str
    meaning: str
    allowed: str
    is_list: bool
    places: Callable[[Known], tuple[Choices, ...]]
    alike: frozenset[int] | None = None
    count: Count | None = None

    def doubtful(self, genes: Mapping[str, GeneColumn], size: int) -> Sequence[int]:
        """The rows of which it is not certain at once that ``canonical`` takes them as they are; genes: this one and
        those before it, of ``size`` architectures."""
        column, alike = genes[self.name], self.alike
        if alike is None or (column.lengths is not None) != self.is_list:
            return range(size)
        found: list[int] = []
        if not column.occurring <= alike:
            found += [
                row
                for row, values in enumerate(column.given)
                if not (alike.issuperset(values) if self.is_list else values in alike)
            ]
        if column.lengths is not None:
            found += range(size) if self.count is None else self.count.differing(column.lengths, genes)
        return found

    def canonical(self, given: object, known: Known) -> GeneValues:
        """The gene's values as they are stored.

        Raises:
            Misfit: the value or one of its places, with what is allowed there.
        """
        if not self.is_list and self.alike is not None and type(given) is int and given in self.alike:
            return given
        places = self.places(known)
        if not self.is_list:
            return _checked(self.name, given, places[0])
        if not isinstance(given, list | tuple):
            raise Misfit(f"{self.name}={_shown(given)} must be a list: {self.allowed}")
        if len(given) != len(places):
            raise Misfit(f"{self.name} has {len(given)} values, not {len(places)}: {self.allowed}")
        if {*map(type, given)} <= {int} and (
            self.alike.issuperset(given) if self.alike is not None else all(map(contains, places, given))
        ):
            return tuple(given)  # nearly always: no text is made for what is right
        pairs = enumerate(zip(given, places, strict=True))
        return tuple(_checked(f"{self.name}[{at}]", value, choices) for at, (value, choices) in pairs)

    def draw(self, rng: random.Random, known: Known) -> GeneValues:
        """Values drawn uniformly, each place by itself."""
        drawn = tuple(rng.choice(choices) for choices in self.places(known))
        return drawn if self.is_list else drawn[0]


def number(name: str, unit: str, meaning: str, choices: Sequence[int]) -> Gene:
    """A gene of one integer."""
    only = (tuple(choices),)
    return Gene(name, unit, meaning, choices_text(choices), False, lambda _: only, frozenset(only[0]))


def number_by(name: str, unit: str, meaning: str, other: str, table: Mapping[int, Choices]) -> Gene:
    """A gene of one integer whose choices follow from another gene of one integer."""
    text = "; ".join(f"{choices_text(choices)} at {other} {value}" for value, choices in table.items())
    return Gene(name, unit, meaning, text, False, lambda known: (table[integer(known, other)],))


def numbers(name: str, unit: str, meaning: str, places: Sequence[Sequence[int]]) -> Gene:
    """A gene with a place for each stage."""
    fixed = tuple(map(tuple, places))
    texts = [choices_text(choices) for choices in fixed]
    text = (
        f"{len(fixed)} values, each {texts[0]}" if len(set(texts)) == 1 else f"{len(fixed)} values: {'; '.join(texts)}"
    )
    alike = frozenset(fixed[0]) if len(set(fixed)) == 1 else None
    return Gene(name, unit, meaning, text, True, lambda _: fixed, alike, Count(None, len(fixed)))


def per_block(
    name: str, unit: str, meaning: str, choices: Sequence[int], blocks: Callable[[Known], int], text: str
) -> Gene:
    """A gene with a place for each block that there is. blocks: their number; ``text`` says it."""
    each = tuple(choices)
    said = f"{choices_text(choices)}, {text}"
    count = blocks if isinstance(blocks, Count) else None
    return Gene(name, unit, meaning, said, True, lambda known: (each,) * blocks(known), frozenset(each), count)


def choices_text(choices: Sequence[int]) -> str:
    """For people: ``3, 5 or 7``, or ``128 to 224 in steps of 4``."""
    steps = {later - earlier for earlier, later in pairwise(choices)}
    if len(steps) == 1 and len(choices) > 4:
        step = steps.pop()
        return f"{choices[0]} to {choices[-1]}" + (f" in steps of {step}" if step > 1 else "")
    *most, last = map(str, choices)
    return f"{', '.join(most)} or {last}" if most else last


def integer(known: Known, name: str) -> int:
    """A gene of one integer."""
    values = known[name]
    if not isinstance(values, int):
        raise TypeError(f"the gene {name} holds a list")
    return values


def integers(known: Known, name: str) -> tuple[int, ...]:
    """A gene that is a list."""
    values = known[name]
    if isinstance(values, int):
        raise TypeError(f"the gene {name} holds one integer")
    return values


def blocks_of(name: str, *, more: int = 0) -> Count:
    """How many blocks there are: the sum of a gene with the depth of each stage, and ``more`` that always are."""
    return Count(name, more)


def _checked(place: str, given: object, choices: Choices) -> int:
    if not isinstance(given, int) or isinstance(given, bool) or given not in choices:
        raise Misfit(f"{place}={_shown(given)} must be {choices_text(choices)}")
    return given


def _shown(given: object) -> str:
    return repr(given)[:40]
