"""Hooks for schemathesis: half of the made-up requests name things that exist and carry bodies that make sense.

Purely random ones would hardly ever get past the first check. What exists comes as JSON in BENCHFARM_EXISTING. Whether
all parts of some made-up request make sense at once hangs on chance, so each operation is called by one that has them
all before anything is made up, and that one must be answered well.
"""

import base64
import gc
import json
import os
import zlib
from typing import Any

import schemathesis
from schemathesis import Case, CheckContext, GenerationMode, HookContext, Response
from schemathesis.generation.meta import TestPhase

# What was loaded stays, and requests are made up of millions of small objects that come and go: looking for cycles
# after every 700 of them takes longer than it gains.
gc.freeze()
gc.set_threshold(50_000, 20, 20)

EXISTING: dict[str, Any] = json.loads(os.environ["BENCHFARM_EXISTING"])
KERNELS = "GET /v1/models/{model_id}/kernels"
BOARD_EVENTS = "GET /v1/boards/{board_id}/events"
PREDICTORS = "GET /v1/predictors"
POOL_FILE = "GET /v1/pool/file"
RAW = {"POST /v1/models": "onnx", "POST /v1/pool": "pool_file"}
"""Bodies that are files."""
OWN = {
    "DELETE /v1/models/{model_id}": {"model_id": "unwanted_model_id"},
    "DELETE /v1/measurement-sets/{set_id}": {"set_id": "unwanted_set_id"},
    "DELETE /v1/pool/entries/{entry_id}": {"entry_id": "unwanted_entry_id"},
    "PUT /v1/bundles/{bundle_id}/failure": {"bundle_id": "unpacked_bundle_id"},
}
"""What an operation ends for good is a thing of its own: others want the one that exists."""
EXAMPLES_OWN = {
    "POST /v1/jobs/{job_id}/cancel": {"job_id": "cancelled_job_id"},
    "POST /v1/jobs/{job_id}/retry": {"job_id": "cancelled_job_id"},
    "POST /v1/agent/leases/{lease_token}/finish": {"lease_token": "ended_lease_token"},
    "POST /v1/agent/leases/{lease_token}/release": {"lease_token": "ended_lease_token"},
}
"""The same of the one request that is answered well: a job that is done is neither cancelled nor tried again, and what
is made up wants a live lease."""
NEVER_WELL: list[str] = json.loads(os.environ["BENCHFARM_NEVER_WELL"])
"""Operations that nothing is answered well by which is known before."""
FC = {"kind": "kernel", "type": "fc"}


def chosen(value: object) -> int | None:
    """A number drawn from the value itself for every second one, so that a run can be repeated."""
    drawn = zlib.crc32(repr(value).encode())
    return drawn // 2 if drawn % 2 else None


@schemathesis.hook
def map_case(context: HookContext, case: Case) -> Case:
    """Requests that break the description on purpose stay as they are."""
    if case.meta is None or case.meta.generation.mode is not GenerationMode.POSITIVE:
        return case
    linked = case.meta.phase.name is TestPhase.STATEFUL  # what an earlier answer named must stay
    if case.path_parameters and not linked and chosen(case.path_parameters) is not None:
        case.path_parameters = {name: EXISTING.get(name, value) for name, value in case.path_parameters.items()}
    if case.path_parameters and not linked:
        case.path_parameters = _kept_for_others(case.operation.label, case.path_parameters)
    if case.query:
        case.query.pop("cursor", None)  # one that the farm did not issue is refused, and no schema can say so
    if case.operation.label == KERNELS and chosen(case.query) is not None:
        case.query["platform"] = EXISTING["platform"]
    if case.operation.label == PREDICTORS and "platform" in case.query:
        case.query["platform"] = EXISTING["platform"]
    if case.operation.label == POOL_FILE and chosen(case.query) is not None:
        case.query["names"] = [EXISTING["platform"]]
    if case.operation.label == BOARD_EVENTS and case.headers:
        case.headers.pop("Last-Event-ID", None)  # as a cursor
    case.body = _sensible_body(case.operation.label, case.body)
    return case


