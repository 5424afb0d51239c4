"""Why a measurement failed: codes in three ranges that say whose fault it was.

1000-9999 the farm's, 10000-19999 the user's (the workload cannot run there), 20000-29999 transient. Only
transient ones are tried again, on another board if there is one.
"""

from enum import Enum
from typing import Final, Literal

Fault = Literal["farm", "user", "transient"]


class FailureCode(str, Enum):  # noqa: UP042 boards import this, and their Python may be older than StrEnum
    """The typed outcomes of a failed measurement."""

    def __str__(self) -> str:
        return str(self.value)

    def __format__(self, format_spec: str) -> str:
        return format(self.value, format_spec)

    ENGINE_ERROR = "engine_error"
    RUNNER_GARBAGE = "runner_garbage"
    POISON = "poison"
    INCONCLUSIVE = "inconclusive"
    FILE_LOST = "file_lost"
    UNSUPPORTED_OPERATOR = "unsupported_operator"
    CONVERSION_FAILED = "conversion_failed"
    WRONG_RESULT = "wrong_result"
    OUT_OF_MEMORY = "out_of_memory"
    INVALID_WORKLOAD = "invalid_workload"
    TIMEOUT = "timeout"
    PRECISION_NOT_OBEYED = "precision_not_obeyed"
    THREADS_NOT_OBEYED = "threads_not_obeyed"
    CLOCK_PROOF_UNAVAILABLE = "clock_proof_unavailable"
    BUDGET_SPENT = "budget_spent"
    EXPIRED = "expired"
    MODEL_TOO_LARGE_FOR_BOARD = "model_too_large_for_board"
    FUSED_AWAY = "fused_away"
    BELOW_CLOCK = "below_clock"
    LEASE_LOST = "lease_lost"
    BOARD_LOST = "board_lost"
    RUNNER_DIED = "runner_died"
    DISK_FULL = "disk_full"
    PIN_NOT_VERIFIED = "pin_not_verified"
    CANARY_DRIFT = "canary_drift"
    CONTENDED = "contended"
    THROTTLED = "throttled"
    ENGINE_UNAVAILABLE = "engine_unavailable"
    CARRIER_FAILED = "carrier_failed"
    DIFFERENCE_UNCLEAR = "difference_unclear"
    NOISY = "noisy"


FAILURE_NUMBERS: Final[dict[FailureCode, int]] = {
    FailureCode.ENGINE_ERROR: 1000,
    FailureCode.RUNNER_GARBAGE: 1001,
    FailureCode.POISON: 1002,
    FailureCode.INCONCLUSIVE: 1003,
    FailureCode.FILE_LOST: 1005,
    FailureCode.UNSUPPORTED_OPERATOR: 10000,
    FailureCode.CONVERSION_FAILED: 10001,
    FailureCode.WRONG_RESULT: 10002,
    FailureCode.OUT_OF_MEMORY: 10003,
    FailureCode.INVALID_WORKLOAD: 10004,
    FailureCode.TIMEOUT: 10005,
    FailureCode.PRECISION_NOT_OBEYED: 10006,
    FailureCode.THREADS_NOT_OBEYED: 10007,
    FailureCode.CLOCK_PROOF_UNAVAILABLE: 10008,
    FailureCode.BUDGET_SPENT: 10009,
    FailureCode.EXPIRED: 10010,
    FailureCode.MODEL_TOO_LARGE_FOR_BOARD: 10011,
    FailureCode.FUSED_AWAY: 10012,
    FailureCode.BELOW_CLOCK: 10013,
    FailureCode.LEASE_LOST: 20000,
    FailureCode.BOARD_LOST: 20001,
    FailureCode.RUNNER_DIED: 20002,
    FailureCode.DISK_FULL: 20003,
    FailureCode.PIN_NOT_VERIFIED: 20004,
    FailureCode.CANARY_DRIFT: 20005,
    FailureCode.CONTENDED: 20006,
    FailureCode.ENGINE_UNAVAILABLE: 20007,
    FailureCode.CARRIER_FAILED: 20008,
    FailureCode.THROTTLED: 20009,
    FailureCode.DIFFERENCE_UNCLEAR: 20010,
    FailureCode.NOISY: 20011,
}

INCONCLUSIVE_CODES: Final = frozenset(
    {
        FailureCode.CANARY_DRIFT,
        FailureCode.CONTENDED,
        FailureCode.THROTTLED,
        FailureCode.DIFFERENCE_UNCLEAR,
        FailureCode.NOISY,
    }
)
"""Transient outcomes that say the conditions were not good enough, not that anything broke. `DIFFERENCE_UNCLEAR`: what
a second copy of a kernel takes is no more than how far that is uncertain. `NOISY`: the canary was slower
throughout than the board or the lease has it (`quality.is_noisy`)."""


def fault_of(code: FailureCode) -> Fault:
    """Whose fault a failure is, by its number's range."""
    number = FAILURE_NUMBERS[code]
    if number < 10_000:
        return "farm"
    return "user" if number < 20_000 else "transient"
