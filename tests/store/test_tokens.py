from datetime import timedelta

import pytest

from benchfarm_core.access import Role
from benchfarm_core.accounts import AccountRequest, EnrolTokenRequest, TokenRequest
from benchfarm_core.agent_protocol import PROTOCOL_VERSION as VERSION
from benchfarm_core.agent_protocol import EnrolRequest
from benchfarm_core.errors import Conflict, InvalidRequest, NotFound, Unauthenticated, UpgradeRequired
from benchfarm_core.messages import Nudge, agent_channel
from benchfarm_store import accounts, agents, tokens
from benchfarm_store.bootstrap import bootstrap


def test_a_token_says_who_calls_and_is_not_stored(farm, ann):
    with farm.transaction() as tx:
        made = tokens.create_token(tx, TokenRequest(account="ann", role=Role.OPERATOR, name="ci"))
        caller = tokens.authenticate(tx, made.token)
        listed = tokens.list_tokens(tx, None, 10).items
    assert (caller.account, caller.role, caller.token_id, caller.agent_id) == ("ann", Role.OPERATOR, made.id, None)
    assert made.token.startswith("bft_")
    assert len(made.token) == 47
    assert made.id in [token.id for token in listed]
    stored = farm.scalar("SELECT string_agg(t::text, ' ') FROM tokens t")
    assert made.token not in stored
    assert made.token[4:] not in stored


def test_revoked_expired_and_unknown_tokens_are_refused(farm, ann):
    with farm.transaction() as tx:
        revoked = tokens.create_token(tx, TokenRequest(account="ann", role=Role.CLIENT))
        expired = tokens.create_token(tx, TokenRequest(account="ann", role=Role.CLIENT, expires_in_s=1))
        tokens.revoke_token(tx, revoked.id)
        first = tokens.revoke_token(tx, revoked.id).revoked_at
        assert tokens.revoke_token(tx, revoked.id).revoked_at == first
    farm.run("UPDATE tokens SET expires_at = now() WHERE expires_at IS NOT NULL")
    for token, code in (
        (revoked.token, "token_revoked"),
        (expired.token, "unauthenticated"),
        ("bft_" + "x" * 43, "unauthenticated"),
        ("", "unauthenticated"),
        ("\x00\ud800", "unauthenticated"),
    ):
        with farm.transaction() as tx, pytest.raises(Unauthenticated) as refused:
            tokens.authenticate(tx, token)
        assert refused.value.code == code
    with farm.transaction() as tx, pytest.raises(NotFound):
        tokens.revoke_token(tx, "t_none")


def test_a_token_that_worked_is_looked_at_again_by_its_id(farm, ann, agent):
    """What waits for long asks once more; the poll of an agent whose token is revoked is woken for that."""
    token_id = farm.scalar("SELECT id FROM tokens WHERE agent_id = :agent", agent=agent.id)
    with farm.transaction() as tx:
        tokens.check_valid(tx, token_id)
    farm.messages.clear()
    with farm.transaction() as tx:
        tokens.revoke_token(tx, token_id)
    assert farm.messages == [Nudge(channel=agent_channel(agent.id))]
    farm.run("UPDATE tokens SET expires_at = now() WHERE id <> :id", id=token_id)
    other = farm.scalar("SELECT id FROM tokens WHERE id <> :id LIMIT 1", id=token_id)
    for stale, code in ((token_id, "token_revoked"), (other, "unauthenticated"), ("t_none", "unauthenticated")):
        with farm.transaction() as tx, pytest.raises(Unauthenticated) as refused:
            tokens.check_valid(tx, stale)
        assert refused.value.code == code


def test_use_is_noted_at_most_once_a_minute(farm, ann):
    with farm.transaction() as tx:
        made = tokens.create_token(tx, TokenRequest(account="ann", role=Role.CLIENT))
        tokens.authenticate(tx, made.token)
    noted = "SELECT last_used_at FROM tokens WHERE id = :id"
    first = farm.scalar(noted, id=made.id)
    with farm.transaction() as tx:
        tokens.authenticate(tx, made.token)
    assert farm.scalar(noted, id=made.id) == first
    farm.run("UPDATE tokens SET last_used_at = last_used_at - interval '2 minutes'")
    with farm.transaction() as tx:
        tokens.authenticate(tx, made.token)
    assert farm.scalar(noted, id=made.id) >= first + timedelta(0)


