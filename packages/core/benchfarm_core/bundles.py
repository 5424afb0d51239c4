"""Bundles: measurements packed for a machine that reaches nothing, and what comes back from it."""

import hashlib
import hmac
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Final

from pydantic import Field, model_validator

from benchfarm_core.agent_protocol import BatchItem, LaunchEvidence
from benchfarm_core.boards import BoardReport
from benchfarm_core.errors import InvalidRequest
from benchfarm_core.measurements import MeasurementResult, Ms
from benchfarm_core.platforms import EngineSpec, Name, OperatingPoint, Platform, Precision
from benchfarm_core.protocols import Protocol, ProtocolRequest
from benchfarm_core.values import Answer, Value
from benchfarm_core.workloads import ArchitectureRequest, GeneratedModelRequest, KernelRequest, Sha256

BUNDLE_FORMAT: Final = 1
MAX_BUNDLED: Final = 500
"""Measurements of one bundle."""
ITEMS_PER_PART: Final = 20
"""Measurements that share launches, and come back together."""
ORDER_FILE: Final = "order.json"
"""The name under which a bundle carries what the farm handed out."""
HEAD_CHARS_MAX: Final = 2**20
FAILURE_CHARS: Final = 300
PART_CHARS_MAX: Final = 24 * 2**20

BUNDLED: Final[dict[str, tuple[Precision, ...]]] = {
    "litert": (Precision.FP32, Precision.INT8),
    "mnn": (Precision.FP32,),
    "ncnn": (Precision.FP32, Precision.INT8),
    "onnxruntime": (Precision.FP32, Precision.INT8),
    "openvino": (Precision.FP32, Precision.INT8, Precision.BF16),
}
"""Engines that a bundle can carry, with the precisions in which each computes on some machine or other."""

_TARGET: Final = re.compile(r"linux-(x86_64|aarch64)-cp3(1[1-9])")
Target = Annotated[str, Field(pattern=rf"^{_TARGET.pattern}$", description="system, processor and Python")]
BundledRequest = Annotated[KernelRequest | GeneratedModelRequest | ArchitectureRequest, Field(discriminator="kind")]
Signature = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
RunId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class BundleRequest(Value):
    """What is to be packed: all that waits on a platform, or named workloads for whatever board runs the bundle.

    Of a platform those with one protocol: the one that is named, else that of the oldest wish. A run measures each
    workload `repeats` times, of a platform no more often than it waits there; another run completes the next ones.
    Uploads are not packed.
    """

    target: Target
    platform: str | None = Field(default=None, max_length=300, description="id, key or alias")
    workloads: tuple[BundledRequest, ...] = Field(default=(), max_length=MAX_BUNDLED)
    engine: Name | None = None
    precision: Precision = Precision.FP32
    options: dict[Name, int | bool | Name] = Field(default={}, max_length=40)
    threads: int = Field(default=1, ge=1, le=4096)
    repeats: int = Field(default=1, ge=1, le=100, description="measurements of each workload in one run")
    protocol: ProtocolRequest | None = None
    expires_in_s: int = Field(default=30 * 86_400, ge=1, le=365 * 86_400)

    @model_validator(mode="after")
    def _one_way(self) -> "BundleRequest":
        if (self.platform is None) == (not self.workloads):
            raise ValueError("name either a platform, whose waiting measurements are packed, or workloads")
        if self.platform is None and self.engine is None:
            raise ValueError("workloads need an engine")
        if self.platform is not None and (self.engine is not None or self.options):
            raise ValueError("a platform has its own engine and options")
        return self


class BundleOrder(Answer):
    """What the farm hands out to be packed. The `measurement_id` of an item is its number in this bundle alone.

    `key` signs the results. `engine_version` is there where a platform asks for one.
    """

    bundle_id: str
    farm: str
    key: str
    target: str
    engine: str
    engine_version: str | None
    options: dict[str, int | bool | str]
    precision: Precision
    threads: int
    protocol: Protocol
    items: list[BatchItem]
    expires_at: datetime

    def platform(self, board_model: str, point: OperatingPoint, version: str) -> Platform:
        """Where the bundle's measurements run on a board at an operating point. Raises ValueError."""
        engine = EngineSpec(name=self.engine, version=version, options=self.options)
        return Platform(board_model=board_model, operating_point=point, engine=engine, precision=self.precision)

    def platform_of_files(self, version: str) -> Platform:
        """A platform for which files are made: they are the same for every board."""
        point = OperatingPoint(mode="free", cores=tuple(range(self.threads)), threads=self.threads)
        return self.platform("any", point, version)


