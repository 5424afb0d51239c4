"""How ids and small ordered values look in rows and how they look to people."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from benchfarm_core.errors import NotFound
from benchfarm_core.jobs import PriorityClass
from benchfarm_core.platforms import CLOCK_PROOF_ORDER, ClockProof, EffectivePrecision, effective_precision

CLOCK_PROOFS: Final = tuple(sorted(ClockProof, key=CLOCK_PROOF_ORDER.__getitem__))
_DIGITS: Final = re.compile("[0-9a-f]{32}")
PRIORITIES: Final = (PriorityClass.LOW, PriorityClass.NORMAL, PriorityClass.HIGH)


def clock_level(proof: ClockProof) -> int:
    """0 unpinned, 1 bounded, 2 verified."""
    return CLOCK_PROOF_ORDER[proof]


def priority_number(priority: PriorityClass) -> int:
    """0 low, 1 normal, 2 high."""
    return PRIORITIES.index(priority)


def precisions_text(own: EffectivePrecision | None, b: EffectivePrecision | None) -> str | None:
    """What was computed in, as a result keeps it: ``fp32``; of a pair with both sides, ``fp32/int8``."""
    return own if b is None else f"{own or ''}/{b}"


def precisions_of(kept: str | None) -> tuple[EffectivePrecision | None, EffectivePrecision | None]:
    """What was computed in, and of a pair its b side."""
    own, _, b = (kept or "").partition("/")
    return effective_precision(own or None), effective_precision(b or None)


def account_text(number: int) -> str:
    """The id of an account as people see it."""
    return f"acct_{number}"


def account_number(account_id: str) -> int:
    """The row that an account id means. Raises NotFound."""
    digits = account_id.removeprefix("acct_")
    if not digits.isdecimal() or len(digits) > 9:
        raise NotFound("there is no such account")
    return int(digits)


def workload_text(digest: str) -> str:
    """The id of a workload from its digest column."""
    return "w_" + digest.replace("-", "")


def workload_digest(workload_id: str) -> str:
    """The digest column of a workload id. Raises NotFound when the text is no such id."""
    hexadecimal = workload_id.removeprefix("w_")
    if _DIGITS.fullmatch(hexadecimal):  # nearly always, and questions name thousands
        parts = (hexadecimal[:8], hexadecimal[8:12], hexadecimal[12:16], hexadecimal[16:20], hexadecimal[20:])
        return "-".join(parts)
    return _uuid(hexadecimal, "workload")


def lease_token(column: str) -> str:
    """The token of a lease from its column."""
    return "l_" + column.replace("-", "")


def lease_column(token: str) -> str:
    """The column of a lease token. Raises NotFound when the text is no token."""
    return _uuid(token.removeprefix("l_"), "lease")


def job_column(job_id: str) -> str:
    """The column of a job id. Raises NotFound when the text is no such id."""
    return _uuid(job_id, "job")


def adaptation_column(adaptation_id: str) -> str:
    """The column of an adaptation id. Raises NotFound when the text is no such id."""
    return _uuid(adaptation_id, "adaptation")


def rows_json(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as one JSON document, for jsonb_to_recordset: one parameter however many rows."""
    return json.dumps(rows, separators=(",", ":"), allow_nan=False, default=str)


def _uuid(text: str, noun: str) -> str:
    try:
        return str(UUID(text))
    except ValueError:
        raise NotFound(f"there is no such {noun}") from None
