"""Durations as a person types them: ``90``, ``90s``, ``15m``, ``12h``, ``30d``."""

import re
from typing import Final

from benchfarm_core.errors import InvalidRequest

_UNITS_S: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_FORM: Final = re.compile(r"(\d{1,9})([smhd]?)", re.ASCII)


def parse_duration_s(text: str, *, field: str) -> int:
    """Whole seconds. Raises InvalidRequest that names `field`."""
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise InvalidRequest(f"{text!r} is no duration; write 90, 90s, 15m, 12h or 30d", field=field)
    return int(match[1]) * _UNITS_S[match[2]]


def duration_text(seconds: float) -> str:
    """A duration for people, to two parts: ``2 h 5 min``, ``40 s``, ``0.4 s``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest_s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest_s} s" if minutes else f"{rest_s} s"
