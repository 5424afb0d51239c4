"""The errors a caller can meet, each with a stable code.

BenchfarmError
├─ InvalidRequest       the request cannot be served as it stands; names the field
├─ TooLarge             above a stated limit
├─ Unauthenticated      no token, or one that is unknown, revoked or expired
├─ Forbidden            a valid token without the right
├─ NotFound             no such thing, or not yours to see
├─ Conflict             the state does not allow this move
│  └─ LeaseLost         the lease token is no longer the live one
├─ QuotaExceeded        a quota of the account is used up; says when to come again
├─ UpgradeRequired      the agent speaks a protocol version that the server no longer takes
├─ Unavailable          a part of the farm is away; trying again later is right
└─ DeviceError          something went wrong on or around a board
   ├─ TransientDeviceError    try again, perhaps elsewhere
   └─ PermanentDeviceError    do not retry: unsupported operator, wrong result
"""

from typing import ClassVar

from benchfarm_core.error_codes import ERROR_CODES


class BenchfarmError(Exception):
    """Base of all errors. ``detail`` is a sentence that says what to do.

    ``request_id`` finds the request in the farm's log; it is there on errors that came as an answer.
    """

    default_code: ClassVar[str] = "internal_error"

    def __init__(self, detail: str, *, code: str | None = None, field: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code or self.default_code
        self.field = field
        self.request_id: str | None = None
        if self.code not in ERROR_CODES:
            raise ValueError(f"error code {self.code!r} is not in error_codes.ERROR_CODES")


class InvalidRequest(BenchfarmError):
    """The request cannot be served as it stands."""

    default_code = "invalid_request"


class TooLarge(BenchfarmError):
    """The body, the file or the number of items is above a stated limit."""

    default_code = "too_large"


class Unauthenticated(BenchfarmError):
    """No token, or one that is unknown, revoked or expired."""

    default_code = "unauthenticated"


class Forbidden(BenchfarmError):
    """The token is valid but has no right to this."""

    default_code = "forbidden"


class NotFound(BenchfarmError):
    """No such thing, or not yours to see."""

    default_code = "not_found"


class Conflict(BenchfarmError):
    """The present state does not allow this move."""

    default_code = "conflict"


class LeaseLost(Conflict):
    """The lease token is no longer the live one."""

    default_code = "lease_lost"


class QuotaExceeded(BenchfarmError):
    """A quota of the account is used up. ``retry_after_s`` says when asking again makes sense."""

    default_code = "quota_exceeded"

    def __init__(self, detail: str, *, limit: int, retry_after_s: int, code: str | None = None) -> None:
        super().__init__(detail, code=code)
        self.limit = limit
        self.retry_after_s = retry_after_s


class UpgradeRequired(BenchfarmError):
    """The agent's protocol version is not served."""

    default_code = "upgrade_required"


class Unavailable(BenchfarmError):
    """A part of the farm is away; trying again later is right."""

    default_code = "unavailable"


class DeviceError(BenchfarmError):
    """Something went wrong on or around a board."""

    default_code = "device_error"


class TransientDeviceError(DeviceError):
    """Trying again, perhaps on another board, is right."""

    default_code = "device_transient"


class PermanentDeviceError(DeviceError):
    """Trying again changes nothing."""

    default_code = "device_permanent"
