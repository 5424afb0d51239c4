"""What a measurement is, which moves are allowed, and what a failure does to it."""

from enum import StrEnum
from typing import Annotated, Final, Literal, NamedTuple

from pydantic import Field

from benchfarm_core.failures import INCONCLUSIVE_CODES, FailureCode, fault_of
from benchfarm_core.platforms import EffectivePrecision
from benchfarm_core.values import Value
from benchfarm_core.workloads import Sha256

MAX_ATTEMPTS: Final = 3
MAX_LOSSES: Final = 3
MAX_INCONCLUSIVE: Final = 3
MAX_NOISY: Final = 2
"""So often a measurement is made again for noise; the next answer counts, however quiet it was."""


MOMENTARY_CODES: Final = INCONCLUSIVE_CODES - {FailureCode.DIFFERENCE_UNCLEAR}
"""Outcomes of a board's moment: the next try there would meet the same one if it came at once. How unclear a difference
is lies in the kernel as much, so that is tried again at once."""
REST_STEPS: Final = (1, 6, 24)
"""How rests grow from try to try: a moment may be a burst of a second, or a neighbour's minute."""


class MeasurementState(StrEnum):
    """Wanted, then leased, then done or failed."""

    WANTED = "wanted"
    LEASED = "leased"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


_S = MeasurementState
MEASUREMENT_TRANSITIONS: Final[dict[MeasurementState, frozenset[MeasurementState]]] = {
    _S.WANTED: frozenset({_S.LEASED, _S.CANCELLED}),
    # what nobody wants any more while it is leased goes back to wanted first
    _S.LEASED: frozenset({_S.WANTED, _S.DONE, _S.FAILED}),
    _S.DONE: frozenset(),
    _S.FAILED: frozenset(),
    _S.CANCELLED: frozenset(),
}


class Timing(StrEnum):
    """Alone in a one-kernel graph, or in situ inside a model."""

    ALONE = "alone"
    IN_SITU = "in_situ"


class Purpose(StrEnum):
    """Why a measurement is wanted. A hold-out never trains and cannot be replaced."""

    JOB = "job"
    PROBE = "probe"
    TRAIN = "train"
    HOLDOUT = "holdout"
    GOLDEN = "golden"
    AUDIT = "audit"


MEASUREMENT_IDENTITY: Final = ("workload_id", "platform_id", "protocol_id", "timing", "repeat_no")
"""What makes two wishes the same measurement. The store's table is unique by these columns, and that alone decides."""

MeasurementId = Annotated[int, Field(gt=0, lt=2**53)]
Count = Annotated[int, Field(ge=0, lt=2**31)]
Ns = Annotated[int, Field(ge=0, lt=2**53)]
RunNs = Annotated[int, Field(gt=0, lt=2**53)]
MS_MAX: Final = 1e9
"""Eleven days: far above any launch, and kept to the nanosecond it still fits 64 bits."""
Ms = Annotated[float, Field(ge=0, le=MS_MAX)]


ROUNDS_MAX: Final = 16
"""Rounds of one launch of a pair: what is made of them grows with the square of their number."""


class SideSamples(Value):
    """What a launch saw of a pair's b side; lists and times as `LaunchSamples` has them.

    `rounds`: how many pairs of blocks each round holds; between rounds both sides are opened anew. `threads`: those
    that compute, on either side.
    """

    iterations: int = Field(ge=1, le=10_000_000)
    blocks_ns: tuple[RunNs, ...] = Field(min_length=1, max_length=2000)
    delays_ns: tuple[Ns, ...] = Field(max_length=2000)
    switches: tuple[Count, ...] = Field(max_length=2000)
    open_ms: Ms
    first_ms: Ms
    warmup_runs: Count
    gate_relative_l2: float | None = Field(ge=0)
    timed_ms: Ms
    rounds: tuple[Annotated[int, Field(ge=1, le=2000)], ...] = Field(min_length=1, max_length=ROUNDS_MAX)
    threads: int = Field(ge=1, le=4096)


Bytes = Annotated[int, Field(ge=0, lt=2**53)]


class MemorySample(Value):
    """What a process took of the machine's memory in one launch, by the kernel's count; see `Protocol`.

    `base_pss_bytes`: before the model was opened, the engine's libraries included. `loaded_pss_bytes`: after the first
    inference. `peak_pss_bytes`, `peak_rss_bytes`: the most over opening and inferences. `mapped_weights_bytes`:
    resident pages of the model's own file.
    """

    base_pss_bytes: Bytes
    loaded_pss_bytes: Bytes
    peak_pss_bytes: Bytes
    peak_rss_bytes: Bytes
    mapped_weights_bytes: Bytes


NodeText = Annotated[str, Field(pattern=r"^[^\x00]*$", max_length=200)]


class NodeSample(Value):
    """One operator as the engine executed it: its name and type there, the median of its time in one inference."""

    name: NodeText
    kind: NodeText
    ns: Ns


NODES_MAX: Final = 5000


