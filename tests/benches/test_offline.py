"""What the bench of tables does with a goal that is missed, and with other bits."""

import sys

import pytest

from bench import offline


def test_each_kind_is_held_to_its_goal() -> None:
    assert offline.held_to_goal("ridge on sums", 1_000_000) == {"goal": ">= 1,000,000", "met": True}
    assert offline.held_to_goal("ridge on sums", 999_999)["met"] is False
    assert offline.held_to_goal(offline.SMOOTHED, 1) == {"goal": "", "met": ""}


@pytest.mark.parametrize(("met", "code"), [(True, 0), ("", 0), (False, 1)])
def test_a_missed_goal_is_told_to_whoever_runs_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], met: object, code: int
) -> None:
    monkeypatch.setattr(sys, "argv", ["offline.py", "--print"])
    monkeypatch.setattr(offline, "measured", lambda *_: [{"met": True}, {"met": met}])
    assert offline.main() == code
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_one_other_bit_ends_it() -> None:
    offline.check_all_same("bert", 2_000, 2_000)
    with pytest.raises(SystemExit, match="bert: 1 of 2000"):
        offline.check_all_same("bert", 1_999, 2_000)
