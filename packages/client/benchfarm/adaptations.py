"""Adaptations: asked for, followed, ended."""

import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from benchfarm.connection import Connection, path_part, platform_path
from benchfarm.waiting import Deadline
from benchfarm_core.adapting import (
    ADAPTATION_TRANSITIONS,
    AdaptationRequest,
    AdaptationState,
    AdaptationView,
)
from benchfarm_core.jobs import Page
from benchfarm_core.states import final_states

FINAL_STATES: Final[frozenset[AdaptationState]] = final_states(ADAPTATION_TRANSITIONS)
LOOK_EVERY_S: Final = 1.0
PAGE_ITEMS: Final = 50

OnProgress = Callable[[AdaptationView], None]


class Adaptations:
    """The farm's adaptations."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def start(self, platform: str, request: AdaptationRequest) -> AdaptationView:
        """Make predictors for a platform, named by id, key or alias.

        Raises:
            NotFound: there is no such platform.
            InvalidRequest: a search space is unknown, or nothing can be learnt there.
            Conflict: another adaptation of the platform is under way.
            QuotaExceeded: the account has too much under way, or waiting.
        """
        path = f"/platforms/{platform_path(platform)}/adaptations"
        return self._connection.value(AdaptationView, self._connection.request("POST", path, json=request))

    def get(self, adaptation_id: str) -> AdaptationView:
        """One as it stands, with its whole story. Raises NotFound."""
        return self._connection.read(AdaptationView, f"/adaptations/{path_part(adaptation_id)}")

    def list(self, *, platform: str | None = None, state: AdaptationState | None = None) -> Iterator[AdaptationView]:
        """All of them, newest first, or those of a platform or in a state."""
        params: dict[str, Any] = {"platform": platform, "state": state, "limit": PAGE_ITEMS}
        while True:
            page = self._connection.read(Page[AdaptationView], "/adaptations", params=params)
            yield from page.items
            if page.next_cursor is None:
                return
            params["cursor"] = page.next_cursor

    def cancel(self, adaptation_id: str) -> AdaptationView:
        """End one. Twice changes nothing. Raises Conflict for one that has ended otherwise."""
        path = f"/adaptations/{path_part(adaptation_id)}/cancel"
        return self._connection.value(AdaptationView, self._connection.request("POST", path, repeatable=True))

    def wait(
        self, adaptation_id: str, *, progress: OnProgress | None = None, timeout_s: float | None = None
    ) -> AdaptationView:
        """One in its final state; it may be `failed`: look at it.

        Args:
            adaptation_id: the adaptation.
            progress: called at the start and after every change, at most about once a second.
            timeout_s: how long to wait; None waits until the end.

        Raises:
            TimeoutError: the time is up; the adaptation goes on.
        """
        deadline = Deadline(timeout_s)
        seen: AdaptationView | None = None
        while True:
            found = self.get(adaptation_id)
            if found != seen and progress is not None:
                progress(found)
            seen = found
            if found.state in FINAL_STATES:
                return found
            if deadline.passed:
                raise TimeoutError(f"adaptation {adaptation_id} is still {found.state} after {timeout_s:g} s")
            time.sleep(deadline.left_s(LOOK_EVERY_S))
