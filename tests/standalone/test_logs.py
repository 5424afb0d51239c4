"""Logs of children stay short while the child writes on."""

import os
from pathlib import Path

from benchfarm_standalone.logs import cut_log, open_log


def test_a_long_log_is_moved_aside_and_the_writer_goes_on(tmp_path: Path) -> None:
    log_file = tmp_path / "api.log"
    writer = open_log(log_file)
    os.write(writer, b"old\n" * 10)
    assert cut_log(log_file, limit_bytes=20)
    os.write(writer, b"new\n")
    os.close(writer)
    assert log_file.read_bytes() == b"new\n"
    assert (tmp_path / "api.log.1").read_bytes() == b"old\n" * 10


def test_a_short_or_missing_log_is_left_alone(tmp_path: Path) -> None:
    log_file = tmp_path / "api.log"
    assert not cut_log(log_file)
    log_file.write_bytes(b"short\n")
    assert not cut_log(log_file)
    assert list(tmp_path.iterdir()) == [log_file]
