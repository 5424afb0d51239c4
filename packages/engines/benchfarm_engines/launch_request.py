"""The launch request: the one JSON document that a runner reads, checked before anything acts on it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from benchfarm_core.confine import Limits
from benchfarm_engines.edges import Edge, Edges

CONTRACT: Final = 2
MAX_REQUEST_BYTES: Final = 32 * 1024**2
_DTYPES: Final = ("float32", "float16", "float64", "int8", "uint8", "int32", "int64", "bool")
_MAX_DIMENSIONS: Final = 8
_PURPOSES: Final = ("latency", "memory", "profile")


class BadRequest(ValueError):
    """The request is not what the contract says; the text names the place."""


@dataclass(frozen=True)
class InputSpec:
    """One model input: dtype and shape fixed, ``fill`` either normal (seed) or ints (below, seed)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    fill: Mapping[str, Any]


@dataclass(frozen=True)
class Gate:
    """What the outputs are held against: an .npz, and the largest relative L2 distance from it."""

    reference: str
    max_relative_l2: float


@dataclass(frozen=True)
class Visit:
    """One workload of the batch.

    inputs: the workload's; edges: how the artifact's tensors differ from them, None where they do not. gates: the
    first is the workload's own reference, whose distance is reported. sites: of a carrier, all its layers in the order
    of execution; `visit` is then that of its first wanted site. twice: the carrier that holds the one wanted kernel
    once more, where it is timed by difference.
    """

    visit: int
    artifact: str
    format: str
    inputs: tuple[InputSpec, ...]
    edges: Edges | None
    gates: tuple[Gate, ...]
    beside: Beside | None = None
    sites: tuple[Site, ...] = ()
    twice: Visit | None = None

    @property
    def numbers(self) -> tuple[int, ...]:
        """What is told of one by one: the wanted sites, or the one workload."""
        return tuple(site.visit for site in self.sites if site.visit is not None) or (self.visit,)


@dataclass(frozen=True)
class Site:
    """A layer of a carrier. visit: of which wanted kernel its time is; None for one that is only there for others."""

    name: str
    visit: int | None


@dataclass(frozen=True)
class Beside:
    """The b side of a pair, whose a side is the visit that carries it.

    precision, options: where they differ from the request's, else None. opens_first: b's model is opened before a's.
    """

    visit: Visit
    precision: str | None
    options: Mapping[str, Any] | None
    opens_first: bool


@dataclass(frozen=True)
class ProtocolParameters:
    """What the runner needs of a protocol; the rest concerns the agent."""

    block_min_us: int
    visit_ms: int
    blocks_min: int
    blocks_max: int
    warmup_min_runs: int
    warmup_min_ms: int
    canary_every_ms: int
    visit_timeout_s: float
    purpose: str = "latency"
    clock_every_ms: int | None = None
    quiet_wait_ms: int | None = None


@dataclass(frozen=True)
class CanaryRequest:
    """The two canaries: a seeded n x n x n SGEMM and a small model for the engine itself.

    sgemm_fastest_ns: what the first is known to take on this board when nobody is beside it. sgemm_patience_ms: how
    long the visits of the launch, all together, wait until it is about as fast.
    """

    sgemm_n: int
    sgemm_seed: int
    artifact: str
    inputs: tuple[InputSpec, ...]
    edges: Edges | None
    sgemm_fastest_ns: int | None = None
    sgemm_patience_ms: int = 0


@dataclass(frozen=True)
class LaunchRequest:
    """Everything that one launch does, in the order in which it does it.

    cache: a writable folder that launches of one lease share, None for none; see ``engine.OpenRequest``.
    asks_precision: whether each visit is to tell what it was computed in, of a pair both sides.
    """

    engine: str
    precision: str
    threads: int
    cores: tuple[int, ...]
    options: Mapping[str, Any]
    limits: Limits
    protocol: ProtocolParameters
    canaries: CanaryRequest
    visits: tuple[Visit, ...]
    cache: str | None
    asks_precision: bool = False


def read_launch_request(text: bytes) -> LaunchRequest:
    """The checked request. Raises BadRequest."""
    try:
        document = json.loads(text)
    except ValueError as error:
        raise BadRequest("the request is not JSON") from error
    root = _Reader(document, "request")
    if root.whole("contract", 0, 1000) != CONTRACT:
        raise BadRequest(f"this runner speaks contract {CONTRACT}")
    return LaunchRequest(
        engine=root.text("engine"),
        precision=root.text("precision"),
        threads=root.whole("threads", 1, 4096),
        cores=root.wholes("cores", 0, 4095),
        options=root.object("options").fields,
        limits=read_limits(root.object("limits").fields),
        protocol=_protocol(root.object("protocol")),
        canaries=_canaries(root.object("canaries")),
        visits=tuple(_visit(each) for each in root.objects("visits")),
        cache=root.text("cache") if root.fields.get("cache") is not None else None,
        asks_precision=root.switch("asks_precision"),
    )


