"""What is read gene by gene is what is read item by item, and what is refused is refused in the same words."""

from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from benchfarm_core.architecture_columns import ArchitectureColumns
from benchfarm_core.architectures import GENE_MAX, MAX_GENES, MAX_NAME, MAX_PLACES
from benchfarm_core.jobs import JobRequest
from benchfarm_core.latency import MAX_ITEMS, LatencyItem, LatencyRequest
from benchfarm_core.refusals import Refusal, refusal_of
from benchfarm_core.values import Value, digest
from benchfarm_core.workloads import (
    ArchitectureRequest,
    ArchitectureWorkload,
    JobWorkloadRequest,
    architecture_ids,
    workload_id,
)


class OneByOne(Value):
    """As a question, without what it reads at once."""

    platforms: tuple[str, ...]
    items: Annotated[tuple[LatencyItem, ...], Field(min_length=1, max_length=MAX_ITEMS, fail_fast=True)]


GENES: dict[str, Any] = {"hw": 128, "depth": [2, 3], "kernel": [3, 5, 7, 3, 5]}
ITEM: dict[str, Any] = {"kind": "architecture", "space": "some", "genes": GENES}


def read(items: Any, kind: type[Value] = LatencyRequest) -> Any:
    """A question, or why it is refused."""
    try:
        return kind.model_validate({"platforms": ["p"], "items": items})
    except ValidationError as error:
        return refusal_of(error.errors())


def read_one_by_one(items: Any) -> Any:
    """The items, or why they are refused."""
    found = read(items, OneByOne)
    return found if isinstance(found, Refusal) else found.items


integers = st.integers(-GENE_MAX, GENE_MAX)


@given(st.lists(st.fixed_dictionaries({"b": integers, "a": st.lists(integers, max_size=5)}), min_size=1, max_size=6))
def test_architectures_of_one_space_are_read_gene_by_gene(genes: list[dict[str, Any]]) -> None:
    items = [{"kind": "architecture", "space": "some", "genes": each} for each in genes]
    found = read(items)
    assert found.architectures is not None
    assert tuple(found.items) == read_one_by_one(items)
    assert list(found.architectures[1:]) == list(found.items)[1:]
    columns = found.architectures.genes
    assert list(columns["b"].flat) == [each["b"] for each in genes]
    assert list(columns["a"].flat) == [value for each in genes for value in each["a"]]
    rows = [*range(0, len(genes), 2)]
    assert [one.genes for one in found.architectures.take(rows)] == [found.items[row].genes for row in rows]


HEIGHTS: tuple[Any, ...] = (True, 1.0, "128", None, [128], 2**31, -(2**31), 10**5000, {})
ODD: list[Any] = [
    {**ITEM, "space": "other"},
    {**ITEM, "space": "s" * 41},
    {**ITEM, "space": "spàce"},
    {**ITEM, "space": 1},
    {**ITEM, "space": ["some"]},
    {**ITEM, "kind": "model"},
    {**ITEM, "kind": ["architecture"]},
    {**ITEM, "more": 1},
    {"kind": "architecture", "space": "some"},
    {"space": "some", "genes": GENES},
    {"kind": "kernel", "type": "fc", "config": {"cin": 8}},
    "architecture",
    None,
    *({**ITEM, "genes": genes} for genes in (None, [], {}, [GENES], {**GENES, "more": 1})),
    {**ITEM, "genes": {"hw": 128, "depth": [2, 3]}},
    {**ITEM, "genes": {"hw": 128, "depth": [2, 3], "window": [3]}},
    *({**ITEM, "genes": {**GENES, "hw": hw}} for hw in HEIGHTS),
    *({**ITEM, "genes": {**GENES, "depth": depth}} for depth in (2, [2, True], [2, 3.0], [[2]], [2**31], "23")),
    {**ITEM, "genes": {**GENES, "depth": [1] * (MAX_PLACES + 1)}},
]


@pytest.mark.parametrize("at", range(len(ODD)))
@pytest.mark.parametrize("place", [0, 1, 3])
def test_what_is_odd_is_read_one_by_one(at: int, place: int) -> None:
    items = [ITEM] * 3
    items.insert(place, ODD[at])
    found = read(items)
    if isinstance(found, Refusal):
        assert found == read_one_by_one(items)
    else:
        assert found.architectures is None
        assert found.items == read_one_by_one(items)


