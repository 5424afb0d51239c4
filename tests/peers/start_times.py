"""How long each peer takes to start here: python -m tests.peers.start_times

What is downloaded once is fetched first and not counted.
"""

import os
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from tests.peers.board_image import board_image
from tests.peers.phone_root import phone_root
from tests.peers.phones import lab_models, running_phones
from tests.peers.private_adb import PrivateAdb
from tests.peers.qemu_board import QemuBoard
from tests.peers.sshd import SshHost
from tests.peers.waiting import wait_until

LISTED_S = 30.0


def say(what: str, began_s: float) -> None:
    """One line: how long something took."""
    print(f"{what:45} {time.monotonic() - began_s:6.2f} s", flush=True)


def start_all(folder: Path, stack: ExitStack) -> None:
    """Starts one peer after the other; they stay up until the stack is closed."""
    phone_root()
    board_image()
    began_s = time.monotonic()
    adb = PrivateAdb()
    stack.callback(adb.end)
    say("adb server", began_s)
    began_s = time.monotonic()
    phones = stack.enter_context(running_phones(lab_models(), folder))
    say("six phones", began_s)
    began_s = time.monotonic()
    for phone in phones:
        phone.announce(adb.port)
    wait_until(lambda: list(adb.states().values()) == ["device"] * 6, lambda: str(adb.states()), LISTED_S)
    say("six phones, announced until listed", began_s)
    _start(stack, folder / "sshd", "sshd", lambda keys: SshHost(keys, folder))
    _start(stack, folder / "qemu", "QEMU board, power on to SSH and adb", QemuBoard)


def _start(stack: ExitStack, keys: Path, what: str, start: Callable[[Path], SshHost | QemuBoard]) -> None:
    keys.mkdir()
    began_s = time.monotonic()
    stack.callback(start(keys).end)
    say(what, began_s)


if __name__ == "__main__":
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as name, ExitStack() as running:
        start_all(Path(name), running)
