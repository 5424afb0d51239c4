"""A leased board is put back however its agent ends: a real farm, agent, lease, kernel and clock."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bench.pinned_leases import ending, open_pinned_lab
from tests.peers.qemu_board import QemuBoard


@pytest.mark.timeout(400)  # the board's processor is emulated
def test_a_leased_board_is_put_back_after_sigterm_and_after_a_kill(
    qemu_board: QemuBoard, tmp_path: Path, farm_home: Callable[[Path], Path]
) -> None:
    pytest.importorskip("ncnn", reason="ncnn is not installed, which makes what the board opens")
    farm_home(tmp_path / "farm")  # where the lab keeps it
    with open_pinned_lab(tmp_path, qemu_board) as lab:
        for name in ("SIGTERM", "kill -9, then a new start"):
            row = ending(lab, name)
            assert row["met"], (row, lab.agent.said())
            assert (row["put back"], row["left in the journal"]) == (True, 0)
