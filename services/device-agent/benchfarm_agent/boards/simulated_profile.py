"""What simulated boards are like: clusters, engines, latency, noise, heat and failures, read from a profile file.

`profiles/phone.toml` in this package is the sample; every entry is explained there.
"""

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, model_validator

from benchfarm_agent.toml_file import TomlPart, open_toml
from benchfarm_core.boards import mark_prefix
from benchfarm_core.failures import FailureCode
from benchfarm_core.operating_ranges import MAX_FREQUENCIES, OperatingRange

SAMPLE: Final = Path(__file__).parents[1] / "profiles" / "phone.toml"
VERSION_MARK: Final = "-sim"
"""The end of every engine's version: what is learnt of an engine by its version is then never learnt from here."""
_ADVICE: Final = {
    "extra_forbidden": "there is no such entry: see the sample, `benchfarm agent simulate --show-profile`",
    "missing": "is missing: add it; `benchfarm agent simulate --show-profile` shows all",
}

_Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,39}$")]
_Share = Annotated[float, Field(ge=0, le=1)]
_Speed = Annotated[float, Field(gt=0, le=1000)]
_Celsius = Annotated[float, Field(ge=-40, le=200)]
_Core = Annotated[int, Field(ge=0, lt=1024)]

SIMULATED_FAILURES: Final = (
    FailureCode.UNSUPPORTED_OPERATOR,
    FailureCode.CONVERSION_FAILED,
    FailureCode.WRONG_RESULT,
    FailureCode.INVALID_WORKLOAD,
    FailureCode.OUT_OF_MEMORY,
    FailureCode.TIMEOUT,
    FailureCode.ENGINE_ERROR,
    FailureCode.RUNNER_DIED,
    FailureCode.RUNNER_GARBAGE,
    FailureCode.PIN_NOT_VERIFIED,
    FailureCode.BOARD_LOST,
)
"""What a profile can ask for. The other codes come of something else: contention of disturbed blocks, throttling of
heat, the rest of the farm itself."""


def _simulated(code: str) -> str:
    if code not in SIMULATED_FAILURES:
        raise ValueError(f"it cannot be simulated; these can: {', '.join(SIMULATED_FAILURES)}")
    return code


_Failure = Annotated[str, AfterValidator(_simulated)]


class SimulatedCluster(TomlPart):
    """Cores that share their clock; `flops_per_cycle` of one core, fp32."""

    cores: tuple[_Core, ...] = Field(min_length=1, max_length=256)
    freq_khz: tuple[Annotated[int, Field(gt=0, lt=2**31)], ...] = Field(min_length=1, max_length=MAX_FREQUENCIES)
    flops_per_cycle: float = Field(gt=0, le=1e6)

    @model_validator(mode="after")
    def _ascending(self) -> "SimulatedCluster":
        for what, given in (("cores", self.cores), ("freq_khz", self.freq_khz)):
            if list(given) != sorted(set(given)):
                raise ValueError(f"{what} must be ascending and distinct")
        return self


