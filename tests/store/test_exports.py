"""The farm's keys and exports in the database: one key whoever comes first, and nothing half kept."""

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from benchfarm_core import ed25519
from benchfarm_core.access import Role
from benchfarm_core.errors import Conflict, NotFound
from benchfarm_core.exports import ExportRequest
from benchfarm_core.predictors import PredictorEvidence
from benchfarm_store import exports, farm_keys, platforms, predictors
from benchfarm_store.encodings import account_text
from benchfarm_store.tokens import Caller
from tests.peers.waiting import wait_until
from tests.store.predictor_bytes import predictor_bytes

if TYPE_CHECKING:
    from tests.store.conftest import Agent, Farm

OPERATOR = Caller(token_id="t_0", account_id=account_text(1), account="lab", role=Role.OPERATOR, agent_id=None)
WANTED = {"space": "bert", "genes": {"seq": (128, 64, 64)}}


@pytest.fixture
def platform(farm: "Farm", agent: "Agent") -> str:
    """The first platform of the agent's board, with two versions for whole models."""
    with farm.transaction() as tx:
        row = platforms.find(tx, farm.scalar("SELECT key FROM platforms ORDER BY id LIMIT 1"))
        for number in (1, 2):
            predictors.publish(
                tx,
                platform_id=row.id,
                subject="model",
                file=predictor_bytes(row.key, "model", bytes([number])),
                evidence=PredictorEvidence(),
                reason="made up",
                activate=True,
            )
    return str(row.key)


def order(farm: "Farm", platform: str, **changes: Any) -> exports.Ordered:
    with farm.transaction() as tx:
        request = ExportRequest.model_validate({"platform": platform, **WANTED, **changes})
        return exports.order(tx, request, 1, OPERATOR)


def test_of_many_that_come_first_at_once_all_get_one_key(farm: "Farm") -> None:
    def take(_: int) -> farm_keys.SigningKey:
        with farm.transaction() as tx:
            return farm_keys.signing_key(tx)

    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(take, range(16)))
    (key,) = found
    with farm.transaction() as tx:
        (shown,) = farm_keys.list_keys(tx).keys
    assert (shown.id, shown.is_active) == (key.id, True)
    assert ed25519.is_signed(bytes.fromhex(shown.public_key), b"a", key.sign(b"a"))


def test_an_order_names_what_answers_or_the_version(farm: "Farm", platform: str) -> None:
    now, before = order(farm, platform), order(farm, platform, version=1)
    assert (now.head.predictor_version, before.head.predictor_version) == (2, 1)
    assert now.predictor != before.predictor
    assert now.head.genes == {"seq": (64, 128)}
    assert now.wanted == order(farm, platform, genes={"seq": (64, 128)}).wanted == before.wanted
    without = farm.scalar("SELECT key FROM platforms ORDER BY id DESC LIMIT 1")
    assert without != platform
    for of, version in ((platform, 3), (without, None)):
        with pytest.raises(Conflict) as refused:
            order(farm, of, version=version)
        assert refused.value.code == "no_predictor"


def test_a_version_that_never_answered_is_in_no_table(farm: "Farm", platform: str) -> None:
    with farm.transaction() as tx:
        made = predictors.publish(
            tx,
            platform_id=platforms.find(tx, platform).id,
            subject="model",
            file=predictor_bytes(platform, "model", b"3"),
            evidence=PredictorEvidence(),
            reason="a candidate",
            activate=False,
        )
    with pytest.raises(Conflict, match="never answered") as refused:
        order(farm, platform, version=made.version)
    assert (refused.value.code, refused.value.field) == ("no_predictor", "version")
    with farm.transaction() as tx:
        tx.execute(text("UPDATE predictors SET state = 'rejected' WHERE version = 3"))
    with pytest.raises(Conflict, match="never answered"):
        order(farm, platform, version=made.version)


def test_a_table_that_is_made_again_has_its_old_id(farm: "Farm", platform: str, ann: Any) -> None:
    with farm.transaction() as tx:
        kept = exports.keep(tx, order(farm, platform), b"one", 3, ann)
        exports.report_misses(tx, kept.id, [{"seq": 1}], ann)
        tx.execute(text("UPDATE exports SET file = NULL"))
    again = order(farm, platform)
    assert (again.view, again.head.export_id) == (None, kept.id)
    with farm.transaction() as tx:
        made = exports.keep(tx, again, b"other", 3, ann)
        assert (made.id, made.misses, exports.file(tx, kept.id)) == (kept.id, 1, b"other")


def test_a_table_that_is_too_old_for_who_asks_is_made_anew_under_its_old_id(
    farm: "Farm", platform: str, ann: Any
) -> None:
    with farm.transaction() as tx:
        kept = exports.keep(tx, order(farm, platform), b"one", 3, ann)
        exports.report_misses(tx, kept.id, [{"seq": 1}], ann)
    farm.run("UPDATE exports SET created_at = created_at - interval '9 hours'")
    old = order(farm, platform).view
    assert old is not None
    assert old.sha256 == kept.sha256, "who does not say how old it may be has it as it was"
    assert order(farm, platform, max_age_s=10 * 3600).view == old
    again, too = order(farm, platform, max_age_s=3600), order(farm, platform, max_age_s=3600)
    assert (again.view, again.head.export_id) == (None, kept.id)
    assert again.head.made_at >= kept.created_at
    with farm.transaction() as tx:
        made = exports.keep(tx, again, b"two", 3, ann)
        assert (made.id, made.misses, made.created_at) == (kept.id, 1, again.head.made_at)
        assert exports.keep(tx, too, b"three", 3, ann) == made, "who was first made it young enough"
        assert exports.file(tx, kept.id) == b"two"
    assert order(farm, platform, max_age_s=3600).view == made


