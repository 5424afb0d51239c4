"""How many items the SDK puts into one question."""

from benchfarm.latencies import _batches
from benchfarm_core.latency import MAX_ANSWERS, MAX_ITEMS
from benchfarm_core.workloads import KernelListRequest, KernelRequest, ListedKernel

FC = KernelRequest(type="fc", config={"cin": 64, "cout": 8})


def test_a_question_has_no_more_items_and_answers_than_it_may() -> None:
    assert [len(one) for one in _batches([FC] * (MAX_ITEMS + 5), 2)] == [MAX_ITEMS, 5]
    assert [len(one) for one in _batches([FC] * 5000, 100)] == [2000, 2000, 1000]
    assert list(_batches([], 3)) == []


def test_kernels_of_lists_count_as_answers() -> None:
    """Where nothing predicts whole models they are looked up and summed up, on each platform."""
    kernels = tuple(ListedKernel(type="fc", config={"cin": 64, "cout": 8}) for _ in range(999))
    listed = KernelListRequest(kernels=kernels)
    found = [len(one) for one in _batches([listed] * 7, 100)]
    assert found == [2, 2, 2, 1]
    assert found[0] * 1000 * 100 <= MAX_ANSWERS