class LaunchSamples(Value):
    """What one launch saw of one workload. All lists run over the timed blocks.

    `blocks_ns`: total time of each block of `iterations` iterations. `delays_ns`: run-queue delay over
    all threads of the process during the block. `switches`: involuntary context switches during it.
    `canaries`: per canary, pairs (number of blocks timed before it, its time in ns). `beside`: of a pair the b side;
    its block i ran right before or after block i of this one, which is the a side. `memory`, `nodes`: of the protocols
    ``memory`` and ``profile``.
    """

    launch_no: int = Field(ge=0, lt=64)
    iterations: int = Field(ge=1, le=10_000_000)
    blocks_ns: tuple[RunNs, ...] = Field(min_length=1, max_length=2000)
    delays_ns: tuple[Ns, ...] = Field(max_length=2000)
    switches: tuple[Count, ...] = Field(max_length=2000)
    canaries: dict[Literal["sgemm", "mobilenet"], Annotated[tuple[tuple[Count, RunNs], ...], Field(max_length=10_000)]]
    open_ms: Ms
    first_ms: Ms
    warmup_runs: Count
    gate_relative_l2: float | None = Field(ge=0)
    timed_ms: Ms
    canary_ms: Ms
    beside: SideSamples | None = None
    memory: MemorySample | None = None
    nodes: tuple[NodeSample, ...] = Field(default=(), max_length=NODES_MAX)

    @property
    def lengths(self) -> list[int]:
        """Of all lists over the timed blocks; they must be equal."""
        lists = [self.blocks_ns, self.delays_ns, self.switches]
        if self.beside is not None:
            lists += [self.beside.blocks_ns, self.beside.delays_ns, self.beside.switches]
        return list(map(len, lists))

    @property
    def has_stray_canaries(self) -> bool:
        """Whether a canary is said to have run behind more blocks than there are."""
        places = (place for runs in self.canaries.values() for place, _ in runs)
        return max(places, default=0) > len(self.blocks_ns)


SUBJECT_CHARS: Final = 60


def plain_subject(said: object) -> str:
    """What an engine said a failure is about, as a result can carry it: printable ASCII of bounded length."""
    return "".join(char for char in str(said) if " " <= char <= "~")[:SUBJECT_CHARS].strip()


class MeasurementResult(Value):
    """The outcome of one measurement of the lease: samples of every launch, or a typed failure.

    `subject`: what the failure is about, in a word: the operator that the engine lacks. `effective_precision`: what the
    engine computed it in, of a pair its a side, and `b_effective_precision` its b side; null where it was not asked, or
    does not tell.
    """

    measurement_id: MeasurementId
    outcome: Literal["ok", "failed"]
    failure: FailureCode | None = None
    detail: str = Field(default="", max_length=300)
    subject: str = Field(default="", max_length=SUBJECT_CHARS, pattern=r"^[\x20-\x7e]*$")
    launches: tuple[LaunchSamples, ...] = Field(default=(), max_length=64)
    artifact_sha256: Sha256 | None = None
    effective_precision: EffectivePrecision | None = None
    b_effective_precision: EffectivePrecision | None = None


class Tries(NamedTuple):
    """What a measurement went through so far."""

    attempts: int = 0
    losses: int = 0
    """The attempts among them that took the board or its agent down."""
    inconclusive: int = 0
    noisy: int = 0


class Verdict(Value):
    """What becomes of a measurement after an attempt."""

    state: MeasurementState
    tries: Tries
    failure: FailureCode | None = None
    reason: str = ""


_LOSSES: Final = frozenset({FailureCode.LEASE_LOST, FailureCode.BOARD_LOST})
"""What takes the board or its agent down each time is the workload's doing."""


def after_failure(code: FailureCode, tries: Tries) -> Verdict:
    """The rule for one failed attempt; `tries` are the counts before it. Noise fails nobody: it gives up an answer that
    there is, in hope of a better one."""
    if code == FailureCode.NOISY:
        return Verdict(state=_S.WANTED, tries=tries._replace(noisy=tries.noisy + 1), reason=f"inconclusive: {code}")
    if code in INCONCLUSIVE_CODES:
        return _after_inconclusive(code, tries._replace(inconclusive=tries.inconclusive + 1))
    after = tries._replace(attempts=tries.attempts + 1, losses=tries.losses + (code in _LOSSES))
    if fault_of(code) != "transient":
        return Verdict(state=_S.FAILED, tries=after, failure=code)
    if after.losses >= MAX_LOSSES:
        reason = f"{after.losses} boards or agents lost, the last: {code}"
        return Verdict(state=_S.FAILED, tries=after, failure=FailureCode.POISON, reason=reason)
    if after.attempts >= MAX_ATTEMPTS:
        reason = f"{after.attempts} attempts, the last: {code}"
        return Verdict(state=_S.FAILED, tries=after, failure=code, reason=reason)
    return Verdict(state=_S.WANTED, tries=after, reason=f"after {code}")


def _after_inconclusive(code: FailureCode, after: Tries) -> Verdict:
    if after.inconclusive < MAX_INCONCLUSIVE:
        return Verdict(state=_S.WANTED, tries=after, reason=f"inconclusive: {code}")
    reason = f"{after.inconclusive} inconclusive attempts, the last: {code}"
    return Verdict(state=_S.FAILED, tries=after, failure=FailureCode.INCONCLUSIVE, reason=reason)


def answered_after_all(verdict: Verdict) -> Verdict:
    """What becomes of a measurement whose last try came to nothing, where an earlier one had an answer that was given
    up in hope of a better one."""
    reason = f"{verdict.reason}; an earlier try is the answer"
    return verdict.model_copy(update={"state": _S.DONE, "failure": None, "reason": reason})


def rests_s(first_s: float) -> tuple[float, ...]:
    """How long the board whose moment a try met leaves the measurement alone: after the first such try, after the
    second, and so on; after any further one as long as after the last. `first_s` 0: not at all."""
    return tuple(first_s * step for step in REST_STEPS)


def runs_alone(losses: int) -> bool:
    """A measurement that took two boards down is not batched with others again."""
    return losses >= MAX_LOSSES - 1
