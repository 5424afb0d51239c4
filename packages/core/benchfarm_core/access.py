"""Who may do what: the one role x route table. Routes are named by their operation id."""

from enum import StrEnum
from typing import Final


class Role(StrEnum):
    """A token has exactly one role."""

    CLIENT = "client"
    OPERATOR = "operator"
    ADMIN = "admin"
    AGENT = "agent"


_PEOPLE = frozenset({Role.CLIENT, Role.OPERATOR, Role.ADMIN})
_LAB = frozenset({Role.OPERATOR, Role.ADMIN})
_ADMIN = frozenset({Role.ADMIN})
_AGENT = frozenset({Role.AGENT})
PUBLIC: Final[frozenset[Role]] = frozenset()
"""An empty set marks a route that needs no token."""

ACCESS: Final[dict[str, frozenset[Role]]] = {
    "get_health": PUBLIC,
    "get_ready": PUBLIC,
    "get_metrics": PUBLIC,
    "get_whoami": _PEOPLE | _AGENT,
    "upload_model": _PEOPLE,
    "list_models": _PEOPLE,
    "get_model": _PEOPLE,
    "delete_model": _PEOPLE,
    "list_model_kernels": _PEOPLE,
    "submit_job": _PEOPLE,
    "list_jobs": _PEOPLE,
    "get_job": _PEOPLE,
    "cancel_job": _PEOPLE,
    "retry_job": _PEOPLE,
    "explain_job": _PEOPLE,
    "list_job_items": _PEOPLE,
    "get_job_results": _PEOPLE,
    "stream_job_events": _PEOPLE,
    "list_results": _PEOPLE,
    "get_measurement": _PEOPLE,
    "ask_latency": _PEOPLE,
    "list_boards": _PEOPLE,
    "get_board": _PEOPLE,
    "explain_board": _PEOPLE,
    "list_board_history": _LAB,
    "stream_board_events": _LAB,
    "list_golden_runs": _PEOPLE,
    "list_board_spread": _PEOPLE,
    "merge_board_model": _LAB,
    "split_board_model": _LAB,
    "add_board_note": _LAB,
    "set_board_health": _LAB,
    "list_platforms": _PEOPLE,
    "get_platform": _PEOPLE,
    "set_platform_alias": _LAB,
    "get_platform_fusion": _PEOPLE,
    "set_platform_fusion": _LAB,
    "list_predictors": _PEOPLE,
    "get_predictor": _PEOPLE,
    "get_predictor_file": _PEOPLE,
    "rollback_predictor": _LAB,
    "create_export": _PEOPLE,
    "get_export": _PEOPLE,
    "get_export_file": _PEOPLE,
    "report_export_misses": _PEOPLE,
    "list_export_misses": _PEOPLE,
    "list_keys": _PEOPLE | _AGENT,
    "list_pool": _PEOPLE,
    "list_likenesses": _PEOPLE,
    "export_pool": _LAB,
    "import_pool": _LAB,
    "get_pool_entry": _PEOPLE,
    "delete_pool_entry": _LAB,
    "start_adaptation": _PEOPLE,
    "list_adaptations": _PEOPLE,
    "get_adaptation": _PEOPLE,
    "cancel_adaptation": _PEOPLE,
    "list_kernels": _PEOPLE,
    "list_generated_models": _PEOPLE,
    "list_spaces": _PEOPLE,
    "draw_architectures": _PEOPLE,
    "list_architecture_kernels": _PEOPLE,
    "list_protocols": _PEOPLE,
    "list_engines": _PEOPLE,
    "list_support": _PEOPLE,
    "create_bundle": _LAB,
    "seal_bundle": _LAB,
    "fail_bundle": _LAB,
    "list_bundles": _LAB,
    "get_bundle": _LAB,
    "import_bundle": _LAB,
    "import_measurement_set": _LAB,
    "list_measurement_sets": _PEOPLE,
    "get_measurement_set": _PEOPLE,
    "delete_measurement_set": _LAB,
    "create_token": _ADMIN,
    "list_tokens": _ADMIN,
    "revoke_token": _ADMIN,
    "create_account": _ADMIN,
    "list_accounts": _ADMIN,
    "create_enrol_token": _LAB,
    "list_agents": _LAB,
    "enrol_agent": PUBLIC,
    "register_boards": _AGENT,
    "report_recovery": _AGENT,
    "poll_offers": _AGENT,
    "accept_offer": _AGENT,
    "renew_lease": _AGENT,
    "report_started": _AGENT,
    "report_leases": _AGENT,
    "report_results": _AGENT,
    "release_lease": _AGENT,
    "finish_lease": _AGENT,
    "get_agent_file": _AGENT,
}


def sees_all_accounts(role: Role) -> bool:
    """Whether a role is shown what other accounts asked for and told, beside its own."""
    return role in _LAB


def may(role: Role, route: str) -> bool:
    """Whether a role may call a route; unknown routes are closed to everyone."""
    roles = ACCESS.get(route)
    return roles is not None and (not roles or role in roles)
