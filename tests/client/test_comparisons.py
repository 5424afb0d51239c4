"""Comparisons from the client's side: the SDK's call, the command's words and its exit codes as a gate."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchfarm import ComparisonVerdict, Conflict, InvalidRequest, JobKind, Results
from benchfarm.commands.comparisons import _table, exit_code_of
from benchfarm.exit_codes import ExitCode
from benchfarm.workload_text import parse_kernel
from benchfarm_core.jobs import ItemView, JobState
from benchfarm_core.workloads import PairWorkload
from benchfarm_workloads.artifacts import build
from benchfarm_workloads.kernels import kernel_type

PLATFORM = "sim-1/c0.t1.free/onnxruntime-1.31.1/fp32"


@contextmanager
def lab(farm: Any, slower: float = 1.0, failing: str | None = None) -> Iterator[None]:
    """Plans and measures the next comparison while somebody waits for it."""
    farm.slower = slower

    def work() -> None:
        with farm.client(account=farm.account) as client:
            end = time.monotonic() + 30
            while time.monotonic() < end:
                for job in client.jobs(state=JobState.QUEUED):
                    farm.measure(job.id, failing=failing)
                    return
                time.sleep(0.02)  # wait: for the job that the test submits

    worker = threading.Thread(target=work)
    worker.start()
    try:
        yield
    finally:
        worker.join()


@contextmanager
def cancelling(farm: Any) -> Iterator[None]:
    """Cancels the next comparison, which nobody plans."""

    def work() -> None:
        with farm.client(account=farm.account) as client:
            end = time.monotonic() + 30
            while time.monotonic() < end:
                for job in client.jobs(state=JobState.QUEUED):
                    client.cancel(job.id)
                    return
                time.sleep(0.02)  # wait: for the job that the test submits

    worker = threading.Thread(target=work)
    worker.start()
    try:
        yield
    finally:
        worker.join()


def test_the_sdk_waits_for_the_answer(farm: Any) -> None:
    a, b = (parse_kernel(text) for text in farm.kernels[:2])
    with farm.client() as client, lab(farm, slower=1.10):
        item = client.compare(a, b, platform=PLATFORM, tolerance_percent=5, timeout_s=60)
    assert item.comparison is not None
    assert item.comparison.verdict == ComparisonVerdict.A_FASTER
    assert item.comparison.change_percent == pytest.approx(10, abs=0.1)
    assert item.comparison.tolerance_percent == 5
    found = Results([item])
    assert found.measured == found
    header, line, *_ = found.to_csv().splitlines()
    row = dict(zip(header.split(","), line.split(","), strict=True))
    assert (row["verdict"], row["median_ms"]) == ("a_faster", "")
    with farm.client(account=farm.account) as client:
        job = next(client.jobs())
        assert (job.kind, job.state) == (JobKind.COMPARE, JobState.SUCCEEDED)


@pytest.mark.parametrize(
    ("slower", "more", "code", "words"),
    [
        (1.05, (), ExitCode.OK, "b is slower by 5.00 %"),
        (1.05, ("--fail-if-slower",), ExitCode.SLOWER, "b is slower by 5.00 %"),
        (1.05, ("--fail-if-slower", "--tolerance", "10"), ExitCode.OK, "b is slower by 5.00 %"),
        (0.95, ("--fail-if-slower",), ExitCode.OK, "b is faster by 5.00 %"),
        (1.0, ("--fail-if-slower",), ExitCode.OK, "no difference within 2 %"),
        (1.002, ("--tolerance", "0.1"), ExitCode.INCONCLUSIVE, "inconclusive: +0.20 %"),
    ],
)
def test_the_exit_code_is_a_gate(
    farm: Any, logged_in: Any, slower: float, more: tuple[str, ...], code: ExitCode, words: str
) -> None:
    with lab(farm, slower):
        ended = logged_in("compare", farm.kernels[0], farm.kernels[1], "--platform", PLATFORM, *more)
    assert ended.code == code, ended.err
    assert words in ended.out


def test_the_answer_is_one_document_and_stands_in_the_jobs_results(farm: Any, logged_in: Any) -> None:
    with lab(farm, 1.05):
        ended = logged_in("compare", farm.kernels[0], farm.kernels[1], "--platform", PLATFORM, "--json")
    assert ended.document["comparison"]["verdict"] == "a_faster"
    job_id = ended.err.split()[1]
    assert "b is slower by 5.00 %" in logged_in("jobs", "results", job_id).out
    assert "a_faster" in logged_in("jobs", "results", job_id, "--csv", "-").out


def test_what_could_not_be_compared_says_why(farm: Any, logged_in: Any) -> None:
    with lab(farm, failing="fc"):
        ended = logged_in("compare", farm.kernels[0], farm.kernels[1], "--platform", PLATFORM)
    assert ended.code == ExitCode.JOB_FAILED
    assert "out_of_memory: needs 3 GB" in ended.out


@pytest.mark.parametrize(
    ("failure", "state", "code"),
    [
        ("inconclusive", JobState.FAILED, ExitCode.INCONCLUSIVE),
        ("wrong_result", JobState.FAILED, ExitCode.JOB_FAILED),
        (None, JobState.CANCELLED, ExitCode.JOB_FAILED),
    ],
)
def test_a_board_that_nobody_left_alone_is_not_a_model_that_fails(
    failure: str | None, state: JobState, code: ExitCode
) -> None:
    """A gate tells noise from a broken model: neither has a comparison."""
    item = ItemView.model_construct(**dict[str, Any](comparison=None, failure=failure))
    assert exit_code_of(item, state, fail_if_slower=True) == code


def test_a_job_that_was_cancelled_before_it_was_planned_compares_nothing(farm: Any, logged_in: Any) -> None:
    kernels = [parse_kernel(text) for text in farm.kernels[:2]]
    with cancelling(farm):
        ended = logged_in("compare", *farm.kernels[:2], "--platform", PLATFORM, "--json")
    assert (ended.code, ended.document["state"]) == (ExitCode.JOB_FAILED, "cancelled")
    with cancelling(farm):
        ended = logged_in("compare", *farm.kernels[:2], "--platform", PLATFORM)
    assert ended.code == ExitCode.JOB_FAILED
    assert "before it was planned" in ended.out
    with farm.client() as client, cancelling(farm), pytest.raises(Conflict, match="cancelled before it was planned"):
        client.compare(kernels[0], kernels[1], platform=PLATFORM, timeout_s=60)


def test_sides_may_be_files_models_and_kernels(farm: Any, logged_in: Any, tmp_path: Path) -> None:
    path = tmp_path / "mine.onnx"
    path.write_bytes(build(kernel_type("fc").workload({"cin": 8, "cout": 8, "batch": 1, "act": "none"})).onnx_bytes)
    with lab(farm):
        ended = logged_in("compare", path, "mobilenet_v2 hw=64", "--platform", PLATFORM, "--json")
    kinds = [ended.document["workload"][side]["kind"] for side in ("a", "b")]
    assert (ended.code, kinds) == (0, ["upload", "model"])
    model_id = logged_in("models", "list", "--json").document[0]["id"]
    with lab(farm):
        ended = logged_in("compare", model_id, "mobilenet_v2 hw=64", "--platform", PLATFORM, "--json")
    assert (ended.code, ended.document["source"]) == (0, "known")


def test_a_file_keeps_its_name_in_the_table(farm: Any, logged_in: Any, tmp_path: Path) -> None:
    path = tmp_path / "my_net_v2.onnx"
    path.write_bytes(_open(8))
    with lab(farm):
        ended = logged_in("compare", path, "mobilenet_v2 hw=64", "--platform", PLATFORM, "--dim", "batch=1")
    assert "my_net_v2.onnx" in ended.out
    assert "b: mobilenet_v2 hw=64" in ended.out


@pytest.mark.parametrize(
    ("told", "b_asked", "a_text", "b_text"),
    [
        (("fp32", "fp32"), None, "", ""),
        (("fp32", "fp32"), "bf16", "", ", in fp32"),
        (("bf16", "bf16"), "bf16", ", in bf16", ""),
        ((None, None), "bf16", "", ""),
    ],
)
def test_a_side_that_was_computed_in_another_precision_says_so(
    farm: Any, told: tuple[Any, Any], b_asked: str | None, a_text: str, b_text: str
) -> None:
    a, b = (parse_kernel(text) for text in farm.kernels[:2])
    with farm.client() as client, lab(farm, slower=2.0):
        item = client.compare(a, b, platform=PLATFORM, timeout_s=60)
    assert isinstance(item.workload, PairWorkload)
    asked = item.workload.model_copy(update={"b_precision": b_asked})
    words = {"effective_precision": told[0], "b_effective_precision": told[1], "workload": asked}
    console = Console(width=200)
    with console.capture() as capture:
        console.print(_table(item.model_copy(update=words), "one", "two"))
    lines = [" ".join(line.split()) for line in capture.get().splitlines()]
    assert lines[1].endswith(f" ms{a_text}")
    assert lines[2].endswith(f" ms{b_text}")


def test_a_dimension_is_that_of_both_files_or_of_one(farm: Any, logged_in: Any, tmp_path: Path) -> None:
    path = tmp_path / "open.onnx"
    path.write_bytes(_open(8))
    with lab(farm):
        ended = logged_in(
            "compare", path, path, "--platform", PLATFORM, "--dim", "a:batch=1", "--dim", "b:batch=4", "--json"
        )
    sides = [ended.document["workload"][side] for side in ("a", "b")]
    assert [side["inputs"][0]["shape"][0] for side in sides] == [1, 4], ended.err


def test_a_limit_of_integers_is_that_of_both_files_or_of_one(farm: Any, logged_in: Any, tmp_path: Path) -> None:
    import onnx

    path = tmp_path / "open.onnx"
    path.write_bytes(_open(8))
    name = onnx.load(str(path)).graph.input[0].name
    asked = ("compare", path, path, "--platform", PLATFORM, "--dim", "batch=1")
    with lab(farm):
        ended = logged_in(*asked, "--ints", f"a:{name}=7", "--ints", f"b:{name}=9", "--json")
    fills = [ended.document["workload"][side]["inputs"][0]["fill"]["below"] for side in ("a", "b")]
    assert (ended.code, fills) == (0, [7, 9]), ended.err
    refused = logged_in(*asked, "--ints", "nobody=7")
    assert (refused.code, "nobody" in refused.err) == (ExitCode.USAGE, True), refused.err


@pytest.mark.parametrize(
    ("b", "dims", "text"),
    [
        ("fc cin=8 cout=8", ("b:batch=1",), "b:batch=1: b is no file: nothing is uploaded that has dimensions"),
        ("FOLDER", ("batch=1",), "is a folder: name a file in it"),
        ("/nowhere/a.bin", ("batch=1",), "there is no file /nowhere/a.bin"),
        ("closed.onnx", ("batch=1",), "closed.onnx: no dimension 'batch' to bind; the model has none"),
        ("rows.onnx", ("batch=1",), "rows.onnx: input "),
        ("rows.onnx", ("a:batch=1", "b:batch=1", "b:rows=1"), "rows.onnx: no dimension 'batch' to bind"),
        ("open.onnx", ("batch=1", "a:batch=2"), "'batch' is given twice"),
        ("open.onnx", ("a:batch",), "'batch' is no name=number"),
    ],
)
def test_a_dimension_that_a_side_does_not_have_is_refused(
    logged_in: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, b: str, dims: tuple[str, ...], text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("open.onnx").write_bytes(_open(8))
    Path("rows.onnx").write_bytes(_open(8, name="rows"))
    closed = kernel_type("fc").workload({"cin": 8, "cout": 8})
    Path("closed.onnx").write_bytes(build(closed).onnx_bytes)
    Path("FOLDER").mkdir()
    given = [word for one in dims for word in ("--dim", one)]
    refused = logged_in("compare", "open.onnx", b, "--platform", PLATFORM, *given)
    assert (refused.code, text in refused.err) == (ExitCode.USAGE, True), refused.err
    assert not logged_in("jobs", "list", "--json").document


def test_a_text_that_is_too_long_for_a_path_is_no_file(logged_in: Any) -> None:
    refused = logged_in("compare", "fc cin=8 cout=8", f"fc cin=8 cout={'8' * 300}", "--platform", PLATFORM)
    assert refused.code == ExitCode.USAGE
    assert "8" * 20 in refused.err


def _open(cin: int, name: str = "batch") -> bytes:
    """A file with one dimension that is no number."""
    import onnx

    model = onnx.load_from_string(build(kernel_type("fc").workload({"cin": cin, "cout": 8})).onnx_bytes)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = name
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("fc cin=8 cout=8", "nonsense", "--platform", PLATFORM), "kernel_unknown"),
        (("fc cin=8 cout=8", "fc cin=8 cout=9", "--platform", "nowhere"), "platform_unknown"),
        (("fc cin=8 cout=8", "fc cin=8 cout=9", "--platform", PLATFORM, "--tolerance", "0"), "protocol_impossible"),
        (("fc cin=8 cout=8", "missing.onnx", "--platform", PLATFORM), "invalid_request"),
    ],
)
def test_a_comparison_that_makes_no_sense_is_refused(logged_in: Any, words: tuple[str, ...], code: str) -> None:
    refused = logged_in("compare", *words)
    assert refused.code == ExitCode.USAGE
    assert f"code={code}" in refused.err


@pytest.mark.parametrize("typed", ["0", "-1", "100", "nan", "1e-323"])
def test_an_impossible_tolerance_is_told_as_it_was_typed(logged_in: Any, typed: str) -> None:
    refused = logged_in("compare", "fc cin=8 cout=8", "fc cin=8 cout=9", "--platform", PLATFORM, "--tolerance", typed)
    assert refused.code == ExitCode.USAGE
    assert "--tolerance is" in refused.err
    assert "it must be above 0 and below 100 [code=protocol_impossible field=--tolerance]" in refused.err
    assert "half_width_target" not in refused.err


def test_pairs_are_for_jobs_that_compare(farm: Any) -> None:
    one = {"kind": "kernel", "type": "fc", "config": {"cin": 8, "cout": 8}}
    with farm.client() as client, pytest.raises(InvalidRequest) as refused:
        client.submit(workloads=[{"kind": "pair", "a": one, "b": one}], platforms=[PLATFORM])
    assert (refused.value.code, refused.value.field) == ("not_a_pair", "workloads.0")
