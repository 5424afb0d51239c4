"""Draws kernel configurations as search spaces have them: distinct, valid, and none that is known already.

A source only proposes; ``draw`` takes what is valid and new. Sources here need numpy alone; the one with a network is
made by ``sampler_vae`` and read from its file by ``sampler_decoder``.
"""

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from benchfarm_core.errors import InvalidRequest
from benchfarm_predictor.kernels import Floats
from benchfarm_predictor.training.sampler_encoding import Encoding, valid_or_none
from benchfarm_workloads.columns import Config, Scalar
from benchfarm_workloads.kernel_frequencies import KernelFrequencies
from benchfarm_workloads.kernels import kernel_type

SAMPLER_VERSION: Final = 1
"""A change of what a seed draws is a new version."""
MAX_DRAWS: Final = 100_000
PROPOSED_AT_ONCE: Final = 512
FRUITLESS_ROUNDS: Final = 20
"""Rounds in a row that bring nothing new: then the source has no more to give."""
ADAPTIVE_CHANNELS: Final = (0.5, 1.2)
"""Around a configuration that is predicted badly, nn-Meter draws channels from this range of its own."""
_WIDTHS: Final = ("channels", "features")
"""Units of the columns that are drawn anew so."""


class Source(Protocol):
    """Proposes configurations of one kernel type."""

    @property
    def type(self) -> str:
        """The kernel type."""
        ...

    def propose(self, chance: np.random.Generator, count: int) -> Sequence[Config | None]:
        """``count`` proposals; None where a proposal is no valid configuration. They may repeat."""
        ...


@dataclass(frozen=True, slots=True)
class Drawn:
    """Distinct valid configurations, and how many proposals were invalid, repeated, or known before."""

    configs: tuple[Config, ...]
    invalid: int
    repeated: int
    known: int


def draw(source: Source, *, seed: str, count: int, known: Iterable[Config] = ()) -> Drawn:
    """``count`` distinct valid configurations, none of them in ``known``; the same for the same arguments.

    What is known may be spelled in any way that the catalogue takes; what it does not take is never drawn.

    Raises:
        InvalidRequest: ``count`` is below 0 or above ``MAX_DRAWS``, or the source has no more to give.
    """
    if not 0 <= count <= MAX_DRAWS:
        raise InvalidRequest(f"count={count} must be from 0 to {MAX_DRAWS}", field="count")
    collecting = _Collecting(source.type, count, known)
    chance = generator(f"{SAMPLER_VERSION}/{source.type}/{seed}")
    fruitless = 0
    while len(collecting.found) < count and fruitless < FRUITLESS_ROUNDS:
        before = len(collecting.found)
        collecting.take(source.propose(chance, PROPOSED_AT_ONCE))
        fruitless = fruitless + 1 if len(collecting.found) == before else 0
    if len(collecting.found) < count:
        raise InvalidRequest(f"{source.type} gives only {len(collecting.found)} new draws, not {count}", field="count")
    return collecting.drawn


class _Collecting:
    def __init__(self, type_name: str, count: int, known: Iterable[Config]) -> None:
        self._names = [column.name for column in kernel_type(type_name).columns]
        self._count = count
        canonical = (valid_or_none(type_name, config) for config in known)
        self._known = {self._key(config) for config in canonical if config is not None}
        self.found: dict[tuple[Scalar, ...], Config] = {}
        self._invalid = self._repeated = self._met = 0

    def _key(self, config: Config) -> tuple[Scalar, ...]:
        return tuple(config[name] for name in self._names)

    def take(self, proposed: Iterable[Config | None]) -> None:
        for config in proposed:
            if len(self.found) == self._count:
                return
            if config is None:
                self._invalid += 1
                continue
            key = self._key(config)
            if key in self._known:
                self._met += 1
            elif key in self.found:
                self._repeated += 1
            else:
                self.found[key] = config

    @property
    def drawn(self) -> Drawn:
        return Drawn(tuple(self.found.values()), self._invalid, self._repeated, self._met)


