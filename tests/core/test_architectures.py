"""Architectures as values: what a gene may hold, and one identity for every spelling."""

from typing import Any

import pytest
from pydantic import ValidationError

from benchfarm_core.architectures import MAX_PLACES, genes_text
from benchfarm_core.refusals import refusal_of
from benchfarm_core.values import digest
from benchfarm_core.workloads import (
    WORKLOAD,
    ArchitectureRequest,
    ArchitectureWorkload,
    family,
    workload_id,
    workload_label,
)

DRAWN = ArchitectureWorkload(space="bignas", space_version=1, genes={"hw": 192, "depth": (1, 2), "one": (3,)})


def test_genes_survive_json() -> None:
    text = DRAWN.model_dump_json()
    assert '"genes":{"hw":192,"depth":[1,2],"one":[3]}' in text
    assert WORKLOAD.validate_json(text) == DRAWN
    assert workload_id(WORKLOAD.validate_json(text)) == workload_id(DRAWN)
    assert (family(DRAWN), workload_label(DRAWN)) == ("bignas", "bignas hw=192 depth=1,2 one=3,")
    assert genes_text(DRAWN.genes) == "hw=192 depth=1,2 one=3,"


def test_the_version_and_every_gene_are_part_of_the_identity() -> None:
    others: list[dict[str, Any]] = [
        {"space_version": 2},
        {"genes": {**DRAWN.genes, "hw": 224}},
        {"genes": {**DRAWN.genes, "depth": (2, 1)}},
    ]
    ids = {workload_id(DRAWN.model_copy(update=change)) for change in others}
    assert len(ids | {workload_id(DRAWN)}) == 4


def test_an_identity_is_the_hash_of_the_canonical_json() -> None:
    """However it is worked out: what is stored is found by it."""
    assert workload_id(DRAWN) == "w_" + digest(DRAWN) == "w_" + digest(DRAWN.model_dump(mode="json"))


@pytest.mark.parametrize(
    "values", [True, 1.0, "1", None, [1, True], [[1]], [2**40], [-(2**40)], [1] * (MAX_PLACES + 1), 2**40, {}]
)
def test_a_gene_is_an_integer_or_a_list_of_them(values: Any) -> None:
    with pytest.raises(ValidationError) as refused:
        ArchitectureRequest(space="bert", genes={"heads": values})
    found = refusal_of(refused.value.errors())
    assert (found.field, found.others) == ("genes.heads", 0)
    assert found.detail == "a gene is an integer of at most 2147483647, or a list of at most 200 of them"
