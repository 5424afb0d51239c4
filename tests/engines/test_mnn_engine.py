"""MNN: the whole catalogue and the zoo through its own files; what its own interface would get wrong in silence."""

import os
import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("_mnncengine", reason="MNN is not installed")

from onnx import helper

from benchfarm_core.failures import FailureCode
from benchfarm_engines.engine import EngineFailure, OpenRequest
from benchfarm_engines.mnn_convert import _converted
from benchfarm_engines.mnn_engine import ENGINE, _MnnSession, _unready
from benchfarm_engines.sealed_file import seal
from tests.engines.catalogue import (
    CONV,
    KERNELS,
    MODELS,
    SMALL,
    Graph,
    convert,
    distance,
    distance_after,
    drawn_kernels,
    normal,
    opened,
    reference,
    small_model,
)
from tests.engines.conftest import graph

GATE = 1e-2


@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_type_passes_the_gate(name: str, tmp_path: Path) -> None:
    """After the third run: the first is right even where MNN spoils its inputs."""
    for kernel in drawn_kernels(name, 2):
        assert distance_after(3, ENGINE, kernel, tmp_path) < GATE


@pytest.mark.parametrize("name", MODELS)
def test_the_zoo_passes_the_gate(name: str, tmp_path: Path) -> None:
    assert distance_after(2, ENGINE, small_model(name), tmp_path) < GATE


def test_no_run_copies_an_input_that_has_a_keeper(tmp_path: Path) -> None:
    two = [helper.make_node("Add", ["x", "z"], ["s"]), helper.make_node("Relu", ["s"], ["y"])]
    add = graph(two, {"x": [1, 16, 8, 8], "z": [1, 16, 8, 8]}, ["y"])
    both = (normal([1, 16, 8, 8]), normal([1, 16, 8, 8], name="z", seed=1))
    for each in (CONV, (add, both)):
        with opened(ENGINE, each, tmp_path) as session:
            session.run()
            assert session._looked  # type: ignore[attr-defined]
            assert session._spoilt == []  # type: ignore[attr-defined]


def test_opening_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run within it would be told as loading time, and the first inference would be the second."""
    runs: list[None] = []
    run = _MnnSession.run

    def counted(session: _MnnSession) -> None:
        runs.append(None)
        run(session)

    monkeypatch.setattr(_MnnSession, "run", counted)
    with opened(ENGINE, CONV, tmp_path) as session:
        assert runs == []
        session.run()
        assert distance(session, CONV) < GATE
    assert len(runs) == 1


def test_a_file_without_keepers_computes_on_its_inputs_too(tmp_path: Path) -> None:
    artifact = tmp_path / "bare"
    artifact.write_bytes(seal(_converted(CONV[0]), {"outputs": ["y"]}))
    inputs = {"x": np.random.default_rng(0).standard_normal((1, 32, 28, 28), dtype=np.float32)}
    session = ENGINE.open(OpenRequest(artifact, inputs, "fp32", 1, {}))
    for _ in range(3):
        session.run()
    assert distance(session, CONV) < GATE
    session.profile(3)  # type: ignore[attr-defined]
    assert distance(session, CONV) < GATE
    session.close()


def test_outputs_keep_their_order_and_their_names(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["z/a:0"]), helper.make_node("Neg", ["x"], ["b"])]
    two: Graph = (graph(nodes, {"x": [3, 5]}, ["z/a:0", "b"]), (normal([3, 5]),))
    assert distance_after(1, ENGINE, two, tmp_path) == 0


def test_two_sessions_live_side_by_side(tmp_path: Path) -> None:
    with opened(ENGINE, CONV, tmp_path, beside_another=True) as first, opened(ENGINE, SMALL, tmp_path) as second:
        for _ in range(3):
            for session, each in ((first, CONV), (second, SMALL)):
                session.run()
                assert distance(session, each) < GATE


def test_outputs_outlive_their_session(tmp_path: Path) -> None:
    with opened(ENGINE, CONV, tmp_path) as session:
        session.run()
        kept = session.outputs()
    for _ in range(3):
        with opened(ENGINE, SMALL, tmp_path) as other:
            other.run()
    assert np.allclose(kept[0], reference(CONV)[0], atol=1e-3)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one processor")
def test_threads_are_counted(tmp_path: Path) -> None:
    for threads in (2, 1, 2):
        with opened(ENGINE, CONV, tmp_path, threads=threads) as session:
            assert session.threads == threads


def test_more_threads_than_processors_are_not_promised(tmp_path: Path) -> None:
    asked = (os.cpu_count() or 1) + 1
    with opened(ENGINE, CONV, tmp_path, threads=asked) as session:
        assert session.threads < asked


def test_a_profile_lists_what_was_executed(tmp_path: Path) -> None:
    with opened(ENGINE, CONV, tmp_path, profiled=True) as session:
        inferences = session.profile(3)  # type: ignore[attr-defined]
        assert distance(session, CONV) < GATE
    assert len(inferences) == 3
    for nodes in inferences:
        assert "Convolution" in [node.kind for node in nodes]
        assert all(node.ns > 0 and "keeper" not in node.name for node in nodes)


def test_a_profile_names_each_operator_once_and_after_its_kernel(tmp_path: Path) -> None:
    with opened(ENGINE, small_model("squeezenet"), tmp_path, profiled=True) as session:
        [nodes] = session.profile(1)  # type: ignore[attr-defined]
    names = [node.name for node in nodes]
    assert len(set(names)) == len(names)
    assert all(re.match(r"l\d+(/|_|$)", name) for name in names), names


@pytest.mark.parametrize("damage", ["text", "empty", "cut", "flipped"])
def test_a_file_that_is_not_whole_is_refused_before_mnn_reads_it(damage: str, tmp_path: Path) -> None:
    whole = convert(ENGINE, CONV).content
    flipped = whole[:100] + bytes([whole[100] ^ 255]) + whole[101:]
    content = {"text": b"hello, I am a text", "empty": b"", "cut": whole[:5000], "flipped": flipped}[damage]
    artifact = tmp_path / "damaged"
    artifact.write_bytes(content)
    with pytest.raises(EngineFailure) as caught:
        ENGINE.open(OpenRequest(artifact, {}, "fp32", 1, {}))
    assert caught.value.code is FailureCode.INVALID_WORKLOAD


def test_a_sealed_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    artifact = tmp_path / "sealed"
    artifact.write_bytes(seal(b"not a model" * 99, {"outputs": ["y"]}))
    with pytest.raises(EngineFailure) as caught:
        ENGINE.open(OpenRequest(artifact, {}, "fp32", 1, {}))
    assert caught.value.code is FailureCode.INVALID_WORKLOAD
    assert str(tmp_path) not in caught.value.detail


def test_inputs_that_do_not_fit_the_file_are_refused(tmp_path: Path) -> None:
    artifact = tmp_path / "small"
    artifact.write_bytes(convert(ENGINE, SMALL).content)
    right = np.zeros((1, 8, 4, 4), np.float32)
    for inputs in ({"other": right}, {"x": right.astype(np.int32)}, {"x": right[:, :4]}):
        with pytest.raises(EngineFailure) as caught:
            ENGINE.open(OpenRequest(artifact, inputs, "fp32", 1, {}))
        assert caught.value.code is FailureCode.INVALID_WORKLOAD


def test_a_session_without_memory_is_no_failed_conversion() -> None:
    # made up: what MNN says where its memory ends while it sizes a session cannot be brought about from outside
    assert _unready(1).code == FailureCode.OUT_OF_MEMORY
    assert _unready(2).code == _unready(-1).code == FailureCode.CONVERSION_FAILED
