"""With what the `benchfarm` command ends: one number per kind of outcome, listed in docs/cli.md."""

from enum import IntEnum
from typing import Final

from benchfarm_core.errors import (
    BenchfarmError,
    Conflict,
    Forbidden,
    InvalidRequest,
    NotFound,
    QuotaExceeded,
    TooLarge,
    Unauthenticated,
    Unavailable,
    UpgradeRequired,
)
from benchfarm_core.jobs import JobState


class ExitCode(IntEnum):
    """Stable: scripts rely on them."""

    OK = 0
    JOB_FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    NOT_AUTHORISED = 4
    PARTIAL = 5
    NOT_FOUND = 6
    CONFLICT = 7
    QUOTA = 8
    FAULT = 9
    TIMEOUT = 10
    UNWRITTEN = 11
    SLOWER = 12
    INCONCLUSIVE = 13
    NOT_INSTALLED = 127
    INTERRUPTED = 130
    UNREAD = 141


MEANINGS: Final[dict[ExitCode, str]] = {
    ExitCode.OK: "done; for a job that was waited for: every item has a result",
    ExitCode.JOB_FAILED: "the job ended as `failed` or `cancelled`; for `latency`: no item could be answered;"
    " for `adapt`: it failed or was cancelled; for `evaluate accuracy`: too few architectures could be compared",
    ExitCode.USAGE: "wrong usage, or the farm refused the request as it stands (`field` says where)",
    ExitCode.UNREACHABLE: "the farm cannot be reached, or a part of it is away",
    ExitCode.NOT_AUTHORISED: "no login, or the token is unknown, revoked, expired or has no right to this",
    ExitCode.PARTIAL: "some items have a result and some could not be measured or answered",
    ExitCode.NOT_FOUND: "no such thing, or not yours to see",
    ExitCode.CONFLICT: "the present state does not allow this",
    ExitCode.QUOTA: "a quota of the account is used up",
    ExitCode.FAULT: "a fault of the farm or of this command; the request id finds it in the farm's log",
    ExitCode.TIMEOUT: "`--timeout` passed before the job ended; the job goes on",
    ExitCode.UNWRITTEN: "stdout cannot be written, as on a full disk; what was asked for may be done",
    ExitCode.SLOWER: "`compare --fail-if-slower`: b is slower, by what may be more than the tolerance",
    ExitCode.INCONCLUSIVE: "`compare`: neither a difference nor none within the tolerance could be told",
    ExitCode.NOT_INSTALLED: "the verb comes with a distribution that is not installed; the answer says how to get it",
    ExitCode.INTERRUPTED: "interrupted by Ctrl-C; a job that was waited for goes on",
    ExitCode.UNREAD: "whoever read stdout went away, as `head` does",
}

_OF_ERROR: Final[dict[type[BenchfarmError], ExitCode]] = {
    InvalidRequest: ExitCode.USAGE,
    TooLarge: ExitCode.USAGE,
    Unauthenticated: ExitCode.NOT_AUTHORISED,
    Forbidden: ExitCode.NOT_AUTHORISED,
    NotFound: ExitCode.NOT_FOUND,
    Conflict: ExitCode.CONFLICT,
    QuotaExceeded: ExitCode.QUOTA,
    UpgradeRequired: ExitCode.FAULT,
    Unavailable: ExitCode.UNREACHABLE,
    BenchfarmError: ExitCode.FAULT,
}

_OF_STATE: Final[dict[JobState, ExitCode]] = {
    JobState.SUCCEEDED: ExitCode.OK,
    JobState.PARTIAL: ExitCode.PARTIAL,
    JobState.FAILED: ExitCode.JOB_FAILED,
    JobState.CANCELLED: ExitCode.JOB_FAILED,
}


def exit_code_of_error(error: BenchfarmError) -> ExitCode:
    """The exit code of an error: that of the nearest class above it which has one."""
    return next(_OF_ERROR[kind] for kind in type(error).__mro__ if kind in _OF_ERROR)


def exit_code_of_job(state: JobState) -> ExitCode:
    """The exit code of a command that waited for a job; a job that has not ended is no failure."""
    return _OF_STATE.get(state, ExitCode.OK)


def exit_code_of_counts(answered: int, total: int) -> ExitCode:
    """The exit code of a command that asked for `total` numbers and got `answered` of them."""
    if answered == total:
        return ExitCode.OK
    return ExitCode.PARTIAL if answered else ExitCode.JOB_FAILED
