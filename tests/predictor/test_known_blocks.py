"""What is known of blocks from one question to the next changes no answer, and stays within its bounds."""

import gc
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from weakref import ref

import numpy as np
import pytest

from benchfarm_core.architecture_columns import ArchitectureColumns
from benchfarm_core.architectures import Architecture
from benchfarm_core.predictors import WHOLE_MODEL
from benchfarm_predictor.answers import answer_sheet, kernels_of, model_sheet, space_sheet
from benchfarm_predictor.composition import KernelSum
from benchfarm_predictor.kernel_lists import KernelLists
from benchfarm_predictor.kernels import Floats
from benchfarm_predictor.known_blocks import BLOCK_BYTES, KeptSums, KnownBlocks, RememberedBlocks
from benchfarm_predictor.models import Batch, Model
from benchfarm_predictor.predictions import Predictions
from benchfarm_predictor.predictor_file import Predictor
from benchfarm_workloads.fusing import FusionRules
from benchfarm_workloads.network_kernels import NetworkKernels
from benchfarm_workloads.spaces import draws, space
from benchfarm_workloads.spaces.architectures import Architectures
from tests.predictor.predictors import header
from tests.predictor.whole_predictors import narrowed, whole_predictors

NAME = "ofa_mobilenet_v3"
ROOMY = 2**26


def columns(drawn: Sequence[Architecture]) -> ArchitectureColumns:
    return Architectures.of(space(drawn[0].space), [one.genes for one in drawn]).columns


def known(limit_bytes: int = ROOMY) -> KnownBlocks:
    return KnownBlocks(space(NAME), kernels_of, KeptSums(limit_bytes))


def asked_anew(predictor: Predictor, drawn: Sequence[Architecture]) -> Predictions:
    """Of a farm that nobody has asked before."""
    kernels = NetworkKernels(FusionRules())
    return answer_sheet(
        predictor, model_sheet((at, kernels.parts(space(NAME), one.genes)) for at, one in enumerate(drawn))
    )


def asked(blocks: KnownBlocks, predictor: Predictor, drawn: Sequence[Architecture]) -> Predictions:
    sheet = space_sheet(blocks, KERNELS, range(len(drawn)), columns(drawn))
    return answer_sheet(predictor, sheet)


KERNELS = NetworkKernels(FusionRules())
PREDICTORS = whole_predictors(NAME)


def same(one: Floats, other: Floats) -> bool:
    """To the last bit."""
    return one.tobytes() == other.tobytes()


@pytest.mark.parametrize("kind", PREDICTORS)
@pytest.mark.parametrize("is_narrow", [False, True])
def test_answers_are_those_of_a_farm_that_knows_nothing(kind: str, is_narrow: bool) -> None:
    """Whatever was asked before: nothing, all of it, or a part."""
    predictor = narrowed(PREDICTORS[kind]) if is_narrow else PREDICTORS[kind]
    drawn = draws(NAME, "asked", 40)
    new = asked_anew(predictor, drawn)
    blocks = known()
    for told in (drawn[30:], drawn[:3], drawn, drawn):
        found = asked(blocks, predictor, told)
        rows = [drawn.index(one) for one in told]
        for name in ("low_ms", "high_ms", "coverage"):
            assert getattr(found, name) == pytest.approx(getattr(new, name)[rows], rel=1e-12)
        if len(told) == len(drawn):
            assert all(same(getattr(found, name), getattr(new, name)) for name in ("latency_ms", "low_ms", "high_ms"))
        assert [set(each) for each in found.outside] == [set(new.outside[row]) for row in rows]
        assert [set(each) for each in found.unknown] == [set(new.unknown[row]) for row in rows]
    assert any(new.outside) or not is_narrow


class Counting:
    """A model that counts the kernels that it is asked for."""

    kind = "ridge"

    def __init__(self, model: Model) -> None:
        self.model, self.asked = model, 0

    def predict(self, batch: Batch) -> Floats:
        self.asked += len(batch)
        return self.model.predict(batch)


