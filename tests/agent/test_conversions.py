"""What engines open, made by real children and by such as misbehave; a stranger's file is alone with its child."""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchfarm_agent.conversions import Conversions, Made, Source
from benchfarm_agent.engine_environments import EngineEnvironments
from benchfarm_agent.kept_child import Unusable
from benchfarm_agent.makers import ENGINES, WORKLOADS, _digest, made_by
from benchfarm_agent.state_dir import StateDir
from benchfarm_core.agent_protocol import BatchItem, LeaseGrant
from benchfarm_core.correctness import INT8_TWIN_LIMIT
from benchfarm_core.platforms import EngineSpec, Platform, Precision
from benchfarm_core.workloads import KernelWorkload
from benchfarm_workloads.artifacts import build
from tests.agent.conftest import grant_of
from tests.agent.scripted_farm import Call, scripted_farm
from tests.agent.test_artifacts import NOBODY_LISTENS, cache_in, prepare

Run = Callable[[Any], Any]
PROGRAM = Path(__file__).with_name("misbehaving_converter.py")


def platform(engine: str, precision: str, **options: Any) -> Platform:
    spec = EngineSpec(name=engine, version="1", options=options)
    return grant_of(1).platform.model_copy(update={"engine": spec, "precision": Precision(precision)})


@pytest.mark.parametrize("stranger", [False, True])
def test_a_question_that_is_given_up_leaves_no_child_that_answers_the_next(
    state: StateDir, running: Run, converter: Path, stranger: bool
) -> None:
    async def work() -> Made:
        conversions = Conversions(state.cache, EngineEnvironments(state.engines))
        source = Source(converter, (), stranger=stranger)
        try:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await conversions.converted(source, platform("odd", "fp32", deed="hang"))
            assert not list(state.cache.glob("conversions/*/*.part"))
            async with asyncio.timeout(10):
                return await conversions.converted(source, platform("odd", "fp32", deed="fine"))
        finally:
            await conversions.close()

    assert running(work()).format


@pytest.fixture
def converter(state: StateDir) -> Path:
    """The converter of an engine ``odd`` that does the deeds it is asked for; gives a file to convert."""
    python = state.engines / "odd" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -I {PROGRAM} "$@"\n')
    python.chmod(0o755)
    files = state.cache / "files"
    files.mkdir()
    artifact = files / "artifact"
    artifact.write_bytes(b"a graph")
    return artifact


@pytest.fixture
def misbehaving(state: StateDir, running: Run, converter: Path) -> Any:
    """Has a file converted by a child that does one deed after the other."""

    async def work(deeds: tuple[str, ...], stranger: bool) -> list[Made | Unusable]:
        conversions = Conversions(state.cache, EngineEnvironments(state.engines))
        found: list[Made | Unusable] = []
        try:
            for deed in deeds:
                try:
                    source = Source(converter, (), stranger=stranger)
                    found.append(await conversions.converted(source, platform("odd", "fp32", deed=deed)))
                except Unusable as refused:
                    found.append(refused)
        finally:
            await conversions.close()
        return found

    return lambda *deeds, stranger=False: running(work(deeds, stranger))


@pytest.mark.parametrize("stranger", [False, True])
@pytest.mark.parametrize("deed", ["die", "symlink", "folder", "pipe", "absent", "edges", "format", "list"])
def test_whatever_a_child_leaves_is_a_typed_failure_and_the_next_file_is_made(
    misbehaving: Any, state: StateDir, deed: str, stranger: bool
) -> None:
    failure, made = misbehaving(deed, "nothing", stranger=stranger)
    assert isinstance(failure, Unusable)
    assert failure.code == "conversion_failed"
    assert failure.detail
    assert made.content
    assert (state.cache / "files" / "artifact").read_bytes() == b"a graph"
    assert not list((state.cache / "strangers").glob("*"))


def test_a_child_that_dies_once_costs_nothing(misbehaving: Any) -> None:
    (made,) = misbehaving("die_once")
    assert made.format == "odd"


