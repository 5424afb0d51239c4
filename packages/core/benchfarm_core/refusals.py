"""What pydantic found wrong with a request, as one sentence that names the field and what it may be."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

VALUE_ERROR: Final = "Value error, "
UNION_LABELS: Final = frozenset({"int", "float", "str", "bool", "constrained-str", "constrained-int"})
"""What pydantic adds to a place that takes one of several plain types: which of them it tried."""
TAGS: Final = frozenset(
    {"kernel", "model", "architecture", "upload", "pair", "kernel_list", "names", "filter", "normal", "ints"}
)
"""What it adds to a place that takes one of several objects: which of them it took it for."""
TAGGED: Final = frozenset({"a", "b", "platforms", "fill"})
"""Fields, beside lists, that take one of several objects."""


class KindMissing(ValueError):
    """An object that may be one of several kinds does not say which."""


class Refusal(NamedTuple):
    """The first fault: `field` is the place, dotted, `detail` a sentence about it, `others` how many more there are."""

    field: str
    detail: str
    others: int

    @property
    def sentence(self) -> str:
        """Place and fault."""
        return f"{self.field}: {self.detail}" if self.field else self.detail


def needs_kind(*kinds: str) -> Callable[[Any], Any]:
    """A check before an object is taken for one of several kinds: pydantic would not say which there are."""

    def check(given: Any) -> Any:
        if (type(given) is dict or isinstance(given, Mapping)) and "kind" not in given:  # items are thousands
            raise KindMissing(f"it is missing; it can be {', '.join(kinds)}")
        return given

    return check


def refusal_of(errors: Sequence[Mapping[str, Any]], *, skip: int = 0) -> Refusal:
    """What to tell of a validation's errors; `skip` parts of each place are no part of the request."""
    placed = [(_place(error["loc"][skip:]), error) for error in errors]
    first = placed[0][0]
    told = [_fault(error) for place, error in placed if place == first]
    field, detail = told[0]
    if len(told) > 1:
        detail = ", or: ".join(dict.fromkeys(text for _, text in told))
    # a list of which a part was refused is refused once more, for being too short without it
    places = {place for place, _ in placed}
    above = {place[:at] for place in places for at, sign in enumerate(place) if sign == "."}
    others = len(places - above - {first})
    return Refusal(".".join(filter(None, (first, field))), detail, others)


def _place(loc: Sequence[str | int]) -> str:
    """The dotted place as the caller wrote it."""
    parts: list[str | int] = []
    for part in loc:
        after = parts[-1] if parts else ""
        if part in TAGS and (isinstance(after, int) or after in TAGGED):
            continue
        parts.append(part)
    if len(parts) > 1 and parts[-1] in UNION_LABELS:
        parts.pop()
    return ".".join(map(str, parts))


def _fault(error: Mapping[str, Any]) -> tuple[str, str]:
    """The part below the place that it is about, and what is wrong there."""
    facts = error.get("ctx") or {}
    if isinstance(facts.get("error"), KindMissing):
        return "kind", str(facts["error"])
    if error["type"] == "union_tag_invalid":
        known = str(facts["expected_tags"]).replace("'", "")
        return str(facts["discriminator"]).strip("'"), f"it cannot be {str(facts['tag'])[:60]!r}; it can be {known}"
    return "", str(error["msg"]).removeprefix(VALUE_ERROR)
