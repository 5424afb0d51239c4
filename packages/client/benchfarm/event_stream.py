"""Server-sent events: bytes in, events out."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, TypeVar

from pydantic import BaseModel, ValidationError

from benchfarm_core.errors import BenchfarmError
from benchfarm_core.events import Event

T = TypeVar("T", bound=BaseModel)
MAX_EVENT_BYTES: Final = 2**20


@dataclass(slots=True)
class _Frame:
    """The fields of one event as far as they have come."""

    data: list[bytes] = field(default_factory=list)
    size_bytes: int = 0

    def take(self, line: bytes) -> None:
        """Keep the data fields; number and kind stand in the data as well, so that nothing else is needed."""
        name, _, value = line.partition(b":")
        self.size_bytes += len(line)
        if self.size_bytes > MAX_EVENT_BYTES:
            raise BenchfarmError(f"an event of the farm is larger than {MAX_EVENT_BYTES} bytes")
        if name == b"data":
            self.data.append(value.removeprefix(b" "))


def parse_events(pieces: Iterable[bytes]) -> Iterator[Event | None]:
    """A job's events, as `parse_stream` gives them."""
    return parse_stream(pieces, Event)


def parse_stream(pieces: Iterable[bytes], kind: type[T]) -> Iterator[T | None]:
    """The events of a stream in order, and None for each sign of life between them: a moment to look at the clock.

    Raises BenchfarmError on data that is no event.
    """
    frame = _Frame()
    for line in _lines(pieces):
        if line.startswith(b":"):
            yield None
        elif line:
            frame.take(line)
        else:
            data, frame = frame.data, _Frame()
            yield _event(b"\n".join(data), kind) if data else None


def _event(data: bytes, kind: type[T]) -> T:
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise BenchfarmError(f"the farm sent an event that is not understood: {data[:120]!r}") from error


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Lines without their ends. Only LF and CR LF end one: JSON may hold U+2028, at which text decoders also split."""
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        if len(rest) > MAX_EVENT_BYTES:
            raise BenchfarmError(f"an event of the farm is larger than {MAX_EVENT_BYTES} bytes")
        for line in lines:
            yield line.removesuffix(b"\r")