def read_limits(document: Mapping[str, Any]) -> Limits:
    """The limits of a confined child; what ``strict`` asks for says ``confine.left_open``. Raises BadRequest."""
    reader = _Reader(document, "limits")
    return Limits(
        memory_bytes=reader.whole("memory_bytes", 1, 2**62),
        cpu_s=reader.whole("cpu_s", 1, 10**7),
        readable=reader.texts("readable"),
        writable=reader.texts("writable"),
        network=bool(document.get("network", False)),
        strict=reader.switch("strict"),
        uid=reader.whole("uid", 0, 2**32 - 2) if document.get("uid") is not None else None,
        gid=reader.whole("gid", 0, 2**32 - 2) if document.get("gid") is not None else None,
    )


def read_inputs(documents: object) -> tuple[InputSpec, ...]:
    """Input specifications from a list of objects. Raises BadRequest."""
    return tuple(_input(each) for each in _Reader({"inputs": documents}, "").objects("inputs"))


def read_edges(document: object) -> Edges | None:
    """Edges from an object, None from null. Raises BadRequest."""
    return _edges(_Reader({"edges": document}, ""))


def _protocol(reader: _Reader) -> ProtocolParameters:
    return ProtocolParameters(
        block_min_us=reader.whole("block_min_us", 1, 10**7),
        visit_ms=reader.whole("visit_ms", 1, 10**6),
        blocks_min=reader.whole("blocks_min", 1, 10**5),
        blocks_max=reader.whole("blocks_max", 1, 10**5),
        warmup_min_runs=reader.whole("warmup_min_runs", 1, 10**5),
        warmup_min_ms=reader.whole("warmup_min_ms", 0, 10**6),
        canary_every_ms=reader.whole("canary_every_ms", 1, 10**6),
        visit_timeout_s=reader.number("visit_timeout_s"),
        purpose=_purpose(reader),
        clock_every_ms=reader.whole("clock_every_ms", 1, 10**6) if reader.fields.get("clock_every_ms") else None,
        quiet_wait_ms=reader.whole("quiet_wait_ms", 1, 10**6) if reader.fields.get("quiet_wait_ms") else None,
    )


def _purpose(reader: _Reader) -> str:
    purpose = reader.fields.get("purpose", "latency")
    if purpose not in _PURPOSES:
        raise BadRequest(f"{reader.place}.purpose is none of {', '.join(_PURPOSES)}")
    return str(purpose)


def _canaries(reader: _Reader) -> CanaryRequest:
    sgemm, model = reader.object("sgemm"), reader.object("mobilenet")
    return CanaryRequest(
        sgemm_n=sgemm.whole("n", 8, 4096),
        sgemm_seed=sgemm.whole("seed", 0, 2**32 - 1),
        sgemm_fastest_ns=sgemm.whole("fastest_ns", 1, 10**12) if sgemm.fields.get("fastest_ns") else None,
        sgemm_patience_ms=sgemm.whole("patience_ms", 0, 10**9) if sgemm.fields.get("patience_ms") else 0,
        artifact=model.text("artifact"),
        inputs=tuple(_input(each) for each in model.objects("inputs")),
        edges=_edges(model),
    )


def _visit(reader: _Reader) -> Visit:
    return Visit(
        visit=reader.whole("visit", 0, 2**53),
        artifact=reader.text("artifact"),
        format=reader.text("format"),
        inputs=tuple(_input(each) for each in reader.objects("inputs")),
        edges=_edges(reader),
        gates=_gates(reader),
        beside=_beside(reader) if reader.fields.get("beside") is not None else None,
        sites=_sites(reader) if reader.fields.get("sites") else (),
        twice=_twice(reader) if reader.fields.get("twice") is not None else None,
    )


def _twice(reader: _Reader) -> Visit:
    """Beside a carrier of one wanted kernel; runners that do not know of it find sites that they cannot profile."""
    twice = reader.object("twice")
    side = _visit(_Reader({**twice.fields, "visit": reader.fields["visit"]}, twice.place))
    if side.beside is not None or side.twice is not None or side.sites:
        raise BadRequest(f"{twice.place}: it is one file with its inputs and gates")
    if len(reader.fields.get("sites") or ()) != 1 or reader.fields.get("beside") is not None:
        raise BadRequest(f"{twice.place}: beside it stands a carrier with one site, the wanted one")
    return side


def _sites(reader: _Reader) -> tuple[Site, ...]:
    sites = tuple(_site(each) for each in reader.objects("sites"))
    numbers = [site.visit for site in sites if site.visit is not None]
    names = {site.name for site in sites}
    if len(names) < len(sites) or len(set(numbers)) < len(numbers) or numbers[:1] != [reader.fields["visit"]]:
        raise BadRequest(f"{reader.place}.sites: names and visits are given once each, the carrier's own visit first")
    return sites


