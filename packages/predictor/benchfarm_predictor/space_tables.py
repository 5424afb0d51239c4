"""Tables of search spaces: what a predictor takes from architectures, worked out for every block that they can have.

A predictor sees of an architecture only sums over its kernels. A table has these sums for each block of the space;
those of an architecture are added up from its blocks. They are whole numbers or multiples of a power of two, so that
they are exactly what the predictor itself would have summed up, and what follows is computed by the predictor's own
code: the numbers are the same to the last bit. Several sums share one 64-bit word, and are added at once.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from benchfarm_core.architectures import Architecture
from benchfarm_core.errors import InvalidRequest
from benchfarm_predictor.combined import Regional
from benchfarm_predictor.composition import PER_MS, KernelSum, TabledSum
from benchfarm_predictor.elementary import Column
from benchfarm_predictor.kernel_lists import KernelLists
from benchfarm_predictor.kernels import Floats, Ints
from benchfarm_predictor.models import Model
from benchfarm_predictor.predictions import Numbers, numbers
from benchfarm_predictor.predictor_file import Predictor
from benchfarm_predictor.shared_parts import members_of, with_members
from benchfarm_predictor.sums import raw_maxima, raw_values
from benchfarm_predictor.tabled_lists import KERNELS, OUTSIDE_BYTES, TabledLists
from benchfarm_predictor.trained_range import PARTS_OF_OCTAVE
from benchfarm_predictor.unknown_kernels import judged_types, unknown_of
from benchfarm_workloads.network_kernels import Part
from benchfarm_workloads.spaces.blocks import Block
from benchfarm_workloads.spaces.every_block import flat
from benchfarm_workloads.spaces.space import Space

WORD_BITS: Final = 63
MAX_BITS: Final = 53
"""Of one sum: more are not exact in float64."""
ROWS_AT_ONCE: Final = 16_384
"""So many that what is computed of them stays in the processor's cache, and that calls cost little."""
LOOKED_AT: Final = 200
"""Drawn architectures that say in which regions of the predictor a space lies."""
NOT_THERE: Final = -1
"""In an encoded architecture: a block that the table does not have."""

Bools = npt.NDArray[np.bool_]
Encoded = npt.NDArray[np.int32]
"""int32[slots, n]: the numbers of the blocks of each architecture, then that of the empty one."""


@dataclass(frozen=True)
class Packed:
    """Where a sum stands: the bits from ``shift`` on of a word, in units of one part in ``per`` of it."""

    name: str
    word: int
    shift: int
    bits: int
    per: float


class TableNumbers(NamedTuple):
    """Of some architectures what the predictor says; ``is_known``: bool[n], whether it knows all their kernels in the
    regions in which they lie. Of the others the numbers mean nothing."""

    rows: slice
    numbers: Numbers
    is_known: Bools


@dataclass(frozen=True, eq=False)
class SpaceTable:
    """The blocks of a space with their sums, and the predictor that takes them.

    Attributes:
        blocks: the numbers of each block, as ``flat`` has them; ``slots``: the most blocks of one architecture.
        predictor: with ``TabledSum`` where it sums up kernels.
        packed: the sums. words: int64[blocks + 1, words]; the last row is the empty block's.
        largest: by name float64[blocks + 1] of which the largest counts.
        regions: of each model of regions in the predictor, in the order in which they stand in it, those whose kernels
            it knows.
    """

    blocks: tuple[tuple[int, ...], ...]
    slots: int
    predictor: Predictor
    packed: tuple[Packed, ...]
    words: Ints
    largest: Mapping[str, Floats]
    regions: tuple[tuple[int, ...], ...]

    def encode(self, space: Space, architectures: Sequence[Architecture]) -> Encoded:
        """int32[slots, n]; ``NOT_THERE`` for blocks that are not in the table. Genes must be canonical."""
        codes = np.full((self.slots, len(architectures)), len(self.blocks), dtype=np.int32)
        for at, architecture in enumerate(architectures):
            numbers_ = [self._numbers.get(block, NOT_THERE) for block in space.plan.blocks(architecture.genes)]
            if len(numbers_) > self.slots:
                numbers_ = [NOT_THERE]
            codes[: len(numbers_), at] = numbers_
        return codes

    def lists(self, codes: Encoded) -> TabledLists:
        """The sums of encoded architectures of which every block is there."""
        places = codes.astype(np.intp, order="C")  # slot by slot, however they were picked
        total = np.take(self.words, places[0], axis=0)
        row = np.empty_like(total)
        for place in places[1:]:
            np.take(self.words, place, axis=0, out=row, mode="clip")
            total += row
        words = np.ascontiguousarray(total.T)
        totals: dict[str, Column] = {each.name: _unpacked(words[each.word], each) for each in self.packed}
        for name, values in self.largest.items():
            found = np.take(values, places[0])
            for place in places[1:]:
                np.maximum(found, np.take(values, place, mode="clip"), out=found)
            totals[name] = found
        return TabledLists(codes.shape[1], {}, totals=totals)

    def answers(self, codes: Encoded) -> Iterator[TableNumbers]:
        """What the predictor says of encoded architectures of which every block is there, some thousand at a time."""
        known = dict(zip(map(id, _regionals(self.predictor.model)), self.regions, strict=True))
        for start in range(0, codes.shape[1], ROWS_AT_ONCE):
            rows = slice(start, min(start + ROWS_AT_ONCE, codes.shape[1]))
            lists = self.lists(codes[:, rows])
            yield TableNumbers(rows, numbers(self.predictor, lists), _is_known(self.predictor.model, lists, known))

    @cached_property
    def _numbers(self) -> dict[Block, int]:
        return {(tuple(block[:4]), *block[4:]): number for number, block in enumerate(self.blocks)}


