"""A phone whose owner never presses "Allow", against the real adb server."""

import adbutils
import pytest

from tests.peers.waiting import wait_until

# adbutils leaves its socket to the collector where the server refuses
LEFT_OPEN = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
pytestmark = LEFT_OPEN


def test_it_is_listed_as_unauthorized_and_refuses(unauthorized_phone, peer_adb):
    address = unauthorized_phone.address
    peer_adb.client.connect(address, timeout=15)
    wait_until(lambda: peer_adb.states().get(address) == "unauthorized", lambda: str(peer_adb.states()), 10)
    with pytest.raises(adbutils.AdbError, match="unauthorized"):
        peer_adb.shell(address, "true")
