"""Tables of search spaces: what a predictor takes from architectures, worked out for every block that they can have.

A predictor sees of an architecture only sums over its kernels. A table has these sums for each block of the space;
those of an architecture are added up from its blocks. They are whole numbers or multiples of a power of two, so that
they are exactly what the predictor itself would have summed up, and what follows is computed by the predictor's own
code: the numbers are the same to the last bit. Several sums share one 64-bit word, and are added at once.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

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
ROWS_AT_ONCE: Final = 8192
"""So many that what is computed of them stays in the processor's cache."""
LOOKED_AT: Final = 200
"""Drawn architectures that say in which regions of the predictor a space lies."""
NOT_THERE: Final = -1
"""In an encoded architecture: a block that the table does not have."""

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


@dataclass(frozen=True, eq=False)
class SpaceTable:
    """The blocks of a space with their sums, and the predictor that takes them.

    Attributes:
        blocks: the numbers of each block, as ``flat`` has them; ``slots``: the most blocks of one architecture.
        predictor: with ``TabledSum`` where it sums up kernels.
        packed: the sums. words: int64[blocks + 1, words]; the last row is the empty block's.
        largest: by name float64[blocks + 1] of which the largest counts.
        regions: of a model of regions those whose kernels it knows; None: of any other model.
    """

    blocks: tuple[tuple[int, ...], ...]
    slots: int
    predictor: Predictor
    packed: tuple[Packed, ...]
    words: Ints
    largest: Mapping[str, Floats]
    regions: tuple[int, ...] | None

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
        places = codes.astype(np.intp)
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

    def answers(self, codes: Encoded) -> Iterator[tuple[slice, Numbers]]:
        """What the predictor says of encoded architectures of which every block is there, some thousand at a time."""
        for start in range(0, codes.shape[1], ROWS_AT_ONCE):
            rows = slice(start, min(start + ROWS_AT_ONCE, codes.shape[1]))
            yield rows, numbers(self.predictor, self.lists(codes[:, rows]))

    def is_known(self, found: Numbers) -> npt.NDArray[np.bool_]:
        """Whether the predictor knows all kernels of an architecture in the region in which it lies: bool[n]."""
        if self.regions is None or found.places is None:
            return np.ones(len(found.latency_ms), dtype=bool)
        return np.isin(found.places, self.regions)

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
    model, regions = _known_part(predictor, lists)
    sums: list[KernelSum] = []
    made = replace(predictor, model=_tabled(model, sums, {}))
    packed, words = _packed(_sums(predictor, lists, sums), len(blocks), slots)
    largest = {name: np.append(values, 0.0) for name, values in _maxima(lists).items()}
    table = SpaceTable(tuple(map(flat, blocks)), slots, made, packed, words, largest, regions)
    _check_drawn(table, space, drawn)
    return table


def _check_drawn(table: SpaceTable, space: Space, drawn: Sequence[Architecture]) -> None:
    """Refuses a space that lies where the predictor does not know its kernels."""
    codes = table.encode(space, drawn)
    codes = codes[:, (codes != NOT_THERE).all(axis=0)]
    if codes.shape[1] and not any(table.is_known(found).any() for _, found in table.answers(codes)):
        raise _impossible(f"the predictor has learnt nothing of architectures like those of {space.name}")


def _known_part(predictor: Predictor, lists: KernelLists) -> tuple[Model, tuple[int, ...] | None]:
    """The model without what it has for regions of other kernels, and the regions that are left."""
    model = predictor.model
    strange = {id(leaf): sorted(_strange(leaf, predictor, lists)) for leaf in _leaves(model)}
    if not isinstance(model, Regional):
        names = sorted({name for each in strange.values() for name in each})
        if names:
            raise _never_seen(names)
        return model, None
    of_member = [sorted({name for leaf in _leaves(each) for name in strange[id(leaf)]}) for each in model.members]
    counts = model.weights != 0
    regions = tuple(
        region for region, used in enumerate(counts) if not any(of_member[at] for at in np.flatnonzero(used))
    )
    if not regions:
        raise _never_seen(sorted({name for each in of_member for name in each}))
    used = [int(at) for at in np.flatnonzero(counts[list(regions)].any(axis=0))]
    members = tuple(model.members[at] for at in used)
    weights = np.where(np.isin(np.arange(len(counts)), regions)[:, None], model.weights[:, used], 0.0)
    return replace(model, members=members, weights=weights), regions


def _strange(leaf: Model, predictor: Predictor, lists: KernelLists) -> set[str]:
    """Kernel types that the model counts as nothing, or has never seen; guesses of a sum are none of them."""
    if isinstance(leaf, KernelSum):
        return {name for name, entries in lists.by_type.items() if not leaf.predicts(entries.kernels)}
    return set(unknown_of(leaf, lists, predictor.trained).types)


def _leaves(model: Model) -> Iterator[Model]:
    """The models that look at kernel lists themselves."""
    members = () if isinstance(model, KernelSum) else members_of(model)
    if not members:
        yield model
    for each in members:
        yield from _leaves(each)


def _tabled(model: Model, sums: list[KernelSum], done: dict[int, Model]) -> Model:
    """The same with a ``TabledSum`` for each sum of kernels, which are added to ``sums``."""
    found = done.get(id(model))
    if found is None:
        if isinstance(model, KernelSum):
            found = TabledSum(len(sums), model.factor, model.offset_ms, model.per_kernel_ms)
            sums.append(model)
        else:
            found = with_members(model, [_tabled(each, sums, done) for each in members_of(model)])
        done[id(model)] = found
    return found


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
    whole = {name: np.rint(values * per).astype(np.int64) for name, (values, per) in sums.items() if values.any()}
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
        words[:blocks, each.word] += whole[each.name] << each.shift
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
