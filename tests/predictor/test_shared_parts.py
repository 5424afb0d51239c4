"""Models that stand in several places: written once, one again when read, and no way to ask for billions of them."""

import json
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save

from benchfarm_core.errors import InvalidRequest, TooLarge
from benchfarm_predictor.combined import Mean, Regional, Residual, Scaled, Stacked
from benchfarm_predictor.composition import MAX_TYPES, KernelSum
from benchfarm_predictor.features import kernel_features
from benchfarm_predictor.kernel_lists import KernelLists
from benchfarm_predictor.models import Model
from benchfarm_predictor.predictor_file import Predictor, read, write
from benchfarm_predictor.registry import MAX_MODELS, MAX_NESTING
from benchfarm_predictor.ridge import fit_ridge
from benchfarm_predictor.shared_parts import Extents, Part, members_of, taken_apart
from benchfarm_predictor.sums import SumFeatures
from tests.predictor.predictors import header
from tests.predictor.rows import drawn, roofline_ms

KERNELS = drawn("fc", 40)
FEATURES = kernel_features(KERNELS, "quadratic")


def ridge(factor: float = 1.0) -> Model:
    return fit_ridge(FEATURES, KERNELS, factor * roofline_ms(KERNELS)).model


def corrections(base: Model, count: int) -> Stacked:
    """One base in several ways, as a choice has it."""
    members = tuple(Scaled(base, 1.0 + at / 10) for at in range(count))
    return Stacked(members, (1 / count,) * count, 0.0)


def size(model: Model, subject: str = "fc") -> int:
    return len(write(Predictor(header(subject), model)))


def rewritten(model: Model, change: dict[str, Any]) -> bytes:
    data = write(Predictor(header("fc"), model))
    length = int.from_bytes(data[:8], "little")
    content = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["benchfarm"])
    return save(load(data), {"benchfarm": json.dumps({**content, **change})})


def test_a_base_of_many_corrections_is_written_once() -> None:
    one, many = size(corrections(ridge(), 1)), size(corrections(ridge(), 6))
    alike = size(Stacked(tuple(Scaled(ridge(), 1.0) for _ in range(6)), (1 / 6,) * 6, 0.0))
    assert many < 1.2 * one
    assert alike > 4 * one, "models that are equal and not the same are written as they stand"


def test_what_is_read_is_shared_again_and_says_the_same() -> None:
    base = ridge()
    model = Mean((corrections(base, 3), Residual(base, ridge(1.1)), base))
    data = write(Predictor(header("fc"), model))
    found = read(data)
    assert isinstance(found.model, Mean)
    stack, residual, plain = found.model.members
    assert isinstance(stack, Stacked)
    assert isinstance(residual, Residual)
    assert {id(each.base) for each in stack.members if isinstance(each, Scaled)} == {id(plain)} == {id(residual.base)}
    assert found.model.predict(KERNELS).tolist() == model.predict(KERNELS).tolist()
    assert write(found) == data


def test_shared_models_may_share_too() -> None:
    base = ridge()
    stack = corrections(base, 2)
    model = Mean((stack, Residual(stack, base), Scaled(stack, 2.0)))
    root, shared = taken_apart(model)
    assert [type(each) for each in shared] == [type(base), Stacked]
    assert all(isinstance(each, Part) for each in members_of(shared[1].members[0]))  # type: ignore[attr-defined]
    assert root.predict(KERNELS).tolist() == model.predict(KERNELS).tolist()
    assert read(write(Predictor(header("fc"), model))).model.predict(KERNELS).tolist() == root.predict(KERNELS).tolist()


def test_sums_of_kernels_and_regions_are_made_of_shared_models_too() -> None:
    base = ridge()
    sums = KernelSum({"fc": Scaled(base, 1.5), "linear": base}, base, 1.1, 0.1, 0.01, frozenset({"fc"}))
    features = SumFeatures("shares")
    d = len(features.names)
    regional = Regional(
        members=(sums, Scaled(sums, 2.0)),
        weights=np.array([[1.0, 0.0], [0.5, 0.5]]),
        offsets=np.zeros(2),
        regions=("a",),
        features=features,
        centres=np.zeros((1, d)),
        scales=np.ones((1, d)),
        radii=np.ones(1),
        widenings=np.ones(2),
        lent=1,
    )
    lists = KernelLists.of([[("fc", {"cin": 64, "cout": 10 + at}, 1 + at)] for at in range(5)])
    root, shared = taken_apart(regional)
    assert len(shared) == 2
    assert isinstance(root, Regional)
    found = read(write(Predictor(header("model"), regional))).model
    assert isinstance(found, Regional)
    assert found.lent == 1
    assert found.predict(lists).tolist() == regional.predict(lists).tolist()
    first, second = found.members
    assert isinstance(second, Scaled)
    assert second.base is first


def test_a_model_that_shares_nothing_is_written_as_it_is() -> None:
    model = Scaled(ridge(), 2.0)
    root, shared = taken_apart(model)
    assert not shared
    assert size(root) == size(model)


def test_depth_and_count_are_of_every_place() -> None:
    base = ridge()
    assert Extents().of(base) == (1, 1)
    assert Extents().of(Mean((corrections(base, 3), base))) == (4, 9)


@pytest.mark.parametrize("number", [0, 1, 5000, -1, "0", None])
def test_a_part_that_is_not_there_is_damage(number: object) -> None:
    """A shared model may hold those before it, and not itself."""
    part = {"kind": "part", "number": number}
    for change in ({"model": part, "shared": []}, {"shared": [{"kind": "scaled", "base": part, "factor": 1.0}]}):
        with pytest.raises(InvalidRequest) as caught:
            read(rewritten(ridge(), change))
        assert caught.value.code == "predictor_file_damaged"


def test_parts_of_parts_cannot_ask_for_billions() -> None:
    model: Model = ridge()
    for _ in range(MAX_NESTING - 2):
        model = Mean((model,) * 8)
    with pytest.raises(InvalidRequest, match=f"more than {MAX_MODELS} models") as caught:
        read(write(Predictor(header("fc"), model)))
    assert caught.value.code == "predictor_file_damaged"


def test_parts_of_parts_are_nested_no_deeper_than_others() -> None:
    model: Model = ridge()
    for _ in range(MAX_NESTING):
        model = Mean((model, model))
    with pytest.raises(InvalidRequest, match="nested"):
        read(write(Predictor(header("fc"), model)))


def test_more_parts_than_a_file_may_have_are_not_written() -> None:
    base = ridge()
    with pytest.raises(TooLarge, match="types"):
        write(Predictor(header("model"), KernelSum({str(at): base for at in range(MAX_TYPES + 1)}, None)))