@schemathesis.hook
def before_add_examples(context: HookContext, examples: list[Case]) -> None:
    """One request of each operation that is answered well."""
    operation = context.operation
    if operation is None or operation.definition.raw["operationId"] in NEVER_WELL:
        return
    named = {parameter.name: EXISTING[parameter.name] for parameter in operation.path_parameters}
    own = {name: EXISTING[key] for name, key in EXAMPLES_OWN.get(operation.label, {}).items()}
    parts: dict[str, Any] = {"path_parameters": _kept_for_others(operation.label, {**named, **own})}
    if any(parameter.is_required for parameter in operation.query):
        parts["query"] = QUERIES[operation.label]()
    if operation.label in RAW:
        parts |= {"body": base64.b64decode(EXISTING[RAW[operation.label]]), "media_type": "application/octet-stream"}
    elif operation.body:
        sensible = SENSIBLE.get(operation.label)
        whole = {**(sensible(0) if sensible else {}), **BODIES.get(operation.label, {})}
        parts |= {"body": whole, "media_type": "application/json"}
    examples.append(operation.Case(**parts))


@schemathesis.check
def what_exists_is_answered_well(ctx: CheckContext, response: Response, case: Case) -> None:
    """Of the requests of `before_add_examples`, which nobody made up and so tell nothing of how."""
    if case.meta is None:
        assert 200 <= response.status_code < 300, (
            f"{case.operation.label}: {response.status_code} {response.text[:500]}"
        )


def _kept_for_others(label: str, named: dict[str, Any]) -> dict[str, Any]:
    """Path parameters in which an operation of `OWN` calls for what is its own."""
    own = {name: EXISTING[key] for name, key in OWN.get(label, {}).items() if named.get(name) == EXISTING[name]}
    return {**named, **own}


def _sensible_body(label: str, body: Any) -> Any:
    sensible, drawn = SENSIBLE.get(label), chosen(body)
    if sensible is None or drawn is None:
        return body
    if label in RAW:
        return base64.b64decode(EXISTING[RAW[label]])
    return {**(body if isinstance(body, dict) else {}), **sensible(drawn)}


def _job(drawn: int) -> dict[str, Any]:
    workloads = [{**FC, "config": {"cin": 1 + (drawn + n) % 100, "cout": 8}} for n in range(1 + drawn % 3)]
    platforms = [EXISTING["platform"]] if drawn % 2 else {"engine": ["onnxruntime"]}
    return {"workloads": workloads, "platforms": platforms, "protocol": {"name": "quick"}, "budget_device_s": None}


def _question(drawn: int) -> dict[str, Any]:
    items = [{**FC, "config": {"cin": 1 + drawn % 8, "cout": 8}}]
    how = {"tolerance": 0.1, "on_miss": ("predict", "measure", "error")[drawn % 3], "pin": None}
    return {"platforms": [EXISTING["platform"]], "items": items, **how}


def _bundle(drawn: int) -> dict[str, Any]:
    workloads = [{**FC, "config": {"cin": 1 + drawn % 8, "cout": 8}}]
    ordered: dict[str, Any] = {
        "engine": "onnxruntime",
        "workloads": workloads,
        "platform": None,
        "options": {},
        "protocol": None,
    }
    return {**ordered, "target": ("linux-x86_64-cp312", "linux-aarch64-cp311")[drawn % 2]}


def _architecture(drawn: int) -> dict[str, Any]:
    genes = {"layers": 1 + drawn % 2, "hidden": 128, "seq": 64, "intermediate": 512, "heads": 2}
    return {"genes": genes, "platform": (EXISTING["platform"], None)[drawn % 2]}


def _export(_drawn: int) -> dict[str, Any]:
    """Always the same: only the newest keep their files, and that of the one that exists is asked for."""
    genes = {"layers": [1, 2], "hidden": [128]}
    return {"platform": EXISTING["platform"], "space": EXISTING["space"], "version": None, "genes": genes}


def _misses(drawn: int) -> dict[str, Any]:
    return {"architectures": [_architecture(drawn)["genes"]]}


