"""Latencies of many items at once: asked in as few questions as their limits allow, read as columns."""

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, Final, overload

import httpx2
import msgpack
from pydantic import BaseModel, TypeAdapter, ValidationError

from benchfarm.calls import checked
from benchfarm.connection import Connection
from benchfarm_core.architectures import Architecture
from benchfarm_core.errors import BenchfarmError, InvalidRequest
from benchfarm_core.latency import (
    MAX_ANSWERS,
    MAX_ITEMS,
    LatencyAnswer,
    LatencyItem,
    LatencyRequest,
    LatencyResponse,
    Measuring,
    Pin,
)
from benchfarm_core.latency_columns import COLUMNS_TYPES, LatencyColumns, columns_of
from benchfarm_core.refusals import refusal_of
from benchfarm_core.workloads import (
    ArchitectureRequest,
    GeneratedModelRequest,
    KernelListRequest,
    KernelRequest,
    UploadRequest,
)

BATCH_BYTES: Final = 12 * 2**20
"""Of the items of one question; the farm takes a little more."""
BATCH_OBJECTS: Final = 390_000
"""JSON objects of these items, of which a listed kernel is two; the farm takes a little more."""
ANSWER_TIMEOUT_S: Final = 300.0
"""The largest questions take a farm that is busy a minute; who asks again meanwhile has it work twice."""

_ACCEPT: Final = {"Accept": f"{COLUMNS_TYPES[0]}, application/json;q=0.5", "Content-Type": "application/json"}
_ITEM: Final[TypeAdapter[LatencyItem]] = TypeAdapter(LatencyItem)
_REQUESTS: Final = (KernelRequest, GeneratedModelRequest, ArchitectureRequest, UploadRequest, KernelListRequest)

Item = LatencyItem | Architecture | Mapping[str, Any]
"""What a question's item is made of: a request, an architecture, or either as JSON has it."""


class Latencies(Sequence[LatencyAnswer]):
    """Answers, items outer, platforms inner. `numbers` reads them as columns; an answer is made when it is looked at.

    Attributes:
        platforms: the real keys, in the order of the question.
        pin: with it the same predictors answer again.
        measuring: with `on_miss` measure, what each question had queued.
    """

    def __init__(self, parts: Sequence[LatencyColumns], pin: Pin | None, measuring: Sequence[Measuring]) -> None:
        self._parts = parts
        self._starts = [0, *accumulate(part.count for part in parts)]
        self.platforms = parts[0].platforms if parts else ()
        self.pin = pin
        self.measuring = tuple(measuring)

    def __len__(self) -> int:
        return self._starts[-1]

    @overload
    def __getitem__(self, number: int) -> LatencyAnswer: ...
    @overload
    def __getitem__(self, number: slice) -> list[LatencyAnswer]: ...
    def __getitem__(self, number: int | slice) -> LatencyAnswer | list[LatencyAnswer]:
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(len(self)))]
        at = number + len(self) if number < 0 else number
        if not 0 <= at < len(self):
            raise IndexError(f"there are {len(self)} answers")
        part = bisect_right(self._starts, at) - 1
        row = self._parts[part].row(at - self._starts[part])
        item_no = at // len(self.platforms)
        return LatencyAnswer.model_validate({**row, "item_no": item_no, "field": _field(row, item_no)})

    def __iter__(self) -> Iterator[LatencyAnswer]:
        return map(self.__getitem__, range(len(self)))

    @property
    def items_count(self) -> int:
        """How many items were asked."""
        return len(self) // max(len(self.platforms), 1)

    def of_item(self, number: int) -> list[LatencyAnswer]:
        """An item's answers, one for each platform."""
        width = len(self.platforms)
        return self[number * width : (number + 1) * width]

    def numbers(self, name: str = "median_ms", *, platform: str | None = None) -> "array[float]":
        """A column as float64, NaN where there is no number; of one platform, by its real key, one for each item.

        numpy and torch take it without a copy: `numpy.asarray(found.numbers("median_ms"))`.

        Args:
            name: `median_ms`, `low_ms`, `high_ms`, `normalised_ms`, `coverage` or `age_s`.
            platform: None: all of them, platforms inner.

        Raises:
            InvalidRequest: there is no such column or platform.
        """
        if any(name not in part.numbers for part in self._parts):
            raise InvalidRequest(f"there is no column {name!r}", field="name")
        if platform is not None and platform not in self.platforms:
            raise InvalidRequest(f"{platform!r} was not asked; there are {', '.join(self.platforms)}", field="platform")
        joined = array("d")
        for part in self._parts:
            joined.extend(part.numbers[name])
        return joined if platform is None else joined[self.platforms.index(platform) :: len(self.platforms)]


