"""The frame of a child that answers: confined first, then one JSON line out for each JSON line in.

A child is kept alive between questions of the farm's own making. What a stranger wrote gets a child of its own.
"""

import errno
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from benchfarm_core.confine import ConfinementIncomplete, confine
from benchfarm_core.failures import FailureCode
from benchfarm_engines.engine import EngineFailure, EngineUnavailable, one_line
from benchfarm_engines.launch_request import BadRequest, read_limits
from benchfarm_engines.runner import EXIT_CANNOT_GO_ON, claim_stdout

_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

Answer = Callable[[dict[str, Any]], dict[str, Any]]
"""Answers one question; raises EngineFailure, EngineUnavailable, MemoryError, OSError, or what bad fields raise."""


def serve(arguments: list[str], answer: Answer) -> int:
    """Answers until stdin ends; the one argument is the JSON of the limits. Returns the exit status."""
    lines = claim_stdout()
    ours = str(Path(__file__).resolve().parent)
    try:
        limits = read_limits(json.loads(arguments[0]))
        confine(replace(limits, readable=(*limits.readable, ours)))
    except (IndexError, ValueError) as error:
        lines.write({"ok": False, "code": "bad_request", "detail": one_line(str(error))})
        return EXIT_CANNOT_GO_ON
    except ConfinementIncomplete as error:
        lines.write(_refusal(FailureCode.ENGINE_UNAVAILABLE, str(error)))
        return EXIT_CANNOT_GO_ON
    for line in sys.stdin.buffer:
        lines.write(_answered(line, answer))
    return 0


def _answered(line: bytes, answer: Answer) -> dict[str, Any]:
    try:
        return {"ok": True, **answer(json.loads(line))}
    except EngineFailure as failure:
        return _refusal(failure.code, failure.detail, failure.subject)
    except MemoryError:
        return _refusal(FailureCode.OUT_OF_MEMORY, "more memory than the child may use")
    except (BadRequest, ValueError, KeyError, TypeError) as error:
        return {"ok": False, "code": "bad_request", "detail": one_line(f"{type(error).__name__}: {error}")}
    except EngineUnavailable as error:
        return _refusal(FailureCode.ENGINE_UNAVAILABLE, str(error))
    except OSError as error:
        return _refused_by_machine(error)


def _refused_by_machine(error: OSError) -> dict[str, Any]:
    """Nothing that a workload could do better, but for what is too large; without the paths that an error names."""
    said = error.strerror or type(error).__name__
    if error.errno == errno.EFBIG:
        return _refusal(FailureCode.CONVERSION_FAILED, "what is made of it is larger than a file may be here")
    return _refusal(FailureCode.DISK_FULL if error.errno in _NO_ROOM else FailureCode.RUNNER_DIED, said)


def _refusal(code: FailureCode, detail: str, subject: str = "") -> dict[str, Any]:
    return {"ok": False, "code": str(code), "detail": one_line(detail), "subject": subject}


def write_answer(out: Path, content: bytes) -> None:
    """Puts an answer's file where the question wants it: it is found whole or not at all. Raises OSError."""
    part = out.with_suffix(".part")
    try:
        part.write_bytes(content)
        part.replace(out)
    except OSError:
        part.unlink(missing_ok=True)
        raise