def _token(drawn: int) -> dict[str, Any]:
    return {"account": EXISTING["account"], "role": ("client", "operator")[drawn % 2]}


def _fusion(drawn: int) -> dict[str, Any]:
    times = {"t1_ms": 1.0, "t2_ms": 0.25, "t12_ms": 1.0 + drawn % 3 / 8}
    return {"rows": [{"first": "Conv", "second": "Relu", "by_profile": bool(drawn % 2), **times}]}


def _recovery(drawn: int) -> dict[str, Any]:
    named = {name: EXISTING["board"][name] for name in ("kind", "serial", "hardware_id")}
    return {"board": named, "step": ("reconnect", "reboot", "put_back")[drawn % 3]}


def _rollback(drawn: int) -> dict[str, Any]:
    return {"reason": "made up", "version": (None, 2)[drawn % 2]}


def _measurement_set(drawn: int) -> dict[str, Any]:
    """The set that exists, or one more that is like it: a deleted one comes back so."""
    return {**EXISTING["measurement_set"], "dry_run": drawn % 4 == 0}


VERSION = {"protocol_version": 2}
AGENT = {**VERSION, "agent_version": "0.1.0"}

SENSIBLE = {
    "POST /v1/jobs": _job,
    "POST /v1/latency": _question,
    "POST /v1/spaces/{space}/kernels": _architecture,
    "POST /v1/exports": _export,
    "POST /v1/exports/{export_id}/misses": _misses,
    "POST /v1/tokens": _token,
    "POST /v1/models": lambda drawn: {},
    "POST /v1/pool": lambda drawn: {},
    "POST /v1/platforms/{platform}/adaptations": lambda drawn: {"spaces": [], "donors": "any"},
    "POST /v1/platforms/{platform}/predictors/{subject}/rollback": _rollback,
    "PUT /v1/platforms/{platform}/alias": lambda drawn: {"alias": f"alias-{drawn % 5}"},
    "PUT /v1/platforms/{platform}/fusion": _fusion,
    "POST /v1/agent/enrol": lambda drawn: VERSION,
    "POST /v1/bundles": _bundle,
    "POST /v1/measurement-sets": _measurement_set,
    "POST /v1/agent/poll": lambda drawn: {**VERSION, "idle": [EXISTING["board_id"]]},
    "POST /v1/agent/boards": lambda drawn: {**VERSION, "boards": [EXISTING["board"]]},
    "POST /v1/agent/recoveries": _recovery,
    "POST /v1/agent/leases/{lease_token}/started": lambda drawn: {"measurement_ids": [EXISTING["measurement_id"]]},
    "POST /v1/agent/reports": lambda drawn: {"leases": [{"lease_token": EXISTING["lease_token"], "renew": True}]},
    "POST /v1/agent/leases/{lease_token}/finish": lambda drawn: {"results": [], "release": {"reason": "done"}},
}

QUERIES = {
    KERNELS: lambda: {"platform": EXISTING["platform"]},
    POOL_FILE: lambda: {"licence": "x", "names": [EXISTING["platform"]]},
    "POST /v1/models": lambda: {"name": "example"},
}
"""Queries that are answered well, of operations that need one."""

BODIES: dict[str, dict[str, Any]] = {
    "POST /v1/accounts": {"name": "example"},
    "POST /v1/boards/{board_id}/health": {"health": "maintenance", "reason": "example"},
    "POST /v1/boards/{board_id}/notes": {"text": "example"},
    "PUT /v1/bundles/{bundle_id}/contents": {"contents_sha256": "0" * 64},
    "PUT /v1/bundles/{bundle_id}/failure": {"reason": "example"},
    "POST /v1/enrol-tokens": {"name": "example"},
    "POST /v1/agent/boards": {**AGENT, "boards": EXISTING["boards"]},
    "POST /v1/agent/poll": {**AGENT, "wait_s": 0},
    "POST /v1/agent/leases/{lease_token}/results": {"results": []},
    "POST /v1/agent/leases/{lease_token}/release": {"reason": "done"},
}
"""What `SENSIBLE` leaves to chance of bodies that are answered well."""
