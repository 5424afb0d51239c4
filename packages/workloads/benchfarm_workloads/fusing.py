"""Which operators of a model an engine computes as one kernel, by rules on pairs of operator families.

Two operators in a row are one kernel when the first one's output has no other use and the engine fuses the pair:
the two-operator rule of nn-Meter (MobiSys 2021). A chain is fused link by link.
"""

from collections import defaultdict
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from benchfarm_workloads.operators import CONVOLUTIONS, Operator

Pair = tuple[str, str]

_ACTIVATIONS: Final = ("Relu", "Clip", "HardSwish", "Sigmoid", "Swish")
DEFAULT_FUSIONS: Final[frozenset[Pair]] = frozenset(
    {
        *((head, act) for head in (*CONVOLUTIONS, "ConvTranspose", "Gemm", "Linear", "Add") for act in _ACTIVATIONS),
        ("Linear", "Gelu"),
    }
)
"""What the kernel types of the catalogue hold: a layer with its activation. Taken where nothing is measured."""
_LIKE: Final = {"DepthwiseConv": "Conv", "GroupConv": "Conv"}
"""Whose verdict counts for a family that has none."""
_FIRST_INPUT: Final = frozenset({*CONVOLUTIONS, "BatchNormalization", "Clip", "ConvTranspose", "Gemm", "Resize"})
"""Families that compute on their first input; what else they read are weights, limits and sizes."""


@dataclass(frozen=True)
class FusionRules:
    """What an engine fuses: ``measured`` pairs as they were found; every other pair as ``DEFAULT_FUSIONS`` says."""

    measured: Mapping[Pair, bool] = field(default_factory=dict)

    def verdict(self, first: str, second: str) -> bool | None:
        """What was found of a pair, or of the same with a plain convolution; None where nothing was."""
        found = self.measured.get((first, second))
        return self.measured.get((_LIKE[first], second)) if found is None and first in _LIKE else found

    def fuses(self, first: str, second: str) -> bool:
        """Whether the pair is one kernel."""
        found = self.verdict(first, second)
        return (first, second) in DEFAULT_FUSIONS if found is None else found


@dataclass(frozen=True, slots=True)
class Fused:
    """The kernels of a model, in an order in which they can run, and the pairs that decided without a measurement."""

    kernels: tuple[tuple[Operator, ...], ...]
    assumed: tuple[Pair, ...]


def fuse(operators: Sequence[Operator], rules: FusionRules, joined: Container[str] = frozenset()) -> Fused:
    """Every operator in exactly one kernel. Of several that could take in the same one, the last does.

    joined: values between operators that a file has as one, whatever the rules say.
    """
    users: dict[str, list[int]] = defaultdict(list)
    for at, operator in enumerate(operators):
        for name in operator.inputs:
            users[name].append(at)
    before: dict[int, int] = {}
    assumed: set[Pair] = set()
    for at, operator in enumerate(operators):
        after = _only_user(operator, users)
        if after is None or not _is_followed(operator, operators[after]):
            continue
        pair = (operator.family, operators[after].family)
        if operator.outputs[0] in joined:
            before[after] = at
            continue
        if rules.verdict(*pair) is None and pair in DEFAULT_FUSIONS:
            assumed.add(pair)
        if rules.fuses(*pair):
            before[after] = at  # a later operator overwrites an earlier one
    return Fused(_chains(operators, before), tuple(sorted(assumed)))


def _is_followed(operator: Operator, after: Operator) -> bool:
    """Whether the next one computes on what this one makes: as a weight or a limit it is no step behind it."""
    first = after.nodes[0].inputs[0] if after.family in _FIRST_INPUT and after.nodes else operator.outputs[0]
    return first == operator.outputs[0]


def _only_user(operator: Operator, users: Mapping[str, list[int]]) -> int | None:
    if len(operator.outputs) != 1 or operator.handed_out:
        return None
    found = users.get(operator.outputs[0], [])
    return found[0] if len(found) == 1 else None


def _chains(operators: Sequence[Operator], before: Mapping[int, int]) -> tuple[tuple[Operator, ...], ...]:
    """Chains by the place of their last operator."""
    inner = set(before.values())
    chains = []
    for last in range(len(operators)):
        if last in inner:
            continue
        chain = [last]
        while chain[0] in before:
            chain.insert(0, before[chain[0]])
        chains.append(tuple(operators[at] for at in chain))
    return tuple(chains)
