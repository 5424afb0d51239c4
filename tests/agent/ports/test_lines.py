"""Lines out of portions."""

import pytest

from benchfarm_agent.ports.lines import Lines


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_lines_do_not_depend_on_how_they_arrive(size: int) -> None:
    said = b"one\n\ntwo two\nlast"
    heard: list[bytes] = []
    lines = Lines(heard.append, line_bytes_max=7, lines_max=4)
    assert all(lines.take(said[start : start + size]) for start in range(0, len(said), size))
    assert lines.end()
    assert heard == [b"one", b"", b"two two", b"last"]
    assert lines.count == 4


@pytest.mark.parametrize(
    "said", [b"12345678", b"ok\n12345678", b"12345678\n", b"1\n2\n3\n"], ids=["begun", "second", "whole", "count"]
)
def test_a_breach_of_the_limits_is_told_and_not_handed_over(said: bytes) -> None:
    heard: list[bytes] = []
    lines = Lines(heard.append, line_bytes_max=7, lines_max=2)
    assert not lines.take(said)
    assert all(len(line) <= 7 for line in heard)
    assert len(heard) <= 2


def test_a_last_line_above_the_number_of_lines_is_a_breach() -> None:
    lines = Lines(lambda _: None, line_bytes_max=7, lines_max=1)
    assert lines.take(b"one\ntwo")
    assert not lines.end()
