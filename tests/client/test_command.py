"""The `benchfarm` command against the real API: what it prints, where, and how it ends."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchfarm.exit_codes import ExitCode
from benchfarm.login import login_file
from benchfarm_core.fusion import FusionRow
from benchfarm_workloads.artifacts import build
from benchfarm_workloads.kernels import kernel_type

LISTS = (
    "models list",
    "models generated",
    "jobs list",
    "boards list",
    "platforms list",
    "kernels list",
    "spaces list",
    "protocols",
    "engines",
    "support",
    "tokens list",
    "accounts list",
    "agents list",
)


REFUSALS = (
    ("jobs show 01a1f973-3470-7a2e-8bd4-b3109f8e4465", ExitCode.NOT_FOUND, "not_found"),
    ("jobs submit --kernel nonsense", ExitCode.USAGE, "kernel_unknown"),
    ("jobs submit --kernel cin=3", ExitCode.USAGE, "invalid_request"),
    ("jobs submit", ExitCode.USAGE, "invalid_request"),
    ("jobs submit --model mobilenet_v2 --platform nowhere", ExitCode.USAGE, "platform_unknown"),
    ("jobs submit --model mobilenet_v2 --platform x --engine y", ExitCode.USAGE, "invalid_request"),
    ("jobs submit --model mobilenet_v2 --max-age soon", ExitCode.USAGE, "invalid_request"),
    ("kernels show nonsense", ExitCode.NOT_FOUND, "not_found"),
    ("models show m_nonsense", ExitCode.NOT_FOUND, "not_found"),
    ("latency --model mobilenet_v2", ExitCode.USAGE, "invalid_request"),
    ("tokens create nobody", ExitCode.NOT_FOUND, "not_found"),
)


@pytest.fixture
def kernels(farm: Any) -> tuple[str, ...]:
    """Options for two kernels that nobody has measured."""
    return ("--kernel", farm.kernels[0], "--kernel", farm.kernels[1])


def submitted(command: Any, kernels: tuple[str, ...], *more: str) -> str:
    ended = command("jobs", "submit", *kernels, *more, "--json")
    assert ended.code == 0, ended.err
    job_id: str = ended.document["id"]
    return job_id


def test_a_login_is_checked_before_it_is_kept(farm: Any, command: Any, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("bft_wrong")
    refused = command("login", farm.url, "--token-file", path)
    assert (refused.code, refused.out) == (ExitCode.NOT_AUTHORISED, "")
    assert "code=unauthenticated" in refused.err
    assert not login_file().exists()
    path.write_text(farm.token())
    assert command("login", farm.url, "--token-file", path).code == 0
    assert command("whoami", "--json").document == {
        "account": farm.account,
        "role": "client",
        "token_id": command("whoami", "--json").document["token_id"],
    }
    assert farm.account in command("whoami").out
    assert command("logout").code == 0
    assert command("whoami").code == ExitCode.NOT_AUTHORISED


def test_every_list_is_a_table_or_one_document(logged_in: Any) -> None:
    for words in LISTS:
        table = logged_in(*words.split())
        assert (table.code, table.err) == (0, ""), words
        document = logged_in(*words.split(), "--json")
        assert (document.code, document.err) == (0, ""), words
        assert isinstance(document.document, list), words


def test_a_job_from_submission_to_table(farm: Any, logged_in: Any, kernels: tuple[str, ...], tmp_path: Path) -> None:
    planned = logged_in("jobs", "submit", *kernels, "--dry-run", "--json")
    assert (planned.code, planned.document["to_measure"]) == (0, 2)
    assert "board time" in logged_in("jobs", "submit", *kernels, "--dry-run").out
    assert "in_situ" in logged_in("jobs", "submit", *kernels, "--timing", "in_situ", "--dry-run").out
    job_id = submitted(
        logged_in, kernels, "--name", "mine", "--label", "run=7", "--protocol", "quick", "--engine", "onnxruntime"
    )
    assert logged_in("jobs", "show", job_id, "--json").document["labels"] == {"run": "7"}
    assert "mine" in logged_in("jobs", "show", job_id).out
    assert logged_in("jobs", "why", job_id).code == 0
    assert logged_in("jobs", "list", "--label", "run=8", "--json").document == []
    farm.measure(job_id)
    watched = logged_in("jobs", "watch", job_id)
    assert watched.code == 0
    assert "succeeded: 2/2" in watched.out
    assert f"job {job_id}" in watched.err
    table = logged_in("jobs", "results", job_id).out
    for word in ("sim-1/c0.t1.free/onnxruntime-1.31.1/fp32", farm.kernels[0], "C, unpinned", "none (1 launch)", "new"):
        assert word in table
    items = logged_in("jobs", "results", job_id, "--json").document
    assert [item["state"] for item in items] == ["succeeded"] * 2
    text = logged_in("jobs", "results", job_id, "--csv", "-").out
    assert logged_in("jobs", "results", job_id, "--csv", tmp_path / "out.csv").out == ""
    assert (tmp_path / "out.csv").read_bytes().decode() == text
    assert len(text.splitlines()) == 3
    assert logged_in("jobs", "cancel", job_id).code == ExitCode.CONFLICT


def test_a_job_shows_its_protocols_changed_parameters(farm: Any, logged_in: Any, tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    path.write_text(json.dumps({"protocol": {"name": "quick", "parameters": {"visit_ms": 50}}}))
    job_id = logged_in("jobs", "submit", path, "--kernel", farm.kernels[0], "--json").document["id"]
    farm.measure(job_id)
    assert "quick 5 visit_ms=50" in logged_in("jobs", "show", job_id).out
    [row] = csv.DictReader(logged_in("jobs", "results", job_id, "--csv", "-").out.splitlines())
    assert row["protocol_parameters"] == "visit_ms=50"


def test_what_could_not_be_measured_has_its_reason_and_its_exit_code(
    farm: Any, logged_in: Any, kernels: tuple[str, ...]
) -> None:
    job_id = submitted(logged_in, kernels)
    farm.measure(job_id, failing='"cin": 17')
    assert logged_in("jobs", "watch", job_id).code == ExitCode.PARTIAL
    table = logged_in("jobs", "results", job_id).out
    assert "1 of 2 measured: 1 A" in table
    assert "out_of_memory: needs 3 GB" in table
    again = logged_in("jobs", "retry", job_id, "--json").document["id"]
    farm.measure(again, failing="fc")
    failed = logged_in("jobs", "watch", again, "--json")
    assert (failed.code, failed.document["state"]) == (ExitCode.JOB_FAILED, "failed")


def test_submit_and_watch_in_one(farm: Any, logged_in: Any, kernels: tuple[str, ...]) -> None:
    farm.measure(submitted(logged_in, kernels))
    job_id = submitted(logged_in, kernels, "--idempotency-key", "k")
    farm.plan(job_id)
    ended = logged_in("jobs", "submit", *kernels, "--idempotency-key", "k", "--watch", "--json")
    assert ended.code == 0
    assert (ended.document["job"]["id"], len(ended.document["items"])) == (job_id, 2)
    assert {item["source"] for item in ended.document["items"]} == {"known"}


def test_a_job_from_a_file(
    logged_in: Any, kernels: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "job.json"
    body = {"name": "of file", "repeats": 2, "workloads": [{"kind": "model", "name": "mobilenet_v2"}]}
    path.write_text(json.dumps(body))
    job = logged_in("jobs", "submit", path, *kernels, "--name", "of option", "--dry-run", "--json").document
    assert job["items"] == 6
    assert logged_in("jobs", "submit", path, "--name", "of option", "--json").document["name"] == "of option"
    for content in ("", "[]", "{", '{"workloads": 3}'):
        path.write_text(content)
        ended = logged_in("jobs", "submit", path)
        assert (ended.code, ended.out) == (ExitCode.USAGE, ""), content
    assert logged_in("jobs", "submit", tmp_path / "absent").code == ExitCode.USAGE


def test_patience_has_an_exit_code_of_its_own(logged_in: Any, kernels: tuple[str, ...]) -> None:
    job_id = submitted(logged_in, kernels)
    ended = logged_in("jobs", "watch", job_id, "--timeout", "1s", "--json")
    assert ended.code == ExitCode.TIMEOUT
    assert ended.document["error"]["code"] == "timeout"
    assert logged_in("jobs", "cancel", job_id).code == 0
    assert logged_in("jobs", "watch", job_id).code == ExitCode.JOB_FAILED


def test_refusals_are_one_line_with_a_code(logged_in: Any) -> None:
    for words, code, error in REFUSALS:
        ended = logged_in(*words.split(), "--json")
        assert ended.code == code, (words, ended)
        assert ended.document["error"]["code"] == error
        assert ended.document["error"]["exit_code"] == code
        assert ended.err.count("\n") == 1
        assert f"[code={error}" in ended.err
        assert "Traceback" not in ended.err


def test_a_role_without_the_right_is_told_so(farm: Any, logged_in: Any, tmp_path: Path) -> None:
    path = tmp_path / "client-token"
    path.write_text(farm.token("client"))
    ended = logged_in("--token-file", path, "tokens", "list")
    assert ended.code == ExitCode.NOT_AUTHORISED
    assert "code=forbidden request=" in ended.err


def test_models(logged_in: Any, tmp_path: Path) -> None:
    path = tmp_path / "tiny.onnx"
    path.write_bytes(build(kernel_type("fc").workload({"cin": 16, "cout": 8})).onnx_bytes)
    model = logged_in("models", "upload", path, "--json").document
    assert model["name"] == "tiny.onnx"
    again = logged_in("models", "upload", path, "--name", "other", "--json")
    assert (again.document["id"], again.document["name"]) == (model["id"], "tiny.onnx")
    assert "you have these bytes already, as tiny.onnx: that name stays" in again.err
    assert "already" not in logged_in("models", "upload", path).err
    assert "float32" in logged_in("models", "show", model["id"]).out
    job = logged_in("jobs", "submit", "--upload", path, "--model-id", model["id"], "--dry-run", "--json")
    assert (job.code, job.document["items"]) == (0, 1)
    filled = ("jobs", "submit", "--upload", path, "--dry-run", "--json", "--ints")
    assert logged_in(*filled, f"{model['inputs'][0]['name']}=7").code == 0
    (made,) = (one for one in logged_in("models", "list", "--json").document if one["id"] != model["id"])
    assert made["inputs"][0]["fill"]["below"] == 7
    refused = logged_in(*filled, "nobody=7")
    assert (refused.code, "nobody" in refused.err) == (ExitCode.USAGE, True), refused.err
    assert logged_in("models", "delete", model["id"]).code == 0
    path.write_text("no model")
    ended = logged_in("models", "upload", path)
    assert ended.code == ExitCode.USAGE
    assert "request=" in ended.err
    assert logged_in("models", "upload", tmp_path / "absent.onnx").code == ExitCode.USAGE


def test_the_lab(farm: Any, logged_in: Any) -> None:
    [board_id] = farm.board_ids
    assert "S-1" in logged_in("boards", "show", board_id).out
    assert logged_in("boards", "quarantine", board_id, "--reason", "burnt").code == 0
    assert [board["reason"] for board in logged_in("boards", "list", "--json").document] == ["burnt"]
    assert logged_in("boards", "list", "--health", "good", "--json").document == []
    assert logged_in("boards", "release", board_id).code == 0
    [platform] = logged_in("platforms", "list", "--threads", "1", "--json").document
    assert logged_in("platforms", "alias", platform["key"], "simmy").code == 0
    assert platform["key"] in logged_in("platforms", "show", "simmy").out
    assert "ncnn" in (engines := logged_in("engines").out)
    assert "graph=all" in engines


def test_the_support_matrix(farm: Any, logged_in: Any, kernels: tuple[str, ...]) -> None:
    assert "nothing was tried yet" in logged_in("support", "--board-model", "nowhere").out
    assert logged_in("support", "--board-model", "nowhere", "--json").document == []
    job_id = submitted(logged_in, kernels)
    farm.measure(job_id, failing='"cin": 17')
    table = logged_in("support", "--engine", "onnxruntime").out
    assert "onnxruntime-1.31.1/fp32" in table
    assert "out_of_memory" in table
    assert "unknown" in table, "the lab that tests play tells no precision"
    codes = {row["code"] for row in logged_in("support", "--precision", "fp32", "--json").document}
    assert codes >= {"ok", "out_of_memory"}
    assert logged_in("support", "--precision", "fp8").code == ExitCode.USAGE


def test_kernels_and_fusion_of_a_platform(farm: Any, logged_in: Any, tmp_path: Path) -> None:
    [platform] = logged_in("platforms", "list", "--json").document
    ended = logged_in("models", "kernels", "resnet18", "--platform", platform["id"])
    assert "never measured" in ended.err
    assert "conv-bn-act" in ended.out
    assert "hw=224 cin=3 cout=64 k=7 s=2 act=relu batch=1" in ended.out
    small = logged_in("models", "kernels", "resnet18 hw=64 classes=10", "--platform", platform["id"])
    assert "hw=64 cin=3 cout=64 k=7 s=2 act=relu batch=1" in small.out
    assert logged_in("models", "kernels", "resnet18 hw=63", "--platform", platform["id"]).code == ExitCode.USAGE
    path = tmp_path / "m.onnx"
    config = {"hw": 8, "cin": 3, "cout": 4, "k": 3, "act": "relu"}
    path.write_bytes(build(kernel_type("conv-bn-act").workload(config)).onnx_bytes)
    model = logged_in("models", "upload", path, "--json").document["id"]
    found = logged_in("models", "kernels", model, "--platform", platform["key"], "--json").document
    assert [part["type"] for kernel in found["kernels"] for part in kernel["parts"]] == ["conv-bn-act"]
    assert "never measured" in logged_in("platforms", "fusion", platform["key"]).err
    row = FusionRow(first="Conv", second="Relu", t1_ms=1, t2_ms=0.2, t12_ms=1.2, by_profile=True)
    with farm.client("operator") as operator:
        operator.set_platform_fusion(platform["key"], [row])
        assert operator.platform_fusion(platform["key"]).disagreements[0].first == "Conv"
        assert operator.model_kernels("resnet18", platform["key"]).rules == "measured"
    shown = logged_in("platforms", "fusion", platform["key"])
    assert "1.2" in shown.out
    assert shown.err == ""
    assert logged_in("models", "kernels", "nothing", "--platform", platform["key"]).code == ExitCode.NOT_FOUND


def test_secrets_go_into_private_files(farm: Any, logged_in: Any, tmp_path: Path) -> None:
    path = tmp_path / "bob"
    assert logged_in("accounts", "create", "bob").code == 0
    made = logged_in("tokens", "create", "bob", "--expires-in", "30d", "--output", path)
    assert made.code == 0
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text().strip() not in made.out
    assert "bob" in logged_in("--token-file", path, "whoami").out
    assert logged_in("tokens", "create", "bob", "--output", path).code == ExitCode.USAGE
    shown = logged_in("tokens", "create", "bob", "--json").document
    assert shown["token"].startswith("bft_")
    assert logged_in("tokens", "revoke", shown["id"]).code == 0
    assert logged_in("agents", "enrol-token", "--output", tmp_path / "enrol").code == 0
    assert (tmp_path / "enrol").stat().st_mode & 0o777 == 0o600


def test_latency_is_measured_or_says_why_not(farm: Any, logged_in: Any, kernels: tuple[str, ...]) -> None:
    farm.measure(submitted(logged_in, kernels))
    [platform] = logged_in("platforms", "list", "--json").document
    here = ("--platform", platform["id"])
    known = logged_in("latency", "--kernel", farm.kernels[0], *here)
    assert known.code == 0
    assert "measured" in known.out
    assert logged_in("latency", *kernels, "--model", "resnet18", *here, "--json").code == ExitCode.PARTIAL
    assert logged_in("latency", "--model", "resnet18", *here).code == ExitCode.JOB_FAILED


def test_a_farm_that_is_away(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCHFARM_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("BENCHFARM_TOKEN", "bft_x")
    ended = command("jobs", "list", "--json")
    assert ended.code == ExitCode.UNREACHABLE
    assert "cannot reach the farm at http://127.0.0.1:9" in ended.document["error"]["detail"]


def test_http_beyond_loopback_is_refused_before_anything_is_sent(command: Any, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("bft_x")
    ended = command("login", "http://farm.example", "--token-file", tmp_path / "token")
    assert (ended.code, "in clear" in ended.err) == (ExitCode.USAGE, True)


@pytest.mark.parametrize("words", ["", "nonsense", "jobs", "jobs list --nonsense", "jobs show", "boards quarantine b"])
def test_wrong_usage(command: Any, words: str) -> None:
    ended = command(*words.split())
    assert ended.code == ExitCode.USAGE
    assert "Traceback" not in ended.err


def test_a_fault_of_the_command_is_one_line(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("benchfarm.commands.session.effective", broken)
    ended = command("jobs", "list")
    assert ended.code == ExitCode.FAULT
    assert ended.err.splitlines() == [
        "benchfarm: a fault of this command: RuntimeError: a bug (BENCHFARM_TRACE=1 shows where)"
    ]
    monkeypatch.setenv("BENCHFARM_TRACE", "1")
    assert "Traceback" in command("jobs", "list").err


def test_ctrl_c_ends_a_watch_quietly_and_the_job_goes_on(farm: Any, logged_in: Any, kernels: tuple[str, ...]) -> None:
    job_id = submitted(logged_in, kernels)
    watching = subprocess.Popen(
        [sys.executable, "-m", "benchfarm", "jobs", "watch", job_id],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ},
    )
    assert watching.stderr is not None
    assert "queued" in watching.stderr.readline()
    watching.send_signal(signal.SIGINT)
    _, err = watching.communicate(timeout=20)
    assert (watching.returncode, err) == (ExitCode.INTERRUPTED, "")
    assert logged_in("jobs", "show", job_id, "--json").document["state"] == "queued"


@pytest.mark.parametrize("form", [["--json"], []])
def test_a_reader_that_goes_away_is_no_fault(logged_in: Any, form: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    argv = [sys.executable, "-m", "benchfarm", "kernels", "list", *form]
    try:
        done = subprocess.run(argv, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (ExitCode.UNREAD, "")


def test_a_restart_of_the_api_does_not_end_a_watch(farm: Any, logged_in: Any, kernels: tuple[str, ...]) -> None:
    """The stream breaks, the job is asked for again, and the end is seen."""
    job_id = submitted(logged_in, kernels)
    watching = subprocess.Popen(
        [sys.executable, "-m", "benchfarm", "jobs", "watch", job_id, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert watching.stderr is not None
    assert "queued" in watching.stderr.readline()
    farm.restart()
    farm.measure(job_id)
    out, _ = watching.communicate(timeout=60)
    assert (watching.returncode, json.loads(out)["state"]) == (0, "succeeded")


def test_a_job_of_nothing_says_what_to_name(logged_in: Any) -> None:
    ended = logged_in("jobs", "submit")
    assert ended.code == ExitCode.USAGE
    assert "name what to measure: --kernel, --model, --architecture, --model-id, --upload, or a file" in ended.err
