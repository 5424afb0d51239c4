"""Every engine of the tests' environment through the whole agent: files made, opened, gated, measured on this host."""

import asyncio
from collections.abc import Callable
from typing import Any

from benchfarm_agent.artifacts import ArtifactCache
from benchfarm_agent.state_dir import StateDir
from benchfarm_core.agent_protocol import BatchItem, LeaseGrant
from benchfarm_core.correctness import gate_limit
from benchfarm_core.platforms import EngineSpec, Precision
from benchfarm_core.protocols import PROTOCOLS
from benchfarm_core.workloads import UploadedWorkload
from benchfarm_workloads.inspection import inspect_upload
from tests.agent.conftest import grant_of
from tests.agent.real_leases import RealLeases, outcome_of

Run = Callable[[Any], Any]
PROTOCOL = PROTOCOLS["kernel"].model_copy(update={"launches_min": 1, "launches_max": 1})
ORT = EngineSpec(name="onnxruntime", version="1")
PLATFORMS = [
    ("onnxruntime", "fp32"),
    ("onnxruntime", "int8"),
    ("openvino", "fp32"),
    ("openvino", "bf16"),
    ("openvino", "int8"),
    ("litert", "fp32"),
    ("litert", "int8"),
    ("ncnn", "fp32"),
    ("ncnn", "int8"),
    ("mnn", "fp32"),
]


def grant_for(engine: str, precision: str) -> LeaseGrant:
    """Convolutions, a dense layer and a pool."""
    granted = grant_of(6, PROTOCOL)
    platform = granted.platform.model_copy(
        update={"precision": Precision(precision), "engine": EngineSpec(name=engine, version="1")}
    )
    limit = gate_limit(platform)
    items = [item.model_copy(update={"max_relative_l2": limit}) for item in granted.items[::2]]
    return granted.model_copy(update={"platform": platform, "items": items})


def test_every_platform_measures(state: StateDir, running: Run) -> None:
    leases = RealLeases(state)

    async def work() -> dict[tuple[str, str], list[tuple[str, str]]]:
        found = {}
        async with leases.open():
            for platform in PLATFORMS:
                results = await leases.lease(grant_for(*platform))
                found[platform] = [(outcome_of(one), one["detail"]) for _, one in sorted(results.items())]
        return found

    found = running(work())
    for platform, outcomes in found.items():
        assert len(outcomes) == 3
        assert set(outcomes) == {("ok", "")}, platform


def test_an_upload_is_converted_and_measured_in_cages_of_its_own(state: StateDir, running: Run) -> None:
    """int8 of an engine with its own files: quantised, run in ONNX Runtime, converted, measured, each strictly."""
    granted = grant_for("litert", "int8")
    ours = granted.items[0]
    leases = RealLeases(state)

    async def work() -> dict[int, Any]:
        async with leases.open():
            plain = granted.platform.model_copy(update={"precision": Precision.FP32})
            async with leases.lab.artifacts.prepared([ours], plain.model_copy(update={"engine": ORT})) as (ready, _):
                own = ready[ours.measurement_id]
            workload = {
                "kind": "upload",
                "sha256": own.artifact.name,
                "format": "onnx",
                "dims": {},
                "inputs": own.inputs,
            }
            files = {"file_sha256": own.artifact.name, "reference_sha256": own.reference.name}
            upload = BatchItem.model_validate({**ours.model_dump(mode="json"), **files, "workload": workload})
            return await leases.lease(granted.model_copy(update={"items": [upload]}))

    (result,) = running(work()).values()
    assert (outcome_of(result), result["detail"]) == ("ok", "")
    assert not list((state.cache / "strangers").iterdir())


def test_files_of_others_run_as_they_are(state: StateDir, running: Run) -> None:
    """What LiteRT opens of two kernels, one in 8 bits, taken for uploads; what is no such file is refused."""
    leases = RealLeases(state)

    async def work() -> tuple[list[dict[str, Any]], dict[int, Any]]:
        async with leases.open():
            uploads = [await upload_of(leases, grant_for("litert", precision)) for precision in ("fp32", "int8")]
            ours = grant_for("litert", "as_given")
            items = [
                ours.items[0],
                *(one.model_copy(update={"measurement_id": 70 + n}) for n, one in enumerate(uploads)),
            ]
            found = await leases.lease(ours.model_copy(update={"items": items}))
            return [one.workload.model_dump() for one in uploads], found

    workloads, found = running(work())
    assert [one["inputs"][0]["dtype"] for one in workloads] == ["float32", "int8"]
    kernel, *results = [found[number] for number in sorted(found)]
    assert outcome_of(kernel) == "conversion_failed"
    assert "as_given is for uploaded files" in kernel["detail"]
    assert [(outcome_of(one), one["detail"]) for one in results] == [("ok", ""), ("ok", "")]
    assert all(launch["gate_relative_l2"] < 0.05 for one in results for launch in one["launches"])
    assert not (state.cache / "strangers").exists(), "a child has converted what runs as it is"


async def upload_of(leases: RealLeases, granted: LeaseGrant) -> BatchItem:
    """The first item's file of an engine as an upload, checked as the farm checks one."""
    artifacts = leases.lab.artifacts
    assert isinstance(artifacts, ArtifactCache)
    async with artifacts.prepared(granted.items[:1], granted.platform) as (ready, _):
        [own] = ready.values()
        out = artifacts._files.folder.parent / "inspected" / own.artifact.name
        out.mkdir(parents=True)
        found = await asyncio.to_thread(inspect_upload, own.artifact, out_dir=out)
    reference = artifacts._files.put(found.reference_path.read_bytes())
    workload = UploadedWorkload(sha256=own.artifact.name, format=found.format, dims={}, inputs=found.inputs)
    files = {"file_sha256": own.artifact.name, "reference_sha256": reference.name, "workload": workload}
    return granted.items[0].model_copy(update=files)