def generator(seed: str) -> np.random.Generator:
    """Chance from a text; the same on every machine."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:16]))


@dataclass(frozen=True, slots=True)
class Direct:
    """Draws what occurs, as often as it occurs: no configuration that the spaces do not have."""

    frequencies: KernelFrequencies

    @property
    def type(self) -> str:
        """The kernel type."""
        return self.frequencies.type

    def propose(self, chance: np.random.Generator, count: int) -> Sequence[Config | None]:
        """By share."""
        places = chance.choice(len(self.frequencies.configs), size=count, p=_odds(self.frequencies.shares))
        return [self.frequencies.configs[place] for place in places]


@dataclass(frozen=True, slots=True)
class Uniform:
    """Draws each column by itself: sizes log-uniform within the range that occurs, choices with equal odds."""

    encoding: Encoding

    @property
    def type(self) -> str:
        """The kernel type."""
        return self.encoding.type

    def propose(self, chance: np.random.Generator, count: int) -> Sequence[Config | None]:
        """Uniform vectors; equal logits are equal odds."""
        vectors = np.zeros((count, self.encoding.width))
        is_size = self.encoding.is_size
        vectors[:, is_size] = chance.random((count, int(is_size.sum())))
        return self.encoding.decode(vectors, chance)


@dataclass(frozen=True, slots=True)
class Independent:
    """Draws each column by itself as often as its values occur: the prior of nn-Meter (MobiSys 2021)."""

    frequencies: KernelFrequencies

    @property
    def type(self) -> str:
        """The kernel type."""
        return self.frequencies.type

    def propose(self, chance: np.random.Generator, count: int) -> Sequence[Config | None]:
        """Each column of another configuration."""
        configs, odds = self.frequencies.configs, _odds(self.frequencies.shares)
        names = list(configs[0])
        places = {name: chance.choice(len(configs), size=count, p=odds) for name in names}
        mixed = [{name: configs[places[name][row]][name] for name in names} for row in range(count)]
        return [valid_or_none(self.type, config) for config in mixed]


@dataclass(frozen=True, slots=True)
class Adaptive:
    """Draws around configurations that are predicted badly: nn-Meter's adaptive sampler (MobiSys 2021, section 5.2).

    Channels are drawn anew from half to 1.2 times their number, the other columns stay.
    """

    type: str
    around: tuple[Config, ...]

    def propose(self, chance: np.random.Generator, count: int) -> Sequence[Config | None]:
        """Each of the configurations as often as the others."""
        if not self.around:
            return [None] * count
        centres = [self.around[place] for place in chance.integers(len(self.around), size=count)]
        return [valid_or_none(self.type, self._moved(centre, chance)) for centre in centres]

    def _moved(self, centre: Config, chance: np.random.Generator) -> Config:
        columns = [column for column in kernel_type(self.type).columns if column.unit in _WIDTHS]
        low, high = ADAPTIVE_CHANNELS
        moved = dict(centre)
        for column in columns:
            own = centre[column.name]
            assert isinstance(own, int)
            moved[column.name] = int(chance.integers(max(1, int(low * own)), int(high * own) + 1, endpoint=True))
        return moved


def badly_predicted(
    configs: Sequence[Config], latency_ms: Floats, predicted_ms: Floats, *, beyond: float = 0.1
) -> tuple[Config, ...]:
    """The configurations whose prediction is further off than ``beyond`` of the latency, the worst first."""
    errors = np.abs(predicted_ms / latency_ms - 1)
    return tuple(configs[place] for place in np.argsort(-errors, kind="stable") if errors[place] > beyond)


def invalid_of(type_name: str, configs: Iterable[Config]) -> int:
    """How many configurations the catalogue does not take."""
    return sum(valid_or_none(type_name, config) is None for config in configs)


def duplicates_of(configs: Collection[Config], known: Iterable[Config] = ()) -> int:
    """How many configurations stand there more than once, or are known."""
    before = {tuple(sorted(config.items())) for config in known}
    mine = [tuple(sorted(config.items())) for config in configs]
    return len(mine) - len(set(mine) - before)


def _odds(shares: Sequence[float]) -> Floats:
    odds: Floats = np.array(shares, dtype=np.float64)
    odds /= odds.sum()
    return odds
