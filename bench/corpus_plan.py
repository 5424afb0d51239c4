"""The evaluation corpus: which workloads it has, and in which order they are measured.

All is drawn by seed. Hold-outs judge and never teach; what teaches is drawn by another seed and holds none of them. It
is measured in portions of some workloads, each a prefix of its list continued, in stages: first what tells one space on
all platforms, of each engine family before a second one of it, then the next space. Wherever it stops, what there is
says as much as that time can.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Final, Literal, NamedTuple

from benchfarm_core.adapting import AdaptationRequest, Mix
from benchfarm_core.measurements import Timing
from benchfarm_core.platforms import Platform, parse_platform_key
from benchfarm_core.profilers import in_situ_by
from benchfarm_core.workloads import ArchitectureWorkload, KernelWorkload, workload_id
from benchfarm_worker.asking import next_asks
from benchfarm_workloads.fusing import FusionRules
from benchfarm_workloads.probes import probe_set
from benchfarm_workloads.spaces import draws, space, spaces

SEED: Final = "corpus"
MAIN_SPACES: Final = ("ofa_mobilenet_v3", "proxylessnas", "ofa_resnet", "autoformer")
HOLDOUTS, HOLDOUTS_ELSEWHERE = 100, 30
TEACHING, TEACHING_ELSEWHERE = 160, 80
"""Architectures of a space at the most; what they take of a board ends it sooner."""
KERNELS: Final = 30
"""Of each space, in situ and alone."""
PORTION: Final = 10
TEACHING_PORTION: Final = 20
"""Architectures; twice as many teach as judge, so that a corpus that is measured in part teaches enough."""
WANTED_PLATFORMS: Final = (
    ("onnxruntime", "fp32"),
    ("openvino", "bf16"),
    ("mnn", "fp32"),
    ("ncnn", "fp32"),
    ("litert", "fp32"),
    ("onnxruntime", "int8"),
)
"""One of each engine family, and 8 bits."""

Kind = Literal["train", "holdout", "again", "in_situ", "alone", "probe"]
KINDS: Final[tuple[Kind, ...]] = ("train", "holdout", "in_situ", "alone", "probe", "again")
"""In the order of a round: the second measurement of a hold-out comes some minutes after the first."""
BRIDGE: Final[tuple[Kind, str]] = ("probe", "networks")
PROBES_MAX: Final = 100
FIRST_TURNS: Final = 5
"""Rounds of a main space before the next one begins: 100 architectures that teach and 50 that judge say what is reached
in it; as many again say it more sharply, and come last."""
Wanted = ArchitectureWorkload | KernelWorkload


def portion_size(kind: Kind) -> int:
    """Workloads of a portion, of its list's last one maybe fewer."""
    return {"train": TEACHING_PORTION, "probe": PROBES_MAX}.get(kind, PORTION)


class Portion(NamedTuple):
    """A part of one list on one platform: `size` workloads from `start` on. `space`: of probes what they are."""

    platform: str
    kind: Kind
    space: str
    start: int
    size: int

    @property
    def name(self) -> str:
        """Names it among the portions of its platform."""
        return f"{self.kind}-{self.space}-{self.start:03d}"

    @property
    def timing(self) -> Timing:
        """How its workloads are timed."""
        in_situ = self.kind == "in_situ" or (self.kind == "probe" and self.space == Timing.IN_SITU)
        return Timing.IN_SITU if in_situ else Timing.ALONE

    @property
    def workloads(self) -> tuple[Wanted, ...]:
        """What it measures, in order."""
        return listed(self.kind, self.space, self.platform)[self.start : self.start + self.size]

    @property
    def turn(self) -> int:
        """The round in which it is measured."""
        return self.start // portion_size(self.kind)

    @property
    def before(self) -> "Portion | None":
        """The one before it in its list."""
        size = portion_size(self.kind)
        return self._replace(start=self.start - size, size=size) if self.start else None

    @property
    def stage(self) -> int:
        """What it is for: portions of a stage come before all of the next one; `stage_name` says what they tell."""
        if self.is_bridge:
            return 0
        if self.space not in MAIN_SPACES or self.turn >= FIRST_TURNS:
            return 2 * len(MAIN_SPACES) + 1
        judged = self.kind in {"train", "holdout"}
        return 2 * MAIN_SPACES.index(self.space) + (1 if judged else 2)

    @property
    def is_bridge(self) -> bool:
        """Whether every generation of a platform measures it: by these workloads times of two are comparable."""
        return (self.kind, self.space) == BRIDGE


def holdout_count(name: str) -> int:
    """Architectures of a space that judge."""
    return HOLDOUTS if name in MAIN_SPACES else HOLDOUTS_ELSEWHERE


@cache
def holdouts(name: str) -> tuple[ArchitectureWorkload, ...]:
    """The architectures of a space that judge."""
    return _drawn(name, f"{SEED}/holdout", holdout_count(name), frozenset(probe_set().workload_ids))


@cache
def teachers(name: str) -> tuple[ArchitectureWorkload, ...]:
    """The architectures of a space that teach: none of those that judge, and none of the probe set."""
    refused = {*probe_set().workload_ids, *map(workload_id, holdouts(name))}
    count = TEACHING if name in MAIN_SPACES else TEACHING_ELSEWHERE
    return _drawn(name, f"{SEED}/train", count, frozenset(refused))


