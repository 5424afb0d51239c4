"""Smaller ensembles than in earnest: what is tested does not depend on how many trees there are."""

from collections.abc import Iterator

import pytest

from benchfarm_predictor.training import trees


@pytest.fixture(scope="session", autouse=True)
def few_trees() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trees, "EXTRA_TREES", 8)
        patch.setattr(trees, "BOOSTED_TREES", 20)
        yield
