"""The columns of a configuration: names, units, ranges, and the one way to check and canonicalise them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchfarm_core.errors import InvalidRequest

Scalar = int | str
Config = dict[str, Scalar]


@dataclass(frozen=True, slots=True)
class Column:
    """One column: an integer in ``low..high`` or one of ``choices``. No default means it must be given."""

    name: str
    unit: str
    meaning: str
    low: int = 0
    high: int = 0
    choices: tuple[Scalar, ...] = ()
    default: Scalar | None = None

    @property
    def allowed(self) -> str:
        """The allowed values as a text for people."""
        if self.choices:
            return "one of " + ", ".join(str(choice) for choice in self.choices)
        return f"an integer from {self.low} to {self.high}"

    def accepts(self, value: object) -> bool:
        """True for an integer in range or a listed choice; a bool is no integer here."""
        if isinstance(value, bool) or not isinstance(value, int | str):
            return False
        if self.choices:
            return value in self.choices
        return isinstance(value, int) and self.low <= value <= self.high


@dataclass(frozen=True, slots=True)
class Rule:
    """A condition across columns; ``column`` is the one to name when it does not hold."""

    column: str
    holds: Callable[[Mapping[str, Scalar]], bool]
    text: str


@dataclass(frozen=True, slots=True)
class Shape:
    """Columns in their order with the rules that tie them, and the error code of a violation."""

    noun: str
    columns: tuple[Column, ...]
    rules: tuple[Rule, ...]
    error_code: str

    def canonical(self, config: Mapping[str, object]) -> Config:
        """The configuration in column order with defaults filled in; the same for every spelling.

        Raises:
            InvalidRequest: naming the column, its value and what is allowed.
        """
        self._refuse_unknown(config)
        canonical = {column.name: self._value(column, config) for column in self.columns}
        for rule in self.rules:
            if not rule.holds(canonical):
                raise self.refusal(rule.column, f"{rule.column}={canonical[rule.column]}: {rule.text}")
        return canonical

    def refusal(self, column: str, detail: str) -> InvalidRequest:
        """The error for a configuration that is out of range in ``column``."""
        return InvalidRequest(f"{self.noun}: {detail}", code=self.error_code, field=f"config.{column}")

    def _refuse_unknown(self, config: Mapping[str, object]) -> None:
        known = names(self.columns)
        for name in config:
            if name not in known:
                raise self.refusal(str(name)[:40], f"no column {str(name)[:40]!r}; columns are {', '.join(known)}")

    def _value(self, column: Column, config: Mapping[str, object]) -> Scalar:
        value = config.get(column.name, column.default)
        if value is None:
            raise self.refusal(column.name, f"{column.name} is missing; it must be {column.allowed}")
        if not column.accepts(value):
            shown = repr(value)[:40]
            raise self.refusal(column.name, f"{column.name}={shown} must be {column.allowed} ({column.unit})")
        assert isinstance(value, int | str)
        return value


def names(columns: Sequence[Column]) -> tuple[str, ...]:
    """The column names in order."""
    return tuple(column.name for column in columns)


def integer(config: Mapping[str, Scalar], name: str) -> int:
    """An integer column of a canonical configuration."""
    value = config[name]
    if not isinstance(value, int):
        raise TypeError(f"column {name} holds {value!r}, not an integer")
    return value


def text(config: Mapping[str, Scalar], name: str) -> str:
    """A text column of a canonical configuration."""
    value = config[name]
    if not isinstance(value, str):
        raise TypeError(f"column {name} holds {value!r}, not a text")
    return value
