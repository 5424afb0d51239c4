"""Smaller ensembles than in earnest: what is tested does not depend on how many trees there are. One thread for small
matrices, as in the processes that train: more of them wait for each other where a machine is shared.
"""

from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec

import pytest

from benchfarm_predictor.training import trees


@pytest.fixture(scope="session", autouse=True)
def few_trees() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trees, "EXTRA_TREES", 8)
        patch.setattr(trees, "BOOSTED_TREES", 20)
        yield


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    if find_spec("threadpoolctl") is None:
        yield
        return
    with import_module("threadpoolctl").threadpool_limits(1):
        yield
