"""What happens where a peer cannot run."""

import pytest

from tests.peers.need import PeerMissing, require_program, skipped_where_missing


def test_a_missing_peer_skips_with_its_reason(monkeypatch):
    monkeypatch.delenv("BENCHFARM_CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="the board: no nosuch here"), skipped_where_missing("the board"):
        require_program("nosuch")


def test_where_all_must_run_it_fails(monkeypatch):
    monkeypatch.setenv("BENCHFARM_CI", "1")
    with pytest.raises(pytest.fail.Exception, match="the board: broken"), skipped_where_missing("the board"):
        raise PeerMissing("broken")


def test_other_errors_pass():
    with pytest.raises(OSError, match="disk"), skipped_where_missing("the board"):
        raise OSError("disk")