def test_accounts_have_one_name_each_and_are_listed(farm):
    made = [farm.account(name).account for name in ("a", "b", "c")]
    with farm.transaction() as tx, pytest.raises(Conflict):
        accounts.create_account(tx, AccountRequest(name="b"))
    with farm.transaction() as tx:
        page = accounts.list_accounts(tx, None, 2)
        rest = accounts.list_accounts(tx, page.next_cursor, 2)
    assert [account.name for account in page.items + rest.items] == made
    assert rest.next_cursor is None
    with farm.transaction() as tx, pytest.raises(NotFound):
        tokens.create_token(tx, TokenRequest(account="nobody", role=Role.CLIENT))
    with farm.transaction() as tx, pytest.raises(InvalidRequest):
        tokens.create_token(tx, TokenRequest(account="a", role=Role.AGENT))


def test_an_enrolment_token_serves_once(farm, ann):
    with farm.transaction() as tx:
        enrol_token = tokens.create_enrol_token(tx, EnrolTokenRequest(), ann).token
    request = EnrolRequest(enrol_token=enrol_token, name="lab", agent_version="0.1.0", protocol_version=VERSION)
    with farm.transaction() as tx:
        answer = agents.enrol(tx, request)
    with farm.transaction() as tx:
        caller = tokens.authenticate(tx, answer.token)
        assert [agent.id for agent in agents.list_agents(tx)] == [answer.agent_id]
    assert (caller.role, caller.agent_id, caller.account) == (Role.AGENT, answer.agent_id, "ann")
    with farm.transaction() as tx, pytest.raises(Unauthenticated) as refused:
        agents.enrol(tx, request)
    assert refused.value.code == "enrol_token_used"
    with farm.transaction() as tx, pytest.raises(Unauthenticated):
        agents.enrol(tx, request.model_copy(update={"enrol_token": "bfe_nonsense"}))
    with farm.transaction() as tx, pytest.raises(UpgradeRequired):
        agents.enrol(tx, request.model_copy(update={"protocol_version": 99}))


@pytest.mark.parametrize(("of_token", "shown"), [("a2", "a2"), ("", "a-host")])
def test_an_agent_has_the_name_that_its_token_carries(farm, ann, of_token, shown):
    with farm.transaction() as tx:
        once = tokens.create_enrol_token(tx, EnrolTokenRequest(name=of_token), ann).token
        agents.enrol(tx, EnrolRequest(enrol_token=once, name="a-host", agent_version="1", protocol_version=VERSION))
        assert [agent.name for agent in agents.list_agents(tx)] == [shown]


def test_bootstrap_writes_files_for_the_owner_and_keeps_what_is_good(farm, tmp_path):
    admin, enrol = tmp_path / "secrets" / "admin", tmp_path / "secrets" / "enrol"

    def run() -> tuple[str, str]:
        with farm.transaction() as tx:
            bootstrap(tx, admin_token_file=admin, enrol_token_file=enrol)
        return admin.read_text(), enrol.read_text()

    first = run()
    assert run() == first
    assert [path.stat().st_mode & 0o777 for path in (admin, enrol)] == [0o600, 0o600]
    assert sorted(path.name for path in admin.parent.iterdir()) == ["admin", "enrol"]
    with farm.transaction() as tx:
        caller = tokens.authenticate(tx, first[0].strip())
        assert caller.role == Role.ADMIN
        request = EnrolRequest(enrol_token=first[1].strip(), name="x", agent_version="1", protocol_version=VERSION)
        agent_token = agents.enrol(tx, request).token
        tokens.revoke_token(tx, caller.token_id)
    with farm.transaction() as tx:
        tokens.authenticate(tx, agent_token)
    again = run()
    assert again[0] != first[0]
    assert again[1] == first[1]


def test_an_enrolment_whose_answer_was_lost_can_be_made_again(farm, tmp_path):
    """The farm committed it, the agent died before it had written down who it is."""

    def enrolled() -> str:
        with farm.transaction() as tx:
            bootstrap(tx, admin_token_file=tmp_path / "admin", enrol_token_file=tmp_path / "enrol")
        text = (tmp_path / "enrol").read_text().strip()
        request = EnrolRequest(enrol_token=text, name="x", agent_version="1", protocol_version=VERSION)
        with farm.transaction() as tx:
            return agents.enrol(tx, request).token

    lost, kept = enrolled(), enrolled()
    assert lost != kept
    with farm.transaction() as tx:
        tokens.authenticate(tx, kept)
    with pytest.raises(Unauthenticated, match="was used"):
        enrolled()
