"""Architectures that are named at once are named as each is by itself."""

import random

import pytest

from benchfarm_core.architectures import GeneValues
from benchfarm_core.latency import LatencyRequest
from benchfarm_core.workloads import ArchitectureRequest, ArchitectureWorkload, workload_id
from benchfarm_store import latency
from benchfarm_store.latency import Named
from benchfarm_workloads.spaces import Space, draws, space, spaces

NAMES = [one.name for one in spaces()]


def at_once(name: str, genes: list[dict[str, GeneValues]]) -> Named:
    items = [{"kind": "architecture", "space": name, "genes": each} for each in genes]
    question = LatencyRequest.model_validate({"platforms": ["p"], "items": items})
    assert question.architectures is not None
    return latency.named(question)


def one_by_one(name: str, genes: list[dict[str, GeneValues]]) -> Named:
    items = tuple(ArchitectureRequest(space=name, genes=each) for each in genes)
    question = LatencyRequest(platforms=("p",), items=items)
    assert question.architectures is None
    return latency.named(question)


def same(name: str, genes: list[dict[str, GeneValues]]) -> Named:
    found, expected = at_once(name, genes), one_by_one(name, genes)
    assert found.ids == expected.ids
    assert found.refusals == expected.refusals
    for at, id_ in enumerate(found.ids):
        if id_ is not None:
            one, other = found.workloads[at], expected.workloads[at]
            assert isinstance(one, ArchitectureWorkload)
            assert isinstance(other, ArchitectureWorkload)
            assert one == other
            assert list(one.genes) == list(other.genes)
            assert workload_id(one) == id_
    return found


def changed(of: Space, genes: dict[str, GeneValues], rng: random.Random) -> dict[str, GeneValues]:
    """With one gene wrong, mostly: a value, a place more or less, another's values, an integer in place of a list."""
    name = rng.choice([gene.name for gene in of.genes])
    values = genes[name]
    strange = rng.choice([-1, 0, 1, 2, 7, 10_000])
    if isinstance(values, int):
        return {**genes, name: strange}
    turned = rng.choice(["value", "longer", "shorter", "order"])
    if turned == "value":
        at = rng.randrange(len(values))
        return {**genes, name: (*values[:at], strange, *values[at + 1 :])}
    return {**genes, name: {"longer": (*values, values[-1]), "shorter": values[:-1], "order": values[::-1]}[turned]}


@pytest.mark.parametrize("name", NAMES)
def test_right_ones_and_duplicates(name: str) -> None:
    genes = [dict(one.genes) for one in draws(name, "named", 60)]
    found = same(name, [*genes, *genes[5:8], genes[0]])
    assert not found.refusals
    assert len({*found.ids}) == 60


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(3))
def test_wrong_ones_cost_their_own_answers_alone(name: str, seed: int) -> None:
    rng = random.Random(f"{name}/{seed}")
    genes = [dict(one.genes) for one in draws(name, f"wrong/{seed}", 40)]
    found = same(name, [changed(space(name), each, rng) if rng.random() < 0.6 else each for each in genes])
    assert 0 < len(found.refusals) < 40


@pytest.mark.parametrize("name", NAMES)
def test_genes_that_no_architecture_of_the_space_has(name: str) -> None:
    genes = dict(draws(name, "strange", 1)[0].genes)
    first, *_ = genes
    for strange in ({**genes, "strange": 1}, {other: values for other, values in genes.items() if other != first}):
        assert list(same(name, [strange] * 3).refusals) == [0, 1, 2]
    assert len(same(name, [{**genes, first: ()}] * 2).refusals) == 2


def test_a_space_that_nobody_knows_refuses_each() -> None:
    found = same("nowhere", [{"hw": 1}] * 3)
    assert [one.error for one in found.refusals.values()] == ["space_unknown"] * 3
    assert found.refusals[2].field == "items.2.space"
