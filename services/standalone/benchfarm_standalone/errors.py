"""What can go wrong while a farm is started or kept, told to the person at the terminal.

FarmError            one sentence that says what is wrong and what to do
└─ ServiceFailed     a process of the farm did not start, or died too often; names it and its log
"""

import json
from pathlib import Path


class FarmError(Exception):
    """The farm cannot start or go on. The text is one sentence and says what to do."""


class ServiceFailed(FarmError):
    """The process ``name`` did not come up or did not stay; ``log_file`` holds what it said last."""

    def __init__(self, name: str, reason: str, log_file: Path) -> None:
        super().__init__(f"{name} {reason}; see {log_file}{_last_line(log_file)}")
        self.name = name
        self.reason = reason
        self.log_file = log_file


def _last_line(log_file: Path, tail_bytes: int = 65536) -> str:
    """The last line that says something, ready to be appended to a sentence, or nothing."""
    try:
        with log_file.open("rb") as file:
            file.seek(max(0, log_file.stat().st_size - tail_bytes))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    told = next(filter(None, (_told(line.strip()) for line in reversed(lines))), "")
    return f" (last line: {told[:300]})" if told else ""


def _told(line: str) -> str:
    """What a line of our own logs says, without its stack trace; nothing if it was cut off; another line as it is."""
    try:
        entry = json.loads(line)
    except ValueError:
        return "" if line.startswith("{") else line
    if not isinstance(entry, dict) or "message" not in entry:
        return line
    cause = str(entry.get("exception", "")).strip().splitlines()[-1:]
    return ": ".join([str(entry["message"]), *cause])