def ask(
    connection: Connection, items: Iterable[Item], platforms: Iterable[str], fields: Mapping[str, Any]
) -> Latencies:
    """Every item on every platform, in as many questions as it takes. All of them are answered by the same predictors:
    those that the first was, or those of the given pin.

    Raises InvalidRequest for what no question can hold.
    """
    asked = [item_of(number, one) for number, one in enumerate(items)]
    question = checked(LatencyRequest, {"items": tuple(asked[:1]), "platforms": tuple(platforms), **fields})
    parts: list[LatencyColumns] = []
    measuring: list[Measuring] = []
    for batch in _batches(asked, len(set(question.platforms))):
        part, pin, had_measured = _ask_once(connection, question, batch)
        parts.append(part)
        measuring += [had_measured] if had_measured is not None else []
        # an alias may mean another platform by now: what answered first answers to the end
        question = question.model_copy(update={"pin": pin, "platforms": part.platforms})
    return Latencies(parts, question.pin, measuring)


def _field(row: Mapping[str, Any], item_no: int) -> str | None:
    """The part that is wrong, where `item_no` is the number of the answer's item among those of all questions."""
    own, among_all = f"items.{row['item_no']}", f"items.{item_no}"
    field: str | None = row["field"]
    return among_all + field.removeprefix(own) if field is not None and field.startswith(own) else field


def item_of(number: int, given: object) -> LatencyItem:
    """The `number`th item of a question as a request. Raises InvalidRequest for what is none."""
    if isinstance(given, Architecture):
        return ArchitectureRequest(space=given.space, genes=given.genes)
    if isinstance(given, _REQUESTS):
        return given
    wanted: object = given.model_dump() if isinstance(given, BaseModel) else given
    if isinstance(wanted, Mapping) and "kind" not in wanted and "space" in wanted:
        wanted = {"kind": "architecture", **wanted}
    try:
        return _ITEM.validate_python(wanted)
    except ValidationError as error:
        found = refusal_of(error.errors(), skip=1)
        place = f"items.{number}.{found.field}" if found.field else f"items.{number}"
        raise InvalidRequest(f"{place}: {found.detail}", field=place) from error


def _batches(items: Sequence[LatencyItem], width: int) -> Iterator[list[bytes]]:
    """The items as JSON, as many together as one question may hold on that many platforms.

    Kernels of kernel lists count as answers do, and may be summed up everywhere.
    """
    most = MAX_ANSWERS // max(width, 1)
    batch: list[bytes] = []
    size_bytes = size_objects = answers = 0
    for item in items:
        encoded = item.model_dump_json().encode()
        own = (len(encoded) + 1, encoded.count(b"{"), 1 + _kernels(item))
        size_bytes, size_objects, answers = size_bytes + own[0], size_objects + own[1], answers + own[2]
        is_full = len(batch) == MAX_ITEMS or answers > most
        if batch and (is_full or size_bytes > BATCH_BYTES or size_objects > BATCH_OBJECTS):
            yield batch
            batch, (size_bytes, size_objects, answers) = [], own
        batch.append(encoded)
    if batch:
        yield batch


def _kernels(item: LatencyItem) -> int:
    return len(item.kernels) if isinstance(item, KernelListRequest) else 0


def _ask_once(
    connection: Connection, question: LatencyRequest, items: Sequence[bytes]
) -> tuple[LatencyColumns, Pin | None, Measuring | None]:
    """Sending it twice measures nothing twice: the farm finds the first time's jobs."""
    begun = question.model_dump_json(exclude={"items"}).encode()[:-1]
    body = begun + b',"items":[' + b",".join(items) + b"]}"
    answer = connection.request(
        "POST", "/latency", content=body, headers=_ACCEPT, repeatable=True, read_timeout_s=ANSWER_TIMEOUT_S
    )
    if answer.headers.get("content-type", "").partition(";")[0] not in COLUMNS_TYPES:
        rows = connection.value(LatencyResponse, answer)
        return LatencyColumns.of(columns_of(map(vars, rows.answers))), rows.pin, rows.measuring
    return _unpacked(answer)


def _unpacked(answer: httpx2.Response) -> tuple[LatencyColumns, Pin | None, Measuring | None]:
    try:
        document = msgpack.unpackb(answer.content)
        pin, measuring = document["pin"], document["measuring"]
        return (
            LatencyColumns.of(document),
            None if pin is None else Pin.model_validate(pin),
            None if measuring is None else Measuring.model_validate(measuring),
        )
    except (ValueError, KeyError, TypeError, msgpack.UnpackException, InvalidRequest) as error:
        failure = BenchfarmError(f"the farm's columns are not understood: {error!r:.200}; is this client new enough?")
        failure.request_id = answer.headers.get("x-request-id")
        raise failure from error
