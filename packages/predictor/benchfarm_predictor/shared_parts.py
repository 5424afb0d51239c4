"""Fitted models that stand in several places of one predictor: its file holds each of them once.

A choice of candidates has one base with several corrections, and one donor in several ways. Written anew in each place
their features and arrays would be most of the file, and more than a file may have.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Final, Literal, Self

from pydantic import Field

from benchfarm_core.values import Value
from benchfarm_predictor.bounded import Bounded
from benchfarm_predictor.combined import Mean, Regional, Residual, Scaled, Stacked
from benchfarm_predictor.composition import KernelSum
from benchfarm_predictor.kernels import Floats
from benchfarm_predictor.models import Array, Arrays, Batch, Decoder, Meta, Model, checked

MAX_SHARED: Final = 4096
"""Of a file."""


class _PartMeta(Value):
    kind: Literal["part"] = "part"
    number: int = Field(ge=0, lt=MAX_SHARED)


@dataclass(frozen=True, eq=False)
class Part:
    """In a file, where a shared model stands; ``number``: its place among them. Whoever reads gets the model itself."""

    kind: ClassVar[str] = "part"
    number: int
    model: Model

    def predict(self, batch: Batch) -> Floats:
        """float64[n] in ms."""
        return self.model.predict(batch)

    def to_arrays(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """As ``Model`` says."""
        return {}, _PartMeta(number=self.number).model_dump(mode="json")

    @classmethod
    def from_arrays(cls, arrays: Arrays, meta: Meta, decoder: Decoder) -> Self:
        """As ``Model`` says."""
        del arrays  # they stand with the shared model
        number = checked(_PartMeta, meta).number
        return cls(number, decoder.shared(number))


@dataclass(frozen=True, eq=False)
class Extents:
    """How deep models are nested, and of how many they consist, each counted wherever it stands and looked at once.

    The models must be held for as long as this is: they are told apart by where they lie in memory.
    """

    known: dict[int, tuple[int, int]] = field(default_factory=dict)

    def of(self, model: Model) -> tuple[int, int]:
        """Depth and count, each 1 of a model that is made of no other."""
        found = self.known.get(id(model))
        if found is None:
            members = [self.of(each) for each in members_of(model)]
            depth = 1 + max((each for each, _ in members), default=0)
            found = self.known[id(model)] = depth, 1 + sum(count for _, count in members)
        return found


def members_of(model: Model) -> tuple[Model, ...]:
    """What a model is made of, in order; a model that stands twice comes twice."""
    match model:
        case Scaled():
            return (model.base,)
        case Residual():
            return (model.base, model.correction)
        case Bounded():
            return (model.ratio,)
        case Mean() | Stacked() | Regional():
            return model.members
        case KernelSum():
            return (*model.kernels.values(), *(() if model.fallback is None else (model.fallback,)))
        case _:
            return ()


def taken_apart(root: Model) -> tuple[Model, tuple[Model, ...]]:
    """The model with a ``Part`` wherever a model stands that it holds more than once, and these, each made only of such
    that come before it."""
    times: Counter[int] = Counter()
    _count(root, times)
    shared: list[Model] = []
    return _placed(root, times, {}, shared), tuple(shared)


def _count(model: Model, times: Counter[int]) -> None:
    times[id(model)] += 1
    if times[id(model)] == 1:
        for each in members_of(model):
            _count(each, times)


def _placed(model: Model, times: Counter[int], done: dict[int, Model], shared: list[Model]) -> Model:
    made = done.get(id(model))
    if made is None:
        made = with_members(model, [_placed(each, times, done, shared) for each in members_of(model)])
        if times[id(model)] > 1:
            shared.append(made)
            made = Part(len(shared) - 1, model)
        done[id(model)] = made
    return made


def with_members(model: Model, members: Sequence[Model]) -> Model:
    """The same, made of others: the inverse of ``members_of``."""
    match model:
        case Scaled():
            return replace(model, base=members[0])
        case Residual():
            return replace(model, base=members[0], correction=members[1])
        case Bounded():
            return replace(model, ratio=members[0])
        case Mean():
            return replace(model, members=tuple(members))
        case Stacked():
            return replace(model, members=tuple(members))
        case Regional():
            return replace(model, members=tuple(members))
        case KernelSum():
            kernels = dict(zip(model.kernels, members, strict=False))  # the fallback comes last
            return replace(model, kernels=kernels, fallback=None if model.fallback is None else members[-1])
        case _:
            return model
