"""The running service against its own description: made-up requests, alone and in chains, never get a 5xx
and never an answer that the description does not allow."""

import base64
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from onnx import TensorProto, helper

from benchfarm_api.settings import Settings
from benchfarm_store.database import Database
from benchfarm_workloads import spaces
from benchfarm_workloads.fusing import FusionRules
from tests.api.conftest import board_report
from tests.api.test_predictions import publish
from tests.pool_rows import of_another_farm
from tests.predictor.predictors import model_predictor

if TYPE_CHECKING:
    from tests.api.conftest import Lab, Serving

DESCRIPTION = Path(__file__).parents[2] / "docs" / "openapi.json"
EXAMPLES = 60
FEWEST = 50
"""Of an operation's examples, those that are equal are sent once; so many must be left."""
SEED = 20_261_120
NEVER_WELL = {"merge_board_model", "split_board_model", "import_bundle", "enrol_agent", "get_agent_file"}
"""By chance neither, and of what exists: there is one board model alone, results of a bundle are signed
(tests/client/test_bundles.py brings some), a token to enrol by is shown once, and agents want a file for a lease."""

# Where a check does not fit an operation, it is left out there and nowhere else.
EXCEPTIONS = """
# Well-formed and still refused: a kernel has ranges that no schema says, a random file is no model, a board
# must not contradict itself, a lease takes only what it holds, an agent of another version is sent away, a filter must
# name a platform that there is, three times belong together, a bundle has a platform or workloads and its results have
# a signature, a measurement set is a few texts that must be tables, genes have ranges and a space ends somewhere,
# a pool file is none by chance, an export or an adaptation names a platform and spaces that there are.
{refusing}
# A platform's key holds slashes: another method on its path, or on those below it, is a platform that does not exist.
{slashed}
# An agent's list of cores takes false for 0. Of a list in a query a single value, given as a plain text, is the same
# query string as a list of that one value.
{lenient}
# More items than a question may have are 413, as whatever is too large.
[[operations]]
include-operation-id = "ask_latency"
checks.negative_data_rejection.expected-statuses = [400, 401, 403, 404, 405, 406, 409, 413, 415, 422, 428, 429]
"""
REFUSING = (
    "submit_job",
    "ask_latency",
    "upload_model",
    "register_boards",
    "report_results",
    "report_started",
    "report_leases",
    "finish_lease",
    "enrol_agent",
    "poll_offers",
    "create_token",
    "list_results",
    "list_model_kernels",
    "set_platform_fusion",
    "merge_board_model",
    "split_board_model",
    "create_bundle",
    "import_bundle",
    "import_measurement_set",
    "draw_architectures",
    "list_architecture_kernels",
    "list_likenesses",
    "export_pool",
    "import_pool",
    "create_export",
    "report_export_misses",
    "start_adaptation",
    "list_adaptations",
)
LENIENT = ("register_boards", "list_platforms", "export_pool")
SLASHED = ("get_platform", "set_platform_alias", "get_platform_fusion", "set_platform_fusion", "start_adaptation")

MADE_UP = "coverage,fuzzing,stateful"
"""Phases of schemathesis. Before them, in `examples`, each operation is called by what exists (`made_up_requests`)."""

LEASE_S = 900.0
"""The one live lease is released last: it must not end before, however busy the machine is."""
QUICK = {
    "BENCHFARM_LEASE_S": str(LEASE_S),
    "BENCHFARM_LONGEST_WAIT_S": "0.05",
    "BENCHFARM_LONGEST_STREAM_S": "0.05",
    "BENCHFARM_UPLOAD_STALL_S": "2",
}


def small_model(operator: str = "Relu") -> bytes:
    inputs, outputs = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy")
    graph = helper.make_graph([helper.make_node(operator, ["x"], ["y"])], "g", [inputs], [outputs])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def exceptions() -> str:
    """The configuration file: which check is left out for which operation."""

    def without(check: str, operations: tuple[str, ...]) -> str:
        tables = (
            f'[[operations]]\ninclude-operation-id = "{name}"\nchecks.{check}.enabled = false' for name in operations
        )
        return "\n".join(tables)

    return EXCEPTIONS.format(
        refusing=without("positive_data_acceptance", REFUSING),
        slashed=without("unsupported_method", SLASHED),
        lenient=without("negative_data_rejection", LENIENT),
    )