class SimulatedEngine(TomlPart):
    """An engine as the boards offer it; speed: of its arithmetic."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9_]{1,40}$")]
    version: Annotated[str, Field(pattern=r"^[0-9A-Za-z][0-9A-Za-z.+_-]{0,39}$")]
    precisions: tuple[Literal["fp32", "fp16", "bf16", "int8"], ...] = Field(default=("fp32",), min_length=1)
    speed: _Speed = 1.0

    @property
    def told_version(self) -> str:
        """The version that boards report."""
        return self.version.removesuffix(VERSION_MARK) + VERSION_MARK


class SimulatedLatency(TomlPart):
    """How long a run takes: a roofline of arithmetic and traffic, and an overhead."""

    bytes_per_s: float = Field(gt=0, le=1e15)
    overhead_us: float = Field(default=15.0, ge=0, le=1e6)
    thread_share: _Share = 0.85
    int8_speed: _Speed = 2.0
    fp16_speed: _Speed = 1.0
    import_ms: float = Field(default=250.0, ge=0, le=60_000)
    open_ms: float = Field(default=8.0, ge=0, le=60_000)

    def speed_of(self, precision: str) -> float:
        """Of the arithmetic in a precision, beside fp32."""
        halved = {"fp16": self.fp16_speed, "bf16": self.fp16_speed}
        return self.int8_speed if precision == "int8" else halved.get(precision, 1.0)


class SimulatedNoise(TomlPart):
    """What moves a time: shares of it. Everything that disturbs only adds."""

    block_sigma: _Share = 0.006
    launch_sigma: _Share = 0.004
    unit_sigma: _Share = 0.02
    disturbed_share: _Share = 0.02
    drift_per_hour: float = Field(default=0.0, ge=-0.5, le=10)


class SimulatedHeating(TomlPart):
    """How warm work makes a board, and what it does then; see the sample."""

    idle_c: _Celsius = 32.0
    rise_c_per_busy_s: float = Field(default=0.0, ge=0, le=100)
    cool_s: float = Field(default=60.0, gt=0, le=86_400)
    gate_c: _Celsius = 70.0
    throttle_c: _Celsius = 80.0
    recover_c: float = Field(default=8.0, ge=0, le=100)
    throttled_clock: float = Field(default=0.6, gt=0, le=1)

    @model_validator(mode="after")
    def _possible(self) -> "SimulatedHeating":
        if self.idle_c >= self.gate_c:
            raise ValueError("idle_c must be below gate_c, or the board never takes a lease")
        return self


class SimulatedLoss(TomlPart):
    """What a lost board does: it is away for so long, then it is back as it was."""

    away_s: float = Field(default=30.0, ge=0, le=86_400)


class SimulatedProfile(TomlPart):
    """One model of simulated boards. failures: the chance of each."""

    model: _Name
    name: str = Field(default="", max_length=100)
    memory_bytes: int = Field(default=8_000_000_000, gt=0, lt=2**53)
    cluster: tuple[SimulatedCluster, ...] = Field(min_length=1, max_length=16)
    engine: tuple[SimulatedEngine, ...] = Field(min_length=1, max_length=20)
    latency: SimulatedLatency
    noise: SimulatedNoise = SimulatedNoise()
    heat: SimulatedHeating = SimulatedHeating()
    failures: dict[_Failure, _Share] = Field(default={})
    lost: SimulatedLoss = SimulatedLoss()

    @model_validator(mode="after")
    def _distinct(self) -> "SimulatedProfile":
        cores = [str(core) for cluster in self.cluster for core in cluster.cores]
        engines = [engine.name for engine in self.engine]
        for what, given in (("core", cores), ("engine", engines)):
            twice = [one for one in given if given.count(one) > 1]
            if twice:
                raise ValueError(f"the {what} {twice[0]} is given twice: name it once")
        return self

    @property
    def board_model(self) -> str:
        """With the mark of simulated boards in front: results never mix with those of a real model."""
        return mark_prefix(["simulated"]) + self.model

    @property
    def cores(self) -> tuple[int, ...]:
        """All cores, ascending."""
        return tuple(sorted(core for cluster in self.cluster for core in cluster.cores))

    @property
    def ranges(self) -> tuple[OperatingRange, ...]:
        """Each cluster at each of its frequencies, and everything at a free clock."""
        pinned = [
            OperatingRange(mode="pinned", cores=one.cores, threads_max=len(one.cores), freq_khz=one.freq_khz)
            for one in self.cluster
        ]
        return (*pinned, OperatingRange(mode="free", cores=self.cores, threads_max=len(self.cores)))


def read_profile(path: Path | None) -> SimulatedProfile:
    """The profile in a file, else the sample. Raises InvalidRequest with the line and the reason."""
    return open_toml(path or SAMPLE, "profile", advice=_ADVICE).parsed(SimulatedProfile)
