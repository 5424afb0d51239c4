"""Every error has a stable, documented code and a message for people."""

import pytest

from benchfarm_core import errors
from benchfarm_core.access import ACCESS, PUBLIC, Role, may
from benchfarm_core.error_codes import ERROR_CODES


def subclasses(cls: type[errors.BenchfarmError]) -> list[type[errors.BenchfarmError]]:
    return [cls, *(found for child in cls.__subclasses__() for found in subclasses(child))]


def test_default_codes_are_known() -> None:
    for cls in subclasses(errors.BenchfarmError):
        assert cls.default_code in ERROR_CODES
        if cls.__module__ == errors.__name__:
            assert cls.__name__ in (errors.__doc__ or "")


def test_an_unknown_code_cannot_be_raised() -> None:
    with pytest.raises(ValueError, match="not in error_codes"):
        errors.InvalidRequest("x", code="made_up")


def test_unknown_routes_are_closed_and_agents_have_their_own() -> None:
    assert not any(may(role, "no_such_route") for role in Role)
    assert not may(Role.CLIENT, "set_board_health")
    assert not may(Role.CLIENT, "poll_offers")
    assert not may(Role.AGENT, "submit_job")
    assert all(may(role, "get_health") for role in Role)
    assert ACCESS["get_health"] is PUBLIC or not ACCESS["get_health"]
