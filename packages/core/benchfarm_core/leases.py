"""Offers and leases: how long they live and who pays when one is lost."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final, Literal

from pydantic import Field, ValidationError, model_validator

from benchfarm_core.failures import FailureCode
from benchfarm_core.values import Value

AGENT_SILENT_S: Final = 60.0
"""A board whose agent has not been heard for this long gets no offer."""


NOISY_REST_STEPS: Final = 2
"""A board whose lease was noisy as a whole rests for so many times `LeaseTimes.retry_s`: what it measured then may be
tried again at once, and by what else waits for it the same neighbours would be met."""
MARGIN_SHARE: Final = 0.1
"""This part of its length before a lease ends its agent gives up: it stops the board and waits for no answer."""
FREE_ENDS: Final = ("drain", "gate", "operator")
"""How leases end that cost nobody anything where no measurement of theirs had begun."""
BOARD_AT_FAULT: Final = frozenset(
    {FailureCode.PIN_NOT_VERIFIED, FailureCode.RUNNER_DIED, FailureCode.RUNNER_GARBAGE, FailureCode.DISK_FULL}
)
"""What is held against a board where no workload was visited. Not `BOARD_LOST`, which is also another agent's lock."""


class LeaseTimes(Value):
    """Lengths given by the server with each answer; tests use short ones.

    `retry_s`: a board leaves what its moment made inconclusive alone for this long at first, and all boards what one
    failed with that could begin no launch (`measurements.rests_s`).
    """

    offer_s: float = Field(default=10.0, gt=0, le=86_400)
    lease_s: float = Field(default=60.0, gt=0, le=86_400)
    renew_s: float = Field(default=15.0, gt=0, le=86_400)
    retry_s: float = Field(default=5.0, ge=0, le=3600)

    @classmethod
    def from_settings(cls, *, offer_s: float, lease_s: float, renew_s: float, retry_s: float) -> "LeaseTimes":
        """The lengths that a process was told. Raises ValueError with one line that names the settings."""
        try:
            return cls(offer_s=offer_s, lease_s=lease_s, renew_s=renew_s, retry_s=retry_s)
        except ValidationError as error:
            reasons = "; ".join(part["msg"] for part in error.errors())
            names = "BENCHFARM_OFFER_S, BENCHFARM_LEASE_S, BENCHFARM_RENEW_S"
            raise ValueError(f"{names} do not fit together: {reasons}") from None

    @property
    def noisy_rest_s(self) -> float:
        """How long a board rests after a lease that was noisy as a whole; 0: not at all."""
        return NOISY_REST_STEPS * self.retry_s

    @model_validator(mode="after")
    def _ordered(self) -> "LeaseTimes":
        if self.renew_s * 2 > self.lease_s:
            raise ValueError("renew_s must be at most half of lease_s")
        return self


def offer_ends(now: datetime, times: LeaseTimes) -> datetime:
    """When an unanswered offer lapses."""
    return now + timedelta(seconds=times.offer_s)


def lease_ends(now: datetime, times: LeaseTimes) -> datetime:
    """When a lease that is accepted or renewed now ends."""
    return now + timedelta(seconds=times.lease_s)


def is_expired(expires_at: datetime, now: datetime) -> bool:
    """Expired from the instant of expiry on."""
    return now >= expires_at


def is_awaited(expires_at: datetime, now: datetime, times: LeaseTimes) -> bool:
    """Whether the agent of a lease that it does not renew any more may still wait for an answer about it."""
    return (expires_at - now).total_seconds() > times.lease_s * MARGIN_SHARE


def ailment_by(outcomes: Iterable[str | None]) -> str | None:
    """What a board ails from in whose lease no workload was visited, by what came of its measurements; None where that
    may have been the workloads' doing. The first of several."""
    codes = list(outcomes)
    return str(codes[0]) if codes and BOARD_AT_FAULT.issuperset(codes) else None


def why_rest(outcomes: Sequence[str], *, has_launched: bool) -> Literal["noisy", "ailing"] | None:
    """As what a lease ends after which its board rests, although its agent calls it done, by what came of its
    measurements; None: the board goes on.

    `noisy`: most of them were, so that measuring on at once would be in vain. `ailing`: no launch of it got ready
    (`has_launched`), and nothing but the board or its agent is to blame.
    """
    if 2 * outcomes.count(FailureCode.NOISY) > len(outcomes):
        return "noisy"
    return "ailing" if not has_launched and ailment_by(outcomes) is not None else None


def pays_attempt(*, lost: bool, running: bool) -> bool:
    """On a lost lease the measurement that was running pays an attempt; nothing else does."""
    return lost and running
