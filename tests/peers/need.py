"""What a peer needs of this machine, and what happens where it is not there."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import pytest

INSTALL = "deploy/install-test-packages installs it"


class PeerMissing(Exception):
    """A peer cannot run here; the message says why."""


def require_root() -> None:
    """Namespaces with mounts and a network of their own need root."""
    if os.geteuid() != 0:
        raise PeerMissing("needs root for namespaces of its own")


def require_program(name: str) -> str:
    """Its path, also where /usr/sbin is not in PATH. Raises PeerMissing."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        raise PeerMissing(f"no {name} here: {INSTALL}")
    return found


@contextmanager
def skipped_where_missing(peer: str) -> Iterator[None]:
    """Skips the test when a peer is missing; fails it where BENCHFARM_CI=1 says that every peer has to run."""
    reason = None
    try:
        yield
    except PeerMissing as missing:
        reason = f"{peer}: {missing}"
    if reason is not None:
        _give_up(reason)


def _give_up(reason: str) -> NoReturn:
    if os.environ.get("BENCHFARM_CI") == "1":
        pytest.fail(f"{reason} (BENCHFARM_CI=1 allows no skip)", pytrace=False)
    pytest.skip(reason)