def counting() -> tuple[Predictor, list[Counting]]:
    plain = PREDICTORS["kernel sum"].model
    assert isinstance(plain, KernelSum)
    models = {name: Counting(model) for name, model in plain.kernels.items()}
    model = replace(plain, kernels=models, guessed=frozenset())  # type: ignore[arg-type]
    return Predictor(header(WHOLE_MODEL), model, None, None), list(models.values())


def test_a_version_predicts_a_kernel_once_whatever_is_asked() -> None:
    """Also after a question with other blocks was laid out: of these alone."""
    predictor, models = counting()
    blocks, drawn = known(), draws(NAME, "once", 60)
    asked(blocks, predictor, drawn)
    first = sum(one.asked for one in models)
    assert first > 0
    for at in range(0, 60, 20):
        asked(blocks, predictor, drawn[at : at + 20])
    assert sum(one.asked for one in models) == first
    another, others = counting()
    asked(blocks, another, drawn[:1])
    assert sum(one.asked for one in others) == first, "another version has said nothing yet"


def test_a_few_new_blocks_are_laid_out_for_their_question_alone() -> None:
    blocks, drawn = known(), draws(NAME, "few", 200)
    every = space_sheet(blocks, KERNELS, range(200), columns(drawn)).batch
    count = len(blocks)
    [*_, new] = (one for one in draws(NAME, "new", 50) if any(each not in of(drawn) for each in block_of(one)))
    alone = space_sheet(blocks, KERNELS, [0], columns([new])).batch
    assert isinstance(every, KernelLists)
    assert isinstance(alone, KernelLists)
    assert every.blocks is not None
    assert alone.blocks is not None
    assert len(blocks) > count
    assert len(every.blocks.lists) == count
    assert len(alone.blocks.lists) <= 22, "as many as one architecture has"


def block_of(one: Architecture) -> list[tuple[object, ...]]:
    return [*space(NAME).plan.blocks(one.genes)]


def of(drawn: Sequence[Architecture]) -> set[tuple[object, ...]]:
    return {each for one in drawn for each in block_of(one)}


def test_features_go_with_their_question_and_sums_stay_within_their_bound() -> None:
    """Features of thousands of kernels take megabytes for each version."""
    kept = KeptSums(200_000)
    blocks, drawn = KnownBlocks(space(NAME), kernels_of, kept), draws(NAME, "bound", 100)
    for _ in range(30):
        asked(blocks, counting()[0], drawn)
        assert kept.held_bytes <= 200_000
    assert kept.held_bytes > 100_000
    lists = space_sheet(blocks, KERNELS, range(100), columns(drawn)).batch
    assert isinstance(lists, KernelLists)
    assert not any(each.kernels.matrices or each.kernels.made for each in lists.by_type.values())


def test_what_is_too_large_is_made_and_not_kept() -> None:
    kept, made = KeptSums(1000), list[int]()

    def large() -> Floats:
        made.append(1)
        return np.zeros(1000)

    who = known()
    assert len(kept.of(who, who, "large", large)) == len(kept.of(who, who, "large", large)) == 1000
    assert (len(made), kept.held_bytes) == (2, 0)


def test_the_least_recently_asked_space_is_forgotten_first() -> None:
    remembered = RememberedBlocks(400 * BLOCK_BYTES, kernels_of, KeptSums(ROOMY))
    names = ("bert", "autoformer")
    small = {name: remembered.of(space(name), KERNELS) for name in names}
    for name, blocks in small.items():
        blocks.lists(KERNELS, columns(draws(name, "small", 2)))
    assert all(remembered.of(space(name), KERNELS) is small[name] for name in (*names, "bert"))
    large = remembered.of(space(NAME), KERNELS)
    large.lists(KERNELS, columns(draws(NAME, "large", 10)))
    assert remembered.held_bytes >= BLOCK_BYTES * len(large)
    assert remembered.of(space(NAME), KERNELS) is large
    large.lists(KERNELS, columns(draws(NAME, "larger", 300)))
    assert len(large) > 400
    assert remembered.of(space("bert"), KERNELS) is small["bert"], "what is asked for goes last"
    assert remembered.of(space(NAME), KERNELS) is not large
    assert remembered.of(space("autoformer"), KERNELS) is not small["autoformer"]


