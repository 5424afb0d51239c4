"""Architectures of one search space gene by gene: thousands are read, checked and named at once instead of one by one.

A search asks for architectures of one space, and most of what a question took was spent on looking at each gene of each
of them. What is right at first sight is held here as it came; everything else is looked at item by item, so that it is
refused in the same words.
"""

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from typing import Any, Self, overload

from benchfarm_core.architectures import GENE_MAX, MAX_GENES, MAX_NAME, MAX_PLACES, GeneValues
from benchfarm_core.workloads import MAX_SPACE_NAME, ArchitectureRequest


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class GeneColumn:
    """One gene of n architectures.

    Attributes:
        given: n integers, or n lists of them.
        lengths: how many values each list has; None where they are integers.
        flat: int32, all values, those of one list behind those of the one before.
        occurring: the different values.
    """

    given: Sequence[Any]
    lengths: Sequence[int] | None
    flat: "array[int]"
    occurring: frozenset[int]

    @classmethod
    def of(cls, given: Sequence[Any]) -> Self | None:
        """None where they are not all integers, or all lists of them, as `Genes` takes them."""
        kinds = {*map(type, given)}
        if kinds == {tuple}:
            given, kinds = [*map(list, given)], {list}
        if kinds != {list}:
            return cls._of_integers(given, None, given) if kinds == {int} else None
        lengths = [*map(len, given)]
        if max(lengths) > MAX_PLACES:
            return None
        flat = [*chain.from_iterable(given)]
        return cls._of_integers(given, lengths, flat) if {*map(type, flat)} <= {int} else None

    @classmethod
    def _of_integers(cls, given: Sequence[Any], lengths: Sequence[int] | None, flat: Sequence[int]) -> Self | None:
        occurring = frozenset(flat)
        if occurring and not -GENE_MAX <= min(occurring) <= max(occurring) <= GENE_MAX:
            return None
        return cls(given, lengths, array("i", flat), occurring)


@dataclass(frozen=True, eq=False, repr=False)
class ArchitectureColumns(Sequence[ArchitectureRequest]):
    """n architectures of one space that name the same genes. As a sequence they are the items of a question, each of
    which is made when somebody looks at it.

    Attributes:
        genes: by name, of n architectures each.
    """

    space: str
    genes: Mapping[str, GeneColumn]
    size: int

    @classmethod
    def of_items(cls, items: Any) -> Self | None:
        """Items of a question as JSON has them. None where they are not architectures of one space that name the same
        genes, or where anything is wrong that a question is refused for."""
        if type(items) not in (list, tuple) or {*map(type, items)} != {dict} or {*map(len, items)} != {3}:
            return None
        try:
            kinds, spaces = ({*map(itemgetter(name), items)} for name in ("kind", "space"))
            genes = [*map(itemgetter("genes"), items)]
        except (KeyError, TypeError):  # a field is missing, or a list stands where a text must
            return None
        space = next(iter(spaces))
        if kinds != {"architecture"} or len(spaces) != 1 or not _is_name(space, MAX_SPACE_NAME):
            return None
        return cls.of(space, genes)

    @classmethod
    def of(cls, space: str, genes: Sequence[Any]) -> Self | None:
        """At least one. None as `of_items` says."""
        if {*map(type, genes)} != {dict} or {*map(len, genes)} != {len(genes[0])} or len(genes[0]) > MAX_GENES:
            return None
        columns: dict[str, GeneColumn] = {}
        for name in genes[0]:
            try:
                column = GeneColumn.of([*map(itemgetter(name), genes)])
            except KeyError:  # another one stands there
                return None
            if column is None or not _is_name(name, MAX_NAME):
                return None
            columns[name] = column
        return cls(space, columns, len(genes))

    def take(self, rows: Sequence[int]) -> Self:
        """Some of them, at least one, in that order."""
        if [*rows] == [*range(self.size)]:
            return self
        taken = {name: GeneColumn.of([*map(column.given.__getitem__, rows)]) for name, column in self.genes.items()}
        return type(self)(self.space, {name: each for name, each in taken.items() if each is not None}, len(rows))

    def requests(self) -> tuple[ArchitectureRequest, ...]:
        """All of them as they would be read one by one: what fields ask for was seen when the columns were read."""
        return tuple(ArchitectureRequest.model_construct(space=self.space, genes=genes) for genes in self.each())

    def each(self) -> Iterator[dict[str, GeneValues]]:
        """The genes of one after the other."""
        return map(self.genes_of, range(self.size))

    def genes_of(self, row: int) -> dict[str, GeneValues]:
        """Those of one: lists as tuples, as canonical ones are."""
        return {
            name: column.given[row] if column.lengths is None else tuple(column.given[row])
            for name, column in self.genes.items()
        }

    def __len__(self) -> int:
        return self.size

    @overload
    def __getitem__(self, at: int) -> ArchitectureRequest: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[ArchitectureRequest]: ...
    def __getitem__(self, at: int | slice) -> ArchitectureRequest | Sequence[ArchitectureRequest]:
        if isinstance(at, slice):
            return [self[row] for row in range(self.size)[at]]
        return ArchitectureRequest(space=self.space, genes=self.genes_of(range(self.size)[at]))


def _is_name(found: object, longest: int) -> bool:
    return type(found) is str and len(found) <= longest and found.isascii()
