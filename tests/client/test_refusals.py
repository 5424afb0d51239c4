"""What a person gets wrong, and what the machine refuses the command: one sentence, an exit code, nothing lost."""

import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import typer.main
from rich.console import Console

from benchfarm import Client, InvalidRequest, Retries, Unavailable
from benchfarm.commands.main import app
from benchfarm.commands.options import told_as_typed
from benchfarm.commands.watching import watch
from benchfarm.exit_codes import ExitCode
from benchfarm_workloads.artifacts import build
from benchfarm_workloads.kernels import kernel_type

JOB_ID = "01a1f973-3470-7a2e-8bd4-b3109f8e4465"
FULL = "/dev/full"
FAULT = "a fault of this command"


def refused(ended: Any, *texts: str) -> None:
    """Wrong usage, told in one line that holds all the texts."""
    assert (ended.code, ended.out) == (ExitCode.USAGE, ""), ended
    assert ended.err.count("\n") == 1, ended.err
    assert FAULT not in ended.err
    for text in texts:
        assert text in ended.err


@pytest.mark.parametrize("words", ["tokens create carol", "agents enrol-token"])
def test_no_token_is_made_that_cannot_be_kept(farm: Any, logged_in: Any, tmp_path: Path, words: str) -> None:
    logged_in("accounts", "create", "carol")
    count = "SELECT (SELECT count(*) FROM tokens) + (SELECT count(*) FROM enrol_tokens)"
    before = _scalar(farm, count)
    refused(logged_in(*words.split(), "--output", tmp_path / "absent" / "token"), "cannot write", "No such file")
    (tmp_path / "taken").write_text("mine")
    refused(logged_in(*words.split(), "--output", tmp_path / "taken"), "cannot write", "File exists", "field=output")
    assert (tmp_path / "taken").read_text() == "mine"
    assert _scalar(farm, count) == before


def _scalar(farm: Any, statement: str) -> int:
    with farm.database.transaction() as tx:
        return int(tx.connection.exec_driver_sql(statement).scalar_one())


def test_a_refused_token_leaves_no_file(logged_in: Any, tmp_path: Path) -> None:
    assert logged_in("tokens", "create", "nobody", "--output", tmp_path / "token").code == ExitCode.NOT_FOUND
    assert not (tmp_path / "token").exists()