def compiled(
    predictor: Predictor, space: Space, blocks: Sequence[Block], parts: Sequence[Part], slots: int,
    drawn: Sequence[Architecture],
) -> SpaceTable:  # fmt: skip
    """The table of these blocks; ``parts``: the kernels of each. ``drawn``: some architectures of the space.

    Raises:
        InvalidRequest: ``export_impossible`` where the predictor does not know some kernels of the space, or numbers
            are too large to be exact.
    """
    foreign = sorted({name for part in parts for name in part.unknown})
    if foreign:
        raise _impossible(f"the catalogue has no kernel for {', '.join(foreign[:5])[:200]}")
    lists = KernelLists.of([part.kernels for part in parts])
    making = _Making(predictor, lists)
    model = making.tabled(predictor.model)
    if model is None:
        raise _never_seen(sorted(making.never_seen))
    packed, words = _packed(_sums(predictor, lists, making.sums), len(blocks), slots)
    largest = {name: np.append(values, 0.0) for name, values in _maxima(lists).items()}
    regions = tuple(making.regions[id(each)] for each in _regionals(model))
    made = replace(predictor, model=model)
    table = SpaceTable(tuple(map(flat, blocks)), slots, made, packed, words, largest, regions)
    _check_drawn(table, space, drawn)
    return table


def _check_drawn(table: SpaceTable, space: Space, drawn: Sequence[Architecture]) -> None:
    """Refuses a space that lies where the predictor does not know its kernels."""
    codes = table.encode(space, drawn)
    codes = codes[:, (codes != NOT_THERE).all(axis=0)]
    if codes.shape[1] and not any(found.is_known.any() for found in table.answers(codes)):
        raise _impossible(f"the predictor has learnt nothing of architectures like those of {space.name}")


@dataclass(frozen=True, eq=False)
class _Making:
    """A predictor's model without its kernels and without what it has for other kernels.

    Attributes:
        sums: the sums of kernels that are left, in the order of their numbers.
        regions: by the identity of a made model of regions those that it knows.
        never_seen: kernel types for which something was left out.
        done: by the identity of a model what became of it, and the model, so that no other has its identity.
    """

    predictor: Predictor
    lists: KernelLists
    sums: list[KernelSum] = field(default_factory=list)
    regions: dict[int, tuple[int, ...]] = field(default_factory=dict)
    never_seen: set[str] = field(default_factory=set)
    done: dict[int, tuple[Model | None, Model]] = field(default_factory=dict)

    def tabled(self, model: Model) -> Model | None:
        """The model with a ``TabledSum`` for each sum of kernels; None where it does not know the kernels."""
        if id(model) not in self.done:
            self.done[id(model)] = self._made(model), model
        return self.done[id(model)][0]

    def _made(self, model: Model) -> Model | None:
        if isinstance(model, Regional):
            return self._regional(model)
        members = () if isinstance(model, KernelSum) else members_of(model)
        if not members:
            return self._leaf(model)
        made = [self.tabled(each) for each in members]
        known = [each for each in made if each is not None]
        return with_members(model, known) if len(known) == len(made) else None

    def _leaf(self, model: Model) -> Model | None:
        strange = _strange(model, self.predictor, self.lists)
        self.never_seen.update(strange)
        if strange or not isinstance(model, KernelSum):
            return None if strange else model
        self.sums.append(model)
        return TabledSum(len(self.sums) - 1, model.factor, model.offset_ms, model.per_kernel_ms)

    def _regional(self, model: Regional) -> Regional | None:
        """Only with the regions all of whose members know the kernels, and with their members."""
        counts = model.weights != 0
        is_unknown = np.array([self.tabled(each) is None for each in model.members], dtype=bool)
        is_left = ~(counts & is_unknown).any(axis=1)
        if not is_left.any():
            return None
        used = [int(at) for at in np.flatnonzero(counts[is_left].any(axis=0))]
        members = tuple(each for at in used if (each := self.tabled(model.members[at])) is not None)
        weights = np.where(is_left[:, None], model.weights[:, used], 0.0)
        made = replace(model, members=members, weights=weights)
        self.regions[id(made)] = tuple(int(region) for region in np.flatnonzero(is_left))
        return made