def _site(reader: _Reader) -> Site:
    wanted = reader.fields.get("visit") is not None
    return Site(reader.text("name"), reader.whole("visit", 0, 2**53) if wanted else None)


def _beside(reader: _Reader) -> Beside:
    beside = reader.object("beside")
    side = _visit(_Reader({**beside.fields, "visit": reader.fields["visit"]}, beside.place))
    if side.beside is not None:
        raise BadRequest(f"{beside.place}.beside: a pair does not nest")
    return Beside(
        visit=side,
        precision=beside.text("precision") if beside.fields.get("precision") is not None else None,
        options=beside.object("options").fields if beside.fields.get("options") is not None else None,
        opens_first=beside.switch("opens_first"),
    )


def _gates(reader: _Reader) -> tuple[Gate, ...]:
    gates = tuple(Gate(each.text("reference"), each.number("max_relative_l2")) for each in reader.objects("gates"))
    if not gates:
        raise BadRequest(f"{reader.place}.gates is empty: nothing is measured unchecked")
    return gates


def _edges(reader: _Reader) -> Edges | None:
    if reader.fields.get("edges") is None:
        return None
    edges = reader.object("edges")
    inputs, outputs = (tuple(_edge(each) for each in edges.objects(side)) for side in ("inputs", "outputs"))
    return Edges(inputs, outputs)


def _edge(reader: _Reader) -> Edge:
    dtype = reader.text("dtype")
    if dtype not in _DTYPES:
        raise BadRequest(f"{reader.place}.dtype: there is no dtype {dtype[:40]!r}")
    scale = reader.fields.get("scale", 0)
    return Edge(
        name=reader.text("name"),
        dtype=dtype,
        axes=reader.wholes("axes", 0, _MAX_DIMENSIONS - 1),
        shape=reader.wholes("shape", 0, 2**31),
        scale=reader.number("scale") if scale else 0.0,
        zero_point=reader.whole("zero_point", -(2**15), 2**16),
    )


def _input(reader: _Reader) -> InputSpec:
    dtype, shape = reader.text("dtype"), reader.wholes("shape", 0, 2**31)
    if dtype not in _DTYPES:
        raise BadRequest(f"{reader.place}.dtype: there is no dtype {dtype[:40]!r}")
    if len(shape) > _MAX_DIMENSIONS:
        raise BadRequest(f"{reader.place}.shape has more than {_MAX_DIMENSIONS} dimensions")
    fill = reader.object("fill")
    kind = fill.text("kind")
    if kind not in ("normal", "ints"):
        raise BadRequest(f"{fill.place}.kind: there is no fill {kind[:40]!r}")
    checked: dict[str, Any] = {"kind": kind, "seed": fill.whole("seed", 0, 2**32 - 1)}
    if kind == "ints":
        checked["below"] = fill.whole("below", 1, 2**31 - 1)
    return InputSpec(reader.text("name"), dtype, shape, checked)


class _Reader:
    """Typed access to a JSON object; the errors name the place."""

    def __init__(self, document: object, place: str) -> None:
        if not isinstance(document, Mapping):
            raise BadRequest(f"{place} is not an object")
        self.fields: Mapping[str, Any] = document
        self.place = place

    def text(self, key: str) -> str:
        value = self.fields.get(key)
        if not isinstance(value, str) or not value:
            raise BadRequest(f"{self.place}.{key} is not a text")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self.fields.get(key)
        if not isinstance(value, list) or not all(isinstance(each, str) and each for each in value):
            raise BadRequest(f"{self.place}.{key} is not a list of texts")
        return tuple(value)

    def whole(self, key: str, low: int, high: int) -> int:
        value = self.fields.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise BadRequest(f"{self.place}.{key} is not a whole number from {low} to {high}")
        return value

    def switch(self, key: str) -> bool:
        value = self.fields.get(key, False)
        if not isinstance(value, bool):
            raise BadRequest(f"{self.place}.{key} is not true or false")
        return value

    def wholes(self, key: str, low: int, high: int) -> tuple[int, ...]:
        value = self.fields.get(key)
        if not isinstance(value, list):
            raise BadRequest(f"{self.place}.{key} is not a list")
        return tuple(_Reader({key: each}, self.place).whole(key, low, high) for each in value)

    def number(self, key: str) -> float:
        value = self.fields.get(key)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < float("inf"):
            raise BadRequest(f"{self.place}.{key} is not a positive number")
        return float(value)

    def object(self, key: str) -> _Reader:
        return _Reader(self.fields.get(key), f"{self.place}.{key}")

    def objects(self, key: str) -> list[_Reader]:
        value = self.fields.get(key)
        if not isinstance(value, list):
            raise BadRequest(f"{self.place}.{key} is not a list")
        return [_Reader(each, f"{self.place}.{key}[{number}]") for number, each in enumerate(value)]
