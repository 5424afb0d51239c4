"""Blocks that are worked out by arrays are those of the space, and are numbered as they are met."""

import pytest

from benchfarm_predictor.answers import kernels_of
from benchfarm_predictor.known_blocks import KeptSums, KnownBlocks
from benchfarm_predictor.staged_blocks import StagedBlocks
from benchfarm_workloads.fusing import FusionRules
from benchfarm_workloads.network_kernels import NetworkKernels
from benchfarm_workloads.spaces import draws, space, spaces
from benchfarm_workloads.spaces.architectures import Architectures
from benchfarm_workloads.spaces.every_block import every_block

STAGED = [one.name for one in spaces() if one.plan.stages is not None]


def test_the_space_that_searches_ask_most_is_among_them() -> None:
    assert STAGED == ["ofa_mobilenet_v3", "proxylessnas"]


@pytest.mark.parametrize("name", STAGED)
def test_codes_stand_for_the_blocks_of_the_space(name: str) -> None:
    of = space(name)
    assert of.plan.stages is not None
    drawn = [one.genes for one in draws(name, "staged", 400)]
    staged = StagedBlocks(of, of.plan.stages)
    codes, starts = staged.codes(Architectures.of(of, drawn).columns)
    ends = [*starts[1:].tolist(), len(codes)]
    for genes, start, end in zip(drawn, starts.tolist(), ends, strict=True):
        assert [staged.block(code) for code in codes[start:end].tolist()] == [*of.plan.blocks(genes)]
    assert codes.max() < len(staged)


@pytest.mark.parametrize("name", STAGED)
def test_every_block_of_the_space_has_a_code(name: str) -> None:
    of = space(name)
    assert of.plan.stages is not None
    staged = StagedBlocks(of, of.plan.stages)
    blocks, _ = every_block(of, {})
    coded = {staged.block(code) for code in range(len(staged))}
    assert coded >= {*blocks}
    assert {*of.plan.stages.own, of.plan.stages.scale, of.plan.stages.depth} == {gene.name for gene in of.genes}


@pytest.mark.parametrize("name", [one.name for one in spaces()])
def test_blocks_are_numbered_as_they_are_met(name: str) -> None:
    """So that what is laid out does not depend on how they were found."""
    of, kernels = space(name), NetworkKernels(FusionRules())
    drawn = [one.genes for one in draws(name, "met", 30)]
    met = [*dict.fromkeys(block for genes in drawn for block in of.plan.blocks(genes))]
    known = KnownBlocks(of, kernels_of, KeptSums(2**20))
    for genes in (drawn[:10], drawn):
        known.lists(kernels, Architectures.of(of, genes).columns)
    assert [*known._numbers] == met
    assert [*known._numbers.values()] == [*range(len(met))]