def _drawn(name: str, seed: str, count: int, refused: frozenset[str]) -> tuple[ArchitectureWorkload, ...]:
    """The first so many that are not refused, in the order of the draw: of a smaller count, the same ones first."""
    spare = len(refused)
    found = (space(name).workload(one.genes) for one in draws(name, seed, count + spare))
    return tuple(one for one in found if workload_id(one) not in refused)[:count]


@cache
def kernels_of(name: str) -> tuple[tuple[KernelWorkload, ...], tuple[KernelWorkload, ...]]:
    """Kernels of a space as an adaptation would ask for them, in situ and alone. They know its networks, not those that
    judge."""
    # an adaptation asks for as many as half of these seconds could take at the best
    limit_s = 2 * KERNELS * 0.05
    request = AdaptationRequest(spaces=(name,), seed=SEED)
    in_situ, alone = (asks for asks, _ in next_asks(request, Mix(0.0, 0.5, 0.5), 1, limit_s, FusionRules()))
    return tuple(_kernels(ask.workload for ask in in_situ)), tuple(_kernels(ask.workload for ask in alone))


def _kernels(asked: Iterable[object]) -> list[KernelWorkload]:
    return [one for one in asked if isinstance(one, KernelWorkload)]


@cache
def _probes(key: str) -> dict[str, tuple[Wanted, ...]]:
    wanted = probe_set().wanted_on(parse_platform_key(key))
    alone = wanted.get(Timing.ALONE, ())
    return {
        "networks": tuple(one for one in alone if isinstance(one, ArchitectureWorkload)),
        "alone": tuple(one for one in alone if isinstance(one, KernelWorkload)),
        "in_situ": tuple(wanted.get(Timing.IN_SITU, ())),
    }


def listed(kind: Kind, name: str, platform: str) -> tuple[Wanted, ...]:
    """The whole list of a kind: of a search space, of probes by what they are."""
    if kind == "probe":
        return _probes(platform).get(name, ())
    if kind in {"holdout", "again"}:
        return holdouts(name)
    if kind == "train":
        return teachers(name)
    in_situ, alone = kernels_of(name)
    return alone if kind == "alone" else in_situ


def stage_name(stage: int) -> str:
    """What the portions of a stage tell, for people."""
    if stage == 0:
        return "the bridge: networks by which machines are compared"
    if stage > 2 * len(MAIN_SPACES):
        return "the rest: other spaces, probes, more of every space"
    name = MAIN_SPACES[(stage - 1) // 2]
    return f"{name}: what teaches and judges" if stage % 2 else f"{name}: kernels, and its hold-outs again"


def portions(key: str) -> list[Portion]:
    """All portions of a platform, stage by stage; within one by rounds, in which every list has its turn."""
    found = [portion for kind in KINDS for name in _names(kind, key) for portion in _cut(key, kind, name)]
    return sorted(found, key=lambda portion: (portion.stage, portion.turn, KINDS.index(portion.kind)))


def schedule(keys: Sequence[str], *, one_by_one: bool = False) -> Iterator[Portion]:
    """The portions of several platforms: a round of all of them before the next, or one platform after the other. The
    first platform of each engine family is through with a stage before the second of any begins it."""
    every = [portion for key in keys for portion in portions(key)]
    order = {key: number for number, key in enumerate(keys)}
    place = {key: sum(family(other) == family(key) for other in keys[:number]) for key, number in order.items()}
    return iter(
        every
        if one_by_one
        else sorted(every, key=lambda one: (one.stage, place[one.platform], one.turn, order[one.platform]))
    )


class Chosen(NamedTuple):
    """What a run is to measure beside the bridge: of all lists where none is named."""

    kinds: tuple[str, ...] = ()
    spaces: tuple[str, ...] = ()
    one_by_one: bool = False

    def of(self, keys: Sequence[str]) -> list[Portion]:
        """The portions of some platforms, in order."""
        return [each for each in schedule(keys, one_by_one=self.one_by_one) if each.is_bridge or self._has(each)]

    def _has(self, portion: Portion) -> bool:
        kinds, spaces = self.kinds or (portion.kind,), self.spaces or (portion.space,)
        return portion.kind in kinds and portion.space in spaces


def _names(kind: Kind, key: str) -> tuple[str, ...]:
    platform = parse_platform_key(key)
    if kind == "probe":
        return tuple(_probes(key))
    if kind == "in_situ" and in_situ_by(platform.engine.name, platform.precision) is None:
        return ()
    return tuple(one.name for one in spaces())


def _cut(key: str, kind: Kind, name: str) -> list[Portion]:
    size, every = portion_size(kind), len(listed(kind, name, key))
    return [Portion(key, kind, name, start, min(size, every - start)) for start in range(0, every, size)]


def file_name(key: str) -> str:
    """A platform key as the name of a file."""
    return key.replace("/", "_")


def short(key: str) -> str:
    """A platform key without its board model, for tables of one host."""
    return key.partition("/")[2]


def family(key: str) -> tuple[str, str]:
    """Board model and engine family: what a donor of another family does not share."""
    platform = parse_platform_key(key)
    return platform.board_model, platform.engine.name


def thread_twin(key: str) -> tuple[str, ...]:
    """The same for platforms that differ in cores and threads alone."""
    platform: Platform = parse_platform_key(key)
    return platform.board_model, platform.engine.key, str(platform.precision)