def run(
    url: str,
    token: str,
    existing: dict[str, Any],
    folder: Path,
    *selection: str,
    seed: int = SEED,
    phases: str = f"examples,{MADE_UP}",
) -> None:
    arguments = [
        *("--url", url, "-H", f"Authorization: Bearer {token}", "--request-timeout", "20"),
        *("--max-examples", str(EXAMPLES), "--seed", str(seed), "--phases", phases),
        *("--continue-on-failure", "--no-shrink", "--suppress-health-check", "all"),
        *("--report", "ndjson", "--report-ndjson-path", str(folder / "report.ndjson")),
    ]
    (folder / "schemathesis.toml").write_text(exceptions())
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", str(DESCRIPTION), *arguments, *selection]
    environment = {
        **os.environ,
        "SCHEMATHESIS_HOOKS": "made_up_requests",
        "PYTHONPATH": str(Path(__file__).parent),
        "BENCHFARM_EXISTING": json.dumps(existing),
        "BENCHFARM_NEVER_WELL": json.dumps(sorted(NEVER_WELL)),
    }
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=environment)
    (folder / "schemathesis.log").write_text(ended.stdout + ended.stderr)
    assert ended.returncode == 0, (ended.stdout + ended.stderr)[-20_000:]


def answers(log: Path) -> dict[str, Counter[int]]:
    """How often each operation answered with which status, by the service's own log."""
    found: dict[str, Counter[int]] = {}
    for line in log.read_text().splitlines():
        entry = json.loads(line)
        if entry["message"] == "request":
            found.setdefault(entry["operation"], Counter())[entry["status"]] += 1
    return found


def described(*, agent: bool) -> dict[str, bool]:
    """The operations of people or of agents, each with whether its requests can differ."""
    paths = json.loads(DESCRIPTION.read_text())["paths"].values()
    every = [operation for methods in paths for operation in methods.values()]
    return {
        one["operationId"]: bool(one.get("parameters") or one.get("requestBody"))
        for one in every
        if ("agent" in one["tags"]) == agent
    }


def run_again(
    url: str, token: str, existing: dict[str, Any], folder: Path, *, agent: bool, but: tuple[str, ...] = ()
) -> None:
    """Now and then schemathesis ends an operation early and says nothing of it: those are called again."""
    for more in range(1, 4):
        found = answers(folder / "api.log")
        differing = [name for name, differs in described(agent=agent).items() if differs and name not in but]
        few = [name for name in differing if found.get(name, Counter()).total() < FEWEST]
        if few:
            chosen = [part for name in few for part in ("--include-operation-id", name)]
            # what exists was asked for, and some of it is ended by that
            run(url, token, existing, folder, *chosen, seed=SEED + more, phases=MADE_UP)


def check_reached(log: Path, *, agent: bool) -> None:
    """Every operation was called often enough, without a 5xx, and unless it cannot, answered well at least once."""
    found = answers(log)
    for operation, differs in described(agent=agent).items():
        statuses = found[operation]
        assert statuses.total() >= (FEWEST if differs else 1), (operation, statuses)
        assert max(statuses) < 500, (operation, statuses)
        assert operation in NEVER_WELL or any(status < 300 for status in statuses), (operation, statuses)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"benchfarm_lease_s": LEASE_S})


def predicting(alice: httpx2.Client, database: Database, platform: str) -> dict[str, Any]:
    """Two versions of a predictor, so that there is one to return to, and the table of a space."""
    predictor = model_predictor([spaces.kernels(one, FusionRules()) for one in spaces.draws("bert", "existing", 30)])
    with database.transaction() as tx:
        publish(tx, predictor, key=platform, slower=2.0)
        answering = publish(tx, predictor, key=platform)
    made = alice.post("/v1/exports", json={"platform": platform, "space": "bert"}).json()
    return {"predictor_id": answering.id, "subject": answering.subject, "export_id": made["id"]}


def pooling(alice: httpx2.Client, platform: str, operator: dict[str, str]) -> dict[str, Any]:
    """What two other farms have measured on a platform, and the file of one of them."""
    own = alice.get("/v1/pool/file", params={"licence": "x", "names": platform}, headers=operator).content
    files = (of_another_farm(own), of_another_farm(own, "farther-0123456789ab"))
    binary = {**operator, "Content-Type": "application/octet-stream"}
    kept, unwanted = (alice.post("/v1/pool", content=one, headers=binary).json()["entries"][0] for one in files)
    return {"entry_id": kept, "unwanted_entry_id": unwanted, "pool_file": base64.b64encode(files[0]).decode()}


