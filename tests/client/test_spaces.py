"""Search spaces from the client's side: the SDK's calls and the command's verbs, up to a measured architecture."""

from typing import Any

import pytest

from benchfarm import InvalidRequest, NotFound
from benchfarm.exit_codes import ExitCode
from benchfarm.workload_text import parse_architecture
from benchfarm_core.architectures import genes_text

PLATFORM = "sim-1/c0.t1.free/onnxruntime-1.31.1/fp32"
TINY = "bert layers=1 hidden=128 seq=64 intermediate=512 heads=2"


def test_what_is_drawn_can_be_submitted(farm: Any) -> None:
    with farm.client() as sdk:
        assert "ofa_resnet" in [space.name for space in sdk.spaces.list()]
        assert sdk.spaces.get("bert").genes[0].name == "layers"
        drawn = sdk.spaces.draw("ofa_mobilenet_v3", seed="s", count=2)
        assert drawn == sdk.spaces.draw("ofa_mobilenet_v3", seed="s", count=2)
        job = sdk.submit(workloads=drawn, protocol={"name": "quick"})
        farm.measure(job.id)
        items = list(sdk.items(job.id))
        assert [item.label for item in items] == [f"{one.space} {genes_text(one.genes)}" for one in drawn]
        assert [answer.source for answer in sdk.latency(drawn, [PLATFORM])] == ["measured"] * 2
        found = sdk.spaces.kernels(drawn[0].space, drawn[0].genes, PLATFORM)
        assert (found.workload_id, found.request) == (items[0].workload_id, drawn[0])
        assert len(found.kernels) > 40
        with pytest.raises(NotFound, match="ofa_resnet"):
            sdk.spaces.get("darts")
        with pytest.raises(NotFound):
            sdk.spaces.draw("darts")
        with pytest.raises(InvalidRequest) as refused:
            sdk.spaces.kernels("bert", {**parse_architecture(TINY).genes, "heads": 16})
        assert (refused.value.code, refused.value.field) == ("architecture_out_of_range", "genes.heads")


def test_the_verbs(farm: Any, logged_in: Any) -> None:
    listed = logged_in("spaces", "list")
    assert "proxylessnas" in listed.out
    shown = logged_in("spaces", "show", "fbnet_v3")
    assert "224 to 272 in steps of 8" in shown.out
    assert "left out" in shown.out
    drawn = logged_in("spaces", "draw", "bignas", "--seed", "x", "--count", "2")
    first, second = drawn.out.splitlines()
    assert first.startswith("bignas hw=")
    document = logged_in("spaces", "draw", "bignas", "--seed", "x", "--count", "2", "--json").document
    assert [parse_architecture(text).model_dump(mode="json") for text in (first, second)] == document
    assert logged_in("spaces", "show", "darts").code == ExitCode.NOT_FOUND
    kernels = logged_in("spaces", "kernels", TINY)
    assert "attention" in kernels.out
    assert "no platform is named" in kernels.err
    assert logged_in("spaces", "kernels", TINY, "--platform", PLATFORM, "--json").document["platform"] == PLATFORM


def test_architectures_on_the_command_line(farm: Any, logged_in: Any) -> None:
    planned = logged_in("jobs", "submit", "--architecture", TINY, "--kernel", farm.kernels[0], "--dry-run", "--json")
    assert planned.document["items"] == 2
    asked = logged_in("latency", "--architecture", TINY, "--platform", PLATFORM, "--json")
    assert [answer["error"] for answer in asked.document] == ["no_predictor"]
    wrong = logged_in("jobs", "submit", "--architecture", TINY.replace("seq=64", "seq=65"))
    assert wrong.code == ExitCode.USAGE
    assert "seq=65 must be 64 or 128" in wrong.err
    none = logged_in("jobs", "submit", "--architecture", "bert layers=one")
    assert none.code == ExitCode.USAGE
    assert "layers=one is no integer" in none.err


def test_an_architecture_as_a_person_types_it() -> None:
    parsed = parse_architecture("ofa_resnet hw=128 depth=0,1,2,0 expand=20,")
    assert parsed.genes == {"hw": 128, "depth": (0, 1, 2, 0), "expand": (20,)}
    for text, words in (
        ("", "names no architecture"),
        ("bert heads=", "no column=value"),
        ("bert heads=2,,3", "no list of integers"),
        ("bert heads=1.5", "no integer"),
        ("bert heads=1 heads=2", "twice"),
        ("bert heads=99999999999", "a gene is an integer"),
    ):
        with pytest.raises(InvalidRequest, match=words):
            parse_architecture(text)
