"""A TOML file that a person wrote, as a model of its parts; an error names the line and says what to do."""

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from benchfarm_core.errors import InvalidRequest

FILE_BYTES_MAX: Final = 2**20
_LINE: Final = re.compile(r" \(at line (\d+), column (\d+)\)$")
_Model = TypeVar("_Model", bound=BaseModel)


class TomlPart(BaseModel):
    """Frozen, no unknown entries, no value taken for another kind's."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True)
class TomlFile:
    """A file's text, and the setting that names the file.

    advice: what to do about a kind of pydantic error, where its own message does not say; reasons: what is wrong with
    an entry of the top, whatever pydantic says of it: of a union it names the kinds.
    """

    path: Path
    text: str
    setting: str
    advice: Mapping[str, str] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)

    def parsed(self, model: type[_Model]) -> _Model:
        """What the file says. Raises InvalidRequest with the line and the reason."""
        document = self._document()
        try:
            # as JSON, where a list may be a tuple and nothing else is taken for another kind
            return model.model_validate_json(json.dumps(document, default=str), strict=True)
        except ValidationError as error:
            raise self._refused(error) from error

    def wrong(self, place: Sequence[int | str], reason: str) -> InvalidRequest:
        """The refusal of an entry; place: such as ``("ssh", 1, "port")``."""
        return self._wrong_line(line_of(self.text, place), reason)

    def _wrong_line(self, line: int, reason: str) -> InvalidRequest:
        return InvalidRequest(f"{self.path}, line {line}: {reason}", field=self.setting)

    def _document(self) -> dict[str, Any]:
        try:
            return tomllib.loads(self.text)
        except tomllib.TOMLDecodeError as error:
            found = _LINE.search(str(error))
            line = int(found[1]) if found else self.text.count("\n") + 1
            reason = _LINE.sub("", str(error)).removesuffix(" (at end of document)")
            raise self._wrong_line(line, f"this is no TOML: {reason}") from error

    def _refused(self, error: ValidationError) -> InvalidRequest:
        problem = error.errors()[0]
        place = tuple(part for part in problem["loc"] if part != "[key]")
        advice = self.advice.get(problem["type"])
        reason = advice or f"{problem['msg'].removeprefix('Value error, ')}; change it"
        if place and place[0] in self.reasons:
            place, reason = place[:1], self.reasons[str(place[0])]
        named = ".".join(str(part + 1) if isinstance(part, int) else part for part in place)
        where = place[:-1] if problem["type"] == "missing" else place
        return self.wrong(where, f"{named}: {reason}" if named else reason)


def open_toml(path: Path, setting: str, **more: Mapping[str, str]) -> TomlFile:
    """The file, not yet understood; more: `advice` and `reasons` of `TomlFile`. Raises InvalidRequest."""
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
        if len(content) > FILE_BYTES_MAX:
            raise InvalidRequest(f"{path} is above {FILE_BYTES_MAX} bytes: name another --{setting}", field=setting)
        return TomlFile(path, content.decode(), setting, **more)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        wrong = f"{path}, line {line}: this is no UTF-8 text: save the file as UTF-8"
        raise InvalidRequest(wrong, field=setting) from error
    except OSError as error:
        raise InvalidRequest(
            f"cannot read {path} ({error.strerror}): name another --{setting}", field=setting
        ) from error


def line_of(text: str, place: Sequence[int | str]) -> int:
    """The line of an entry in a TOML text, counted from 1; the nearest that is known where it has none of its own.

    place: such as ``("ssh", 1, "port")``. Tables are looked for by their headers.
    """
    if not place:
        return 1
    lines = text.splitlines()
    table = str(place[0])
    wanted = place[1] if len(place) > 1 and isinstance(place[1], int) else 0
    headers = [number for number, line in enumerate(lines) if re.match(rf"\s*\[\[?\s*{re.escape(table)}\s*\]", line)]
    if not headers:
        return _entry(lines, 0, table) or 1
    begin = headers[min(wanted, len(headers) - 1)]
    keys = [part for part in place[1:] if isinstance(part, str)]
    return (_entry(lines, begin + 1, keys[0]) if keys else None) or begin + 1


def _entry(lines: Sequence[str], begin: int, key: str) -> int | None:
    """The line of `key = ...` from `begin` on, up to the next table."""
    for number in range(begin, len(lines)):
        if re.match(r"\s*\[", lines[number]):
            return None
        if re.match(rf"""\s*["']?{re.escape(key)}["']?\s*=""", lines[number]):
            return number + 1
    return None