@pytest.fixture
def existing(alice: httpx2.Client, lab: "Lab", database: Database, token: Callable[..., str]) -> dict[str, Any]:
    """A farm in which something happened: a measured job and two more, whose leases are live."""
    lab.register(*(board_report(serial) for serial in ("S-1", "S-2")))
    workloads = [{"kind": "kernel", "type": "fc", "config": {"cin": 1 + n, "cout": 8}} for n in range(3)]
    done = alice.post("/v1/jobs", json={"workloads": workloads, "protocol": {"name": "quick"}}).json()
    lab.finish(done["id"])
    live = alice.post("/v1/jobs", json={"workloads": workloads, "max_age_s": 0}).json()
    grant = lab.lease(live["id"])
    ended = alice.post("/v1/jobs", json={"workloads": workloads, "max_age_s": 0}).json()
    ended_grant = lab.lease(ended["id"])
    cancelled = alice.post("/v1/jobs", json={"workloads": workloads, "max_age_s": 0}).json()
    alice.post(f"/v1/jobs/{cancelled['id']}/cancel")
    model, unwanted = (
        alice.post(f"/v1/models?name={name}", content=small_model(name)).json() for name in ("Relu", "Tanh")
    )
    (platform,) = alice.get("/v1/platforms").json()["items"]
    packed = {"target": "linux-x86_64-cp312", "engine": "onnxruntime", "workloads": workloads}
    operator = {"Authorization": f"Bearer {token('operator', 'olga')}"}
    bundle, unpacked = (alice.post("/v1/bundles", json=packed, headers=operator).json() for _ in range(2))
    rows = "hw,cin,cout,k,s,latency_ms\n28,64,128,3,1,0.75\n28,64,64,3,1,0.41\n"
    named = dict.fromkeys(("board_model", "engine", "precision", "source", "licence"), "x")
    where: dict[str, Any] = {**named, "operating_point": {}}
    measured = {"platform_json": json.dumps(where), "tables": {"conv-bn-act.csv": rows}, "names": {}}
    imported = alice.post("/v1/measurement-sets", json=measured, headers=operator).json()
    unwanted_set = {**measured, "tables": {"conv-bn-act.csv": rows.replace("0.75", "0.76")}}
    deleted = alice.post("/v1/measurement-sets", json=unwanted_set, headers=operator).json()
    adapted = alice.post(f"/v1/platforms/{platform['key']}/adaptations", json={}).json()
    alice.post(f"/v1/adaptations/{adapted['id']}/cancel")
    return {
        **predicting(alice, database, platform["key"]),
        **pooling(alice, platform["key"], operator),
        "job_id": done["id"],
        "cancelled_job_id": cancelled["id"],
        "adaptation_id": adapted["id"],
        "set_id": imported["id"],
        "unwanted_set_id": deleted["id"],
        "measurement_set": measured,
        "model_id": model["id"],
        "unwanted_model_id": unwanted["id"],
        "bundle_id": bundle["bundle_id"],
        "unpacked_bundle_id": unpacked["bundle_id"],
        "platform": platform["key"],
        "board_id": lab.boards[0],
        "board_model": lab.reports[0]["board_model"],
        "lease_token": grant["lease_token"],
        "ended_lease_token": ended_grant["lease_token"],
        "space": "bert",
        "measurement_id": grant["items"][0]["measurement_id"],
        "sha256": model["sha256"],
        "account": "alice",
        "token_id": alice.get("/v1/whoami").json()["token_id"],
        "board": lab.reports[0],
        "boards": lab.reports,
        "onnx": base64.b64encode(small_model()).decode(),
    }


@pytest.mark.slow
@pytest.mark.timeout(600)  # scores of requests of each of a hundred operations, on cores that others use too
def test_the_routes_of_people(
    serving: "Serving", environment: dict[str, str], token: Callable[..., str], existing: dict[str, Any], tmp_path: Path
) -> None:
    admin = token("admin", "alice")
    with serving({**environment, **QUICK}) as served:
        run(served.url, admin, existing, tmp_path, "--exclude-tag", "agent", "--exclude-operation-id", "revoke_token")
        run_again(served.url, admin, existing, tmp_path, agent=False, but=("revoke_token",))
        # Last, because it finds the very token that all of this is called with.
        run(served.url, admin, existing, tmp_path, "--include-operation-id", "revoke_token")
    check_reached(tmp_path / "api.log", agent=False)


@pytest.mark.slow
def test_the_routes_of_agents(
    serving: "Serving", environment: dict[str, str], lab: "Lab", existing: dict[str, Any], tmp_path: Path
) -> None:
    agent = lab.headers["Authorization"].removeprefix("Bearer ")
    with serving({**environment, **QUICK}) as served:
        # Before anything is made up: whether a lease is alive behind that hangs on chance.
        run(served.url, agent, existing, tmp_path, "--include-tag", "agent", phases="examples")
        ending = ("release_lease", "finish_lease", "register_boards")
        without = [part for name in ending for part in ("--exclude-operation-id", name)]
        run(served.url, agent, existing, tmp_path, "--include-tag", "agent", *without, phases=MADE_UP)
        for name in ending:  # these end the live lease that the others want
            run(served.url, agent, existing, tmp_path, "--include-operation-id", name, phases=MADE_UP)
        run_again(served.url, agent, existing, tmp_path, agent=True)
    check_reached(tmp_path / "api.log", agent=True)