def test_rules_have_their_own_blocks() -> None:
    remembered = RememberedBlocks(ROOMY, kernels_of, KeptSums(ROOMY))
    other = NetworkKernels(FusionRules())
    assert remembered.of(space(NAME), KERNELS) is remembered.of(space(NAME), KERNELS)
    assert remembered.of(space(NAME), KERNELS) is not remembered.of(space(NAME), other)


def test_blocks_go_with_the_kernels_that_they_were_made_of() -> None:
    """Kernels are counted where they are found: blocks that hold forgotten ones would take more than is said."""
    remembered = RememberedBlocks(ROOMY, kernels_of, KeptSums(ROOMY))
    kernels, others = NetworkKernels(FusionRules(), limit_bytes=300_000), NetworkKernels(FusionRules())
    apart = remembered.of(space(NAME), others)
    asked_of = ref(first := remembered.of(space(NAME), kernels))
    first.lists(kernels, columns(draws(NAME, "forgotten", 3)))
    assert kernels.times_forgotten == 0
    assert remembered.of(space(NAME), kernels) is first
    first.lists(kernels, columns(draws(NAME, "forgotten", 200)))
    assert kernels.times_forgotten > 0
    del first
    second = remembered.of(space(NAME), kernels)
    gc.collect()
    assert (asked_of(), len(second)) == (None, 0)
    assert remembered.of(space(NAME), others) is apart
    gone = ref(second)
    del second, kernels
    gc.collect()
    assert gone() is not None, "nobody has asked since"
    remembered.of(space(NAME), others)
    gc.collect()
    assert gone() is None


def test_threads_share_what_is_known() -> None:
    blocks, drawn = known(), draws(NAME, "threads", 120)
    predictor = PREDICTORS["mean"]
    parts = [drawn[at : at + 10] for at in range(0, 120, 10)] * 2
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda part: asked(blocks, predictor, part), parts))
    for part, each in zip(parts, found, strict=True):
        assert each.latency_ms == pytest.approx(asked_anew(predictor, part).latency_ms, rel=1e-12)


def test_a_version_that_is_gone_is_not_held() -> None:
    blocks, drawn = known(), draws(NAME, "gone", 5)
    predictor, _ = counting()
    asked(blocks, predictor, drawn)
    model = ref(predictor.model)
    del predictor
    gc.collect()
    assert model() is None


TAKEN_AND_SAID = """
import tracemalloc
from benchfarm_predictor.answers import kernels_of
from benchfarm_predictor.known_blocks import KeptSums, RememberedBlocks
from benchfarm_workloads.fusing import FusionRules
from benchfarm_workloads import spaces
from benchfarm_workloads.network_kernels import NetworkKernels
from benchfarm_workloads.spaces.architectures import Architectures

space, kernels = spaces.space("ofa_mobilenet_v3"), NetworkKernels(FusionRules())
drawn = spaces.draws(space.name, "bytes", 600)
for one in drawn:
    kernels.parts(space, one.genes)
remembered = RememberedBlocks(2**26, kernels_of, KeptSums(2**26))
columns = Architectures.of(space, [one.genes for one in drawn]).columns
tracemalloc.start()
remembered.of(space, kernels).lists(kernels, columns)
print(tracemalloc.get_traced_memory()[0], remembered.held_bytes)
"""


def test_what_is_remembered_takes_what_it_is_said_to_take() -> None:
    ran = subprocess.run([sys.executable, "-c", TAKEN_AND_SAID], capture_output=True, text=True, check=True)
    taken_bytes, said_bytes = map(int, ran.stdout.split())
    assert 0.5 * said_bytes < taken_bytes < 1.1 * said_bytes