def test_a_login_that_cannot_be_kept(farm: Any, command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text(farm.token())
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    refused(command("login", farm.url, "--token-file", tmp_path / "token"), "file/benchfarm/login.json")


@pytest.mark.parametrize("form", [["--json"], []])
def test_a_full_disk_behind_stdout_is_told_once(logged_in: Any, form: list[str]) -> None:
    done = _to_full_disk("kernels", "list", *form)
    assert (done.returncode, done.stderr) == (
        ExitCode.UNWRITTEN,
        "benchfarm: cannot write to stdout: No space left on device\n",
    )


@pytest.mark.parametrize("words", ["--help", "--version", "jobs submit --help"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_help_that_stdout_cannot_take_is_no_fault_of_the_command(
    words: str, unbuffered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    done = _to_full_disk(*words.split())
    assert (done.returncode, done.stderr) == (
        ExitCode.UNWRITTEN,
        "benchfarm: cannot write to stdout: No space left on device\n",
    )


@pytest.mark.parametrize("words", ["--help", "--version", "jobs submit --help"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_help_that_nobody_reads_ends_as_everything_else_does(
    words: str, unbuffered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    reader, writer = os.pipe()
    os.close(reader)
    argv = [sys.executable, "-m", "benchfarm", *words.split()]
    done = subprocess.run(argv, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (ExitCode.UNREAD, "")


def test_an_error_that_stdout_cannot_take_keeps_its_exit_code(logged_in: Any) -> None:
    done = _to_full_disk("jobs", "show", JOB_ID, "--json")
    assert done.returncode == ExitCode.NOT_FOUND
    assert (done.stderr.count("\n"), "code=not_found" in done.stderr) == (1, True)


def _to_full_disk(*words: str) -> subprocess.CompletedProcess[str]:
    with Path(FULL).open("wb") as full:
        argv = [sys.executable, "-m", "benchfarm", *words]
        return subprocess.run(argv, stdout=full, stderr=subprocess.PIPE, text=True, check=False)


IMPATIENT = """
import os, signal, sys

class Impatient:
    def find_spec(self, name, path=None, target=None):
        if name == "benchfarm":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Impatient())
from benchfarm_command import main
sys.argv = ["benchfarm", "--version"]
main()
"""
"""Ctrl-C as soon as the command's imports begin."""


def test_ctrl_c_during_the_imports_prints_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", IMPATIENT], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")
    [script] = entry_points(group="console_scripts", name="benchfarm")
    assert script.value == "benchfarm_command:main"


def test_a_ctrl_c_that_was_ignored_at_the_start_stays_ignored() -> None:
    ignoring = f"import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n{IMPATIENT}"
    done = subprocess.run([sys.executable, "-c", ignoring], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_numbers_beyond_all_bounds(logged_in: Any) -> None:
    ended = logged_in("jobs", "list", "--limit", "9" * 23)
    assert (ended.code, "--limit" in ended.err) == (ExitCode.USAGE, True)


@pytest.mark.parametrize(("content", "text"), [("[" * 100_000, "nested too deeply"), (" " * 9_000_000, "at most")])
def test_files_that_hold_no_job(logged_in: Any, tmp_path: Path, content: str, text: str) -> None:
    path = tmp_path / "job.json"
    path.write_text(content)
    refused(logged_in("jobs", "submit", path), str(path), text, "field=file")


def test_a_file_that_never_ends_is_no_job(logged_in: Any) -> None:
    refused(logged_in("jobs", "submit", "/dev/zero"), "at most", "field=file")


def test_certificates_that_are_none(logged_in: Any, tmp_path: Path) -> None:
    refused(logged_in("--ca-file", tmp_path / "absent", "whoami"), "absent: No such file", "field=ca_file")
    (tmp_path / "text.onnx").write_text("no certificate")
    refused(logged_in("--ca-file", tmp_path / "text.onnx", "whoami"), "text.onnx holds no certificates", "ca_file")


def test_csv_files_that_cannot_be_written(farm: Any, logged_in: Any, tmp_path: Path) -> None:
    job_id = logged_in("jobs", "submit", "--kernel", farm.kernels[0], "--json").document["id"]
    farm.plan(job_id)
    for path, text in ((tmp_path / "absent" / "x.csv", "No such file"), (FULL, "No space left")):
        refused(logged_in("jobs", "results", job_id, "--csv", path), f"cannot write {path}: {text}", "field=csv")


@pytest.mark.parametrize("path", ["/dev/zero", "/proc/self/mem"])
def test_only_regular_files_are_uploaded(logged_in: Any, path: str) -> None:
    refused(logged_in("models", "upload", path), path, "field=path")
    refused(logged_in("jobs", "submit", "--upload", path), path, "field=path")


def test_an_id_that_is_no_text_is_an_invalid_request() -> None:
    with Client("http://127.0.0.1:9", "bft_x", retries=Retries(attempts=1)) as sdk:
        nothing: Any = None
        with pytest.raises(InvalidRequest, match="names nothing"):
            sdk.job("\udcff")
        for ask in (sdk.wait, sdk.job, sdk.why, sdk.platform):
            with pytest.raises(InvalidRequest, match="None names nothing"):
                ask(nothing)
        with pytest.raises(InvalidRequest, match="no-such-file"):
            sdk.upload_model("no-such-file")


def test_an_id_of_another_form_is_no_job_id(logged_in: Any) -> None:
    refused(logged_in("jobs", "show", "nope"), "'nope' is no job id")


def test_what_an_upload_lacks_is_told_as_an_option(logged_in: Any, tmp_path: Path) -> None:
    path = tmp_path / "open.onnx"
    path.write_bytes(_with_open_batch())
    refused(logged_in("models", "upload", path), "for example --dim batch=1", "code=unbound_dims")
    assert logged_in("models", "upload", path, "--dim", "batch=1").code == 0


def test_a_dimension_of_one_upload_goes_to_no_other(logged_in: Any, tmp_path: Path) -> None:
    rows, batch = tmp_path / "rows.onnx", tmp_path / "batch.onnx"
    rows.write_bytes(_with_open_batch("rows"))
    batch.write_bytes(_with_open_batch())
    both = ("jobs", "submit", "--upload", rows, "--upload", batch)
    submitted = logged_in(*both, "--dim", f"{rows}:rows=2", "--dim", f"{batch}:batch=3", "--json")
    assert submitted.code == 0, submitted.err
    refused(logged_in(*both, "--dim", "batch=1"), f"{rows}: input", "'rows' has no number", "code=unbound_dims")
    stray = ("--dim", f"{rows}:rows=2", "--dim", "batch=3")
    refused(logged_in(*both, *stray), f"{rows}: no dimension 'batch' to bind; the model has 'rows'", "field=dims")
    refused(logged_in("jobs", "submit", "--kernel", "fc cin=8 cout=8", "--dim", "batch=1"), "nothing is uploaded")


def test_an_input_of_one_upload_is_filled_in_no_other(logged_in: Any, tmp_path: Path) -> None:
    words, plain = tmp_path / "words.onnx", tmp_path / "plain.onnx"
    words.write_bytes(_with_input("token_ids"))
    plain.write_bytes(_with_input("pixels"))
    both = ("jobs", "submit", "--upload", words, "--upload", plain, "--dry-run")
    submitted = logged_in(*both, "--ints", f"{words}:token_ids=7", "--json")
    assert submitted.code == 0, submitted.err
    made = {one["name"]: one["inputs"][0]["fill"] for one in logged_in("models", "list", "--json").document}
    assert made["words.onnx"]["below"] == 7
    assert made["plain.onnx"]["kind"] == "normal"
    refused(logged_in(*both, "--ints", "token_ids=7"), f"{plain}: no input 'token_ids'")
    stray = ("jobs", "submit", "--kernel", "fc cin=8 cout=8", "--ints", "token_ids=7")
    refused(logged_in(*stray), "nothing is uploaded that has inputs", "field=ints")


def _with_input(name: str) -> bytes:
    import onnx

    model = onnx.load_from_string(build(kernel_type("fc").workload({"cin": 16, "cout": 8})).onnx_bytes)
    (given,) = model.graph.input
    for node in model.graph.node:
        node.input[:] = [name if one == given.name else one for one in node.input]
    given.name = name
    return bytes(model.SerializeToString())


def _with_open_batch(name: str = "batch") -> bytes:
    import onnx

    model = onnx.load_from_string(build(kernel_type("fc").workload({"cin": 16, "cout": 8})).onnx_bytes)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = name
    return bytes(model.SerializeToString())


def test_every_argument_of_every_verb_has_a_help_text() -> None:
    silent = [
        f"{path} {parameter.opts[-1]}"
        for path, command in _verbs("benchfarm", typer.main.get_command(app))
        for parameter in command.params
        if not getattr(parameter, "help", None)
    ]
    assert silent == []


def _verbs(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    yield path, command
    for name, below in getattr(command, "commands", {}).items():
        yield from _verbs(f"{path} {name}", below)


@pytest.mark.parametrize("url", ["notaurl", "ftp://farm", "http://", "http://farm.example"])
def test_a_farm_that_is_no_url_is_told_before_a_login_is_asked_for(command: Any, url: str) -> None:
    ended = command("--url", url, "jobs", "list")
    refused(ended, "field=url")
    assert "login" not in ended.err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--max-age", "20000d"), "--max-age: Input should be less than or equal to 315360000 [code=invalid_request"),
        (("--expires-in", "60d"), "--expires-in: Input should be less than or equal to 2592000"),
        (("--protocol", "nonsense"), "--protocol: there is no protocol 'nonsense'"),
        (("--max-age", "soon"), "--max-age: 'soon' is no duration"),
    ],
)
def test_a_refusal_names_the_option_that_was_typed(logged_in: Any, words: tuple[str, ...], text: str) -> None:
    ended = logged_in("jobs", "submit", "--kernel", "fc cin=8 cout=8", *words)
    refused(ended, text, f"field={words[0]}")
    assert "_s:" not in ended.err


@pytest.mark.parametrize("words", [("latency",), ("jobs", "submit")])
def test_a_grade_that_answers_nobody_is_refused_as_it_was_typed(logged_in: Any, words: tuple[str, ...]) -> None:
    ended = logged_in(*words, "--kernel", "fc cin=8 cout=8", "--platform", "sim", "--min-grade", "D")
    refused(ended, "--min-grade: grade D is delivered to whoever has it measured and never reused")


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (("adapt", "sim", "--budget", "10s"), "--timeout"),
        (("adaptations", "watch", "a"), "--timeout"),
        (("compare", "fc cin=8 cout=8", "fc cin=9 cout=8", "--platform", "sim"), "--timeout"),
        (("compare", "fc cin=8 cout=8", "fc cin=9 cout=8", "--platform", "sim"), "--max-age"),
        (("jobs", "submit", "--kernel", "fc cin=8 cout=8", "--watch"), "--timeout"),
        (("jobs", "watch", JOB_ID), "--timeout"),
        (("evaluate", "accuracy", "--platform", "sim", "--space", "proxylessnas"), "--timeout"),
        (("fusion", "measure", "--platform", "sim"), "--timeout"),
        (("fusion", "measure", "--platform", "sim"), "--max-age"),
        (("latency", "--kernel", "fc cin=8 cout=8", "--platform", "sim"), "--max-age"),
        (("tokens", "create", "lab"), "--expires-in"),
        (("agents", "enrol-token"), "--expires-in"),
    ],
)
def test_a_time_is_read_before_anything_is_sent(command: Any, words: tuple[str, ...], option: str) -> None:
    """Nobody is logged in here: a command that asked the farm first would say that instead."""
    refused(command(*words, f"{option}=-5s"), f"{option}: '-5s' is no duration", f"field={option}")


def test_only_the_field_before_a_refusal_becomes_the_option() -> None:
    for detail, told in (
        ("name: another name is taken, choose a name", "--name: another name is taken, choose a name"),
        ("another name is taken", "--name: another name is taken"),
        ("give --name a name", "give --name a name"),
        ("name is '', give another name", "--name is '', give another name"),
    ):
        with pytest.raises(InvalidRequest) as caught, told_as_typed({"name": "--name"}):
            raise InvalidRequest(detail, field="name")
        assert (caught.value.detail, caught.value.field) == (told, "--name")


def test_what_a_file_says_is_told_as_the_file_says_it(logged_in: Any, tmp_path: Path) -> None:
    body = '{"workloads": [{"kind": "kernel", "type": "fc", "config": {"cin": 8, "cout": 8}}], "max_age_s": -1}'
    (tmp_path / "job.json").write_text(body)
    refused(logged_in("jobs", "submit", tmp_path / "job.json"), "max_age_s: Input should be", "field=max_age_s")


def test_a_watch_whose_farm_goes_away_says_how_to_go_on() -> None:
    with (
        Client("http://127.0.0.1:9", "bft_x", retries=Retries(attempts=1)) as sdk,
        pytest.raises(Unavailable) as caught,
    ):
        watch(sdk, JOB_ID, Console(file=io.StringIO()))
    assert "cannot reach the farm" in caught.value.detail
    assert caught.value.detail.endswith(f"the job goes on when the farm is back: benchfarm jobs watch {JOB_ID}")


def test_an_agent_has_the_name_that_came_with_its_token(farm: Any, logged_in: Any) -> None:
    once = logged_in("agents", "enrol-token", "--name", "a2", "--json").document["token"]
    farm._agent(
        "enrol", {"enrol_token": once, "name": os.uname().nodename, "protocol_version": 2, "agent_version": "1"}
    )
    assert "a2" in [agent["name"] for agent in logged_in("agents", "list", "--json").document]
