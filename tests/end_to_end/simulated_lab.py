"""A lab of simulated boards that never fail, beside a real farm: what they say is no matter of the test machine."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchfarm import Client
from benchfarm_agent.boards.simulated_profile import SAMPLE
from benchfarm_standalone.farm_process import FarmProcess

UNTIL_S = 120.0
BOARDS = 2
FASTER = 6
"""So many times as fast as real boards."""


@contextmanager
def simulated_lab(farm: FarmProcess, folder: Path) -> Iterator[Client]:
    """An administrator's client of the farm, whose boards last as long as the block."""
    with Client(farm.url, farm.admin_token) as client:
        head, _, failures = SAMPLE.read_text().partition("[failures]")
        never = re.sub(r"= [0-9.]+", "= 0.0", failures.partition("[lost]")[0])
        (folder / "profile.toml").write_text(f"{head}[failures]{never}[lost]\naway_s = 30.0\n")
        (folder / "token").write_text(client.create_enrol_token().token)
        words = ["--boards", str(BOARDS), "--speed", str(FASTER), "--profile", str(folder / "profile.toml")]
        words += ["--url", farm.url, "--state-dir", str(folder / "state")]
        words += ["--enrol-token-file", str(folder / "token")]
        with (folder / "agent.log").open("wb") as log:
            agent = subprocess.Popen([sys.executable, "-m", "benchfarm_agent", "simulate", *words], stderr=log)
        try:
            yield client
        finally:
            agent.send_signal(signal.SIGTERM)
            try:
                agent.wait(30)
            finally:
                agent.kill()


def platform_of(client: Client) -> str:
    """One core at its fastest, as soon as the boards are there."""
    until_s = time.monotonic() + UNTIL_S
    while not (found := [one.key for one in client.platforms(threads=[1], precision=["fp32"]) if "2400000" in one.key]):
        assert time.monotonic() < until_s, "no board came"
        time.sleep(0.1)
    return found[0]
