"""What the inspection child says about an uploaded file. The parent believes none of it unchecked.

Texts are cut and cleaned by the child and bounded again here, because a file that took the child over would
write the verdict itself.
"""

from collections.abc import Iterable
from typing import Annotated, Final, Literal

from pydantic import Field, TypeAdapter

from benchfarm_core.confine import CONFINED_ID
from benchfarm_core.values import Value, digest
from benchfarm_core.workloads import Fill, InputSpec, ModelFormat

NOT_CONFINED: Final = 77
"""The child's exit status where this host cannot hold it; it has looked at nothing then."""
NO_ROOM: Final = 78
"""The child's exit status where its verdict or the reference found no room on the disk."""
MAX_VERDICT_BYTES: Final = 16 * 1024 * 1024
MAX_NAME: Final = 200
MAX_DETAIL: Final = 500
MAX_DIM: Final = 65_536
MAX_RANK: Final = 8
MAX_NUMBERS: Final = 8

Text = Annotated[str, Field(max_length=MAX_NAME)]
Attribute = int | float | Text | Annotated[tuple[int | float | Text, ...], Field(max_length=16)]

Role = Literal["input", "weight", "inner", "output"]

RefusalCode = Literal[
    "not_onnx",
    "not_tflite",
    "format_unavailable",
    "truncated_model",
    "external_data",
    "unknown_operator",
    "random_operator",
    "unbound_dims",
    "unsupported_opset",
    "unsupported_dtype",
    "too_many_nodes",
    "model_too_large_for_inspection",
    "inspection_failed",
    "invalid_workload",
    "invalid_request",
]


class GraphNode(Value):
    """One operator: what it is called, what it reads and writes. Long lists in attributes are cut at 16."""

    op: Text
    name: Text
    inputs: tuple[Text, ...] = Field(max_length=4096)
    outputs: tuple[Text, ...] = Field(max_length=4096)
    attributes: dict[Text, Attribute] = Field(max_length=32)


class GraphValue(Value):
    """One tensor of the graph. ``shape`` is None where shape inference does not reach; -1 is one open dim."""

    role: Role
    dtype: Text
    shape: Annotated[tuple[int, ...], Field(max_length=64)] | None


class Graph(Value):
    """Our own picture of the main graph, in the file's order; bodies of control flow are only counted.

    ``numbers``: what stored tensors of at most ``MAX_NUMBERS`` finite elements hold, such as the limits of a Clip.
    """

    nodes: tuple[GraphNode, ...]
    values: dict[Text, GraphValue]
    numbers: dict[Text, Annotated[tuple[float, ...], Field(max_length=MAX_NUMBERS)]] = Field(default_factory=dict)


MAX_FLOPS: Final = 10**18
"""Minutes of the fastest machines there are: shapes that say more are not those of a file that somebody runs."""


def whole_flops(counts: Iterable[int | None]) -> tuple[int | None, list[str]]:
    """The sum of all counted operators, None for one without a known shape; and why the sum is not known."""
    counted = list(counts)
    known = [count for count in counted if count is not None]
    if len(known) < len(counted):
        return None, [f"flops are unknown: {len(counted) - len(known)} counted operators have no fixed shape"]
    if sum(known) > MAX_FLOPS:
        return None, ["flops are unknown: by the shapes that the file says they are more than 10^18"]
    return sum(known), []


class Accepted(Value):
    """The file can be measured. ``flops`` is None when a counted operator has no known shape, or shapes are absurd.

    ``opset`` is the version of a TFLite file's schema.
    """

    verdict: Literal["accepted"] = "accepted"
    opset: int = Field(ge=1, le=1000)
    inputs: tuple[InputSpec, ...] = Field(max_length=64)
    outputs: int = Field(ge=1, le=1024)
    graph: Graph
    flops: int | None = Field(ge=0)
    parameters: int = Field(ge=0)
    reasons: tuple[Annotated[str, Field(max_length=MAX_DETAIL)], ...] = Field(max_length=64)
    confinement: tuple[Text, ...] = Field(max_length=16)


class Refused(Value):
    """The file cannot be measured, and what its owner can do about it."""

    verdict: Literal["refused"] = "refused"
    code: RefusalCode
    detail: str = Field(min_length=1, max_length=MAX_DETAIL)
    field: Text | None = None


Verdict = Annotated[Accepted | Refused, Field(discriminator="verdict")]
VERDICT: TypeAdapter[Accepted | Refused] = TypeAdapter(Verdict)


class InspectionLimits(Value):
    """What one inspection may use. ``cpu_s`` is processor time, ``wall_s`` ends a child that waits."""

    memory_bytes: int = Field(default=2 * 1024**3, gt=0)
    cpu_s: int = Field(default=20, gt=0)
    wall_s: float = Field(default=60, gt=0)
    nodes: int = Field(default=10_000, gt=0)
    input_bytes: int = Field(default=256 * 1024**2, gt=0)
    reference_bytes: int = Field(default=64 * 1024**2, gt=0)
    uid: int | None = CONFINED_ID
    gid: int | None = CONFINED_ID


class InspectionRequest(Value):
    """What the child reads on its standard input. Files come as descriptors, so it needs no path at all."""

    model_descriptor: int
    reference_descriptor: int
    format: ModelFormat = "onnx"
    dims: dict[str, int]
    fills: dict[str, Fill]
    limits: InspectionLimits


def cleaned(text: str, limit: int = MAX_DETAIL) -> str:
    """One printable line of at most ``limit`` characters."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return line if len(line) <= limit else line[: limit - 3] + "..."


def shown(name: str) -> str:
    """A name from the file, safe to print in a sentence."""
    return repr(cleaned(name, 80))


def graph_name(name: str) -> str:
    """The name itself where it is short and printable, else a short one that stays distinct."""
    if len(name) <= MAX_NAME and name.isprintable():
        return name
    return f"{cleaned(name, MAX_NAME - 20)}~{digest(name, length=12)}"
