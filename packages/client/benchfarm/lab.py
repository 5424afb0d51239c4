"""The part of `Client` about the lab: boards, agents and platforms."""

from collections.abc import Iterable, Iterator
from typing import Any

from benchfarm import board_events
from benchfarm.calls import Calls, checked
from benchfarm.connection import path_part, platform_path
from benchfarm_core.accounts import AgentView, EnrolToken, EnrolTokenRequest
from benchfarm_core.board_health import GoldenRunView, SpreadRow
from benchfarm_core.board_history import BoardEvent, BoardEventView, NoteRequest
from benchfarm_core.boards import BoardState, BoardUse, BoardView, Health
from benchfarm_core.fusion import FusionReport, FusionRow, FusionsView
from benchfarm_core.platforms import PlatformFilter
from benchfarm_core.views import PlatformView


class LabCalls(Calls):
    """The lab as `Client` sees it."""

    def boards(self, *, state: BoardState | None = None, health: Health | None = None) -> Iterator[BoardView]:
        """The farm's boards."""
        return self._pages(BoardView, "/boards", {"state": state, "health": health})

    def board(self, board_id: str) -> BoardView:
        """One board."""
        return self._connection.read(BoardView, f"/boards/{path_part(board_id)}")

    def set_board_health(self, board_id: str, health: Health, reason: str) -> BoardView:
        """Take a board out of use or back into it; operators only."""
        return self._post(BoardView, f"/boards/{path_part(board_id)}/health", {"health": health, "reason": reason})

    def explain_board(self, board_id: str) -> BoardUse:
        """Why a board is not used now."""
        return self._connection.read(BoardUse, f"/boards/{path_part(board_id)}/why")

    def board_history(self, board_id: str) -> Iterator[BoardEventView]:
        """What happened to a board, newest first; operators only."""
        return self._pages(BoardEventView, f"/boards/{path_part(board_id)}/history")

    def watch_board(self, board_id: str) -> Iterator[BoardEvent]:
        """A board's latest events and all that come, for as long as they are read; operators only."""
        return board_events.watch_board(self._connection, board_id)

    def golden_runs(self, board_id: str) -> Iterator[GoldenRunView]:
        """A board's runs of the golden suite, newest first."""
        return self._pages(GoldenRunView, f"/boards/{path_part(board_id)}/golden-runs")

    def board_spread(self, board_model: str) -> Iterator[SpreadRow]:
        """How the units of one board model differ, from their latest golden runs."""
        return self._pages(SpreadRow, f"/board-models/{path_part(board_model)}/spread")

    def add_board_note(self, board_id: str, text: str) -> BoardEventView:
        """Write a note into a board's history; operators only."""
        return self._post(BoardEventView, f"/boards/{path_part(board_id)}/notes", checked(NoteRequest, {"text": text}))

    def agents(self) -> list[AgentView]:
        """The agents that drive boards; operators only."""
        return list(self._pages(AgentView, "/agents"))

    def create_enrol_token(self, *, name: str = "", expires_in_s: int = 86_400) -> EnrolToken:
        """A one-time token with which one agent enrols; operators only."""
        request = checked(EnrolTokenRequest, {"name": name, "expires_in_s": expires_in_s})
        return self._post(EnrolToken, "/enrol-tokens", request)

    def platforms(self, **filters: Any) -> Iterator[PlatformView]:
        """Platforms by the parts of a `PlatformFilter`: `engine=["openvino"]`, `threads=[1, 2]`, ..."""
        wanted = checked(PlatformFilter, filters).model_dump(mode="json")
        return self._pages(PlatformView, "/platforms", {name: values or None for name, values in wanted.items()})

    def platform(self, platform: str) -> PlatformView:
        """One platform by its id, key or alias."""
        return self._connection.read(PlatformView, f"/platforms/{platform_path(platform)}")

    def set_platform_alias(self, platform: str, alias: str) -> PlatformView:
        """Point an alias at a platform; operators only."""
        path = f"/platforms/{platform_path(platform)}/alias"
        answer = self._connection.request("PUT", path, json={"alias": alias})
        return self._connection.value(PlatformView, answer)

    def platform_fusion(self, platform: str) -> FusionsView:
        """Which operators the platform's engine computes as one."""
        return self._connection.read(FusionsView, f"/platforms/{platform_path(platform)}/fusion")

    def set_platform_fusion(self, platform: str, rows: Iterable[FusionRow]) -> FusionsView:
        """Keep what was measured of operators in a row; operators only. Sending it again changes nothing."""
        request = checked(FusionReport, {"rows": tuple(rows)})
        path = f"/platforms/{platform_path(platform)}/fusion"
        return self._connection.value(FusionsView, self._connection.request("PUT", path, json=request))
