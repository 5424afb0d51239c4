"""What the worker's steps work on: a farm in Postgres without its processes, and a lab whose board the test plays."""

from collections.abc import Iterator

import pytest

from tests.adapting_lab import AdaptingLab
from tests.store.conftest import Farm


@pytest.fixture
def farm(database_url: str) -> Iterator[Farm]:
    """A farm without accounts."""
    farm = Farm(database_url)
    yield farm
    farm.database.dispose()


@pytest.fixture
def lab(farm: Farm) -> AdaptingLab:
    """A client's lab with one board."""
    by = farm.account("ann")
    return AdaptingLab(farm, by, farm.agent(by))