def test_a_child_that_hangs_is_given_up(misbehaving: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchfarm_agent.kept_child.ANSWER_S", 0.3)
    failure, made = misbehaving("hang", "nothing")
    assert failure.code == "conversion_failed"
    assert made.content


def test_a_file_above_the_limit_is_not_read(misbehaving: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchfarm_agent.conversions.LIMIT_BYTES", 1000)
    (failure,) = misbehaving("large")
    assert failure.code == "conversion_failed"


def test_a_refusal_carries_its_operator_and_leaves_no_file(misbehaving: Any, state: StateDir) -> None:
    (failure,) = misbehaving("refuse")
    assert (failure.code, failure.subject.strip()) == ("unsupported_operator", "Erf")
    assert not [path for path in (state.cache / "conversions").rglob("*") if path.is_file()]


def test_a_child_that_cannot_be_started_is_no_fault_of_the_graph(misbehaving: Any, state: StateDir) -> None:
    (state.engines / "odd" / "bin" / "python").chmod(0o644)
    with pytest.raises(PermissionError):
        misbehaving("nothing")


def test_a_child_is_kept_for_our_files_and_every_stranger_gets_one_of_its_own(misbehaving: Any) -> None:
    ours = misbehaving("nothing", "nothing")
    assert ours[0].content == ours[1].content
    assert ours[0].content.endswith(b"False")
    strangers = misbehaving("nothing", "nothing", stranger=True)
    assert strangers[0].content != strangers[1].content
    assert strangers[0].content.endswith(b"True")


def test_int8_is_made_once_for_all_engines_and_has_its_twin(
    state: StateDir, grant: Callable[..., LeaseGrant], running: Run
) -> None:
    items = grant(2).items
    openvino, onnxruntime = platform("openvino", "int8"), platform("onnxruntime", "int8")

    async def work() -> list[Any]:
        async with cache_in(state) as (cache, references):
            first, failed = await prepare(cache, items, openvino)
            assert failed == []
            canary = await cache.canary(cache.own_canary(), openvino)
        async with cache_in(state) as (cache, references):  # an agent's restart
            again, _ = await prepare(cache, items, openvino)
            other, _ = await prepare(cache, items, onnxruntime)
            plain, _ = await prepare(cache, items)
            assert references.pid is None
            assert await cache.canary(cache.own_canary(), openvino) == canary
            return [first, again, other, plain, canary]

    first, again, other, plain, canary = running(work())
    assert first == again
    for number, item in first.items():
        assert item.edges["inputs"][0]["dtype"] == "uint8"
        limits = [gate["max_relative_l2"] for gate in item.gates]
        assert limits == [item.max_relative_l2, INT8_TWIN_LIMIT]
        assert item.twin in item.files
        assert other[number].artifact == item.artifact
        assert other[number].twin is None
        assert plain[number].artifact != item.artifact
        assert plain[number].reference == item.reference
        assert plain[number].edges is None
    assert canary.edges["inputs"][0]["dtype"] == "uint8"


def test_what_other_code_made_is_made_anew(
    state: StateDir, grant: Callable[..., LeaseGrant], running: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def next_version(package: str) -> str:
        return f"another {package}"

    async def notes() -> set[str]:
        async with cache_in(state) as (cache, _):
            _, failed = await prepare(cache, grant(1).items, platform("openvino", "int8"))
            assert failed == []
        return {path.name for path in (state.cache / "notes-2").iterdir()}

    before = running(notes())
    assert running(notes()) == before
    monkeypatch.setattr("benchfarm_agent.artifacts.made_by", next_version)
    assert len(running(notes()) - before) == len(before) == 3  # built, int8, twin


def test_the_digest_of_the_makers_follows_every_module(tmp_path: Path) -> None:
    module = tmp_path / "within" / "convert.py"
    module.parent.mkdir()
    module.write_text("SCALE = 1")
    before = _digest(tmp_path)
    assert _digest(tmp_path) == before
    module.write_text("SCALE = 2")
    assert _digest(tmp_path) != before
    assert made_by(ENGINES) != made_by(WORKLOADS)


def test_the_int8_of_an_upload_is_made_in_a_cage(
    state: StateDir, grant: Callable[..., LeaseGrant], running: Run
) -> None:
    ours = grant(1).items[0]
    assert isinstance(ours.workload, KernelWorkload)
    artifact = build(ours.workload)
    workload = {
        "kind": "upload",
        "format": "onnx",
        "dims": {},
        "inputs": [spec.model_dump() for spec in artifact.inputs],
    }

    async def work() -> Any:
        async with cache_in(state, url=NOBODY_LISTENS) as (cache, _):
            own, _ = await prepare(cache, [ours])
        contents = {path.name: path.read_bytes() for path in own[1].files}

        def farm_files(call: Call) -> tuple[int, bytes]:
            return 200, contents[call.path.rsplit("/", 1)[1]]

        for path in own[1].files:
            path.unlink()
        sha256, reference = (path.name for path in own[1].files)
        files = {"file_sha256": sha256, "reference_sha256": reference}
        item = BatchItem.model_validate({**ours.model_dump(), **files, "workload": {**workload, "sha256": sha256}})
        async with scripted_farm(farm_files) as farm, cache_in(state, url=farm.url) as (cache, references):
            ready, failed = await prepare(cache, [item], platform("openvino", "int8"))
            return ready, failed, references.pid

    ready, failed, pid = running(work())
    assert failed == []
    assert ready[1].uploaded
    assert len(ready[1].gates) == 2
    assert pid is None
    assert not list((state.cache / "conversions").glob("*"))
    assert not list((state.cache / "strangers").iterdir())
