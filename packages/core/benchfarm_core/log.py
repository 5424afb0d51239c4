"""One JSON log format for every process. Formats lines; decides nothing."""

import json
import logging
from contextvars import ContextVar
from typing import Any

context: ContextVar[dict[str, str]] = ContextVar("benchfarm_log_context")
"""Fields bound to every line: request_id, job_id, lease_token, board_id."""

_PLAIN = frozenset(logging.LogRecord("", 0, "", 0, "", (), None).__dict__) | {
    "message",
    "asctime",
    "taskName",
    "color_message",
}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: at, level, service, action, message, then `extra` and bound fields."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line without secrets: callers never log tokens."""
        line: dict[str, Any] = {
            "at": self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{int(record.msecs):03d}",
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update(context.get({}))
        line.update({key: value for key, value in record.__dict__.items() if key not in _PLAIN})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


def configure(service: str) -> None:
    """Send every log line of this process to stderr as JSON."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter(service))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
