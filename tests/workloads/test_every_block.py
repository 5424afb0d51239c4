"""Every block of a space: no drawn architecture has one that is not among them."""

import pytest

from benchfarm_core.errors import InvalidRequest, TooLarge
from benchfarm_workloads.spaces import draws, space, spaces
from benchfarm_workloads.spaces.every_block import MAX_BLOCKS, every_block, flat

ONLY = {"fbnet_v3": {"hw": (272,)}}


@pytest.mark.parametrize("name", [one.name for one in spaces()])
def test_drawn_architectures_consist_of_them(name: str) -> None:
    only = ONLY.get(name, {})
    blocks, most = every_block(space(name), only)
    known = {flat(block) for block in blocks}
    assert len(known) == len(blocks) <= MAX_BLOCKS
    drawn = [one for one in draws(name, "blocks", 300) if one.genes.get("hw") in only.get("hw", (one.genes.get("hw"),))]
    assert len(drawn) > 20
    for one in drawn:
        own = [*space(name).plan.blocks(one.genes)]
        assert len(own) <= most
        assert {flat(block) for block in own} <= known


def test_fewer_values_of_a_gene_are_fewer_blocks() -> None:
    blocks, _ = every_block(space("ofa_mobilenet_v3"), {"hw": (224,), "kernel": (3, 5), "expand": (6,)})
    assert {block[0].hw for block in blocks if block[0].stage < 0} == {224}
    assert {block[1] for block in blocks if len(block) > 1} == {3, 5}
    assert len(blocks) == 2 + 5 * 2 * 2


def test_too_many_are_refused_with_what_would_help() -> None:
    with pytest.raises(TooLarge, match="name fewer values of its genes") as refused:
        every_block(space("fbnet_v3"), {})
    assert refused.value.field == "genes"


@pytest.mark.parametrize(
    "only", [{"colour": (1,)}, {"hw": (7,)}, {"hw": (224, 223)}, {"expand": (3, 5)}, {"depth": (4, 10**3000)}]
)
def test_genes_that_are_none_are_refused(only: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        every_block(space("ofa_mobilenet_v3"), only)
    assert refused.value.code == "architecture_out_of_range"
    assert refused.value.field == f"genes.{next(iter(only))}"
    assert len(refused.value.detail) < 300


def test_a_value_that_another_gene_allows_somewhere_is_one() -> None:
    """Eight heads are for tokens of 256 alone, twelve for neither."""
    blocks, _ = every_block(space("bert"), {"hidden": (128, 256), "heads": (2, 8)})
    assert any(8 in block[1:] for block in blocks)
    with pytest.raises(InvalidRequest, match="heads=12 is nowhere"):
        every_block(space("bert"), {"hidden": (128, 256), "heads": (2, 8, 12)})