def test_each_account_tells_and_reads_what_its_own_devices_missed(
    farm: "Farm", platform: str, ann: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "MAX_MISSES", 2)
    bob = farm.account("bob")
    with farm.transaction() as tx:
        kept = exports.keep(tx, order(farm, platform), b"one", 3, ann)
        assert exports.report_misses(tx, kept.id, [{"seq": 1}, {"seq": 2}], ann).new == 2
        taken = exports.report_misses(tx, kept.id, [{"seq": 2}, {"seq": 3}], bob)
        assert (taken.new, taken.known, taken.left_out) == (2, 0, 0), "another's take no room of theirs"
        assert exports.report_misses(tx, kept.id, [{"seq": 2}], bob).known == 1

    def seen(by: Caller) -> tuple[int, dict[Any, int]]:
        with farm.transaction() as tx:
            found = exports.list_misses(tx, kept.id, by).misses
            return exports.get_export(tx, kept.id, by).misses, {one.genes["seq"]: one.reports for one in found}

    assert seen(ann) == (2, {1: 1, 2: 1})
    assert seen(bob) == (2, {2: 2, 3: 1})
    assert seen(OPERATOR) == (3, {2: 3, 1: 1, 3: 1}), "all accounts together"


def test_who_makes_the_same_later_gets_what_is_there(farm: "Farm", platform: str, ann: Any) -> None:
    first, second = order(farm, platform), order(farm, platform)
    assert first.view is second.view is None
    with farm.transaction() as tx:
        kept = exports.keep(tx, first, b"one", 3, ann)
    with farm.transaction() as tx:
        assert exports.keep(tx, second, b"two", 3, ann) == kept
        assert exports.file(tx, kept.id) == b"one"
        with pytest.raises(NotFound):
            exports.file(tx, second.head.export_id)
    assert order(farm, platform).view == kept


def test_an_export_is_current_while_its_predictor_answers(farm: "Farm", platform: str, ann: Any) -> None:
    ordered = order(farm, platform, version=1)
    with farm.transaction() as tx:
        assert exports.keep(tx, ordered, b"one", 3, ann).is_current is False
        current = exports.keep(tx, order(farm, platform), b"two", 3, ann)
    assert current.is_current
    with farm.transaction() as tx:
        predictors.rollback(tx, platform, "model", by=ann, reason="it is off")
        assert exports.get_export(tx, current.id, ann).is_current is False


DAY_S = 86_400.0


def test_exports_without_a_file_are_forgotten_with_their_misses(farm: "Farm", platform: str, ann: Any) -> None:
    def kept(version: int, days: int, missed_days: int | None = None, *, file: bool = False) -> str:
        ordered = order(farm, platform, version=version, genes={"seq": (64 + days,)})
        with farm.transaction() as tx:
            view = exports.keep(tx, ordered, b"f", 1, ann)
            if missed_days is not None:
                exports.report_misses(tx, view.id, [{"seq": 1}], ann)
        farm.run(
            "UPDATE exports SET created_at = created_at - make_interval(days => :days),"
            " file = CASE WHEN :file THEN file END WHERE public_id = :id",
            days=days,
            file=file,
            id=view.id,
        )
        farm.run(
            "UPDATE export_misses SET last_at = last_at - make_interval(days => :days) WHERE export_id ="
            " (SELECT id FROM exports WHERE public_id = :id)",
            days=missed_days or 0,
            id=view.id,
        )
        return view.id

    old = {kept(1, 9), kept(2, 8, 8)}
    young, missed, filed = kept(1, 0), kept(2, 7, 1), kept(1, 6, file=True)
    assert {*_ids(farm)} == {*old, young, missed, filed}
    with farm.transaction() as tx:
        assert exports.forget_old(tx, kept_s=5 * DAY_S, limit=1) == 1
    with farm.transaction() as tx:
        assert exports.forget_old(tx, kept_s=5 * DAY_S) == 1
    assert {*_ids(farm)} == {young, missed, filed}
    assert farm.scalar("SELECT count(*) FROM export_misses") == 1
    with farm.transaction() as tx:
        assert exports.forget_old(tx, kept_s=5 * DAY_S) == 0
        with pytest.raises(NotFound):
            exports.report_misses(tx, old.pop(), [{"seq": 1}], ann)


def _ids(farm: "Farm") -> list[str]:
    return list(farm.scalar("SELECT array_agg(public_id) FROM exports"))


def test_an_export_that_is_forgotten_while_a_miss_is_told_is_not_found(farm: "Farm", platform: str, ann: Any) -> None:
    """Whoever tells it waits for whoever forgets it."""
    ordered = order(farm, platform)
    with farm.transaction() as tx:
        view = exports.keep(tx, ordered, b"f", 1, ann)
    farm.run("UPDATE exports SET file = NULL, created_at = created_at - interval '9 days'")

    def tell() -> None:
        with farm.transaction() as tx:
            exports.report_misses(tx, view.id, [{"seq": 1}], ann)

    with ThreadPoolExecutor(1) as pool:
        with farm.transaction() as tx:
            assert exports.forget_old(tx, kept_s=DAY_S) == 1
            telling = pool.submit(tell)
            waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
            wait_until(lambda: bool(farm.scalar(waiting)), "nobody waits", 10)
        with pytest.raises(NotFound):
            telling.result(timeout=10)
