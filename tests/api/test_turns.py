"""Turns: questions of one size are answered one after the other, and small ones do not wait for large ones."""

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from benchfarm_api.turns import SMALL_ANSWERS, Turns

LIMIT_S = 10.0


@pytest.mark.parametrize("answers", [1, 200_000])
def test_two_of_one_size_never_have_the_turn_at_once(answers: int) -> None:
    turns, has_it, may_end, second = Turns(), Event(), Event(), Event()

    def first_question() -> None:
        with turns.turn(answers):
            has_it.set()
            assert may_end.wait(LIMIT_S)
            assert not second.is_set()

    def second_question() -> None:
        with turns.turn(answers):
            second.set()

    with ThreadPoolExecutor(2) as pool:
        held = pool.submit(first_question)
        assert has_it.wait(LIMIT_S)
        waiting = pool.submit(second_question)
        assert not second.wait(0.2)  # wait: nothing tells that a thread still waits for a lock
        may_end.set()
        held.result(LIMIT_S)
        waiting.result(LIMIT_S)
    assert second.is_set()


def test_a_small_one_has_its_turn_beside_a_large_one() -> None:
    turns = Turns()
    with turns.turn(SMALL_ANSWERS + 1), turns.turn(SMALL_ANSWERS):
        pass


def test_a_question_that_fails_gives_its_turn_back() -> None:
    turns = Turns()
    with pytest.raises(ValueError, match="broken"), turns.turn(1):
        raise ValueError("broken")
    with ThreadPoolExecutor(1) as pool:
        pool.submit(turns.turn(1).__enter__).result(LIMIT_S)
