"""Questions as batches: thousands of kernels and models at once, each different one once, whatever platforms are asked.

A question holds items of several *subjects*: kernel types, and whole models. The items of one subject are one sheet: a
batch, and where in it each item stands. Sheets belong to no platform: features are made once for all predictors that
answer from one, and the kernels of whole models are predicted once, however many models hold them.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from benchfarm_core.architecture_columns import ArchitectureColumns
from benchfarm_core.errors import InvalidRequest
from benchfarm_predictor.kernel_lists import CountedKernel, KernelLists
from benchfarm_predictor.kernels import Kernels
from benchfarm_predictor.known_blocks import KnownBlocks
from benchfarm_predictor.models import Batch, damaged
from benchfarm_predictor.predictions import MAX_LISTED, Predictions, answer
from benchfarm_predictor.predictor_file import WHOLE_MODEL, Predictor
from benchfarm_workloads.columns import Scalar
from benchfarm_workloads.network_kernels import NetworkKernels, Part

KernelItem = tuple[int, str, Mapping[str, Scalar]]
"""The item's number, kernel type, configuration."""
ModelItem = tuple[int, Sequence[Part]]
"""The item's number, and the parts of the model: kernels, and what is no kernel of the catalogue by name. Parts that
are one object are looked at once."""

_UNKNOWN: Final = "unknown "
"""Begins the foreign kernel type, without columns, that stands for what is no kernel of the catalogue."""


@dataclass(frozen=True, eq=False)
class Sheet:
    """Items of one subject, a kernel type or ``WHOLE_MODEL``. ``rows``: each item's row of the batch, by its number."""

    subject: str
    batch: Batch
    rows: Mapping[int, int]


@dataclass(slots=True)
class _Column:
    """The kernels of one type while items are read; equal configurations are one."""

    places: dict[tuple[Scalar, ...], int] = field(default_factory=dict)
    configs: list[Mapping[str, Scalar]] = field(default_factory=list)
    rows: dict[int, int] = field(default_factory=dict)

    def add(self, number: int, config: Mapping[str, Scalar]) -> None:
        key = (*config, *config.values())
        place = self.places.setdefault(key, len(self.configs))
        if place == len(self.configs):
            self.configs.append(config)
        self.rows[number] = place


def kernel_sheets(items: Iterable[KernelItem]) -> dict[str, Sheet]:
    """A sheet for each kernel type that occurs.

    Raises:
        InvalidRequest: ``kernel_out_of_range`` as ``Kernels.of_configs``.
    """
    columns: dict[str, _Column] = {}
    for number, type_name, config in items:
        columns.setdefault(type_name, _Column()).add(number, config)
    return {name: Sheet(name, Kernels.of_configs(name, each.configs), each.rows) for name, each in columns.items()}


def model_sheet(items: Iterable[ModelItem]) -> Sheet:
    """Whole models, a row each; one is held at a time, and numbers differ.

    What is no kernel of the catalogue is counted as a foreign kernel, of unknown costs.

    Raises:
        InvalidRequest: ``kernel_out_of_range`` as ``KernelLists.of_blocks``.
    """
    rows: dict[int, int] = {}

    def lists() -> Iterator[Sequence[Part]]:
        for number, parts in items:
            rows[number] = len(rows)
            yield parts

    return Sheet(WHOLE_MODEL, KernelLists.of_blocks(lists(), kernels_of), rows)


def space_sheet(
    known: KnownBlocks, kernels: NetworkKernels, numbers: Sequence[int], architectures: ArchitectureColumns
) -> Sheet:
    """Architectures of one space, a row each; ``numbers``: theirs, which differ. ``kernels``: those of the engine's
    rules. What is known of their blocks is as ``model_sheet`` makes it, and kept from question to question."""
    return Sheet(WHOLE_MODEL, known.lists(kernels, architectures), dict(zip(numbers, range(len(numbers)), strict=True)))


def without_kernels(sheet: Sheet) -> list[int]:
    """The rows of ``space_sheet`` with no kernel of the catalogue, by which nothing can be said of them."""
    lists = sheet.batch
    assert isinstance(lists, KernelLists)
    assert lists.blocks is not None  # it joins blocks
    held = np.zeros(len(lists.blocks.lists))
    for name, entries in lists.blocks.lists.by_type.items():
        if not name.startswith(_UNKNOWN):
            held[entries.owner] = 1.0
    rows: list[int] = np.flatnonzero(lists.blocks.largest(held) == 0).tolist()
    return rows


def kernels_of(part: Part) -> Sequence[CountedKernel]:
    """The kernels of a part, and what stands for those that the catalogue does not have."""
    return [*part.kernels, *foreign_kernels(part.unknown)] if part.unknown else part.kernels


def foreign_kernels(unknown: Iterable[str]) -> list[CountedKernel]:
    """What stands in kernel lists for operators, and for kernels of unknown size, that the catalogue does not have."""
    return [(_UNKNOWN + name, {}, count) for name, count in Counter(unknown).items()]


def answer_sheet(predictor: Predictor, sheet: Sheet, listed: int = MAX_LISTED) -> Predictions:
    """The predictor's answer for each row of the sheet; unknown operators by their own names. ``listed`` as ``answer``.

    Raises:
        InvalidRequest: ``predictor_file_foreign`` when the predictor is of another subject, ``predictor_file_damaged``
            when it predicts what is no number.
    """
    found = predictor.header.kernel_type
    if found != sheet.subject:
        detail = f"the predictor is of {found[:60]}, not of {sheet.subject[:60]}"
        raise InvalidRequest(detail, code="predictor_file_foreign")
    predictions = answer(predictor, sheet.batch, listed)
    if not all(np.isfinite(each).all() for each in (predictions.low_ms, predictions.high_ms)):
        raise damaged("what it predicts is no number")
    if isinstance(sheet.batch, Kernels) or not any(name.startswith(_UNKNOWN) for name in sheet.batch.by_type):
        return predictions
    named = tuple(tuple(name.removeprefix(_UNKNOWN) for name in names) for names in predictions.unknown)
    return replace(predictions, unknown=named)
