"""What to measure next: spread out, where models disagree, never what is known, the same again."""

import numpy as np

from benchfarm_predictor.kernel_lists import KernelLists
from benchfarm_predictor.kernels import Floats
from benchfarm_predictor.models import Batch
from benchfarm_predictor.training.informative import disagreement, next_models
from tests.predictor.training.farm_rows import MOBILE, drawn

LISTS = KernelLists.of(each for _, each in drawn(MOBILE, 40))


class Says:
    """One latency for everything, another one for some rows."""

    kind = "says"

    def __init__(self, latency_ms: float, odd: int = -1) -> None:
        self.latency_ms, self.odd = latency_ms, odd

    def predict(self, batch: Batch) -> Floats:
        said = np.full(len(batch), self.latency_ms)
        if self.odd >= 0:
            said[self.odd] *= 5
        return said


def test_models_are_asked_for_where_the_plausible_ones_disagree() -> None:
    measured, offered = LISTS.take(slice(0, 10)), LISTS.take(slice(10, 40))
    agree, odd = Says(2.0), Says(2.0, odd=17)
    assert next_models((agree, odd), measured, offered, 5)[0] == 17  # type: ignore[arg-type]
    assert disagreement((agree, odd), offered).argmax() == 17  # type: ignore[arg-type]
    assert not disagreement((agree,), offered).any()  # type: ignore[arg-type]


def test_what_is_asked_for_is_spread_out_and_half_of_it_as_drawn() -> None:
    measured, offered = LISTS.take(slice(0, 10)), LISTS.take(slice(10, 40))
    found = next_models((), measured, offered, 10)
    assert len(set(found)) == 10
    assert found[1] == min(set(range(30)) - {found[0]})
    assert next_models((), measured, offered, 99)[:10] == found
    assert len(next_models((), measured, offered, 99)) == 30
    assert next_models((), measured, KernelLists.of([]), 5) == ()


def test_what_was_measured_already_comes_last() -> None:
    offered = LISTS.take(slice(0, 20))
    found = next_models((), LISTS.take(slice(10, 20)), offered, 10)
    assert set(found[::2]) <= set(range(10))
