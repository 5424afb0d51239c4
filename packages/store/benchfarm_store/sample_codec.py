"""How the samples of one measurement are packed: differences, byte planes, zstd.

Block times are kept at a resolution of 1/4096 of the shortest block (0.012 % at most off, far below any
noise): a result then stays within its 2 KB. Summaries are derived from what was packed, so deriving them
again gives the same numbers. Millisecond fields are kept to the nanosecond.
"""

import json
import math
import struct
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, chain, islice
from typing import Any, Final, NamedTuple

import zstandard

from benchfarm_core.measurements import LaunchSamples, MemorySample, NodeSample, SideSamples
from benchfarm_core.quality import CanaryName

FORMAT: Final = 1
PAIR_MARK: Final = b"P1"
"""What the samples of a pair begin with; those of one workload begin with zstd's own mark."""
PAIR_FIELDS: Final = ("rounds", "threads")
EXTRAS_MARK: Final = b"X1"
"""What samples with memory sizes or operators begin with; the times follow as they are elsewhere."""
RESOLUTION_BITS: Final = 12
LEVEL: Final = 12
MAX_UNPACKED_BYTES: Final = 64 * 2**20
CANARIES: Final[tuple[CanaryName, ...]] = ("sgemm", "mobilenet")
NO_GATE: Final = 2**64 - 1
_HEAD: Final = 4
_COUNTS: Final = 6
_TIMES: Final = 4
_NO_EXTRAS: Final[dict[str, Any]] = {"beside": None, "memory": None, "nodes": ()}
"""Named where a launch is made, because looking up a default takes as long as all the rest."""


class Packed(NamedTuple):
    """The packed launches of one measurement, and those launches as `decode` gives them back."""

    data: bytes
    launches: tuple[LaunchSamples, ...]


def pack(launches: Sequence[LaunchSamples]) -> Packed:
    """Pack the launches of one measurement; times alone are not unpacked for it, which takes as long as packing."""
    data = encode(launches)
    if any(one.beside is not None or one.memory is not None or one.nodes for one in launches):
        return Packed(data, decode(data))
    step = _step([block for launch in launches for block in launch.blocks_ns])
    ordered = sorted(launches, key=lambda launch: launch.launch_no)
    return Packed(data, tuple(_as_read(launch, step) for launch in ordered))