def refuse_unbundled(engine: str, precision: Precision) -> None:
    """Raise InvalidRequest for an engine that no bundle can carry, and for a precision that it has nowhere."""
    if engine not in BUNDLED:
        raise InvalidRequest(f"a bundle carries no {engine}: it can carry {', '.join(BUNDLED)}", field="engine")
    if precision not in BUNDLED[engine]:
        detail = f"{engine} has no {precision} in a bundle: it has {', '.join(BUNDLED[engine])}"
        raise InvalidRequest(detail, field="precision")


def launched_together(workloads: Sequence[str]) -> list[list[int]]:
    """The places of a bundle's measurements in groups that share launches. workloads: the id of each one's.

    In their order, at most `ITEMS_PER_PART` of them and no workload twice: repeats that shared processes, canaries and
    a minute would agree for that, as in no lease either (`scheduling.fill_batch`).
    """
    groups: list[list[int]] = []
    held: set[str] = set()
    for place, workload in enumerate(workloads):
        if not groups or len(groups[-1]) == ITEMS_PER_PART or workload in held:
            groups.append([])
            held = set()
        groups[-1].append(place)
        held.add(workload)
    return groups


class BundleContents(Value):
    """What a bundle was packed to: the hash of its list of hashes, by which its results name it."""

    contents_sha256: Sha256


class BundleFailure(Value):
    """Why a bundle could not be packed: it is not to be waited for."""

    reason: str = Field(min_length=1, max_length=FAILURE_CHARS, pattern=r"^[^\x00]*$")


class BundleHead(Value):
    """What a results file says once: whose it is, which run of it, and on which board and platform it was."""

    format: int = Field(ge=BUNDLE_FORMAT, le=BUNDLE_FORMAT)
    bundle_id: str = Field(max_length=40)
    farm: str = Field(max_length=200)
    contents_sha256: Sha256
    run_id: RunId
    parts: int = Field(ge=1, le=MAX_BUNDLED)
    agent_version: str = Field(max_length=40)
    report: BoardReport
    platform: Platform


class BundlePart(Value):
    """What came of measurements that shared launches; `measurement_id` is the number in the bundle."""

    number: int = Field(ge=0, lt=MAX_BUNDLED)
    wall_ms: Ms
    results: tuple[MeasurementResult, ...] = Field(min_length=1, max_length=ITEMS_PER_PART)
    launches: tuple[LaunchEvidence, ...] = Field(default=(), max_length=64)


class BundleResults(Value):
    """One part of a results file: two JSON texts exactly as they were signed, and the signature over both."""

    head: str = Field(max_length=HEAD_CHARS_MAX)
    part: str = Field(max_length=PART_CHARS_MAX)
    signature: Signature

    @property
    def sha256(self) -> str:
        """Names head and part together."""
        return hashlib.sha256(_signed(self.head, self.part)).hexdigest()


class BundleImported(Answer):
    """What an import did. `repeated`: it had been done before, and nothing changed.

    `completed` of `results` were wanted already; the others are further repeats. `failed` came to no number.
    """

    bundle_id: str
    run_id: str
    part: int
    repeated: bool
    board_id: str
    platform: str
    results: int
    completed: int
    failed: int


class BundleRun(Answer):
    """A run of a bundle on one board, as far as it was imported."""

    run_id: str
    board_id: str
    platform: str
    parts: int
    results: int
    imported_at: datetime
    author: str


class BundleView(Answer):
    """A bundle as the API shows it. `contents_sha256` is null while it was never packed to its end; `failure` says why
    it will not be."""

    id: str
    target: str
    engine: str
    precision: Precision
    threads: int
    items: int
    contents_sha256: str | None
    failure: str = ""
    created_at: datetime
    expires_at: datetime
    runs: list[BundleRun]


def sign(key: str, head: str, part: str) -> str:
    """HMAC-SHA256 over both texts. It guards against damage and mix-ups, not against who holds the bundle."""
    return hmac.new(key.encode(), _signed(head, part), hashlib.sha256).hexdigest()


def is_signed(key: str, results: BundleResults) -> bool:
    """Whether the signature is that of the key over these very texts."""
    return hmac.compare_digest(sign(key, results.head, results.part), results.signature)


def _signed(head: str, part: str) -> bytes:
    """The length of the first keeps the two apart."""
    first = head.encode()
    return b"%d\n" % len(first) + first + part.encode()


def machine_and_python(target: str) -> tuple[str, str]:
    """The processor and the Python of a target: ``x86_64`` and ``3.12``. Raises InvalidRequest."""
    found = _TARGET.fullmatch(target)
    if found is None:
        raise InvalidRequest(f"{target[:60]!r} is no target; the form is linux-x86_64-cp312", field="target")
    return found[1], f"3.{found[2]}"
