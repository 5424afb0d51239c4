"""Which kernel of a graph an operator's time belongs to, from the names and the order of a profile. Pure.

A site is one kernel of the graph: its nodes are called ``<site>`` or ``<site>/<part>``. Engines rename, split and
join nodes and put conversions between them. The rule, in this order:

1. A *conversion* (layout, 8 bits) is charged to the neighbour that needs it: the one that keeps the plain layout or
   computes in fp32. What leads to it is its entry, what leads away its exit; at an edge of the graph the only
   neighbour there is pays.
2. A node is charged to the site that its name begins with. An engine names a node that covers several sites after
   its main operator; the sites that no node is named after are *fused away*: their time is 0 and they are listed.
3. A node with a name that the engine made up is charged to the first site that is missing at its place in the order
   of execution; else to the site that ran before it, unless that one's last node, which is called as the site, has
   run already: then to the next.

What remains is listed, never dropped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from benchfarm_engines.engine import NodeTime
from benchfarm_engines.in_step import in_step


@dataclass(frozen=True)
class SiteTime:
    """The time of one site in one inference, in ns: its own work, and the conversions that it makes necessary."""

    own_ns: int = 0
    entry_ns: int = 0
    exit_ns: int = 0

    @property
    def total_ns(self) -> int:
        """All of it."""
        return self.own_ns + self.entry_ns + self.exit_ns


@dataclass(frozen=True)
class Attribution:
    """One inference by site.

    sites: every site that was asked for, in that order. fused: sites without a node of their own, each with the site
    that the engine says covers it, or with "". unattributed: operators that belong to no site.
    """

    sites: Mapping[str, SiteTime]
    fused: Mapping[str, str]
    unattributed: tuple[NodeTime, ...]

    @property
    def total_ns(self) -> int:
        """The time of all operators, attributed or not."""
        return sum(site.total_ns for site in self.sites.values()) + sum(node.ns for node in self.unattributed)


def attribute(nodes: Sequence[NodeTime], sites: Sequence[str]) -> Attribution:
    """The operators of one inference, in the order of execution, by site; `sites` in the order of the graph."""
    names = _SiteNames(sites)
    owners = _owners(nodes, names)
    times = dict.fromkeys(sites, SiteTime())
    rest = []
    for place, node in enumerate(nodes):
        charge = _charge(place, nodes, owners, names)
        if charge is None:
            rest.append(node)
        else:
            found = times[charge.site]
            times[charge.site] = replace(found, **{charge.part: getattr(found, charge.part) + node.ns})
    return Attribution(times, _fused(nodes, owners, names), tuple(rest))


class _Charge(NamedTuple):
    site: str
    part: str = "own_ns"


class _SiteNames:
    """Finds the site that a name belongs to: ``k1``, ``k1/relu`` and ``k1_nchwc`` are k1's, ``k10`` is not."""

    def __init__(self, sites: Sequence[str]) -> None:
        self.places = {site: place for place, site in enumerate(sites)}

    def of(self, name: str) -> str | None:
        """The site that the name begins with."""
        head = re.split(r"[/_]", name, maxsplit=1)[0]
        return head if head in self.places else None

    def between(self, before: str | None, after: str | None) -> set[str]:
        """The sites behind one and ahead of another; None: from the first, to the last."""
        first = self.places[before] + 1 if before is not None else 0
        last = self.places[after] if after is not None else len(self.places)
        return set(list(self.places)[first:last])


_ENTRY_KINDS: Final = frozenset({"ReorderOutput", "DequantizeLinear"})
"""They lead to the neighbour that needs them."""

_EXIT_KINDS: Final = frozenset({"ReorderInput", "QuantizeLinear"})
"""They lead away from it."""

_LAYOUT_CHANGE: Final = re.compile(
    r"(?P<source>.+)_(?P<was>a[a-zA-Z0-9]{2,})_(?P<becomes>a[a-zA-Z0-9]{2,})_(?P<target>.+)"
)
_TYPE_CHANGE: Final = re.compile(r"(?P<source>.+)_(?:f32|bf16|f16|i8|u8|i32)_(?:f32|bf16|f16|i8|u8|i32)_(?P<target>.+)")
_PLAIN: Final = re.compile(r"abc?d?e?")
"""Axes in their own order, as OpenVINO writes it."""

_CHANNELS_LAST: Final = frozenset({"QLinearConv", "QLinearAveragePool", "QLinearGlobalAveragePool"})
"""What ONNX Runtime computes with the channels last, between transpositions that it adds."""


def _is_conversion(node: NodeTime, names: _SiteNames) -> bool:
    if node.kind in _ENTRY_KINDS | _EXIT_KINDS | {"Reorder"}:
        return True
    return node.kind == "Transpose" and names.of(node.name) is None


def _owners(nodes: Sequence[NodeTime], names: _SiteNames) -> list[str | None]:
    """The site of every node that is no conversion."""
    owners = [None if _is_conversion(node, names) else names.of(node.name) for node in nodes]
    present = {owner for owner in owners if owner is not None}
    ended: set[str | None] = {None}  # sites whose last node, which is called as the site, has run
    for place, node in enumerate(nodes):
        if owners[place] is None and not _is_conversion(node, names):
            before, after = _nearest(owners[:place][::-1]), _nearest(owners[place + 1 :])
            missing = names.between(before, after) - present
            if missing:
                owners[place] = min(missing, key=names.places.__getitem__)
            else:
                owners[place] = after if after is not None and before in ended else before
        ended.update(name.partition("_")[0] for name in (node.name, *node.origins))
    return owners


def _nearest(owners: Sequence[str | None]) -> str | None:
    return next((owner for owner in owners if owner is not None), None)


def _charge(place: int, nodes: Sequence[NodeTime], owners: Sequence[str | None], names: _SiteNames) -> _Charge | None:
    node = nodes[place]
    if not _is_conversion(node, names):
        owner = owners[place]
        return None if owner is None else _Charge(owner)
    before, after = _nearest(owners[:place][::-1]), _nearest(owners[place + 1 :])
    named = _TYPE_CHANGE.fullmatch(node.name) or _LAYOUT_CHANGE.fullmatch(node.name)
    if named is not None:
        before, after = names.of(named["source"]), names.of(named["target"])
    if before is None and after is None:
        return None
    leads_to = _leads_to_its_cause(place, nodes, names)
    if before is None or (leads_to and after is not None):
        return _Charge(str(after), "entry_ns")
    return _Charge(before, "exit_ns")


def _leads_to_its_cause(place: int, nodes: Sequence[NodeTime], names: _SiteNames) -> bool:
    node = nodes[place]
    if node.kind in _ENTRY_KINDS | _EXIT_KINDS:
        return node.kind in _ENTRY_KINDS
    if node.kind == "Transpose":
        following = next((each for each in nodes[place + 1 :] if not _is_conversion(each, names)), None)
        return following is None or following.kind not in _CHANNELS_LAST
    layouts = _LAYOUT_CHANGE.fullmatch(node.name)
    return layouts is None or bool(_PLAIN.fullmatch(layouts["becomes"]))


def _fused(nodes: Sequence[NodeTime], owners: Sequence[str | None], names: _SiteNames) -> dict[str, str]:
    fused = {site: "" for site in names.places if site not in set(owners)}
    for node, owner in in_step(nodes, owners):
        for origin in node.origins:
            site = names.of(origin)
            if owner is not None and site in fused:
                fused[str(site)] = owner
    return fused
