"""Architectures that somebody gives an adaptation: which of them it has."""

import pytest

from benchfarm_workloads.spaces import draws
from tests.adapting_lab import AdaptingLab


@pytest.fixture
def lab(farm, ann, agent):
    return AdaptingLab(farm, ann, agent)


def test_an_architecture_that_is_given_twice_is_given_once(lab):
    first, second = ({**one.genes} for one in draws("autoformer", "given", 2))
    given = [{"space": "autoformer", "genes": one} for one in (first, first, second, first, second)]
    request = lab.start(spaces=["autoformer"], architectures=given).request
    assert [one.genes for one in request.architectures] == [one.genes for one in draws("autoformer", "given", 2)]
    assert request.judged_by == 1