def _as_read(launch: LaunchSamples, step: int) -> LaunchSamples:
    """What is left of a launch by its times' resolution."""
    open_ms, first_ms, timed_ms, canary_ms = (round(ms * 1e6) / 1e6 for ms in _times_ms(launch))
    return launch.model_copy(
        update={
            "blocks_ns": tuple((block + step // 2) // step * step for block in launch.blocks_ns),
            "open_ms": open_ms,
            "first_ms": first_ms,
            "timed_ms": timed_ms,
            "canary_ms": canary_ms,
        }
    )


def encode(launches: Sequence[LaunchSamples]) -> bytes:
    """Pack the launches of one measurement; of a pair, both sides one behind the other."""
    extras = {launch.launch_no: _extras(launch) for launch in launches if launch.memory or launch.nodes}
    if not extras:
        return _encode_times(launches)
    packed = _compress(json.dumps(extras, separators=(",", ":")).encode())
    return EXTRAS_MARK + struct.pack("<I", len(packed)) + packed + _encode_times(launches)


def _extras(launch: LaunchSamples) -> dict[str, Any]:
    """What some protocols find beside times."""
    return launch.model_dump(mode="json", include={"memory", "nodes"})


def _encode_times(launches: Sequence[LaunchSamples]) -> bytes:
    sides = [_b_side(launch.launch_no, launch.beside) for launch in launches if launch.beside is not None]
    if not sides:
        return _encode(launches)
    rounds = [len(sides), *(n for launch in _paired(launches) for n in _rounds(launch))]
    of_a = _encode([launch.model_copy(update={"beside": None}) for launch in launches])
    parts = (_compress(_planes(rounds)), of_a, _encode(sides))
    return PAIR_MARK + struct.pack("<II", *map(len, parts[:2])) + b"".join(parts)


def _paired(launches: Sequence[LaunchSamples]) -> list[LaunchSamples]:
    """Those with a b side, in launch order."""
    return sorted((one for one in launches if one.beside is not None), key=lambda launch: launch.launch_no)


def _rounds(launch: LaunchSamples) -> list[int]:
    assert launch.beside is not None
    return [launch.launch_no, launch.beside.threads, len(launch.beside.rounds), *launch.beside.rounds]


def _b_side(launch_no: int, beside: SideSamples) -> LaunchSamples:
    """A b side as a launch of its own; the canaries stay with the a side."""
    fields = {name: value for name, value in dict(beside).items() if name not in PAIR_FIELDS}
    return LaunchSamples.model_construct(launch_no=launch_no, canaries={}, canary_ms=0.0, **fields)


def _encode(launches: Sequence[LaunchSamples]) -> bytes:
    ordered = sorted(launches, key=lambda launch: launch.launch_no)
    step = _step([block for launch in ordered for block in launch.blocks_ns])
    blocks = [(block + step // 2) // step for launch in ordered for block in launch.blocks_ns]
    offset, packed = _smaller(blocks)
    pairs = [pair for launch in ordered for name in CANARIES for pair in launch.canaries.get(name, ())]
    sequences: tuple[Sequence[int], ...] = (
        [FORMAT, step, offset, len(ordered), *chain.from_iterable(map(_counts, ordered))],
        [round(ms * 1e6) for launch in ordered for ms in _times_ms(launch)],
        [_gate_bits(launch.gate_relative_l2) for launch in ordered],
        packed,
        [delay for launch in ordered for delay in launch.delays_ns],
        [count for launch in ordered for count in launch.switches],
        _deltas(before for before, _ in pairs),
        _deltas(canary_ns for _, canary_ns in pairs),
    )
    return _compress(b"".join(map(_planes, sequences)))


def decode(data: bytes) -> tuple[LaunchSamples, ...]:
    """The launches of packed samples, in launch order. Raises ValueError for a format of another version."""
    if not data.startswith(EXTRAS_MARK):
        return _decode_times(data)
    begin = len(EXTRAS_MARK) + struct.calcsize("<I")
    end = begin + struct.unpack("<I", data[len(EXTRAS_MARK) : begin])[0]
    extras = json.loads(_decompress(data[begin:end]))
    return tuple(_with_extras(launch, extras.get(str(launch.launch_no))) for launch in _decode_times(data[end:]))


def _with_extras(launch: LaunchSamples, extras: dict[str, Any] | None) -> LaunchSamples:
    if extras is None:
        return launch
    memory = MemorySample(**extras["memory"]) if extras["memory"] else None
    nodes = tuple(NodeSample.model_construct(**node) for node in extras["nodes"])
    return launch.model_copy(update={"memory": memory, "nodes": nodes})


def _decode_times(data: bytes) -> tuple[LaunchSamples, ...]:
    if not data.startswith(PAIR_MARK):
        return _decode(data)
    head = len(PAIR_MARK) + struct.calcsize("<II")
    lengths = struct.unpack("<II", data[len(PAIR_MARK) : head])
    bounds = list(accumulate(lengths, initial=head))
    (numbers,) = _sequences(_decompress(data[head : bounds[1]]))
    of_a, of_b = _decode(data[bounds[1] : bounds[2]]), _decode(data[bounds[2] :])
    sides, at = {side.launch_no: side for side in of_b}, 1
    found: dict[int, SideSamples] = {}
    for _ in range(numbers[0]):
        launch_no, threads, count = numbers[at : at + 3]
        found[launch_no] = _beside(sides[launch_no], tuple(numbers[at + 3 : at + 3 + count]), threads)
        at += 3 + count
    return tuple(launch.model_copy(update={"beside": found.get(launch.launch_no)}) for launch in of_a)


def _beside(side: LaunchSamples, rounds: tuple[int, ...], threads: int) -> SideSamples:
    fields = {name: getattr(side, name) for name in SideSamples.model_fields if name not in PAIR_FIELDS}
    return SideSamples.model_construct(rounds=rounds, threads=threads, **fields)


def _compress(plain: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=LEVEL).compress(plain)


def _decompress(data: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompress(data, max_output_size=MAX_UNPACKED_BYTES)


def _decode(data: bytes) -> tuple[LaunchSamples, ...]:
    counts, times, gates, packed, delays, switches, before, canaries = _sequences(_decompress(data))
    version, step, offset, launches = counts[:_HEAD]
    if version != FORMAT:
        raise ValueError(f"samples of format {version} are not known here")
    blocks = [value + offset - 1 for value in packed] if offset else _sums(packed)
    block_times, waits, pre = iter([block * step for block in blocks]), iter(delays), iter(switches)
    pairs = zip(_sums(before), _sums(canaries), strict=True)
    return tuple(
        _launch(
            counts[_HEAD + n * _COUNTS : _HEAD + (n + 1) * _COUNTS],
            [ns / 1e6 for ns in times[n * _TIMES : (n + 1) * _TIMES]],
            gates[n],
            (block_times, waits, pre),
            pairs,
        )
        for n in range(launches)
    )


def _step(blocks_ns: Sequence[int]) -> int:
    """The resolution in ns; what was rounded once has a common divisor, which keeps it exactly."""
    step = max(1, min(blocks_ns) >> RESOLUTION_BITS)
    common = math.gcd(*blocks_ns)
    return common if 2 * common >= step else step


def _smaller(blocks: Sequence[int]) -> tuple[int, list[int]]:
    """Block times above the shortest (and that plus one), or as differences (and 0): what has fewer bits."""
    low = min(blocks)
    above, deltas = [block - low for block in blocks], _deltas(blocks)
    if sum(map(int.bit_length, above)) <= sum(map(int.bit_length, deltas)):
        return low + 1, above
    return 0, deltas


def _counts(launch: LaunchSamples) -> list[int]:
    """Whole numbers of a launch; a canary's count is one more than its runs, 0 where it is absent."""
    runs = [len(launch.canaries[name]) + 1 if name in launch.canaries else 0 for name in CANARIES]
    return [launch.launch_no, launch.iterations, launch.warmup_runs, len(launch.blocks_ns), *runs]


def _times_ms(launch: LaunchSamples) -> tuple[float, float, float, float]:
    return launch.open_ms, launch.first_ms, launch.timed_ms, launch.canary_ms


def _gate_bits(gate: float | None) -> int:
    return NO_GATE if gate is None else int(struct.unpack("<Q", struct.pack("<d", gate))[0])


def _launch(
    counts: Sequence[int],
    times_ms: Sequence[float],
    gate: int,
    blocks: tuple[Iterator[int], Iterator[int], Iterator[int]],
    pairs: Iterator[tuple[int, int]],
) -> LaunchSamples:
    launch_no, iterations, warmup_runs, count, *runs = counts
    open_ms, first_ms, timed_ms, canary_ms = times_ms
    canaries = {name: tuple(islice(pairs, n - 1)) for name, n in zip(CANARIES, runs, strict=True) if n}
    blocks_ns, delays_ns, switches = (tuple(islice(values, count)) for values in blocks)
    return LaunchSamples.model_construct(
        launch_no=launch_no,
        iterations=iterations,
        blocks_ns=blocks_ns,
        delays_ns=delays_ns,
        switches=switches,
        canaries=canaries,
        open_ms=open_ms,
        first_ms=first_ms,
        warmup_runs=warmup_runs,
        gate_relative_l2=None if gate == NO_GATE else struct.unpack("<d", struct.pack("<Q", gate))[0],
        timed_ms=timed_ms,
        canary_ms=canary_ms,
        **_NO_EXTRAS,
    )


def _deltas(values: Iterable[int]) -> list[int]:
    """Differences between neighbours, zigzag: small numbers of either sign become small numbers."""
    deltas: list[int] = []
    last = 0
    for value in values:
        delta = value - last
        deltas.append(delta << 1 if delta >= 0 else (-delta << 1) - 1)
        last = value
    return deltas


def _sums(deltas: Iterable[int]) -> list[int]:
    return list(accumulate(d >> 1 if not d & 1 else -((d + 1) >> 1) for d in deltas))


def _planes(values: Sequence[int]) -> bytes:
    """Count, then all lowest bytes, all second bytes, and so on: high planes are nearly all zero."""
    planes = max(1, (max(values, default=0).bit_length() + 7) // 8)
    if planes == 1:
        return struct.pack("<IB", len(values), planes) + bytes(values)
    wide = array("Q", values)
    if sys.byteorder == "big":
        wide.byteswap()
    raw = wide.tobytes()
    return struct.pack("<IB", len(values), planes) + b"".join(raw[plane::8] for plane in range(planes))


def _sequences(unpacked: bytes) -> list[list[int]]:
    sequences: list[list[int]] = []
    at = 0
    while at < len(unpacked):
        count, planes = struct.unpack_from("<IB", unpacked, at)
        at += 5
        raw = bytearray(count * 8)
        for plane in range(planes):
            raw[plane::8] = unpacked[at + plane * count : at + (plane + 1) * count]
        at += planes * count
        wide = array("Q", bytes(raw))
        if sys.byteorder == "big":
            wide.byteswap()
        sequences.append(wide.tolist())
    return sequences