def _strange(leaf: Model, predictor: Predictor, lists: KernelLists) -> set[str]:
    """Kernel types that the model counts as nothing, or has never seen; guesses of a sum are none of them."""
    if isinstance(leaf, KernelSum):
        return {name for name, entries in lists.by_type.items() if not leaf.predicts(entries.kernels)}
    return set(unknown_of(leaf, lists, predictor.trained).types)


def _regionals(model: Model) -> list[Regional]:
    """All models of regions in a model, each once, in the order in which they are met."""
    found: dict[int, Regional] = {}

    def look(one: Model) -> None:
        if isinstance(one, Regional):
            if id(one) in found:
                return
            found[id(one)] = one
        for each in members_of(one):
            look(each)

    look(model)
    return list(found.values())


def _is_known(model: Model, lists: TabledLists, regions: Mapping[int, tuple[int, ...]]) -> Bools:
    """Whether each row lies in known regions of every model that counts for it: bool[n]."""
    is_known = np.ones(len(lists), dtype=bool)
    if isinstance(model, Regional):
        places = model.places(lists)
        if len(regions[id(model)]) < len(model.weights):
            is_known = np.isin(places, regions[id(model)])
        for at, member in enumerate(model.members):
            if _regionals(member):
                is_known &= (model.weights[places, at] == 0) | _is_known(member, lists, regions)
        return is_known
    for member in members_of(model):
        if _regionals(member):
            is_known &= _is_known(member, lists, regions)
    return is_known


def _sums(predictor: Predictor, lists: KernelLists, sums: Sequence[KernelSum]) -> dict[str, tuple[Floats, float]]:
    """By name float64[blocks], and of one of them how many parts are a whole number."""
    found: dict[str, tuple[Floats, float]] = {KERNELS: (lists.kernel_counts, 1.0)}
    for entries in lists.by_type.values():
        for name, values in raw_values(entries.kernels).items():
            before = found[name][0] if name in found else np.zeros(len(lists))
            found[name] = before + lists.sums_of(entries, values), 1.0
    trained = predictor.trained
    if trained is not None:
        found[OUTSIDE_BYTES] = lists.sums(trained.outside_bytes), PARTS_OF_OCTAVE
    for number, each in enumerate(sums):
        named = TabledSum(number, 1.0, 0.0, 0.0)
        found[named.sum_name] = each.kernel_sums(lists), PER_MS
        found[named.guessed_name] = each.guessed_sums(lists, judged_types(trained)), PER_MS
    return found


def _maxima(lists: KernelLists) -> dict[str, Floats]:
    found: dict[str, Floats] = {}
    for entries in lists.by_type.values():
        for name, values in raw_maxima(entries.kernels).items():
            largest = lists.maxima_of(entries, values)
            found[name] = np.maximum(found.get(name, largest), largest)
    return found


def _packed(sums: Mapping[str, tuple[Floats, float]], blocks: int, slots: int) -> tuple[tuple[Packed, ...], Ints]:
    """Where each sum stands, the widest first, in the first word with room for it; and int64[blocks + 1, words]."""
    whole = {name: np.rint(values * per) for name, (values, per) in sums.items() if values.any()}
    bits = {name: int(values.max() * slots).bit_length() for name, values in whole.items()}
    if bits and max(bits.values()) > MAX_BITS:
        name = max(bits, key=lambda each: bits[each])
        raise _impossible(f"{name} of an architecture may have {bits[name]} bits, more than the {MAX_BITS} of a sum")
    packed: list[Packed] = []
    used: list[int] = []
    for name in sorted(whole, key=lambda each: -bits[each]):
        word = next((at for at, taken in enumerate(used) if taken + bits[name] <= WORD_BITS), len(used))
        used += [0] if word == len(used) else []
        packed.append(Packed(name, word, used[word], bits[name], sums[name][1]))
        used[word] += bits[name]
    words = np.zeros((blocks + 1, len(used)), dtype=np.int64)
    for each in packed:
        words[:blocks, each.word] += whole[each.name].astype(np.int64) << each.shift
    return tuple(packed), words


def _unpacked(word: Ints, place: Packed) -> Floats:
    found = ((word >> place.shift) & ((1 << place.bits) - 1)).astype(np.float64)
    if place.per != 1:
        found /= place.per
    return found


def _never_seen(names: Sequence[str]) -> InvalidRequest:
    detail = f"the predictor never saw kernels {', '.join(names[:5])[:200]} of this space; an adaptation to the space"
    return _impossible(f"{detail} teaches it: benchfarm adapt PLATFORM --space SPACE")


def _impossible(detail: str) -> InvalidRequest:
    return InvalidRequest(f"no table can be made: {detail}", code="export_impossible", field="space")