@pytest.mark.parametrize("at", range(len(ODD)))
def test_what_is_odd_in_all_items_is_so_too(at: int) -> None:
    found = read([ODD[at]] * 2)
    expected = read_one_by_one([ODD[at]] * 2)
    assert (found if isinstance(found, Refusal) else tuple(found.items)) == expected


@pytest.mark.parametrize(
    "genes",
    [{"g" * (MAX_NAME + 1): 1}, {"gène": 1}, {f"g{at}": 1 for at in range(MAX_GENES + 1)}, {"a": [1] * MAX_PLACES}, {}],
)
def test_names_and_sizes_are_held_to_their_bounds(genes: dict[str, Any]) -> None:
    items = [{**ITEM, "genes": genes}] * 2
    found = read(items)
    assert (found if isinstance(found, Refusal) else tuple(found.items)) == read_one_by_one(items)


def test_an_empty_question_and_no_list_are_refused_as_ever() -> None:
    given: list[Any] = [[], "items", {"0": ITEM}, None]
    for items in given:
        found = read(items)
        assert isinstance(found, Refusal)
        assert found.field == "items"
    assert isinstance(read([ITEM] * 20_000), LatencyRequest)


def test_genes_in_another_order_are_the_same_columns() -> None:
    turned = {**ITEM, "genes": dict(reversed(GENES.items()))}
    found = read([ITEM, turned]).architectures
    assert found is not None
    assert [one.genes for one in found] == [{**GENES, "depth": (2, 3), "kernel": (3, 5, 7, 3, 5)}] * 2


@given(
    st.lists(
        st.fixed_dictionaries({"hw": integers, "%s": st.lists(integers, max_size=4), 'ä"': st.tuples(integers)}),
        min_size=1,
        max_size=5,
    )
)
def test_identities_are_the_hashes_of_the_canonical_json(genes: list[dict[str, Any]]) -> None:
    """However many are worked out at once."""
    workloads = [ArchitectureWorkload(space="so%me", space_version=3, genes=each) for each in genes]
    columns = {name: [each[name] for each in genes] for name in genes[0]}
    found = architecture_ids("so%me", 3, columns)
    assert found == ["w_" + digest(one) for one in workloads] == [workload_id(one) for one in workloads]


def test_an_architecture_without_genes_has_a_name() -> None:
    bare = ArchitectureWorkload(space="some", space_version=1, genes={})
    assert workload_id(bare) == "w_" + digest(bare)


def test_no_items_are_no_columns() -> None:
    assert ArchitectureColumns.of_items([]) is None
    assert ArchitectureColumns.of_items({"a": ITEM}) is None


class Workloads(Value):
    """As a job, without what it reads at once."""

    workloads: tuple[JobWorkloadRequest, ...]


def workloads_of(kind: type[Value], items: Any) -> Any:
    """Those of a job, or why it is refused."""
    try:
        return kind.model_validate({"workloads": items})
    except ValidationError as error:
        return refusal_of(error.errors())


@pytest.mark.parametrize(
    "items", [[ITEM], [ITEM] * 3, *([odd] * 2 for odd in ODD), *([ITEM, odd, ITEM] for odd in ODD)]
)
def test_a_job_has_the_same_workloads_as_if_they_were_read_one_by_one(items: Any) -> None:
    found, expected = workloads_of(JobRequest, items), workloads_of(Workloads, items)
    if isinstance(expected, Workloads):
        assert found.workloads == expected.workloads
        assert found.model_dump_json(include={"workloads"}) == expected.model_dump_json()
    else:
        assert found == expected


def test_architectures_of_a_job_are_not_looked_at_one_by_one() -> None:
    """What nobody looks at keeps no note of which fields were given."""
    (at_once, _) = workloads_of(JobRequest, [ITEM] * 2).workloads
    assert isinstance(at_once, ArchitectureRequest)
    assert at_once == ArchitectureRequest(space="some", genes=GENES)
    assert "kind" not in at_once.model_fields_set
