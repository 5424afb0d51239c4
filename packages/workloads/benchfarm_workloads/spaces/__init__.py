"""The search spaces: each draws architectures, checks them, lays out their networks and lists their kernels.

One file for each paper or two. A change of a space's genes, of what they mean or of its weights needs a new version of
that space; a wider range does not.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Final

from benchfarm_core.architectures import Architecture
from benchfarm_core.errors import InvalidRequest
from benchfarm_workloads.columns import Config
from benchfarm_workloads.fusing import Fused, FusionRules, fuse
from benchfarm_workloads.layers import Network
from benchfarm_workloads.operators import layer_operators
from benchfarm_workloads.recognition import Part, recognised
from benchfarm_workloads.spaces.bignas import BIGNAS
from benchfarm_workloads.spaces.fbnet_v3 import FBNET_V3
from benchfarm_workloads.spaces.genes import Gene
from benchfarm_workloads.spaces.once_for_all import OFA_MOBILENET_V3, OFA_RESNET
from benchfarm_workloads.spaces.proxyless import PROXYLESSNAS
from benchfarm_workloads.spaces.space import Space
from benchfarm_workloads.spaces.transformers import AUTOFORMER, BERT

__all__ = ["MAX_DRAWS", "Gene", "Space", "draws", "fused_network", "kernels", "space", "spaces"]

MAX_DRAWS: Final = 10_000
"""Architectures drawn at once."""

_MISSES_BEFORE_GIVING_UP: Final = 2_000
_SPACES: Final[dict[str, Space]] = {
    one.name: one for one in (OFA_MOBILENET_V3, PROXYLESSNAS, OFA_RESNET, BIGNAS, FBNET_V3, AUTOFORMER, BERT)
}


def spaces() -> tuple[Space, ...]:
    """All search spaces."""
    return tuple(_SPACES.values())


def space(name: str) -> Space:
    """The search space of that name.

    Raises:
        InvalidRequest: ``space_unknown``.
    """
    if name not in _SPACES:
        known = ", ".join(_SPACES)
        raise InvalidRequest(f"no search space {name[:40]!r}; there are {known}", code="space_unknown", field="space")
    return _SPACES[name]


def draws(name: str, seed: str, count: int) -> list[Architecture]:
    """``count`` different architectures of a space; the same for the same seed on every machine, and for a smaller
    ``count`` the first of them.

    Raises:
        InvalidRequest: unknown space, or a count below 0, above ``MAX_DRAWS`` or above what the space can give.
    """
    if not 0 <= count <= MAX_DRAWS:
        raise InvalidRequest(f"count={count} must be from 0 to {MAX_DRAWS}", field="count")
    drawing = space(name)
    found: dict[tuple[object, ...], Architecture] = {}
    number = misses = 0
    while len(found) < count and misses < _MISSES_BEFORE_GIVING_UP:
        drawn = drawing.draw(f"{seed}/{number}")
        genes = tuple(drawn.genes.values())
        misses = misses + 1 if genes in found else 0
        found.setdefault(genes, drawn)
        number += 1
    if len(found) < count:
        raise InvalidRequest(f"{name} gives only {len(found)} distinct draws, not {count}", field="count")
    return list(found.values())


def kernels(architecture: Architecture, rules: FusionRules) -> list[tuple[str, Config, int]]:
    """The kernels of an architecture in an engine that fuses by these rules: type, configuration, how often.

    In the order in which each first runs. Raises InvalidRequest as ``Space.network`` and ``space``.
    """
    counts: Counter[tuple[str, str]] = Counter()
    configs: dict[tuple[str, str], tuple[str, Config]] = {}
    _, chains = fused_network(space(architecture.space).network(architecture), rules)
    for part in (part for chain in chains for part in chain):
        assert part.type is not None  # layers are kernels of the catalogue
        assert part.config is not None
        key = (part.type, repr(part.config))
        counts[key] += 1
        configs.setdefault(key, (part.type, part.config))
    return [(*configs[key], count) for key, count in counts.items()]


def fused_network(network: Network, rules: FusionRules) -> tuple[Fused, Sequence[tuple[Part, ...]]]:
    """What an engine computes as one, and the parts of each such kernel by the names of the catalogue."""
    fused = fuse(tuple(layer_operators(network.layers)), rules)
    return fused, [recognised(chain, None) for chain in fused.kernels]
