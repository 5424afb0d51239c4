"""How the rows of a measurement set are packed: columns of int32, then times as float64, little-endian, zstd."""

import sys
from array import array
from collections.abc import Sequence
from typing import Final

import zstandard

SET_FORMAT: Final = 1
_LEVEL: Final = 9

Configs = tuple[tuple[int, ...], ...]


def pack(configs: Sequence[Sequence[int]], latency_ms: Sequence[float]) -> bytes:
    """``configs``: n rows of w integers below 2**31; ``latency_ms``: n times. Column by column, which packs better."""
    sizes = array("i", [value for column in zip(*configs, strict=True) for value in column])
    return zstandard.ZstdCompressor(level=_LEVEL).compress(_little(sizes) + _little(array("d", latency_ms)))


def unpack(packed: bytes, rows: int, width: int) -> tuple[Configs, tuple[float, ...]]:
    """The same rows again. Raises ValueError where the bytes do not hold so many."""
    size_bytes = rows * (4 * width + 8)
    data = zstandard.ZstdDecompressor().decompress(packed, max_output_size=max(1, size_bytes))
    if len(data) != size_bytes:
        raise ValueError(f"packed rows hold {len(data)} bytes, not {size_bytes}")
    sizes, times = array("i"), array("d")
    sizes.frombytes(_swapped("i", data[: 4 * rows * width]))
    times.frombytes(_swapped("d", data[4 * rows * width :]))
    columns = [sizes[n * rows : (n + 1) * rows] for n in range(width)]
    return tuple(zip(*columns, strict=True)), tuple(times)


def _little(values: "array[int] | array[float]") -> bytes:
    return _swapped(values.typecode, values.tobytes())


def _swapped(typecode: str, data: bytes) -> bytes:
    """The bytes in the other order on big-endian machines, as they are elsewhere."""
    if sys.byteorder == "little":
        return data
    values = array(typecode)
    values.frombytes(data)
    values.byteswap()
    return values.tobytes()
