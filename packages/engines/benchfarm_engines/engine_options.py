"""Typed engine options: closed sets, because they are part of a platform's identity."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Union

OptionValue = Union[bool, int, str]  # noqa: UP007 evaluated, which Python 3.9 on a board cannot do with |


class InvalidOption(ValueError):
    """An option that the engine does not have, or a value outside its set."""


@dataclass(frozen=True)
class Option:
    """One option: a switch, a whole number in a range, or one of some names. Never a path or free text.

    precisions: in which it changes anything; none named: in all.
    """

    name: str
    kind: Literal["switch", "number", "choice"]
    default: OptionValue
    meaning: str
    choices: tuple[str, ...] = ()
    low: int = 0
    high: int = 0
    precisions: tuple[str, ...] = ()

    def accepts(self, value: object) -> bool:
        """Whether a value is in the option's set."""
        if self.kind == "switch":
            return isinstance(value, bool)
        if self.kind == "number":
            return isinstance(value, int) and not isinstance(value, bool) and self.low <= value <= self.high
        return isinstance(value, str) and value in self.choices

    def schema(self) -> dict[str, Any]:
        """The option as ``--probe`` prints it."""
        limits: dict[str, dict[str, Any]] = {
            "switch": {},
            "number": {"low": self.low, "high": self.high},
            "choice": {"choices": list(self.choices)},
        }
        said = {"kind": self.kind, "default": self.default, "meaning": self.meaning, **limits[self.kind]}
        return said | ({"precisions": list(self.precisions)} if self.precisions else {})


def check_options(given: Mapping[str, object], known: tuple[Option, ...]) -> dict[str, OptionValue]:
    """Every known option with its given or default value. Raises InvalidOption."""
    unknown = sorted(set(given) - {option.name for option in known})
    if unknown:
        raise InvalidOption(f"the engine has no option {unknown[0][:60]!r}")
    values: dict[str, OptionValue] = {}
    for option in known:
        value = given.get(option.name, option.default)
        if not option.accepts(value):
            raise InvalidOption(f"option {option.name} cannot be {str(value)[:60]!r}: {option.schema()}")
        assert isinstance(value, (bool, int, str))
        values[option.name] = value
    return values


INT8_OPTIONS: Final = (
    Option(
        "edges",
        "choice",
        "int8",
        "what an int8 model takes and gives: int8 itself, or fp32 that it quantises first",
        choices=("int8", "fp32"),
        precisions=("int8",),
    ),
    Option(
        "calibration_seed",
        "number",
        0,
        "seed of the inputs that int8 ranges are learnt from",
        high=2**16,
        precisions=("int8",),
    ),
)
"""How int8 is made, for every engine that has it; in other precisions they change nothing."""
