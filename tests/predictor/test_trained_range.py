"""The trained range: nothing is outside what was seen; octaves count what is."""

import numpy as np
import pytest

from benchfarm_predictor.kernel_lists import KernelLists
from benchfarm_predictor.kernels import Kernels
from benchfarm_predictor.trained_range import TOTALS_OF, UNSEEN_WORD, TrainedRange, totals
from benchfarm_workloads.columns import Config
from benchfarm_workloads.kernels import kernel_types
from tests.predictor.rows import architectures, costs, drawn

SEEN: list[Config] = [
    {"hw": 14, "cin": 16, "cout": 32, "k": 1, "act": "none"},
    {"hw": 56, "cin": 64, "cout": 32, "k": 3, "act": "relu6"},
]


def conv(*changes: Config) -> Kernels:
    return Kernels.of_configs("conv-bn-act", [{**SEEN[0], **change} for change in changes])


@pytest.mark.parametrize("type_name", [kind.name for kind in kernel_types()])
def test_nothing_that_was_seen_lies_outside(type_name: str) -> None:
    kernels = drawn(type_name, 20)
    assert not TrainedRange.of(kernels).octaves_outside(kernels).any()


def test_octaves_by_hand() -> None:
    """cin 16 to 64 and hw 14 to 56: 128 is one octave above, 4 two below; between them nothing is."""
    trained = TrainedRange.of(Kernels.of_configs("conv-bn-act", SEEN))
    found = trained.octaves_outside(conv({"cin": 128}, {"cin": 4, "hw": 28}, {"cin": 33}, {"hw": 112, "cout": 64}))
    assert found.tolist() == [1, 2, 0, 2]


def test_a_word_that_was_never_seen_counts_an_octave() -> None:
    """`relu` stands between `none` and `relu6` in the catalogue, which makes it no more known."""
    trained = TrainedRange.of(Kernels.of_configs("conv-bn-act", SEEN))
    found = trained.octaves_outside(conv({"act": "relu"}, {"act": "relu6"}, {"act": "swish"}))
    assert found.tolist() == [UNSEEN_WORD, 0, UNSEEN_WORD]


def test_totals_beyond_any_number_lie_outside() -> None:
    """As a kernel list may have them; a whole number would have turned negative, and the list into a small one."""
    trained = TrainedRange.of(KernelLists.of(architectures(10)))
    largest: Config = {"hw": 512, "cin": 4096, "cout": 4096, "k": 11, "s": 1, "act": "none", "batch": 64}
    lists = KernelLists.of([[("conv-bn-act", largest, 100_000 * times)] for times in (1, 1000, 2000)])
    kflops = totals(lists).column("kflops")
    assert (np.diff(kflops) >= 0).all()
    assert kflops[-1] == 2**62
    assert (np.diff(trained.octaves_outside(lists)) >= 0).all()
    assert "kflops=4611686018427387904 (" in trained.findings(totals(lists), 2)[0]


def test_findings_name_column_value_and_range() -> None:
    trained = TrainedRange.of(Kernels.of_configs("conv-bn-act", SEEN))
    kernels = conv({"cin": 128, "act": "swish"}, {})
    assert trained.findings(kernels, 0) == ("cin=128 (16 to 64)", "act=swish (never seen)")
    assert trained.findings(kernels, 1) == ()


def test_columns_that_only_one_side_has_say_nothing() -> None:
    trained = TrainedRange.of(Kernels.of_rows("their-conv", ["a", "b"], [(1, 2)]))
    assert trained.octaves_outside(Kernels.of_rows("their-conv", ["a", "c"], [(2, 99)])).tolist() == [1]
    assert trained.octaves_outside(drawn("fc", 2)).tolist() == [0, 0]


def test_sizes_of_zero_count_as_one() -> None:
    trained = TrainedRange.of(Kernels.of_rows("their-conv", ["a"], [(4,)]))
    assert trained.octaves_outside(Kernels.of_rows("their-conv", ["a"], [(0,), (-5,), (1,)])).tolist() == [2, 2, 2]


def test_a_whole_model_lies_outside_by_its_totals() -> None:
    """Twice the same kernels: one octave more work, bytes, parameters and kernels each."""
    models = architectures(10)
    trained = TrainedRange.of(KernelLists.of(models[:1]))
    assert trained.columns[TOTALS_OF] == ("kflops", "bytes", "parameters", "kernels")
    found = trained.octaves_outside(KernelLists.of([models[0], [*models[0], *models[0]]]))
    assert found == pytest.approx([0, 4], abs=0.01)


def test_a_whole_models_kernels_count_by_their_share_of_bytes() -> None:
    large: Config = {"cin": 64, "cout": 64}
    small: Config = {"cin": 8, "cout": 8}
    lists = KernelLists.of([[("fc", small, 1)], [("fc", large, 8)]])
    trained = TrainedRange.of(lists)
    wide = TrainedRange({"fc": trained.columns["fc"]}, {"fc": trained.low["fc"]}, {"fc": trained.high["fc"]})
    mixed = KernelLists.of([[("fc", small, 1), ("fc", {**large, "cin": 128}, 1)]])
    sizes = costs(Kernels.of_configs("fc", [small, {**large, "cin": 128}])).total_bytes
    assert wide.octaves_outside(mixed) == pytest.approx(sizes[1:] / sizes.sum())


def test_foreign_kernels_of_whole_models_have_no_totals() -> None:
    lists = KernelLists.of([[("their-conv", {"a": 3}, 1)]])
    assert TrainedRange.of(lists).octaves_outside(lists).tolist() == [0]
    assert np.array_equal(TrainedRange.of(lists).low["their-conv"], [3])
