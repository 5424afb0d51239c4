"""Claims that are kept while something is computed: what fails is told, and tried again."""

import logging
import time

import pytest

from benchfarm_core.errors import Unavailable
from benchfarm_store import adaptations
from benchfarm_store.adaptations import Adaptation
from benchfarm_store.database import Transaction
from benchfarm_worker import claims
from tests.adapting_lab import AdaptingLab


def test_a_renewal_that_fails_is_told_and_tried_again(
    lab: AdaptingLab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = lab.start()
    with lab.farm.transaction() as tx:
        mine = adaptations.claim(tx, made.id)
    assert mine is not None
    really, failures = adaptations.renew, [ZeroDivisionError("a fault"), Unavailable("the database is away")]

    def renew(tx: Transaction, adaptation: Adaptation) -> Adaptation | None:
        if failures:
            raise failures.pop(0)
        return really(tx, adaptation)

    monkeypatch.setattr(adaptations, "renew", renew)
    monkeypatch.setattr(claims, "EVERY_S", 0.02)
    caplog.set_level(logging.INFO, "benchfarm_worker.claims")
    with claims.kept(lab.farm.database, mine) as kept:
        until_s = time.monotonic() + 10
        while kept.adaptation is mine:
            assert time.monotonic() < until_s, "nobody renews it any more"
            time.sleep(0.01)  # wait: for the thread that renews, with a limit
        with lab.farm.transaction() as tx:
            adaptations.cancel(tx, made.id, by=lab.by)
        while not any(each.levelname == "INFO" for each in caplog.records):
            assert time.monotonic() < until_s, "nothing is said of a claim that is lost"
            time.sleep(0.01)  # wait: for the thread that renews, with a limit
    told = [each for each in caplog.records if each.name == "benchfarm_worker.claims"]
    assert [each.levelname for each in told] == ["ERROR", "WARNING", "INFO"]
    assert told[0].exc_info is not None
    assert {each.__dict__["adaptation_id"] for each in told} == {made.id}
