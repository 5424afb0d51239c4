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


def _last_line(log_file: Path, tail_bytes: int = 4096) -> str:
    """The last line that is not blank, ready to be appended to a sentence, or nothing."""
    try:
        with log_file.open("rb") as file:
            file.seek(max(0, log_file.stat().st_size - tail_bytes))
            lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    except OSError:
        return ""
    return f" (last line: {_told(lines[-1])[:300]})" if lines else ""


def _told(line: str) -> str:
    """What a line of our own logs says, without its stack trace; another line as it is."""
    try:
        entry = json.loads(line)
    except ValueError:
        return line
    if not isinstance(entry, dict) or "message" not in entry:
        return line
    cause = str(entry.get("exception", "")).strip().splitlines()[-1:]
    return ": ".join([str(entry["message"]), *cause])
